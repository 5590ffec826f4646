//! Reaps the children nobody waits for.
//!
//! The server is a subreaper: what a hook leaves running becomes its child in the
//! end, and so does what the keeper had, once the keeper is gone. Whoever does wait
//! for a child (tokio for hooks, the keeper's client for inits) does so the moment
//! it ends. So a child that is still a zombie a while later is nobody's.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// How long a zombie is left to whoever may be about to reap it.
const GRACE: Duration = Duration::from_secs(2);

/// A child that has ended, told apart from a later one of the same id.
#[derive(Debug, PartialEq, Eq)]
struct Zombie {
    pid: i32,
    /// In clock ticks since the host's start.
    started: u64,
}

/// Reaps, for as long as the server lives.
pub(crate) async fn run() {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => return log::error!("cannot learn of ended children: {error}"),
    };
    while ended.recv().await.is_some() {
        reap_the_forgotten(GRACE).await;
    }
}

/// Returns once no zombie is left.
async fn reap_the_forgotten(grace: Duration) {
    let mut seen = Vec::new();
    loop {
        tokio::time::sleep(grace).await;
        if !any_zombie() {
            return;
        }
        let now = match tokio::task::spawn_blocking(zombies).await.map_err(io::Error::other) {
            Ok(Ok(now)) => now,
            Ok(Err(error)) | Err(error) => {
                return log::error!("cannot look for ended children: {error}");
            }
        };
        let (forgotten, young): (Vec<_>, Vec<_>) =
            now.into_iter().partition(|zombie| seen.contains(zombie));
        for Zombie { pid, .. } in forgotten {
            // Whatever it answers: there was nobody to tell.
            if let Err(errno) = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
                log::debug!("reaping process {pid}: {errno}");
            }
        }
        seen = young;
    }
}

/// Looks whether any child is a zombie, and leaves it one.
fn any_zombie() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // An ending that nix has no name for (a real-time signal) is an error to it.
    !matches!(waitid(Id::All, look), Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD))
}

/// Finds every child that is a zombie. The kernel lists children only where it was
/// built for checkpoints, so all processes are looked at: which happens for orphans
/// alone.
fn zombies() -> io::Result<Vec<Zombie>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that is gone by now is none.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        found.extend(child_zombie(pid, &stat, own));
    }
    Ok(found)
}

/// Reads `/proc/PID/stat`: `PID (NAME) STATE PARENT ... STARTED ...`, where the name
/// may hold anything.
fn child_zombie(pid: i32, stat: &str, parent: u32) -> Option<Zombie> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let is_child = fields.first() == Some(&"Z") && fields.get(1)?.parse() == Ok(parent);
    let started = fields.get(19)?.parse().ok()?;
    is_child.then_some(Zombie { pid, started })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_zombies_of_this_parent_count() {
        let rest = "1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 777 0";
        let stat = |state, parent| format!("5 (a) Z 9 (b) {state} {parent} {rest}");
        let zombie = Zombie { pid: 5, started: 777 };
        assert_eq!(child_zombie(5, &stat("Z", 9), 9), Some(zombie));
        assert_eq!(child_zombie(5, &stat("S", 9), 9), None);
        assert_eq!(child_zombie(5, &stat("Z", 8), 9), None);
        assert_eq!(child_zombie(5, "", 9), None);
    }

    #[tokio::test]
    async fn a_forgotten_child_is_reaped_and_a_watched_one_keeps_its_status() {
        let grace = Duration::from_millis(200);
        let shell = ["-c", "exit 7"];
        let mut forgotten = Command::new("sh").args(shell).spawn().expect("a child");
        let mut watched = tokio::process::Command::new("sh").args(shell).spawn().expect("a child");
        let mut running = Command::new("sleep").arg("60").spawn().expect("a child");
        let (status, ()) = tokio::join!(watched.wait(), reap_the_forgotten(grace));
        assert_eq!(status.expect("not stolen").code(), Some(7));
        let gone = forgotten.wait().expect_err("reaped");
        assert_eq!(gone.raw_os_error(), Some(Errno::ECHILD as i32));
        assert!(running.try_wait().expect("still a child").is_none());
        running.kill().expect("killed");
        running.wait().expect("its status");
    }
}
