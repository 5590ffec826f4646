//! From the cache to something that can be started: mapped, checked and linked, nothing run.
//!
//! This happens in the keeper, once per module. What a guest may import is fixed here: WASI, and
//! nothing else. A module that asks for more is refused by name instead of failing later inside its
//! container. Whether it has what a guest is to run is [`Prepared::check`]'s to say: not every
//! module is a command.

use std::fs::File;
use std::os::fd::RawFd;

use image::Digest;
use wasmtime::component::{self, Component};
use wasmtime::{InstancePre, Module, UnknownImportError};
use wasmtime_wasi::{I32Exit, p1, p2, p3};
use wasmtime_wasi_http::p2::add_only_http_to_linker_async;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::artifact::{Artifact, Loaded, Program};
use crate::cache::{Cache, CacheError, Found};
use crate::command::Host;
use crate::compile::{self, Native};
use crate::engine::{Engine, EngineError, EngineSettings, P3};
use crate::engines::Engines;
use crate::imports::Missing;
use crate::provided;

/// A module cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Compile it, then load again.
    #[error("module {0} is not compiled yet")]
    NotCached(Digest),
    /// As [`LoadError::NotCached`]: compiling replaces the entry.
    #[error("the cache entry of module {digest} is damaged: {why}")]
    Damaged { digest: Digest, why: String },
    /// As [`LoadError::NotCached`]: it runs without the cache.
    #[error("cannot use the module cache")]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Native code of another engine, or the machine refuses to map it.
    #[error("cannot map the native code of module {digest}")]
    Map {
        digest: Digest,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("imports are not provided: {0}")]
    UnknownImports(Missing),
    /// An import is known, but not with the type that the module asks for.
    #[error("module cannot be linked")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LoadError {
    /// Tells whether compiling the module and loading again is the way out.
    #[must_use]
    pub fn needs_compiling(&self) -> bool {
        matches!(self, Self::NotCached(_) | Self::Damaged { .. } | Self::Cache(_))
    }

    /// Tells a module that is refused, now and whenever it is tried again, from a failure of this
    /// node and from what compiling resolves.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::UnknownImports(_) | Self::Link(_) => true,
            Self::NotCached(_)
            | Self::Damaged { .. }
            | Self::Cache(_)
            | Self::Engine(_)
            | Self::Map { .. } => false,
        }
    }
}

/// A linked program whose native code is mapped. Starting it costs an instantiation.
pub struct Prepared {
    pub(crate) program: Linked,
    pub(crate) engine: Engine,
    descriptors: Vec<RawFd>,
    /// While this or a copy of it is open, nobody removes the file from the cache to make room.
    _in_use: File,
}

pub(crate) enum Linked {
    Core(InstancePre<Host>),
    Component {
        library: component::InstancePre<Host>,
        /// The same, where it exports wasi:cli/run.
        command: Option<Command>,
        /// The same, where it exports wasi:http/incoming-handler.
        server: Option<ProxyPre<Host>>,
    },
}

/// A component that can be started, by the version of WASI whose `wasi:cli/run` it exports.
pub(crate) enum Command {
    P2(p2::bindings::CommandPre<Host>),
    P3(p3::bindings::CommandPre<Host>),
}

impl Command {
    fn of(library: &component::InstancePre<Host>) -> Option<Self> {
        let p2 = p2::bindings::CommandPre::new(library.clone()).ok().map(Self::P2);
        p2.or_else(|| p3::bindings::CommandPre::new(library.clone()).ok().map(Self::P3))
    }
}

impl Prepared {
    /// Lists the descriptors that must stay open, with these numbers, in the process that runs this
    /// program: its initial memory is mapped from them.
    #[must_use]
    pub fn descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.program {
            Linked::Core(_) => "core module",
            Linked::Component { .. } => "component",
        };
        f.debug_struct("Prepared")
            .field("kind", &kind)
            .field("descriptors", &self.descriptors)
            .finish_non_exhaustive()
    }
}

/// Maps, checks and links the module that was compiled for `digest` and what was asked of the
/// engine.
///
/// # Errors
/// See [`LoadError`]; [`LoadError::needs_compiling`] tells the ones that compiling resolves.
pub fn load(
    engines: &mut Engines,
    cache: &Cache,
    asked: &EngineSettings,
    digest: &Digest,
) -> Result<Prepared, LoadError> {
    let mut missing = LoadError::NotCached(*digest);
    for settings in compile::variants(asked) {
        let engine = engines.with(&settings)?;
        match cache.find(&engine, digest)? {
            Found::Intact(artifact) => return prepare(&engine, artifact, digest),
            Found::Damaged(why) => missing = LoadError::Damaged { digest: *digest, why },
            Found::Nothing => {}
        }
    }
    Err(missing)
}

/// Maps, checks and links native code that comes from its compiler.
///
/// # Errors
/// As [`load`], but nothing that compiling resolves.
pub fn adopt(
    engines: &mut Engines,
    native: Native,
    digest: &Digest,
) -> Result<Prepared, LoadError> {
    prepare(&engines.with(&native.settings)?, native.artifact, digest)
}

fn prepare(engine: &Engine, artifact: Artifact, digest: &Digest) -> Result<Prepared, LoadError> {
    let cannot_map = |error: wasmtime::Error| LoadError::Map {
        digest: *digest,
        source: error.into_boxed_dyn_error(),
    };
    let Loaded { program, descriptors, file } =
        artifact.load(engine.wasmtime()).map_err(cannot_map)?;
    let program = match program {
        Program::Module(module) => {
            // Prepared here, once, and not in each container.
            module.initialize_copy_on_write_image().map_err(cannot_map)?;
            Linked::Core(link_module(engine, &module)?)
        }
        Program::Component(component) => {
            component.initialize_copy_on_write_image().map_err(cannot_map)?;
            let library = link_component(engine, &component)?;
            Linked::Component {
                command: Command::of(&library),
                server: ProxyPre::new(library.clone()).ok(),
                library,
            }
        }
    };
    Ok(Prepared { program, engine: engine.clone(), descriptors, _in_use: file })
}

fn link_module(engine: &Engine, module: &Module) -> Result<InstancePre<Host>, LoadError> {
    let mut linker = wasmtime::Linker::new(engine.wasmtime());
    p1::add_to_linker_async(&mut linker, |host: &mut Host| &mut host.wasi).map_err(cannot_link)?;
    // Wasmtime's own `proc_exit` refuses codes from 126 up; a container may end with any.
    linker.allow_shadowing(true);
    linker
        .func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(I32Exit(code).into())
        })
        .map_err(cannot_link)?;
    linker.instantiate_pre(module).map_err(|error| match error.downcast::<UnknownImportError>() {
        Ok(unknown) => {
            let first = (unknown.module(), unknown.name());
            LoadError::UnknownImports(Missing::of_module(module, first))
        }
        Err(error) => cannot_link(error),
    })
}

fn link_component(
    engine: &Engine,
    component: &Component,
) -> Result<component::InstancePre<Host>, LoadError> {
    let mut linker = component::Linker::new(engine.wasmtime());
    p2::add_to_linker_async(&mut linker).map_err(cannot_link)?;
    // Requests of the guest's own are denied when they are made: see `Host`.
    add_only_http_to_linker_async(&mut linker).map_err(cannot_link)?;
    provided::add_to_linker(&mut linker).map_err(cannot_link)?;
    if engine.p3() == P3::On {
        p3::add_to_linker(&mut linker).map_err(cannot_link)?;
    }
    linker.instantiate_pre(component).map_err(|error| {
        match Missing::of_component(component, engine) {
            Some(missing) => LoadError::UnknownImports(missing),
            None => cannot_link(error),
        }
    })
}

fn cannot_link(error: wasmtime::Error) -> LoadError {
    LoadError::Link(error.into_boxed_dyn_error())
}
