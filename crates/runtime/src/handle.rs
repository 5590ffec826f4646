//! A created container, as both kinds share it: its init process, its cgroup,
//! its state.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use keeper::message::Failure;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use sys::cgroup::{Cgroup, CgroupError, Location};
use sys::error::chain;
use tokio::sync::watch;

use crate::error::Error;
use crate::logs::{Kept, LogOptions, LogStream};
use crate::memory::{MemoryKills, MemoryWatch};
use crate::process::{Exit, ExitStatus, Process};
use crate::spec::ContainerSpec;

pub(crate) const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
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
    pub(crate) init: Process,
    log: Option<Kept>,
    processes: Processes,
    memory: MemoryWatch,
    progress: Mutex<Progress>,
}

/// What only one kind has.
#[derive(Debug)]
pub(crate) enum Kind {
    /// libcontainer keeps its state in a folder of its own.
    Linux,
    /// What an exec and an update need to know again.
    Wasm(Box<crate::wasm::Guests>),
}

/// What becomes of a container's other processes when its init has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processes {
    /// The kernel ends them: the init is process 1 of a namespace of their own.
    EndWithInit,
    /// They live in a PID namespace that is not the container's alone.
    OutliveInit,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    started: Option<SystemTime>,
    is_paused: bool,
}

impl Container {
    pub(crate) fn new(
        spec: ContainerSpec,
        cgroup: Location,
        kind: Kind,
        log: Option<Kept>,
        init: Process,
    ) -> Self {
        Self {
            processes: Processes::of(&spec.oci),
            id: spec.id,
            bundle: spec.bundle,
            log,
            cgroup,
            kind,
            init,
            memory: MemoryWatch::default(),
            progress: Mutex::default(),
        }
    }

    /// Starts the container as `start` does, and begins to count what the kernel
    /// kills in it for lack of memory.
    pub(crate) async fn start_by(
        &self,
        start: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Error> {
        // While the keeper works on the start.
        let watch = async { self.memory.begin(&self.cgroup, self.init.clone()) };
        let (started, ()) = tokio::join!(start, watch);
        started?;
        self.progress().started = Some(SystemTime::now());
        Ok(())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills every process and waits until the init is reaped.
    pub(crate) async fn kill_and_wait(&self) -> Result<(), Error> {
        match self.init.signal(SIGKILL) {
            // It has ended meanwhile, and that is what is wanted.
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.signal_cgroup(SIGKILL).await?;
        self.thaw_to_die().await?;
        match tokio::time::timeout(PATIENCE, self.init.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Runtime(format!(
                "process {} does not end {} s after SIGKILL: the kernel holds it",
                self.init.pid(),
                PATIENCE.as_secs()
            ))),
        }
    }

    /// Removes the container's cgroup from every hierarchy.
    pub(crate) async fn remove_cgroup(&self) -> Result<(), Error> {
        let location = self.cgroup.clone();
        blocking("remove the cgroup", move || sys::cgroup::remove(&location)).await
    }

    async fn signal_cgroup(&self, signal: i32) -> Result<(), Error> {
        self.with_cgroup("signal the cgroup", move |cgroup| cgroup.signal_all(signal)).await?;
        Ok(())
    }

    /// Lets a killed container notice it: on cgroup v1 the frozen do not even die.
    async fn thaw_to_die(&self) -> Result<(), Error> {
        if !self.progress().is_paused {
            return Ok(());
        }
        self.with_cgroup("thaw the container", Cgroup::thaw).await?;
        Ok(())
    }

    fn has_no_cgroup(&self) -> Error {
        let path = self.cgroup.relative().display();
        Error::NotFound(format!("the cgroup {path} of container {} is gone", self.id))
    }

    /// Works on the container's cgroup, where a call may wait; `None` without one.
    async fn with_cgroup<T: Send + 'static>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&Cgroup) -> Result<T, CgroupError> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let location = self.cgroup.clone();
        blocking(attempt, move || Cgroup::open(&location)?.map(|cgroup| work(&cgroup)).transpose())
            .await
    }
}

impl Processes {
    fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let own = namespaces.into_iter().flatten().any(|namespace| {
            let path = namespace.path().as_ref();
            namespace.typ() == LinuxNamespaceType::Pid
                && path.is_none_or(|path| path.as_os_str().is_empty())
        });
        if own { Self::EndWithInit } else { Self::OutliveInit }
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
        self.0.init.pid()
    }

    /// The init process.
    #[must_use]
    pub fn init(&self) -> &Process {
        &self.0.init
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let exit = self.0.init.exit();
        let Progress { started, is_paused } = *self.0.progress();
        let state = match (exit, started) {
            (Some(_), _) => ContainerState::Stopped,
            (None, None) => ContainerState::Created,
            (None, Some(_)) if is_paused => ContainerState::Paused,
            (None, Some(_)) => ContainerState::Running,
        };
        ContainerStatus {
            state,
            pid: self.pid(),
            exit: exit.map(|exit| exit.status),
            started_at: started,
            finished_at: exit.map(|exit| exit.at),
        }
    }

    pub(crate) async fn wait(&self) -> Exit {
        let exit = self.0.init.wait().await;
        self.0.memory.settled().await;
        exit
    }

    pub(crate) async fn end_others(&self) -> Result<(), Error> {
        match self.0.processes {
            Processes::EndWithInit => Ok(()),
            Processes::OutliveInit => self.0.signal_cgroup(SIGKILL).await,
        }
    }

    pub(crate) fn memory_kills(&self) -> watch::Receiver<MemoryKills> {
        self.0.memory.kills()
    }

    pub(crate) async fn signal(&self, signal: i32, scope: Scope) -> Result<(), Error> {
        match scope {
            Scope::Init => self.0.init.signal(signal)?,
            Scope::All => self.0.signal_cgroup(signal).await?,
        }
        if signal == SIGKILL { self.0.thaw_to_die().await } else { Ok(()) }
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

    pub(crate) async fn pause(&self) -> Result<(), Error> {
        // Before it is so: who kills it meanwhile has to thaw it.
        self.0.progress().is_paused = true;
        let paused = self.0.with_cgroup("pause the container", Cgroup::freeze).await;
        let paused = paused.and_then(|done| done.ok_or_else(|| self.0.has_no_cgroup()));
        if paused.is_err() {
            self.0.progress().is_paused = false;
        }
        paused
    }

    pub(crate) async fn resume(&self) -> Result<(), Error> {
        self.0.with_cgroup("resume the container", Cgroup::thaw).await?;
        self.0.progress().is_paused = false;
        Ok(())
    }

    pub(crate) async fn update(&self, resources: LinuxResources) -> Result<(), Error> {
        let update = move |cgroup: &Cgroup| cgroup.update(&resources);
        let updated = self.0.with_cgroup("change the limits of the container", update).await?;
        updated.ok_or_else(|| self.0.has_no_cgroup())
    }

    pub(crate) async fn logs(&self, options: LogOptions) -> Result<LogStream, Error> {
        let Some(log) = &self.0.log else {
            return Err(Error::NotFound(format!(
                "the output of container {} is not kept here: it goes where its creator asked for \
                 (with containerd, its client's FIFO, file or logging binary)",
                self.id()
            )));
        };
        log.read(options, self.0.init.clone()).await
    }

    pub(crate) async fn processes(&self) -> Result<Vec<i32>, Error> {
        let pids = self.0.with_cgroup("read the processes of the cgroup", Cgroup::pids).await?;
        Ok(pids.into_iter().flatten().map(nix::unistd::Pid::as_raw).collect())
    }

    pub(crate) async fn usage(&self) -> Result<sys::cgroup::Stats, Error> {
        let stats = self.0.with_cgroup("read the counters of the cgroup", Cgroup::stats).await?;
        Ok(stats.unwrap_or_default())
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
