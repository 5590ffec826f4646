//! The keepers that all cases share, and what may be left after a case.

use std::fs;
use std::time::{Duration, Instant};

use runtime::select::Hybrid;
use runtime::{Keeper, Place, UniversalContainer};
use settings::Policy;
use settings::limits::Limit;
use settings::operator::NodeLimits;
use sys::process::SingleThreaded;
use tempfile::TempDir;

use crate::lab;

/// The bounds of the guests whose fuel is counted: never the reason for their end.
pub(crate) fn metered() -> Policy {
    Policy { limits: NodeLimits::default().with(Limit::Fuel, 1 << 40), ..Policy::default() }
}

/// What a keeper may take to end a worker and reap it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keepers that nobody is connected to yet.
pub(crate) struct Keepers {
    cache: TempDir,
    first: Keeper,
    second: Keeper,
}

/// Where containers are made.
pub(crate) struct World {
    cache: TempDir,
    pub(crate) first: Node,
    /// Has the same cache of native code.
    pub(crate) second: Node,
}

/// A keeper, and the runtime in front of it.
pub(crate) struct Node {
    hybrid: Hybrid,
    keeper: i32,
}

impl Keepers {
    /// To be called before there are threads.
    pub(crate) fn fork() -> Self {
        let cache = tempfile::tempdir().unwrap();
        let fork = || {
            let place = Place { cache: cache.path().join("native"), cache_size: 1 << 30 };
            runtime::spawn_keeper(SingleThreaded::prove().unwrap(), place, || {}).unwrap()
        };
        let (first, second) = (fork(), fork());
        Self { cache, first, second }
    }

    pub(crate) async fn connect(self) -> World {
        World { cache: self.cache, first: Node::of(self.first), second: Node::of(self.second) }
    }
}

impl World {
    /// Checks that no keeper has a child and no container has a cgroup.
    pub(crate) async fn expect_nothing_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut left = lab::cgroups();
            for node in [&self.first, &self.second] {
                left.extend(node.children().into_iter().map(|pid| format!("process {pid}")));
            }
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Removes what all cases have shared.
    pub(crate) fn remove_folder(&self) {
        fs::remove_dir_all(self.cache.path()).unwrap();
    }
}

impl Node {
    fn of(keeper: Keeper) -> Self {
        let pid = keeper.identity.pid().as_raw();
        Self { hybrid: Hybrid::connect(keeper).unwrap(), keeper: pid }
    }

    pub(crate) fn runtime(&self) -> &dyn UniversalContainer {
        &self.hybrid
    }

    /// How many descriptors the keeper has.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.keeper)).unwrap().count()
    }

    fn children(&self) -> Vec<String> {
        let keeper = self.keeper;
        let pids = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        pids.split_whitespace().map(str::to_owned).collect()
    }
}
