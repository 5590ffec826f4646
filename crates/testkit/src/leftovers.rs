//! Counts what containers use on the machine, so that a test can compare before and after.
//!
//! A [`Census`] of the whole machine sees everything, also what other tests do meanwhile; the census of one daemon sees
//! only what belongs to it, and so is safe beside other tests.

mod kernel;
mod sockets;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::containerd::{CRI_NAMESPACE, Daemon};
use crate::process::Process;
use kernel::CGROUP_ROOT;
pub use kernel::{cgroups, mounts};
use sockets::SHIM_SOCKETS;
use walk::{children, descendants, fifos, folders_below};

const CLIENT_FIFOS: &str = "/run/containerd/fifo";
const NAMED_NETNS: &str = "/run/netns";
/// Where runtimes keep the state of their containers, by containerd namespace.
pub(crate) const STATE_FOLDERS: [&str; 3] = ["/run/hybrid", "/run/runc", "/run/containerd/runc"];

/// One thing that exists on the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Process {
        pid: i32,
        line: String,
    },
    Mount(PathBuf),
    Cgroup(PathBuf),
    Socket(PathBuf),
    /// A socket file that no process listens on.
    AbandonedSocket(PathBuf),
    Fifo(PathBuf),
    NetworkNamespace(PathBuf),
    State(PathBuf),
    /// So many descriptors of terminals that a process holds.
    Terminals {
        pid: i32,
        count: usize,
    },
}

impl fmt::Display for Item {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, line } => write!(out, "process {pid} {line}"),
            Self::Mount(path) => write!(out, "mount {}", path.display()),
            Self::Cgroup(path) => write!(out, "cgroup {}", path.display()),
            Self::Socket(path) => write!(out, "socket {}", path.display()),
            Self::AbandonedSocket(path) => write!(out, "abandoned socket {}", path.display()),
            Self::Fifo(path) => write!(out, "fifo {}", path.display()),
            Self::NetworkNamespace(path) => write!(out, "network namespace {}", path.display()),
            Self::State(path) => write!(out, "state {}", path.display()),
            Self::Terminals { pid, count } => {
                write!(out, "process {pid} with {count} descriptors of terminals")
            }
        }
    }
}

/// All that exists at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<Item>);

impl Census {
    /// Counts on the whole machine: shims, runc and hybrid processes, and every mount, cgroup, socket, FIFO, network
    /// namespace and state folder.
    pub fn take() -> Result<Self> {
        let mut items: BTreeSet<Item> = Process::all()
            .iter()
            .filter(|process| !process.is_zombie() && is_runtime(process.program()))
            .map(item_of)
            .collect();
        items.extend(mounts().into_iter().map(Item::Mount));
        items.extend(folders_below(Path::new(CGROUP_ROOT)).into_iter().map(Item::Cgroup));
        items.extend(children(Path::new(SHIM_SOCKETS)).into_iter().map(Item::Socket));
        items.extend(children(Path::new(CLIENT_FIFOS)).into_iter().map(Item::Fifo));
        items.extend(children(Path::new(NAMED_NETNS)).into_iter().map(Item::NetworkNamespace));
        for folder in STATE_FOLDERS {
            items.extend(descendants(Path::new(folder), 3).into_iter().map(Item::State));
        }
        Ok(Self(items))
    }

    /// Counts what belongs to one daemon: its processes but containerd itself, mounts, cgroups, FIFOs and bundles below
    /// its folders, the runtimes' state for its namespaces, and the sockets its shims listen on or have abandoned.
    pub fn of(daemon: &Daemon) -> Result<Self> {
        let territory = daemon.territory();
        let containerd = daemon.pid().unwrap_or_default();
        let processes: Vec<Process> = territory
            .processes()
            .into_iter()
            .filter(|process| process.pid != containerd && !process.is_zombie())
            .collect();
        let mut items: BTreeSet<Item> = processes.iter().map(item_of).collect();
        items.extend(processes.iter().filter_map(terminals_of));
        let ours = |path: &PathBuf| {
            path.starts_with(territory.run()) || path.starts_with(territory.root())
        };
        items.extend(mounts().into_iter().filter(ours).map(Item::Mount));
        let groups = cgroups(&[territory.tag(), &territory.pods_cgroup()]);
        // The parent that all its containers share stays; runc leaves it too.
        items.extend(groups.into_iter().filter(|path| !is_top(path, daemon)).map(Item::Cgroup));
        items.extend(fifos(territory.run()).into_iter().map(Item::Fifo));
        for namespace in [daemon.namespace(), CRI_NAMESPACE] {
            let bundles = daemon.state().join("io.containerd.runtime.v2.task").join(namespace);
            items.extend(children(&bundles).into_iter().map(Item::State));
        }
        for folder in STATE_FOLDERS {
            let own = descendants(Path::new(folder), 3).into_iter().filter(|path| {
                path.parent().is_some_and(|parent| {
                    parent.components().any(|part| part.as_os_str() == daemon.namespace())
                })
            });
            items.extend(own.map(Item::State));
        }
        let held: BTreeSet<String> = processes.iter().flat_map(sockets::held_by).collect();
        let listeners = sockets::listeners()?;
        let own =
            listeners.iter().filter(|(_, inodes)| inodes.iter().any(|inode| held.contains(inode)));
        items.extend(own.map(|(path, _)| Item::Socket(path.clone())));
        items.extend(sockets::abandoned(&listeners)?.into_iter().map(Item::AbandonedSocket));
        Ok(Self(items))
    }

    /// Returns the items, in a fixed order.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.0.iter()
    }

    /// Says what `later` has more (`+`) and less (`-`). An abandoned socket may be anyone's, so that it went says nothing.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let more = later.0.difference(&self.0).map(|item| format!("+ {item}"));
        let less = self
            .0
            .difference(&later.0)
            .filter(|item| !matches!(item, Item::AbandonedSocket(_)))
            .map(|item| format!("- {item}"));
        more.chain(less).collect()
    }

    /// Counts again and again until nothing differs any more; after `patience`, tells the difference as an error.
    pub fn settles(&self, again: impl Fn() -> Result<Self>, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let difference = self.difference(&again()?);
            if difference.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind after {patience:?}:\n{}", difference.join("\n"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn item_of(process: &Process) -> Item {
    Item::Process {
        pid: process.pid,
        line: if process.arguments.is_empty() {
            process.name.clone()
        } else {
            process.arguments.join(" ")
        },
    }
}

fn terminals_of(process: &Process) -> Option<Item> {
    let is_terminal =
        |path: &PathBuf| path.ends_with("ptmx") || path.to_string_lossy().contains("/pts/");
    let folder = format!("/proc/{}/fd", process.pid);
    let held = children(Path::new(&folder)).into_iter().filter_map(|it| fs::read_link(it).ok());
    let count = held.filter(is_terminal).count();
    (count > 0).then_some(Item::Terminals { pid: process.pid, count })
}

fn is_runtime(program: &str) -> bool {
    program.starts_with("containerd-shim")
        || matches!(program, "runc" | "hybrid" | "crun" | "youki")
}

/// Says whether a cgroup is the one that all containers of the daemon share.
fn is_top(path: &Path, daemon: &Daemon) -> bool {
    let territory = daemon.territory();
    path.file_name()
        .is_some_and(|name| name == territory.tag() || name == territory.pods_cgroup().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_names_what_came_and_what_went() {
        let before = Census(BTreeSet::from([Item::Mount("/a".into()), Item::Socket("/s".into())]));
        let after = Census(BTreeSet::from([Item::Mount("/a".into()), Item::Fifo("/f".into())]));
        assert_eq!(before.difference(&after), ["+ fifo /f", "- socket /s"]);
        assert!(before.difference(&before).is_empty());
    }

    #[test]
    fn a_census_that_never_settles_is_an_error() {
        let before = Census(BTreeSet::new());
        let after = || Ok(Census(BTreeSet::from([Item::Mount("/left".into())])));
        let error = before.settles(after, Duration::from_millis(60)).unwrap_err();
        assert!(error.to_string().contains("+ mount /left"));
    }
}
