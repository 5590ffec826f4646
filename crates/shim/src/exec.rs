//! Processes added to a container, by containerd's exec.
//!
//! containerd adds one first and starts it later: only then is there a process.
//! Its end is told before that of the container's init.

use std::collections::HashMap;
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

/// The processes added to one container, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Arc<Exec>>>);

/// A process added to a container.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) paths: Paths,
    wanted: Wanted,
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
}

#[derive(Debug, Clone)]
struct Running {
    process: Process,
    held: Arc<Held>,
}

impl Execs {
    /// Adds a process to be started; `None` when the id is taken.
    pub(crate) fn add(&self, id: String, wanted: Wanted, paths: Paths) -> Option<Arc<Exec>> {
        let mut execs = self.lock();
        if execs.contains_key(&id) {
            return None;
        }
        let exec = Arc::new(Exec { id, paths, wanted, stage: watch::Sender::new(Stage::Added) });
        execs.insert(exec.id.clone(), Arc::clone(&exec));
        Some(exec)
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

    /// Forgets a process.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
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

impl Exec {
    /// The state of the process; one that is being made counts as running.
    pub(crate) fn state(&self) -> State {
        match &*self.stage.borrow() {
            Stage::Added => State::Created,
            Stage::Starting | Stage::Running(_) => State::Running,
            Stage::Ended(..) => State::Stopped,
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
            Stage::Added | Stage::Starting | Stage::Running(_) => None,
        }
    }

    /// Waits for its end, which has been announced to containerd then; for one that
    /// was not started yet, as long as that takes.
    pub(crate) async fn wait(&self) -> Exit {
        let mut stage = self.stage.subscribe();
        loop {
            if let Stage::Ended(_, exit) = &*stage.borrow_and_update() {
                return *exit;
            }
            stage.changed().await.expect(SENDS);
        }
    }

    /// Closes its standard input; of one that is being made once it is.
    pub(crate) async fn close_stdin(&self) {
        let mut stage = self.stage.subscribe();
        let is_made = |stage: &Stage| !matches!(stage, Stage::Starting);
        stage.wait_for(is_made).await.expect(SENDS);
        if let Some(held) = self.held() {
            held.close_stdin();
        }
    }

    /// Waits until it neither runs nor is about to.
    async fn settled(&self) {
        let mut stage = self.stage.subscribe();
        let at_rest = |stage: &Stage| matches!(stage, Stage::Added | Stage::Ended(..));
        stage.wait_for(at_rest).await.expect(SENDS);
    }

    fn running(&self) -> Option<Running> {
        match &*self.stage.borrow() {
            Stage::Added | Stage::Starting => None,
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
        match self.make(&stand).await {
            Ok(running) => {
                let process = running.process.clone();
                stand.publisher.publish(TaskExecStarted {
                    container_id: stand.handle.id().to_owned(),
                    exec_id: self.id.clone(),
                    pid: pid(process.pid()),
                    ..TaskExecStarted::default()
                });
                self.stage.send_replace(Stage::Running(running.clone()));
                tokio::spawn(Arc::clone(self).announce_end(running, stand));
                Ok(process)
            }
            Err(error) => {
                self.stage.send_replace(Stage::Added);
                Err(error)
            }
        }
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
            process.signal(SIGKILL)?;
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
