//! From the cache to something that can be started: mapped, checked and linked, nothing run.
//!
//! This happens in the keeper, once per module. What a guest may import is fixed here: WASI, and
//! nothing else. A module that asks for more, or that is no command, is refused by name instead of
//! failing later inside its container.

use std::os::fd::RawFd;

use image::Digest;
use wasmtime::component::Component;
use wasmtime::{ExternType, InstancePre, Module, UnknownImportError};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, p1, p2};

use crate::artifact::{Loaded, Program};
use crate::cache::{Cache, CacheError, Found};
use crate::command::Host;
use crate::engine::Engine;

/// Names are listed up to this many; a module may export a hundred thousand.
const NAMES_SHOWN: usize = 8;

/// A module cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Compile it, then load again.
    #[error("module {0} is not compiled yet")]
    NotCached(Digest),
    /// As [`LoadError::NotCached`]: compiling replaces the entry.
    #[error("cache entry of module {0} is damaged")]
    Damaged(Digest),
    #[error("cannot use the module cache")]
    Cache(#[from] CacheError),
    /// Native code of another engine, or the machine refuses to map it.
    #[error("cannot map the native code of module {digest}")]
    Map {
        digest: Digest,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "module imports `{name}` from `{module}`, which is not provided; commands get wasi_snapshot_preview1 or WASI 0.2"
    )]
    UnknownImport { module: String, name: String },
    /// An import is known, but not with the type that the module asks for.
    #[error("module cannot be linked")]
    Link(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("module has no `_start` function without parameters and results; it exports {exports}")]
    MissingStart { exports: String },
    #[error("component is not a command: it does not export wasi:cli/run; it exports {exports}")]
    NotACommand { exports: String },
}

impl LoadError {
    /// Tells whether compiling the module and loading again is the way out.
    #[must_use]
    pub fn needs_compiling(&self) -> bool {
        matches!(self, Self::NotCached(_) | Self::Damaged(_))
    }

    /// Tells a module that is refused, now and whenever it is tried again, from a failure of this
    /// node and from what compiling resolves.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::UnknownImport { .. }
            | Self::Link(_)
            | Self::MissingStart { .. }
            | Self::NotACommand { .. } => true,
            Self::NotCached(_) | Self::Damaged(_) | Self::Cache(_) | Self::Map { .. } => false,
        }
    }
}

/// A linked program whose native code is mapped. Starting it costs an instantiation.
pub struct Prepared {
    pub(crate) program: Linked,
    pub(crate) engine: Engine,
    descriptors: Vec<RawFd>,
}

pub(crate) enum Linked {
    Core(InstancePre<Host>),
    Command(CommandPre<Host>),
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
            Linked::Command(_) => "component",
        };
        f.debug_struct("Prepared")
            .field("kind", &kind)
            .field("descriptors", &self.descriptors)
            .finish_non_exhaustive()
    }
}

/// Maps, checks and links the module that was compiled for `digest`.
///
/// # Errors
/// See [`LoadError`]; [`LoadError::needs_compiling`] tells the ones that compiling resolves.
pub fn load(engine: &Engine, cache: &Cache, digest: &Digest) -> Result<Prepared, LoadError> {
    let artifact = match cache.find(digest)? {
        Found::Intact(artifact) => artifact,
        Found::Damaged => return Err(LoadError::Damaged(*digest)),
        Found::Nothing => return Err(LoadError::NotCached(*digest)),
    };
    let cannot_map = |error: wasmtime::Error| LoadError::Map {
        digest: *digest,
        source: error.into_boxed_dyn_error(),
    };
    let Loaded { program, descriptors } = artifact.load(engine.wasmtime()).map_err(cannot_map)?;
    let program = match program {
        Program::Module(module) => {
            // Prepared here, once, and not in each container.
            module.initialize_copy_on_write_image().map_err(cannot_map)?;
            Linked::Core(link_module(engine, &module)?)
        }
        Program::Component(component) => {
            component.initialize_copy_on_write_image().map_err(cannot_map)?;
            Linked::Command(link_component(engine, &component)?)
        }
    };
    Ok(Prepared { program, engine: engine.clone(), descriptors })
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
    let linked = linker.instantiate_pre(module).map_err(|error| {
        match error.downcast::<UnknownImportError>() {
            Ok(unknown) => LoadError::UnknownImport {
                module: unknown.module().to_owned(),
                name: unknown.name().to_owned(),
            },
            Err(error) => cannot_link(error),
        }
    })?;
    match module.get_export("_start") {
        Some(ExternType::Func(start))
            if start.params().len() == 0 && start.results().len() == 0 =>
        {
            Ok(linked)
        }
        _ => Err(LoadError::MissingStart {
            exports: listed(module.exports().map(|export| export.name())),
        }),
    }
}

fn link_component(engine: &Engine, component: &Component) -> Result<CommandPre<Host>, LoadError> {
    let mut linker = wasmtime::component::Linker::new(engine.wasmtime());
    p2::add_to_linker_async(&mut linker).map_err(cannot_link)?;
    let linked = linker.instantiate_pre(component).map_err(cannot_link)?;
    CommandPre::new(linked).map_err(|_| LoadError::NotACommand {
        exports: listed(
            component.component_type().exports(engine.wasmtime()).map(|(name, _)| name),
        ),
    })
}

fn cannot_link(error: wasmtime::Error) -> LoadError {
    LoadError::Link(error.into_boxed_dyn_error())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut shown = Vec::new();
    let mut rest = 0_usize;
    for name in names {
        if shown.len() < NAMES_SHOWN {
            // A name is the module's to choose: it may be long, or hold control characters.
            let short: String = name.chars().take(64).collect();
            shown.push(format!("`{}`", short.escape_debug()));
        } else {
            rest += 1;
        }
    }
    match (shown.is_empty(), rest) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => shown.join(", "),
        (false, rest) => format!("{} and {rest} more", shown.join(", ")),
    }
}
