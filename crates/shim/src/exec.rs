//! Processes added to a container, by containerd's exec.
//!
//! containerd adds one first and starts it later: only then is there a process.
//! Its end is told before that of the container's init.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim::protos::events::task::{TaskExecStarted, TaskExit};
use lifecycle::State;
use oci_spec::runtime::Process as Wanted;
use runtime::process::{Exit, Process};
use runtime::spec::{Command, ExecOptions};
use runtime::{ContainerHandle, Error, UniversalContainer};
use tokio::sync::watch;

use crate::convert::{exit_code, pid, timestamp};
use crate::events::Publisher;
use crate::stdio::{Held, Owner, Paths};

const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;

/// Why there is always another change to wait for.
const SENDS: &str = "the exec itself is a sender";

/// How long the processes of a container whose init has ended may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The descriptions of one container's processes may take so much memory: kubelet's
/// probes are of a few kilobytes.
const MOST_BYTES: usize = 32 << 20;

/// Why a process is not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is one with this id.
    Taken,
    /// Those that are there take all the memory that they may.
    TooMany,
}

/// The processes added to one container, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Arc<Exec>>>);

/// A process added to a container.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) paths: Paths,
    wanted: Wanted,
    /// Bytes of what it was added by.
    size: usize,
    /// Whether its input is to be closed, which may be asked for while it is made.
    closes_stdin: AtomicBool,
    stage: watch::Sender<Stage>,
}

/// How far it has come.
#[derive(Debug, Clone)]
enum Stage {
    /// It waits for its start.
    Added,
    /// It is being made.
    Starting,
    /// It runs.
    Running(Running),
    /// It has ended, and that was announced.
    Ended(Running, Exit),
    /// It was deleted; whether it ever ran, its end tells.
    Deleted(Option<Exit>),
}

#[derive(Debug, Clone)]
struct Running {
    process: Process,
    held: Arc<Held>,
}

impl Execs {
    /// Adds a process to be started, which was described in `size` bytes.
    pub(crate) fn add(
        &self,
        id: String,
        wanted: Wanted,
        size: usize,
        paths: Paths,
    ) -> Result<Arc<Exec>, Refused> {
        let mut execs = self.lock();
        if execs.contains_key(&id) {
            return Err(Refused::Taken);
        }
        if execs.values().map(|exec| exec.size).sum::<usize>() + size > MOST_BYTES {
            return Err(Refused::TooMany);
        }
        let (closes_stdin, stage) = (AtomicBool::new(false), watch::Sender::new(Stage::Added));
        let exec = Arc::new(Exec { id, paths, wanted, size, closes_stdin, stage });
        execs.insert(exec.id.clone(), Arc::clone(&exec));
        Ok(exec)
    }

    /// Finds a process by its id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Exec>> {
        self.lock().get(id).cloned()
    }

    /// Finds the id of the process that runs as `pid`.
    pub(crate) fn id_of(&self, pid: i32) -> Option<String> {
        let execs = self.lock();
        let found = execs.values().find(|exec| {
            matches!(&*exec.stage.borrow(), Stage::Running(running) if running.process.pid() == pid)
        });
        found.map(|exec| exec.id.clone())
    }

    /// Forgets a process that does not run; `None` when it has begun to meanwhile.
    /// Returns its id and how it ended, if it ever ran.
    pub(crate) async fn delete(&self, exec: &Exec) -> Option<(Option<i32>, Option<Exit>)> {
        let running = exec.delete()?;
        self.lock().remove(&exec.id);
        let Some((running, exit)) = running else {
            return Some((None, None));
        };
        running.held.finish().await;
        Some((Some(running.process.pid()), Some(exit)))
    }

    /// Forgets all processes: their container is deleted, and none of them runs.
    pub(crate) async fn delete_all(&self) {
        let all: Vec<Arc<Exec>> = self.lock().values().cloned().collect();
        for exec in all {
            if self.delete(&exec).await.is_none() {
                log::warn!("process {} outlives the container that it was added to", exec.id);
            }
        }
    }

    /// Waits, for a bounded time, until every process that was started has ended and
    /// that was announced.
    pub(crate) async fn all_ended(&self) {
        let started: Vec<Arc<Exec>> = self.lock().values().cloned().collect();
        let ended = async {
            for exec in started {
                exec.settled().await;
            }
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            log::warn!(
                "processes added to a container have not ended {} s after its init",
                PATIENCE.as_secs()
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an exec is started, and who hears of it.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) runtime: Arc<dyn UniversalContainer>,
    pub(crate) publisher: Publisher,
    pub(crate) handle: ContainerHandle,
    pub(crate) namespace: String,
}

/// The right to start a process, which is given back if that fails in any way.
struct Claim<'a>(&'a Exec);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.stage.send_if_modified(|stage| {
            let failed = matches!(stage, Stage::Starting);
            if failed {
                *stage = Stage::Added;
            }
            failed
        });
    }
}

impl Exec {
    /// The state of the process; one that is being made counts as running.
    pub(crate) fn state(&self) -> State {
        match &*self.stage.borrow() {
            Stage::Added => State::Created,
            Stage::Starting | Stage::Running(_) => State::Running,
            Stage::Ended(..) | Stage::Deleted(_) => State::Stopped,
        }
    }

    /// The process, once there is one.
    pub(crate) fn process(&self) -> Option<Process> {
        self.running().map(|running| running.process)
    }

    /// The shim's ends of its standard streams, once there are any.
    pub(crate) fn held(&self) -> Option<Arc<Held>> {
        self.running().map(|running| running.held)
    }

    /// How it ended, once that was announced.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match &*self.stage.borrow() {
            Stage::Ended(_, exit) => Some(*exit),
            Stage::Deleted(exit) => *exit,
            Stage::Added | Stage::Starting | Stage::Running(_) => None,
        }
    }

    /// Waits for its end, which has been announced to containerd then; for one that
    /// was not started yet, as long as that takes.
    ///
    /// # Errors
    /// [`Error::NotFound`] once it is deleted without ever having run.
    pub(crate) async fn wait(&self) -> Result<Exit, Error> {
        let mut stage = self.stage.subscribe();
        let is_over = |stage: &Stage| matches!(stage, Stage::Ended(..) | Stage::Deleted(_));
        stage.wait_for(is_over).await.expect(SENDS);
        self.exit().ok_or_else(|| Error::NotFound(format!("process {} was deleted", self.id)))
    }

    /// Makes it one that can't be started any more; `None` when it runs, or is about
    /// to. Returns what it was, if it ever ran.
    fn delete(&self) -> Option<Option<(Running, Exit)>> {
        let mut deleted = None;
        self.stage.send_if_modified(|stage| {
            let ended = match stage {
                Stage::Added | Stage::Deleted(None) => None,
                Stage::Ended(running, exit) => Some((running.clone(), *exit)),
                Stage::Starting | Stage::Running(_) | Stage::Deleted(Some(_)) => return false,
            };
            *stage = Stage::Deleted(ended.as_ref().map(|(_, exit)| *exit));
            deleted = Some(ended);
            true
        });
        deleted
    }

    /// Closes its standard input; of one that is being made once it is.
    pub(crate) fn close_stdin(&self) {
        self.closes_stdin.store(true, Ordering::Release);
        self.close_if_asked();
    }

    fn close_if_asked(&self) {
        if self.closes_stdin.load(Ordering::Acquire)
            && let Some(held) = self.held()
        {
            held.close_stdin();
        }
    }

    /// Waits until it neither runs nor is about to.
    async fn settled(&self) {
        let mut stage = self.stage.subscribe();
        let at_rest = |stage: &Stage| !matches!(stage, Stage::Starting | Stage::Running(_));
        stage.wait_for(at_rest).await.expect(SENDS);
    }

    fn running(&self) -> Option<Running> {
        match &*self.stage.borrow() {
            Stage::Added | Stage::Starting | Stage::Deleted(_) => None,
            Stage::Running(running) | Stage::Ended(running, _) => Some(running.clone()),
        }
    }

    /// Makes the process run and announces that; its end is announced when it comes.
    ///
    /// # Errors
    /// Says why it does not run; it can be started again then.
    pub(crate) async fn start(self: &Arc<Self>, stand: Stand) -> Result<Process, Error> {
        let claimed = self.stage.send_if_modified(|stage| {
            let is_waiting = matches!(stage, Stage::Added);
            if is_waiting {
                *stage = Stage::Starting;
            }
            is_waiting
        });
        if !claimed {
            return Err(Error::Runtime("cannot start a running process".to_owned()));
        }
        let claim = Claim(self);
        let running = claim.0.make(&stand).await?;
        let process = running.process.clone();
        stand.publisher.publish(TaskExecStarted {
            container_id: stand.handle.id().to_owned(),
            exec_id: self.id.clone(),
            pid: pid(process.pid()),
            ..TaskExecStarted::default()
        });
        self.stage.send_replace(Stage::Running(running.clone()));
        self.close_if_asked();
        tokio::spawn(Arc::clone(self).announce_end(running, stand));
        Ok(process)
    }

    async fn make(&self, stand: &Stand) -> Result<Running, Error> {
        let owner = Owner { id: self.id.clone(), namespace: stand.namespace.clone() };
        let (stdio, held) = self.paths.open(&owner).await?;
        held.keep_stdin();
        let command = Command { process: self.wanted.clone() };
        let made = stand.runtime.exec(&stand.handle, command, ExecOptions { stdio }).await;
        let process = match made {
            Ok(process) => process,
            Err(error) => {
                held.finish().await;
                return Err(error);
            }
        };
        if let Some(console) = process.take_console()
            && let Err(error) = held.attach(console)
        {
            // It runs already, and nobody would ever hear of it.
            match process.signal(SIGKILL) {
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => log::error!("a process added in vain runs on: {error}"),
            }
            held.finish().await;
            return Err(Error::Runtime(format!("cannot use the terminal: {error}")));
        }
        Ok(Running { process, held: Arc::new(held) })
    }

    async fn announce_end(self: Arc<Self>, running: Running, stand: Stand) {
        let exit = running.process.wait().await;
        running.held.ended();
        stand.publisher.publish(TaskExit {
            container_id: stand.handle.id().to_owned(),
            id: self.id.clone(),
            pid: pid(running.process.pid()),
            exit_status: exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..TaskExit::default()
        });
        self.stage.send_replace(Stage::Ended(running, exit));
    }
}
