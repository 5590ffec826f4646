//! A process of a container: its init, or one that was added to it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use keeper::client::Created;
use nix::unistd::Pid;
use sys::pidfd::{Identity, PidFd};
use tokio::sync::watch;

use crate::error::Error;

pub use keeper::client::Exit;
pub use sys::pidfd::ExitStatus;

/// A process that was made; clones name the same process.
#[derive(Debug, Clone)]
pub struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: i32,
    pidfd: Option<Arc<PidFd>>,
    console: Mutex<Option<OwnedFd>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    pub(crate) fn new(created: Created) -> Self {
        let Created { pid, pidfd, console, exit } = created;
        Self(Arc::new(Inner { pid, pidfd, console: Mutex::new(console), exit }))
    }

    /// Its process id in the caller's process namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// How and when it ended, once that is known.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        *self.0.exit.borrow()
    }

    /// Takes the master of its terminal; the first caller gets it.
    #[must_use]
    pub fn take_console(&self) -> Option<OwnedFd> {
        self.0.console.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.0.exit.clone();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return exit;
            }
            if exit.changed().await.is_err() {
                // The sender lives until it has sent; its loss would be ours.
                return Exit { status: ExitStatus::UNOBSERVED, at: SystemTime::now() };
            }
        }
    }

    /// Names the process so that no later one with its id is taken for it.
    ///
    /// # Errors
    /// [`Error::NotFound`] once it has ended.
    pub(crate) fn identity(&self) -> Result<Identity, Error> {
        let identity = Identity::of(Pid::from_raw(self.pid())).map_err(|error| {
            Error::NotFound(format!("process {} cannot be looked at: {error}", self.pid()))
        })?;
        // It is there still, and so the id was its own all the time.
        self.signal(0)?;
        Ok(identity)
    }

    /// Sends it a signal, by number.
    ///
    /// # Errors
    /// [`Error::NotFound`] once it has ended; [`Error::Runtime`] when the kernel
    /// refuses.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let finished = || Error::NotFound("process already finished".to_owned());
        if self.exit().is_some() {
            return Err(finished());
        }
        let pidfd = self.0.pidfd.as_ref().ok_or_else(finished)?;
        pidfd.send_signal(signal).map_err(|error| {
            if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) {
                finished()
            } else {
                let pid = self.pid();
                Error::Runtime(format!("cannot send signal {signal} to process {pid}: {error}"))
            }
        })
    }
}
