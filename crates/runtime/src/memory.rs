//! Counts what the kernel kills in a container because it is out of memory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sys::cgroup::oom::OomWatch;
use sys::cgroup::{Cgroup, Location};
use sys::error::chain;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::process::Process;
use crate::watched;

/// How often the kernel has killed in a container for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryKills {
    /// Since the container's start.
    pub count: u64,
    /// Whether all that happened is counted.
    is_settled: bool,
}

/// The count of one container, from its start to the end of its init.
#[derive(Debug)]
pub(crate) struct MemoryWatch(watch::Sender<MemoryKills>);

impl Default for MemoryWatch {
    fn default() -> Self {
        Self(watch::Sender::new(MemoryKills { count: 0, is_settled: true }))
    }
}

impl MemoryWatch {
    /// Begins to count. A container whose kills cannot be counted runs all the same.
    pub(crate) fn begin(&self, cgroup: &Location, init: Process) {
        // A start that is tried again finds the count of the first try going on.
        if !self.0.borrow().is_settled {
            return;
        }
        match open(cgroup) {
            Ok(Some((watch, event))) => {
                self.0.send_modify(|kills| kills.is_settled = false);
                tokio::spawn(count(watch, event, init, Settling(self.0.clone())));
            }
            // Without the controller nothing of the container is killed for memory.
            Ok(None) => {}
            Err(error) => log::warn!(
                "cannot watch the memory of cgroup {}: {}",
                cgroup.relative().display(),
                chain(&error)
            ),
        }
    }

    pub(crate) fn kills(&self) -> watch::Receiver<MemoryKills> {
        self.0.subscribe()
    }

    /// Waits, once the init has ended, until all that was killed before is counted.
    pub(crate) async fn settled(&self) {
        let mut kills = self.0.subscribe();
        kills.wait_for(|kills| kills.is_settled).await.expect("this is a sender");
    }
}

fn open(cgroup: &Location) -> io::Result<Option<(OomWatch, AsyncFd<OwnedFd>)>> {
    let Some(cgroup) = Cgroup::open(cgroup)? else {
        return Ok(None);
    };
    let Some(watch) = OomWatch::of(&cgroup)? else {
        return Ok(None);
    };
    let event = watched(watch.as_fd().try_clone_to_owned()?)?;
    Ok(Some((watch, event)))
}

/// Calls the count settled when the one who counts is done, however that ends.
struct Settling(watch::Sender<MemoryKills>);

impl Settling {
    fn add(&self, kills: u64) {
        if kills > 0 {
            self.0.send_modify(|so_far| so_far.count += kills);
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.0.send_modify(|kills| kills.is_settled = true);
    }
}

async fn count(mut watch: OomWatch, event: AsyncFd<OwnedFd>, init: Process, total: Settling) {
    loop {
        let ended = tokio::select! {
            ready = event.readable() => match ready {
                Ok(mut ready) => {
                    ready.clear_ready();
                    false
                }
                Err(error) => return log::warn!("cannot wait for memory events: {error}"),
            },
            _ = init.wait() => true,
        };
        match watch.taken() {
            Ok(kills) => total.add(kills),
            Err(error) => return log::warn!("cannot count memory kills: {error}"),
        }
        if ended {
            return;
        }
    }
}
