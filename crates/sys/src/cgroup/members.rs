//! The processes of a cgroup: let in, listed, signalled.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::unistd::Pid;

use super::Cgroup;
use super::error::{CgroupError, Result, failed};
use super::files::{read_optional, unreadable, write};
use super::folder::{Folder, children};
use crate::process::SingleThreaded;

/// Rounds of [`Cgroup::signal_all`]: each finds what was forked during the last.
const SIGNAL_ROUNDS: u32 = 64;

impl Cgroup {
    /// Moves the calling process, which must have one thread, into the cgroup,
    /// in every hierarchy.
    ///
    /// # Errors
    /// Those of writing `tasks` or `cgroup.procs`.
    pub fn join_self(&self, _single: &SingleThreaded) -> Result<()> {
        for folder in &self.folders {
            // Moving a process takes a lock against every fork and exit of the
            // system, and an RCU grace period with it: 11 ms on an idle
            // machine. A thread that moves itself is let in without it, and
            // the only thread is the process. Version 2 does not let a thread
            // alone cross from one domain to another.
            let door = if folder.hierarchy.is_v2() { "cgroup.procs" } else { "tasks" };
            write(&folder.path.join(door), "0")?;
        }
        Ok(())
    }

    /// Opens the cgroup for [`SingleThreaded::fork_into`]. `None` on a host with
    /// version 1, whose cgroups are joined after the fork.
    ///
    /// # Errors
    /// Those of opening the folder.
    pub fn door(&self) -> Result<Option<OwnedFd>> {
        let [folder] = self.folders.as_slice() else {
            return Ok(None);
        };
        if !folder.hierarchy.is_v2() {
            return Ok(None);
        }
        let opened = fs::File::open(&folder.path);
        opened.map(|file| Some(file.into())).map_err(|error| failed("open", &folder.path, error))
    }

    /// Lists the processes in the cgroup and in those below it.
    ///
    /// # Errors
    /// Those of reading `cgroup.procs`; a cgroup that does not exist is empty.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        if let Some(folder) = self.census() {
            collect_pids(&folder.path, &mut pids)?;
        }
        Ok(pids)
    }

    /// The folder that is asked who is in: the one that also freezes or
    /// counts processes, else any that exists.
    fn census(&self) -> Option<&Folder> {
        let existing = || self.folders.iter().filter(|folder| folder.is_there());
        existing()
            .find(|folder| folder.hierarchy.holds("pids") || folder.hierarchy.holds("freezer"))
            .or_else(|| existing().next())
    }

    /// Sends a signal to every process in the cgroup and below, including
    /// those forked meanwhile. SIGKILL also thaws what is frozen, since a
    /// frozen process of version 1 does not die.
    ///
    /// # Errors
    /// Those of listing the processes, and of kill(2) but for processes that
    /// are gone; [`CgroupError::Unending`] when each look finds new ones.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let kill = signal == libc::SIGKILL;
        if kill {
            self.kill_at_once()?;
        }
        let reached = reach_all(
            || self.pids(),
            |fresh| {
                fresh.iter().try_for_each(|pid| self.signal(*pid, signal))?;
                if kill { self.thaw() } else { Ok(()) }
            },
        )?;
        match reached {
            true => Ok(()),
            false => {
                Err(CgroupError::Unending { path: self.location.relative().to_owned(), signal })
            }
        }
    }

    /// Uses the kernel's own way (version 2, Linux 5.14) where it is there; it
    /// misses no fork. What it cannot reach the caller signals one by one.
    fn kill_at_once(&self) -> Result<()> {
        for folder in self.folders.iter().filter(|folder| folder.hierarchy.is_v2()) {
            let lever = folder.path.join("cgroup.kill");
            if lever.exists() {
                write(&lever, "1")?;
            }
        }
        Ok(())
    }

    fn signal(&self, pid: Pid, signal: i32) -> Result<()> {
        // SAFETY: kill(2) takes two numbers and touches no memory of ours.
        let done = unsafe { libc::kill(pid.as_raw(), signal) };
        match (done, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            (_, gone) if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            (_, source) => Err(CgroupError::File {
                attempt: format!("send signal {signal} to process {pid} of"),
                path: self.location.relative().to_owned(),
                source,
            }),
        }
    }
}

/// Looks for processes, and has each one `signal`led once, until a look finds no new
/// one; says whether it came to that.
fn reach_all(
    mut look: impl FnMut() -> Result<Vec<Pid>>,
    mut signal: impl FnMut(&[Pid]) -> Result<()>,
) -> Result<bool> {
    let mut known = Vec::new();
    for _ in 0..SIGNAL_ROUNDS {
        let fresh: Vec<Pid> = look()?.into_iter().filter(|pid| !known.contains(pid)).collect();
        if fresh.is_empty() {
            return Ok(true);
        }
        signal(&fresh)?;
        known.extend(fresh);
    }
    Ok(false)
}

fn collect_pids(folder: &Path, pids: &mut Vec<Pid>) -> Result<()> {
    let file = folder.join("cgroup.procs");
    for line in read_optional(&file)?.unwrap_or_default().lines() {
        let pid = line.parse().map_err(|_| unreadable(&file, line))?;
        pids.push(Pid::from_raw(pid));
    }
    for child in children(folder)? {
        match collect_pids(&child, pids) {
            // A threaded cgroup of version 2 has threads of processes that are listed
            // in the domain above it.
            Err(CgroupError::File { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            collected => collected?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at a cgroup whose last process forks at every look, `forks` times.
    fn reach(forks: i32) -> (bool, usize) {
        let (mut last, mut signalled) = (1, Vec::new());
        let look = || {
            last = (last + 1).min(2 + forks);
            Ok((2..=last).map(Pid::from_raw).collect())
        };
        let signal = |fresh: &[Pid]| {
            signalled.extend_from_slice(fresh);
            Ok(())
        };
        let reached = reach_all(look, signal).unwrap();
        (reached, signalled.len())
    }

    #[test]
    fn each_process_is_signalled_once_and_a_fork_at_every_look_is_told() {
        assert_eq!(reach(0), (true, 1));
        assert_eq!(reach(10), (true, 11));
        assert_eq!(reach(i32::MAX - 2), (false, SIGNAL_ROUNDS as usize));
    }
}
