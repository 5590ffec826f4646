//! The server's side of the keeper: calls as futures, exits as watches.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sys::pidfd::{ExitStatus, Identity, PidFd};
use sys::seqpacket::{Message, Seqpacket};
use sys::stdio::Stdio;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use crate::message::{Call, CreateWasm, ExecWasm, Failure, LinuxContainer, Reply, Report, Request};
use crate::{Spawned, watched};

/// A handle on the keeper; clones share one socket.
#[derive(Debug, Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
}

/// A process that was made.
#[derive(Debug)]
pub struct Created {
    /// Its process id in the server's process namespace.
    pub pid: i32,
    /// Its pidfd; `None` when it had ended before anyone could open one.
    pub pidfd: Option<Arc<PidFd>>,
    /// The master of its terminal, if it was to get one.
    pub console: Option<OwnedFd>,
    /// Holds its end once that is known.
    pub exit: watch::Receiver<Option<Exit>>,
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal.
    pub status: ExitStatus,
    /// When the server learnt it.
    pub at: SystemTime,
}

/// The descriptors that a wasm process is made with.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// What it tells of itself while it runs.
    pub gauge: BorrowedFd<'a>,
    /// Its standard streams.
    pub stdio: &'a Stdio,
    /// The module's bytes, where the keeper needs them.
    pub module: Option<BorrowedFd<'a>>,
}

impl<'a> Parts<'a> {
    fn descriptors(&self) -> Vec<BorrowedFd<'a>> {
        [self.gauge].into_iter().chain(streams(self.stdio)).chain(self.module).collect()
    }
}

/// The descriptors of given streams; a terminal is made where the process is.
fn streams(stdio: &Stdio) -> Vec<BorrowedFd<'_>> {
    match stdio {
        Stdio::Streams(streams) => streams.iter().map(AsFd::as_fd).collect(),
        Stdio::Terminal => Vec::new(),
    }
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<Seqpacket>,
    next: AtomicU64,
    state: Mutex<State>,
    identity: Identity,
}

#[derive(Debug, Default)]
struct State {
    gone: bool,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    processes: HashMap<i32, Watched>,
}

#[derive(Debug)]
struct Watched {
    pidfd: Option<Arc<PidFd>>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug)]
enum Answer {
    Created(Created),
    Done,
    Failed(Failure),
}

impl Keeper {
    /// Takes the server's end of the keeper's socket. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// Returns the error of making the socket asynchronous.
    pub fn connect(Spawned { socket, identity }: Spawned) -> io::Result<Self> {
        sys::waiting::set_nonblocking(&socket)?;
        let shared = Arc::new(Shared {
            socket: watched(socket)?,
            next: AtomicU64::new(0),
            state: Mutex::default(),
            identity,
        });
        tokio::spawn(listen(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// Which process the keeper is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Says whether the keeper has ended, and with it every way to make containers.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shared.lock().gone
    }

    /// Creates a Linux container whose init waits for [`Keeper::start_linux`].
    ///
    /// # Errors
    /// Returns why it could not be created; nothing of it is left then.
    pub async fn create_linux(
        &self,
        create: linux::CreateRequest,
        stdio: &Stdio,
    ) -> Result<Created, Failure> {
        self.make(Request::CreateLinux(create), &streams(stdio)).await
    }

    /// Runs another process in a Linux container.
    ///
    /// # Errors
    /// Returns why it does not run.
    pub async fn exec_linux(
        &self,
        exec: linux::ExecRequest,
        stdio: &Stdio,
    ) -> Result<Created, Failure> {
        self.make(Request::ExecLinux(exec), &streams(stdio)).await
    }

    /// Creates a wasm container whose init waits for [`Keeper::start_wasm`].
    ///
    /// # Errors
    /// [`Failure::NotCompiled`] asks to call again with the module's bytes; any
    /// other says why the container could not be created.
    pub async fn create_wasm(
        &self,
        create: CreateWasm,
        parts: Parts<'_>,
    ) -> Result<Created, Failure> {
        self.make(Request::CreateWasm(Box::new(create)), &parts.descriptors()).await
    }

    /// Makes another process in a wasm container, which waits for
    /// [`Keeper::start_wasm`].
    ///
    /// # Errors
    /// As [`Keeper::create_wasm`].
    pub async fn exec_wasm(&self, exec: ExecWasm, parts: Parts<'_>) -> Result<Created, Failure> {
        self.make(Request::ExecWasm(Box::new(exec)), &parts.descriptors()).await
    }

    /// Lets a created Linux container run.
    ///
    /// # Errors
    /// Returns why it could not be started.
    pub async fn start_linux(&self, container: LinuxContainer) -> Result<(), Failure> {
        self.act(Request::StartLinux(container)).await
    }

    /// Lets a wasm process that was made run its module.
    ///
    /// # Errors
    /// Returns why it could not be started.
    pub async fn start_wasm(&self, pid: i32) -> Result<(), Failure> {
        self.act(Request::StartWasm { pid }).await
    }

    /// Removes what is left of a Linux container.
    ///
    /// # Errors
    /// Returns what could not be removed.
    pub async fn delete_linux(&self, container: LinuxContainer) -> Result<(), Failure> {
        self.act(Request::DeleteLinux(container)).await
    }

    async fn make(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Created, Failure> {
        match self.call(request, fds).await? {
            Answer::Created(created) => Ok(created),
            Answer::Failed(failure) => Err(failure),
            Answer::Done => Err(Failure::Failed(
                "the keeper answered without the process that was asked for".to_owned(),
            )),
        }
    }

    async fn act(&self, request: Request) -> Result<(), Failure> {
        match self.call(request, &[]).await? {
            Answer::Failed(failure) => Err(failure),
            Answer::Done | Answer::Created(_) => Ok(()),
        }
    }

    async fn call(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Failure> {
        let seq = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&Call { seq, request }).map_err(|error| {
            Failure::Failed(format!("cannot write a request to the keeper: {error}"))
        })?;
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if state.gone {
                return Err(gone());
            }
            state.calls.insert(seq, sender);
        }
        self.shared
            .socket
            .async_io(Interest::WRITABLE, |socket| socket.send(&body, fds))
            .await
            .map_err(|error| {
                self.shared.lock().calls.remove(&seq);
                Failure::Failed(format!("cannot reach the keeper: {error}"))
            })?;
        answer.await.map_err(|_| gone())
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> Failure {
    Failure::Failed(
        "the keeper process has ended: this shim can start no more containers".to_owned(),
    )
}

/// Reads the keeper's reports until it goes.
async fn listen(shared: Arc<Shared>) {
    loop {
        match shared.socket.async_io(Interest::READABLE, Seqpacket::recv).await {
            Ok(Some(message)) => {
                if let Err(error) = shared.take(message) {
                    log::error!("the keeper sent an unreadable report: {error}");
                }
            }
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                log::error!("a report of the keeper is lost: {error}");
            }
            Err(error) => {
                log::error!("cannot read from the keeper: {error}");
                break;
            }
        }
    }
    shared.outlive();
}

impl Shared {
    fn take(&self, message: Message) -> io::Result<()> {
        let report: Report = serde_json::from_slice(&message.body)?;
        let mut state = self.lock();
        match report {
            Report::Reply { seq, outcome } => {
                let answer = match outcome {
                    Ok(Reply::Created { pid, terminal }) => {
                        let mut fds = message.fds;
                        let console = if terminal { fds.pop() } else { None };
                        let pidfd = fds.pop().map(|fd| Arc::new(PidFd::from(fd)));
                        let (sender, exit) = watch::channel(None);
                        state.processes.insert(pid, Watched { pidfd: pidfd.clone(), exit: sender });
                        Answer::Created(Created { pid, pidfd, console, exit })
                    }
                    Ok(Reply::Done) => Answer::Done,
                    Err(failure) => Answer::Failed(failure),
                };
                if let Some(caller) = state.calls.remove(&seq) {
                    // A caller that gave up is not an error: its container is
                    // found and removed by whoever deletes the bundle.
                    drop(caller.send(answer));
                }
            }
            Report::Exited { pid, status } => {
                if let Some(process) = state.processes.remove(&pid) {
                    process.exit.send_replace(Some(Exit { status, at: SystemTime::now() }));
                }
            }
        }
        Ok(())
    }

    /// Goes on without the keeper: the server is a subreaper too, so the inits
    /// are its children now and it learns their ends itself.
    fn outlive(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.calls.clear();
        for (pid, process) in state.processes.drain() {
            tokio::spawn(async move {
                let status = wait_for(process.pidfd.as_deref()).await.unwrap_or_else(|error| {
                    log::error!("cannot learn how process {pid} ended: {error}");
                    ExitStatus::UNOBSERVED
                });
                process.exit.send_replace(Some(Exit { status, at: SystemTime::now() }));
            });
        }
    }
}

/// How often an ended init is asked again for its status, and how long between:
/// it becomes the server's child only when the keeper is gone altogether.
const ASKED_AGAIN: u32 = 100;
const BETWEEN: Duration = Duration::from_millis(10);

async fn wait_for(pidfd: Option<&PidFd>) -> io::Result<ExitStatus> {
    let Some(pidfd) = pidfd else {
        return Err(io::Error::other("it had no pidfd"));
    };
    let ended = watched(pidfd.as_fd().try_clone_to_owned()?)?;
    let _guard = ended.readable().await?;
    let mut last = None;
    for _ in 0..ASKED_AGAIN {
        match pidfd.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Err(last.unwrap_or_else(|| io::Error::other("it does not tell")))
}
