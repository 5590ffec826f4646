//! The shim server: one per pod, or per container outside a pod.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::Context;
use containerd_shim::Flags;
use containerd_shim::protos::shim_async::create_task;
use containerd_shim::protos::ttrpc::asynchronous::{Server, Service};
use nix::sys::signal::Signal;
use nix::unistd::dup2_stdin;
use runtime::select::Hybrid;
use sys::process::SingleThreaded;

use settings::options::Options;
use settings::{Node, Settings};

use crate::containerd::Containerd;
use crate::door::{self, Burden};
use crate::events::Publisher;
use crate::service::TaskService;
use crate::{log_fifo, options, reaper, start};

/// The names of the task API versions served; their messages are the same.
const TASK_SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];
const GENERATED_NAME: &str = "containerd.task.v3.Task";

/// Serves containerd until it asks for the shutdown.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    come_up(flags).inspect_err(|error| {
        // Nobody reads a server's standard error: containerd hears of it by its log.
        log_fifo::open(flags.debug);
        log::error!("the shim server of {} {} stops: {error:#}", flags.namespace, flags.id);
    })
}

fn come_up(flags: &Flags) -> anyhow::Result<()> {
    let single = SingleThreaded::prove().context("the server must begin without threads")?;
    anyhow::ensure!(
        !flags.id.is_empty() && !flags.namespace.is_empty(),
        "-id and -namespace are missing: this is the server that `start` starts"
    );
    prepare()?;
    // Forked before the first thread exists: from here on only the keeper, which
    // stays without threads, makes processes that go on in our own code. What the
    // server starts itself (hooks, logging binaries) is another program at once.
    let node = options::read_node();
    let settings = Settings::of(node.clone().unwrap_or_default(), &Options::default());
    let place = runtime::Place { cache: settings.cache, cache_size: settings.cache_size };
    let keeper = runtime::spawn_keeper(single, place, || {
        // The keeper must not keep the server's door open after it.
        if let Err(error) = take_listener().map(drop) {
            eprintln!("{error:#}");
        }
        log_fifo::open(flags.debug);
    })
    .context("cannot fork the keeper")?;
    log_fifo::open(flags.debug);
    let listener = take_listener()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(serve(flags, node, listener, keeper))
}

/// Takes over the listening socket, which `start` passed as standard input.
fn take_listener() -> anyhow::Result<UnixListener> {
    let listener = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot take the listening socket")?;
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    dup2_stdin(null).context("cannot replace standard input")?;
    let listener = UnixListener::from(listener);
    listener
        .local_addr()
        .context("standard input is not a socket: the server is started by `start`")?;
    Ok(listener)
}

fn prepare() -> anyhow::Result<()> {
    // Whatever containerd's parents left open is none of ours.
    sys::stdio::close_others().context("cannot close inherited descriptors")?;
    sys::process::set_name("hybrid-shim").context("cannot name the process")?;
    sys::process::become_subreaper().context("cannot become a subreaper")?;
    sys::signal::block(&[Signal::SIGTERM, Signal::SIGINT]).context("cannot block signals")?;
    // Killed before containerd under memory pressure: one more than its score,
    // as runc's shim does.
    raise_oom_score().context("cannot set the out-of-memory score")
}

fn raise_oom_score() -> std::io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const HIGHEST: i32 = 1000;
    let own: i32 = std::fs::read_to_string(FILE)?.trim().parse().map_err(std::io::Error::other)?;
    File::options().write(true).open(FILE)?.write_all((own + 1).min(HIGHEST).to_string().as_bytes())
}

async fn serve(
    flags: &Flags,
    node: Result<Node, String>,
    listener: UnixListener,
    keeper: runtime::Keeper,
) -> anyhow::Result<()> {
    let address =
        listener.local_addr().ok().and_then(|address| address.as_pathname().map(ToOwned::to_owned));
    let runtime = Hybrid::connect(keeper).context("cannot reach the keeper")?;
    tokio::spawn(reaper::run());
    let ttrpc = std::env::var("TTRPC_ADDRESS")
        .context("TTRPC_ADDRESS is missing: events have no destination")?;
    let publisher = Publisher::start(ttrpc, flags.namespace.clone());
    let containerd = Arc::new(Containerd::new(flags.address.clone(), flags.namespace.clone()));
    let service = TaskService::new(
        Arc::new(runtime),
        containerd,
        publisher.clone(),
        flags.namespace.clone(),
        node,
    );
    let shutdown = service.shutdown_signal();

    let service: Arc<dyn containerd_shim::protos::shim_async::Task + Send + Sync> =
        Arc::new(service);
    let mut server = Server::new().add_listener(door::open(listener).context("cannot listen")?);
    let burden = Burden::default();
    for name in TASK_SERVICES {
        let service = burden.bound(named(&service)?);
        server = server.register_service([(name.to_owned(), service)].into());
    }
    server.start().await.context("cannot serve")?;
    log::info!("serving {} {}", flags.namespace, flags.id);
    shutdown.notified().await;
    if let Some(socket) = address {
        start::forget(&socket);
    }
    server.shutdown().await.context("cannot stop serving")?;
    publisher.drain().await;
    Ok(())
}

fn named(
    service: &Arc<dyn containerd_shim::protos::shim_async::Task + Send + Sync>,
) -> anyhow::Result<Service> {
    create_task(Arc::clone(service))
        .remove(GENERATED_NAME)
        .with_context(|| format!("the generated task service is not named {GENERATED_NAME}"))
}
