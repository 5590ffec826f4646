//! A created container, as both kinds share it: its init process, its cgroup,
//! its state.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use keeper::client::Created;
use sys::cgroup::{Cgroup, Location};
use sys::error::chain;
use sys::pidfd::PidFd;
use tokio::sync::watch;

use crate::error::Error;
use crate::stats::Stats;

pub use keeper::client::Exit;
pub use sys::pidfd::ExitStatus;

const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
const SIGTERM: i32 = nix::sys::signal::Signal::SIGTERM as i32;

/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container, opaque to its caller; clones name the same container.
#[derive(Debug, Clone)]
pub struct ContainerHandle(pub(crate) Arc<Container>);

/// The states of the OCI runtime specification, and containerd's `paused`.
pub type ContainerState = lifecycle::State;

/// What is known of a container now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its state.
    pub state: ContainerState,
    /// The init's process id in the caller's process namespace.
    pub pid: i32,
    /// How the init ended.
    pub exit: Option<ExitStatus>,
    /// When the user's program was let go.
    pub started_at: Option<SystemTime>,
    /// When the init's end was learnt.
    pub finished_at: Option<SystemTime>,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The init process.
    Init,
    /// Every process of the container.
    All,
}

/// What the kinds share.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup: Location,
    pub(crate) kind: Kind,
    pub(crate) pid: i32,
    pidfd: Option<Arc<PidFd>>,
    exit: watch::Receiver<Option<Exit>>,
    progress: Mutex<Progress>,
}

/// What only one kind has.
#[derive(Debug)]
pub(crate) enum Kind {
    /// libcontainer keeps its state in a folder of its own.
    Linux,
    /// The hooks that remain to be run, which libcontainer would run itself.
    Wasm(crate::hooks::Hooks),
}

#[derive(Debug, Clone, Copy)]
enum Progress {
    Created,
    Started(SystemTime),
}

impl Container {
    pub(crate) fn new(
        id: String,
        bundle: PathBuf,
        cgroup: Location,
        kind: Kind,
        created: Created,
    ) -> Self {
        let Created { pid, pidfd, exit } = created;
        let progress = Mutex::new(Progress::Created);
        Self { id, bundle, cgroup, kind, pid, pidfd, exit, progress }
    }

    pub(crate) fn mark_started(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) =
            Progress::Started(SystemTime::now());
    }

    /// Kills every process and waits until the init is reaped.
    pub(crate) async fn kill_and_wait(&self) -> Result<(), Error> {
        if self.exit.borrow().is_none() {
            match self.send(SIGKILL) {
                // It has ended meanwhile, and that is what is wanted.
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.signal_cgroup(SIGKILL).await?;
        let ended = ContainerHandle::wait_on(self.exit.clone());
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Runtime(format!(
                "process {} does not end {} s after SIGKILL: the kernel holds it",
                self.pid,
                PATIENCE.as_secs()
            ))),
        }
    }

    /// Removes the container's cgroup from every hierarchy.
    pub(crate) async fn remove_cgroup(&self) -> Result<(), Error> {
        let location = self.cgroup.clone();
        blocking("remove the cgroup", move || sys::cgroup::remove(&location)).await
    }

    fn send(&self, signal: i32) -> Result<(), Error> {
        let finished = || Error::NotFound("process already finished".to_owned());
        let pidfd = self.pidfd.as_ref().ok_or_else(finished)?;
        pidfd.send_signal(signal).map_err(|error| {
            if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) {
                finished()
            } else {
                Error::Runtime(format!(
                    "cannot send signal {signal} to process {}: {error}",
                    self.pid
                ))
            }
        })
    }

    async fn signal_cgroup(&self, signal: i32) -> Result<(), Error> {
        let location = self.cgroup.clone();
        blocking("signal the cgroup", move || match Cgroup::open(&location)? {
            Some(cgroup) => cgroup.signal_all(signal),
            None => Ok(()),
        })
        .await
    }
}

impl ContainerHandle {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The init's process id in the caller's process namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let exit = *self.0.exit.borrow();
        let progress = *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, started_at) = match (exit, progress) {
            (Some(_), Progress::Created) => (ContainerState::Stopped, None),
            (Some(_), Progress::Started(at)) => (ContainerState::Stopped, Some(at)),
            (None, Progress::Created) => (ContainerState::Created, None),
            (None, Progress::Started(at)) => (ContainerState::Running, Some(at)),
        };
        ContainerStatus {
            state,
            pid: self.0.pid,
            exit: exit.map(|exit| exit.status),
            started_at,
            finished_at: exit.map(|exit| exit.at),
        }
    }

    pub(crate) async fn wait(&self) -> Exit {
        Self::wait_on(self.0.exit.clone()).await
    }

    async fn wait_on(mut exit: watch::Receiver<Option<Exit>>) -> Exit {
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

    pub(crate) async fn signal(&self, signal: i32, scope: Scope) -> Result<(), Error> {
        if self.0.exit.borrow().is_some() {
            return Err(Error::NotFound("process already finished".to_owned()));
        }
        match scope {
            Scope::Init => self.0.send(signal),
            Scope::All => self.0.signal_cgroup(signal).await,
        }
    }

    pub(crate) async fn stop(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        match self.signal(SIGTERM, Scope::Init).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        if let Ok(exit) = tokio::time::timeout(timeout, self.wait()).await {
            return Ok(exit.status);
        }
        self.0.kill_and_wait().await?;
        Ok(self.wait().await.status)
    }

    pub(crate) async fn processes(&self) -> Result<Vec<i32>, Error> {
        let location = self.0.cgroup.clone();
        blocking("read the processes of the cgroup", move || match Cgroup::open(&location)? {
            Some(cgroup) => cgroup.pids(),
            None => Ok(Vec::new()),
        })
        .await
        .map(|pids| pids.into_iter().map(nix::unistd::Pid::as_raw).collect())
    }

    pub(crate) async fn stats(&self) -> Result<Stats, Error> {
        let location = self.0.cgroup.clone();
        blocking("read the counters of the cgroup", move || match Cgroup::open(&location)? {
            Some(cgroup) => cgroup.stats(),
            None => Ok(Stats::default()),
        })
        .await
    }
}

/// Runs file work on a thread that may wait.
pub(crate) async fn blocking<T, E>(
    attempt: &'static str,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::Runtime(format!("cannot {attempt}: {}", chain(&error)))),
        Err(panicked) => Err(Error::Runtime(format!("cannot {attempt}: {panicked}"))),
    }
}
