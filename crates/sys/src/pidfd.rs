//! Handles of processes that cannot be misled by the reuse of a process id, and reaping.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use lifecycle::ExitStatus;

/// A handle of one process. It polls readable once the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Waits up to `patience` for the process, anyone's, to end; says whether it has.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut polled, patience) {
                Ok(ready) => return Ok(ready > 0),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Opens the process that has this id now.
    ///
    /// Only a child of the caller that was not reaped yet is certain to still be the one meant.
    ///
    /// # Errors
    /// ESRCH when there is none.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = RawFd::try_from(result).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor for us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal by number, real-time signals included; 0 only asks whether it could.
    ///
    /// # Errors
    /// ESRCH when the process has ended and was reaped.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: pidfd_send_signal accepts a null siginfo and takes integers otherwise.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reaps the process if it has ended; it must be a child of the caller.
    ///
    /// # Errors
    /// ECHILD when it is not a child, or was reaped before.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.waitid(libc::WEXITED | libc::WNOHANG | libc::__WALL)
    }

    /// Waits for the process to end and reaps it; it must be a child of the caller.
    ///
    /// # Errors
    /// ECHILD when it is not a child, or was reaped before.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match self.waitid(libc::WEXITED | libc::__WALL) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    // nix's waitid fails on a child that a real-time signal ended, after having reaped it.
    fn waitid(&self, options: libc::c_int) -> io::Result<Option<ExitStatus>> {
        // SAFETY: an all-zero siginfo_t is a valid value of that plain C struct.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = self.0.as_raw_fd().cast_unsigned();
        // SAFETY: `info` is a whole siginfo_t that the kernel may fill.
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: waitid succeeded, so the fields of a child are set, or zero if none has ended.
        let pid = unsafe { info.si_pid() };
        // SAFETY: as above.
        let value = unsafe { info.si_status() };
        Ok(match (pid, info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some(ExitStatus::Exited(value)),
            _ => Some(ExitStatus::Signalled(value)),
        })
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

/// A process, told apart from a later one that has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pid: i32,
    /// In clock ticks since the host's start: field 22 of `/proc/PID/stat`.
    started: u64,
}

impl Identity {
    /// Notes who has this id now.
    ///
    /// # Errors
    /// What reading `/proc/PID/stat` says; kind `NotFound` when nobody has it.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold anything; 22 is the twentieth after it.
        let started = stat
            .rsplit_once(") ")
            .and_then(|(_, fields)| fields.split(' ').nth(19)?.parse().ok())
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat")
            })?;
        Ok(Self { pid: pid.as_raw(), started })
    }

    /// The id, which may belong to another process by now.
    #[must_use]
    pub fn pid(self) -> Pid {
        Pid::from_raw(self.pid)
    }

    /// Opens the process; `None` once it has ended and been reaped, whoever has its id now.
    ///
    /// # Errors
    /// Those of pidfd_open(2) but for a process that is gone.
    pub fn open(self) -> io::Result<Option<PidFd>> {
        let pid = Pid::from_raw(self.pid);
        let handle = match PidFd::open(pid) {
            Ok(handle) => handle,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Compared while the handle is held: it is this very process, or
        // another one has the id now.
        Ok(Self::of(pid).is_ok_and(|now| now == self).then_some(handle))
    }
}

/// Reaps one child that has ended, whichever; `None` when none has, or there are no children.
///
/// # Errors
/// What waitpid(2) says.
pub fn reap_any() -> io::Result<Option<(Pid, ExitStatus)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `status` has room for the one integer the kernel writes.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    match pid {
        0 => Ok(None),
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        },
        pid if libc::WIFEXITED(status) => {
            Ok(Some((Pid::from_raw(pid), ExitStatus::Exited(libc::WEXITSTATUS(status)))))
        }
        // Without WUNTRACED and WCONTINUED there is no third way.
        pid => Ok(Some((Pid::from_raw(pid), ExitStatus::Signalled(libc::WTERMSIG(status))))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::{in_child, spawn};
    use crate::process::exit_now;

    fn sleeper() -> PidFd {
        let pid = spawn(|| {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
        });
        PidFd::open(pid).expect("open")
    }

    #[test]
    fn an_exit_code_is_learnt_once() {
        let child = PidFd::open(spawn(|| exit_now(42))).expect("open");
        assert_eq!(child.wait().expect("wait"), ExitStatus::Exited(42));
        let again = child.try_wait().expect_err("already reaped");
        assert_eq!(again.raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_running_child_has_no_status_yet() {
        let child = sleeper();
        assert_eq!(child.try_wait().expect("wait"), None);
        child.send_signal(0).expect("it can be signalled");
        child.send_signal(libc::SIGKILL).expect("kill");
        assert_eq!(child.wait().expect("wait"), ExitStatus::Signalled(9));
        assert_eq!(child.send_signal(0).expect_err("gone").raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn real_time_signals_can_be_sent_and_are_reported() {
        let child = sleeper();
        let signal = libc::SIGRTMIN() + 3;
        child.send_signal(signal).expect("send");
        let status = child.wait().expect("wait");
        assert_eq!(status, ExitStatus::Signalled(signal));
        assert_eq!(status.code(), 128 + signal);
    }

    #[test]
    fn a_stranger_cannot_be_waited_for() {
        let stranger = PidFd::open(Pid::this()).expect("open");
        assert_eq!(
            stranger.try_wait().expect_err("not a child").raw_os_error(),
            Some(libc::ECHILD)
        );
    }

    #[test]
    fn reaping_finds_every_child_and_then_none() {
        in_child(|| {
            assert_eq!(reap_any().expect("no children"), None);
            let expected = [
                (spawn(|| exit_now(1)), ExitStatus::Exited(1)),
                (spawn(|| std::process::abort()), ExitStatus::Signalled(libc::SIGABRT)),
            ];
            let mut found = Vec::new();
            while found.len() < expected.len() {
                found.extend(reap_any().expect("reap"));
            }
            for child in expected {
                assert!(found.contains(&child), "{child:?} is not in {found:?}");
            }
            assert_eq!(reap_any().expect("none left"), None);
        });
    }
}
