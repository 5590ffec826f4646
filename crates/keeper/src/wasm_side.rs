//! What the keeper holds for wasm containers: the warm engine, the mapped
//! native code of the modules it has started, and the parts every sandbox is
//! built from. Made at the first wasm create, so that a pod of Linux containers
//! alone never pays for an engine.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use image::Digest;
use sys::error::chain;
use sys::namespace::Template;
use sys::process::SingleThreaded;
use sys::seccomp::Filter;
use sys::title::TitleMap;
use wasm::cache::Cache;
use wasm::engine::{Engine, EngineSettings};
use wasm::module::Prepared;
use wasm::sandbox::{Kit, Launched};

use crate::Place;
use crate::message::{CreateWasm, Failure, Reply, told};
use crate::worker::Outcome;

/// A compilation may use this much address space, in bytes, and processor time,
/// in seconds: far more than a module of many megabytes needs.
const COMPILE_ADDRESS_SPACE: u64 = 8 << 30;
const COMPILE_CPU_SECONDS: u64 = 300;

/// The warm engine and all that is shared by the wasm containers of this keeper.
pub(crate) struct WasmSide {
    engine: Engine,
    cache: Cache,
    filter: Filter,
    template: Template,
    prepared: HashMap<Digest, Rc<Prepared>>,
}

impl WasmSide {
    /// Builds the engine and the sandbox parts.
    pub(crate) fn new(single: &SingleThreaded, place: &Place) -> Result<Self, Failure> {
        let engine = Engine::new(&EngineSettings::enforcing(&place.limits))
            .map_err(failed("cannot make the wasm engine"))?;
        let cache = Cache::open(&place.cache, &engine)
            .map_err(failed("cannot open the cache of native code"))?;
        let filter = wasm::filter::engine_filter()
            .map_err(failed("cannot build the engine's system call filter"))?;
        let template = Template::new(single)
            .map_err(failed("cannot make the mount namespace that sandboxes start from"))?;
        match sys::landlock::abi().map_err(failed("cannot ask for Landlock"))? {
            Some(abi) => log::info!("wasm guests are confined by Landlock ABI {abi} as well"),
            None => log::warn!("this kernel has no Landlock: wasm guests are confined without it"),
        }
        Ok(Self { engine, cache, filter, template, prepared: HashMap::new() })
    }

    /// Returns the module's mapped code, loading it at its first use.
    pub(crate) fn prepare(&mut self, module: &Digest) -> Result<Rc<Prepared>, Failure> {
        if let Some(prepared) = self.prepared.get(module) {
            return Ok(Rc::clone(prepared));
        }
        let loaded = wasm::module::load(&self.engine, &self.cache, module);
        let prepared = loaded.map_err(|error| {
            if error.needs_compiling() {
                log::info!("module {module} is to be compiled: {}", chain(&error));
                Failure::NotCompiled
            } else {
                told(error.is_refusal(), &error)
            }
        })?;
        let prepared = Rc::new(prepared);
        self.prepared.insert(*module, Rc::clone(&prepared));
        Ok(prepared)
    }

    /// Compiles a module into the cache. Runs in a worker.
    pub(crate) fn compile(&self, bytes: OwnedFd, module: &Digest) -> Outcome {
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_AS, COMPILE_ADDRESS_SPACE, COMPILE_ADDRESS_SPACE)
            .and_then(|()| {
                setrlimit(Resource::RLIMIT_CPU, COMPILE_CPU_SECONDS, COMPILE_CPU_SECONDS)
            })
            .map_err(failed("cannot bound a compilation"))?;
        wasm::compile::compile(&self.engine, &self.cache, &File::from(bytes), module)
            .map_err(|error| told(error.is_refusal(), &error))?;
        Ok(Reply::Done)
    }

    /// Clones the init of a wasm container. It reports over its link.
    pub(crate) fn launch(
        &self,
        single: &SingleThreaded,
        title: &TitleMap,
        create: &CreateWasm,
        prepared: &Prepared,
        stdio: [OwnedFd; 3],
    ) -> Result<Launched, Failure> {
        let guest = &create.guest;
        let kit = Kit { single, template: &self.template, title, filter: &self.filter };
        wasm::sandbox::launch(kit, &create.sandbox, stdio, prepared.descriptors(), |preopens| {
            wasm::command::run(prepared, guest, preopens)
        })
        .map_err(|error| Failure::Failed(chain(&error)))
    }
}

/// Has systemd make the container's scope, with the calling process in it. Runs
/// in a worker, which holds the scope open until the init has come.
pub(crate) fn start_scope(create: &CreateWasm) -> Outcome {
    let resources = create.sandbox.resources.clone().unwrap_or_default();
    sys::cgroup::start_scope(&create.sandbox.cgroup, &resources)
        .map_err(failed("cannot make the container's cgroup"))?;
    Ok(Reply::Done)
}

fn failed<E: std::error::Error>(attempt: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::Failed(format!("{attempt}: {}", chain(&error)))
}
