//! The life of a server's process: ready, accepting, draining.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use anyhow::Context;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use settings::Http;
use sys::tcp::{Newcomers, let_in};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::instances::Instances;
use super::service::{Open, Phase, Service};
use super::ticker::Ticker;
use super::{Serving, connection, workers};
use crate::module::Prepared;
use crate::outcome::Outcome;
use crate::stdio::Output;

/// After this long without a further client, nobody who was let in is on the way any more.
const QUIET: Duration = Duration::from_millis(100);
/// How long the last clients are accepted at most.
const ACCEPTING: Duration = Duration::from_secs(1);
/// How long an idle client may still send a request that was on its way when the end began.
const LINGER: Duration = Duration::from_millis(500);
/// How long clients that are not being answered are waited for after that: long enough for the end
/// of an answer to leave, and for the answer to a request that came in pieces to begin.
const UNANSWERED: Duration = Duration::from_secs(2);
/// Before the next try to accept, when there are no descriptors or no memory left.
const PAUSE: Duration = Duration::from_millis(50);
/// Descriptors that are not clients' connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// A server that is ready to begin.
pub(super) struct Server {
    runtime: ManuallyDrop<Runtime>,
    socket: std::net::TcpListener,
    service: Service,
    phase: watch::Sender<Phase>,
    signals: SignalFd,
}

impl Server {
    pub(super) fn new(prepared: &Prepared, serving: Serving<'_>) -> anyhow::Result<Self> {
        let Serving { guest, preopens, gauge, socket, resources } = serving;
        let program = prepared.server(guest)?.context("the component is no HTTP server")?;
        let http = guest.http.context("nothing is known of how the component is served")?;
        // Blocked before there is a second thread, which would take them; until then each has ended
        // the process, as it does a command's.
        let signals = sys::signal::signalfd(&[Signal::SIGTERM, Signal::SIGINT])
            .context("cannot watch for signals")?;
        // Never dropped: the process ends, and takes its threads along.
        let runtime = ManuallyDrop::new(
            workers::runtime(resources).context("cannot make the async runtime")?,
        );
        let ticker = Ticker::start(prepared.engine.wasmtime().clone()).context(
            "cannot start the thread that watches the deadlines of requests; an HTTP server needs \
             two threads at least, so raise the container's limit on processes (linux.resources.pids)",
        )?;
        let (phase, watched) = watch::channel(Phase::Serving);
        let instances = Instances::new(
            program.clone(),
            prepared.engine.clone(),
            guest.clone(),
            preopens.to_vec(),
            gauge.clone(),
        );
        let turns = usize::try_from(http.concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        let service = Service {
            instances,
            http,
            ticker,
            phase: watched,
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicU32::new(0),
            answering: Arc::default(),
        };
        Ok(Self { runtime, socket: socket.into(), service, phase, signals })
    }

    /// Serves to the end and returns the exit code.
    pub(super) fn run(self) -> i32 {
        let Self { runtime, socket, service, phase, signals } = self;
        // On a worker and not on this thread, where each step would wake another one.
        let serving = runtime.spawn(serve(socket, service, phase, signals));
        match runtime.block_on(serving) {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => {
                Output::error().say(&format!("Error: {error:#}\n"));
                super::NOT_SERVED
            }
            Err(panicked) => {
                Output::error().say(&format!("internal error: {panicked}\n"));
                super::NOT_SERVED
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the successor is unsafe; it asks that the descriptor stays the same while it is \
              registered, and the one that watches it owns it"
)]
async fn serve(
    socket: std::net::TcpListener,
    service: Service,
    phase: watch::Sender<Phase>,
    signals: SignalFd,
) -> anyhow::Result<i32> {
    let signals = Signals(AsyncFd::new(signals).context("cannot watch for signals")?);
    if let Some(code) = warm_up(&service).await {
        return Ok(code);
    }
    let address = socket.local_addr().context("cannot tell the server's address")?;
    let listener = listen(socket).with_context(|| cannot_listen(address))?;
    let (open, closed) = mpsc::channel(1);
    let doors = Doors::new(listener, service, open);
    let signal = doors.accept_until(signals.next()).await;
    let deadline = Instant::now() + doors.service.http.grace;
    let drained = drain(doors, &phase, closed, deadline);
    tokio::select! {
        drained = drained => Ok(match drained {
            Ok(()) => 0,
            Err(_cut_off) => {
                Output::error().say(
                    "requests were cut off: they were not done within the time of grace, by \
                     annotation com.wasm.http.grace, the node's [http] or default\n",
                );
                ended_by(signal)
            }
        }),
        // As servers in Go that stop listening for the signal after the first: whoever sends it
        // again does not want to wait.
        again = signals.next() => Ok(ended_by(again)),
    }
}

/// Makes a first instance: only what can be instantiated is worth listening for. Returns the exit
/// code if it cannot.
async fn warm_up(service: &Service) -> Option<i32> {
    let _busy = service.ticker.busy();
    let made = match timeout(service.http.deadline, service.instances.take()).await {
        Ok(made) => made,
        Err(elapsed) => Err(wasmtime::Error::new(elapsed)
            .context("the component was not instantiated within the deadline of a request")),
    };
    match made {
        Ok(instance) => {
            service.instances.put_back(instance);
            None
        }
        Err(error) => {
            let outcome = Outcome::of(Err(error), service.instances.limits(), None);
            if let Some(report) = outcome.report() {
                Output::error().say(&report);
            }
            Some(outcome.code())
        }
    }
}

fn listen(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    sys::tcp::listen(socket.as_fd())?;
    TcpListener::from_std(socket)
}

/// What to say of an address that cannot be listened at.
pub(crate) fn cannot_listen(address: SocketAddr) -> String {
    format!(
        "cannot listen on {address}; give another address by annotation com.wasm.http.address, or \
         another port by the variable PORT"
    )
}

/// The code of a process that a signal has ended.
fn ended_by(signal: i32) -> i32 {
    128 + signal
}

/// The signals that end a server.
struct Signals(AsyncFd<SignalFd>);

impl Signals {
    async fn next(&self) -> i32 {
        loop {
            // Should waiting or reading fail, there are no signals any more, and SIGKILL is left.
            let Ok(mut ready) = self.0.readable().await else { std::future::pending().await };
            match ready.get_inner().read_signal() {
                Ok(Some(signal)) => return signal.ssi_signo.cast_signed(),
                Ok(None) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// Where clients come in.
struct Doors {
    listener: TcpListener,
    protocol: Arc<Builder<TokioExecutor>>,
    service: Arc<Service>,
    /// A permit for each client.
    places: Arc<Semaphore>,
    open: Open,
}

impl Doors {
    fn new(listener: TcpListener, service: Service, open: Open) -> Self {
        let places = Arc::new(Semaphore::new(places(&service.http)));
        let protocol = Arc::new(connection::protocol(&service.http));
        Self { listener, protocol, service: Arc::new(service), places, open }
    }

    /// Lets clients in, while there are places, until the signal comes, which is returned.
    async fn accept_until(&self, signal: impl Future<Output = i32>) -> i32 {
        let mut signal = std::pin::pin!(signal);
        loop {
            let next = async {
                let place = Arc::clone(&self.places).acquire_owned().await.ok();
                (self.accept().await, place)
            };
            tokio::select! {
                signal = signal.as_mut() => return signal,
                (stream, place) = next => self.serve(stream, place),
            }
        }
    }

    async fn accept(&self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                // A client that has gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // The kernel has nothing left to make it with. The client waits.
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn serve(&self, stream: TcpStream, place: Option<OwnedSemaphorePermit>) {
        let (protocol, service) = (Arc::clone(&self.protocol), Arc::clone(&self.service));
        let open = self.open.clone();
        tokio::spawn(async move {
            connection::serve(stream, protocol, service, open).await;
            drop(place);
        });
    }
}

/// Decides how many clients there may be: each has a descriptor.
fn places(http: &Http) -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let most = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(8);
    usize::try_from(u64::from(http.connections).min(most)).unwrap_or(Semaphore::MAX_PERMITS)
}

/// Answers who is in, and nobody else.
///
/// The kernel has let some in that were not accepted yet, and these may have sent a request. So it
/// is told first to let nobody else in; then those are accepted; and only then the socket, which
/// would send a reset to each that it still holds, is closed.
///
/// # Errors
/// When not all is done at the deadline.
async fn drain(
    doors: Doors,
    phase: &watch::Sender<Phase>,
    mut closed: mpsc::Receiver<()>,
    deadline: Instant,
) -> Result<(), tokio::time::error::Elapsed> {
    phase.send_replace(Phase::Draining);
    if let Err(error) = let_in(doors.listener.as_fd(), Newcomers::Refused) {
        Output::error()
            .say(&format!("cannot keep new clients out while the rest is served: {error}\n"));
    }
    let until = Instant::now() + ACCEPTING;
    while Instant::now() < until {
        match timeout(QUIET, doors.accept()).await {
            Ok(stream) => {
                // Who came in last has what was just said of newcomers. Where that cannot be taken
                // back, the socket does not hold it in the first place.
                let _as_before = let_in(stream.as_fd(), Newcomers::Admitted);
                // Beyond the number of places too: to wait for one could take until the deadline.
                doors.serve(stream, None);
            }
            Err(_quiet) => break,
        }
    }
    let service = Arc::clone(&doors.service);
    // The listener, and our own part in what is open.
    drop(doors);
    if timeout(LINGER, closed.recv()).await.is_ok() {
        return Ok(());
    }
    phase.send_replace(Phase::Closing);
    let all_done = async {
        tokio::select! {
            _ = closed.recv() => {}
            // Who has sent half a request, and no more, is not waited for.
            () = nothing_to_answer(&service) => {}
        }
    };
    timeout_at(deadline, all_done).await
}

/// Waits until no request has been under way for a while.
async fn nothing_to_answer(service: &Service) {
    let mut since = Instant::now();
    while since.elapsed() < UNANSWERED {
        sleep(QUIET).await;
        if service.is_answering() {
            since = Instant::now();
        }
    }
}
