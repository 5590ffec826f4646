//! What the keeper holds for wasm containers: the warm engines, the mapped
//! native code of the modules it has started, and the parts every sandbox is
//! built from. Made at the first wasm create, so that a pod of Linux containers
//! alone never pays for an engine.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use image::Digest;
use settings::Caching;
use sys::cgroup::Location;
use sys::error::chain;
use sys::namespace::Template;
use sys::process::SingleThreaded;
use sys::seccomp::Filter;
use sys::stdio::Stdio;
use sys::terminal::{Size, Terminal};
use sys::title::TitleMap;
use wasm::bounds::Bounds;
use wasm::cache::Cache;
use wasm::command::{Guest, Preopen};
use wasm::compile::Origin;
use wasm::engine::EngineSettings;
use wasm::engines::Engines;
use wasm::gauge::{CodeOrigin, Recorder};
use wasm::http::{self, Serving};
use wasm::module::Prepared;
use wasm::sandbox::{Inside, Kit, Launched, SandboxPlan};

use crate::Place;
use crate::message::{CreateWasm, ExecWasm, Failure, Reply, told};
use crate::worker::{Brought, Done, Outcome};

/// The warm engines and all that is shared by the wasm containers of this keeper.
pub(crate) struct WasmSide {
    engines: Engines,
    cache: Cache,
    filter: Filter,
    /// Made at the first server.
    server_filter: OnceCell<Filter>,
    template: Template,
    /// By what was asked for.
    prepared: HashMap<(Digest, EngineSettings), Rc<Prepared>>,
}

impl WasmSide {
    /// Builds the sandbox parts.
    pub(crate) fn new(single: &SingleThreaded, place: &Place) -> Result<Self, Failure> {
        let cache = Cache::new(&place.cache, place.cache_size);
        let filter = wasm::filter::engine_filter()
            .map_err(failed("cannot build the engine's system call filter"))?;
        let template = Template::new(single)
            .map_err(failed("cannot make the mount namespace that sandboxes start from"))?;
        match sys::landlock::abi().map_err(failed("cannot ask for Landlock"))? {
            Some(abi) => log::info!("wasm guests are confined by Landlock ABI {abi} as well"),
            None => log::warn!("this kernel has no Landlock: wasm guests are confined without it"),
        }
        let (engines, prepared) = (Engines::default(), HashMap::new());
        Ok(Self { engines, cache, filter, server_filter: OnceCell::new(), template, prepared })
    }

    /// Returns the mapped code of the order's module, loading it from the cache at its first use.
    pub(crate) fn prepare(&mut self, order: &Order) -> Result<Rc<Prepared>, Failure> {
        let module = order.module();
        let key = (*module, order.engine().clone());
        if let Some(prepared) = self.prepared.get(&key) {
            order.mapped(CodeOrigin::Warm);
            return Ok(Rc::clone(prepared));
        }
        let Caching::On = order.caching() else {
            return Err(Failure::NotCompiled);
        };
        let loaded = wasm::module::load(&mut self.engines, &self.cache, &key.1, module);
        let prepared = Rc::new(loaded.map_err(|error| {
            if error.needs_compiling() {
                log::debug!("module {module} is to be compiled: {}", chain(&error));
                Failure::NotCompiled
            } else {
                told(error.is_refusal(), &error)
            }
        })?);
        log::info!("the native code of module {module} is mapped from the cache");
        self.prepared.insert(key, Rc::clone(&prepared));
        order.mapped(CodeOrigin::Cached);
        Ok(prepared)
    }

    /// Compiles the order's module, into the cache where there is one. Runs in a worker.
    pub(crate) fn compile(&mut self, bytes: OwnedFd, order: &Order) -> Done {
        if let Err(error) = compile_bounds().impose() {
            return Err(failed("cannot bound a compilation")(error)).into();
        }
        let cache = match order.caching() {
            Caching::On => Some(&self.cache),
            Caching::Off => None,
        };
        let (asked, bytes) = (order.engine(), File::from(bytes));
        match wasm::compile::compile(&mut self.engines, cache, asked, &bytes, order.module()) {
            Ok(native) => Done { outcome: Ok(Reply::Done), brought: Brought::Native(native) },
            Err(error) => Err(told(error.is_refusal(), &error)).into(),
        }
    }

    /// Returns the code that a worker brought for the order, mapped.
    pub(crate) fn adopt(
        &mut self,
        brought: Brought,
        order: &Order,
    ) -> Result<Rc<Prepared>, Failure> {
        let Brought::Native(native) = brought else {
            return Err(Failure::Failed("a compiler's report came without its work".to_owned()));
        };
        let (module, origin) = (order.module(), native.origin);
        let key = (*module, order.engine().clone());
        let prepared = wasm::module::adopt(&mut self.engines, native, module)
            .map_err(|error| told(error.is_refusal(), &error))?;
        let prepared = Rc::new(prepared);
        // Another order for the same may have been faster; what is mapped once need not be twice.
        let prepared = Rc::clone(self.prepared.entry(key).or_insert(prepared));
        match origin {
            Origin::Compiled => {
                log::info!("module {module} was compiled");
                order.compiled();
            }
            Origin::Found => {
                log::info!("another shim has compiled module {module} meanwhile");
                order.mapped(CodeOrigin::Cached);
            }
        }
        Ok(prepared)
    }

    fn server_filter(&self) -> Result<&Filter, Failure> {
        if let Some(filter) = self.server_filter.get() {
            return Ok(filter);
        }
        let filter = wasm::filter::server_filter()
            .map_err(failed("cannot build the system call filter of servers"))?;
        Ok(self.server_filter.get_or_init(|| filter))
    }

    /// Clones the process. It reports over its link.
    pub(crate) fn clone(
        &self,
        single: &SingleThreaded,
        title: &TitleMap,
        order: Order,
        prepared: &Prepared,
    ) -> Result<Cloned, Failure> {
        let Order { mut what, stdio, gauge, .. } = order;
        let listens = prepared.check(what.guest()).and_then(|()| prepared.listens(what.guest()));
        let listens = listens.map_err(|error| told(true, &error))?;
        if let What::Init(create) = &mut what {
            create.sandbox.listen = listens;
        }
        let guest = what.guest();
        let size = what.sandbox().terminal_size;
        let (stdio, console) = streams(stdio, size).map_err(failed("cannot open a terminal"))?;
        let filter = if listens.is_some() { self.server_filter()? } else { &self.filter };
        let kit = Kit { single, template: &self.template, title, filter };
        let keep = prepared.descriptors();
        let run = |preopens: &[Preopen]| wasm::command::run(prepared, guest, preopens, &gauge);
        let launched = match &what {
            What::Init(create) => {
                let resources = create.sandbox.resources.as_ref();
                let run = |Inside { preopens, socket }: Inside| match socket {
                    None => run(&preopens),
                    Some(socket) => {
                        let preopens = &preopens;
                        let gauge = &gauge;
                        http::run(prepared, Serving { guest, preopens, gauge, socket, resources })
                    }
                };
                wasm::sandbox::launch(kit, &create.sandbox, stdio, keep, &gauge, run)
            }
            What::Another(exec) => wasm::sandbox::join(kit, &exec.joined, stdio, keep, &gauge, run),
        };
        let launched = launched.map_err(|error| Failure::Failed(chain(&error)))?;
        Ok(Cloned { launched, console })
    }
}

/// What a compilation may take on this machine.
pub(crate) fn compile_bounds() -> Bounds {
    Bounds::on(std::thread::available_parallelism().map_or(1, usize::from))
}

/// A wasm process to be made, with all that came for it.
pub(crate) struct Order {
    pub(crate) what: What,
    stdio: Stdio,
    gauge: Recorder,
    /// When its module began to be compiled, if it has to be.
    compiling: Option<Instant>,
}

/// Which process of its container it is.
pub(crate) enum What {
    /// The first, whose sandbox is made for it.
    Init(Box<CreateWasm>),
    /// Another one in the same sandbox.
    Another(Box<ExecWasm>),
}

/// A cloned process, and the master of its terminal.
pub(crate) struct Cloned {
    pub(crate) launched: Launched,
    pub(crate) console: Option<OwnedFd>,
}

impl What {
    pub(crate) fn sandbox(&self) -> &SandboxPlan {
        match self {
            Self::Init(create) => &create.sandbox,
            Self::Another(exec) => &exec.joined.plan,
        }
    }

    fn guest(&self) -> &Guest {
        match self {
            Self::Init(create) => &create.guest,
            Self::Another(exec) => &exec.guest,
        }
    }
}

impl Order {
    pub(crate) fn new(what: What, stdio: Stdio, gauge: OwnedFd) -> Result<Self, Failure> {
        let gauge = Recorder::map(gauge).map_err(failed("cannot map the gauge"))?;
        Ok(Self { what, stdio, gauge, compiling: None })
    }

    /// Notes that its module is being compiled from now on.
    pub(crate) fn compiling(&mut self) {
        self.compiling = Some(Instant::now());
    }

    /// Tells its gauge where its native code came from.
    fn mapped(&self, origin: CodeOrigin) {
        self.gauge.code(origin);
    }

    /// Tells its gauge that its native code was compiled for it.
    fn compiled(&self) {
        self.gauge.compiled(self.compiling.map_or(Duration::ZERO, |since| since.elapsed()));
    }

    /// The digest of its module.
    pub(crate) fn module(&self) -> &Digest {
        match &self.what {
            What::Init(create) => &create.module,
            What::Another(exec) => &exec.module,
        }
    }

    /// How its native code is compiled and run.
    fn engine(&self) -> &EngineSettings {
        match &self.what {
            What::Init(create) => &create.engine,
            What::Another(exec) => &exec.engine,
        }
    }

    fn caching(&self) -> Caching {
        match &self.what {
            What::Init(create) => create.caching,
            What::Another(exec) => exec.caching,
        }
    }

    /// The cgroup that is made for it, and goes if it fails.
    pub(crate) fn own_cgroup(&self) -> Option<&Location> {
        match &self.what {
            What::Init(create) => Some(&create.sandbox.cgroup),
            What::Another(_) => None,
        }
    }
}

/// The standard streams of a process: those given, or three of a new terminal of
/// this size, whose master is returned beside.
fn streams(stdio: Stdio, size: Option<Size>) -> io::Result<([OwnedFd; 3], Option<OwnedFd>)> {
    match stdio {
        Stdio::Streams(streams) => Ok((streams, None)),
        Stdio::Terminal => {
            let Terminal { master, slave } = sys::terminal::open_on_host()?;
            if let Some(size) = size {
                sys::terminal::resize(master.as_fd(), size)?;
            }
            Ok(([slave.try_clone()?, slave.try_clone()?, slave], Some(master)))
        }
    }
}

/// Has systemd make the container's scope, with the calling process in it. Runs
/// in a worker, which holds the scope open until the init has come.
pub(crate) fn start_scope(sandbox: &SandboxPlan) -> Outcome {
    let resources = sandbox.resources.clone().unwrap_or_default();
    sys::cgroup::start_scope(&sandbox.cgroup, &resources)
        .map_err(failed("cannot make the container's cgroup"))?;
    Ok(Reply::Done)
}

fn failed<E: std::error::Error>(attempt: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Failed(format!("{attempt}: {}", chain(&error)))
}
