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
    /// Moves a process into the cgroup, in every hierarchy.
    ///
    /// # Errors
    /// Those of writing `cgroup.procs`.
    pub fn join(&self, pid: Pid) -> Result<()> {
        for folder in &self.folders {
            write(&folder.path.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

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
    /// are gone.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let kill = signal == libc::SIGKILL;
        if kill {
            self.kill_at_once()?;
        }
        let mut known = Vec::new();
        for _ in 0..SIGNAL_ROUNDS {
            let fresh: Vec<Pid> =
                self.pids()?.into_iter().filter(|pid| !known.contains(pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                self.signal(pid, signal)?;
                known.push(pid);
            }
            if kill {
                self.thaw()?;
            }
        }
        Ok(())
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

fn collect_pids(folder: &Path, pids: &mut Vec<Pid>) -> Result<()> {
    let file = folder.join("cgroup.procs");
    for line in read_optional(&file)?.unwrap_or_default().lines() {
        let pid = line.parse().map_err(|_| unreadable(&file, line))?;
        pids.push(Pid::from_raw(pid));
    }
    for child in children(folder)? {
        collect_pids(&child, pids)?;
    }
    Ok(())
}
