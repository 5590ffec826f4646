//! Wasm bytes to native code, in the cache if that is possible.
//!
//! Runs in a process of its own, within [`crate::bounds`]: what a stranger's module costs to compile
//! must not be paid by the keeper or by a guest. The bytes are read once, and it is these bytes that
//! are hashed and compiled: a file that changes meanwhile cannot poison the cache.
//!
//! A cache that cannot be used costs a warning and the sharing, never the container: its native code
//! goes to the keeper in sealed memory then.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use image::Digest;
use image::detect::MAX_MODULE;
use serde::{Deserialize, Serialize};
use sys::error::chain;

use crate::artifact::Artifact;
use crate::cache::{Cache, Place, Turn};
use crate::engine::{Engine, EngineError, EngineSettings, Interruption};
use crate::engines::Engines;
use crate::world;

const MAGIC: &[u8; 4] = b"\0asm";
const ELF_MAGIC: &[u8; 4] = b"\x7fELF";

/// A module was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A FIFO, a device or a folder.
    #[error("module is not a regular file")]
    NotAFile,
    #[error("module has {0} bytes, more than the {MAX_MODULE} that are accepted")]
    TooLarge(u64),
    #[error("cannot read the module")]
    Read(#[source] io::Error),
    /// The bytes are not those that were looked at before.
    #[error("module has digest {found}, expected {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    /// Native code of an image is never run.
    #[error(
        "module is native code (ELF), perhaps precompiled; only WebAssembly that this node compiles itself is run"
    )]
    NativeCode,
    #[error("file is not a WebAssembly binary: it begins with {0}")]
    NotWasm(String),
    #[error("module is not valid WebAssembly")]
    Invalid(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot put the compiled module into memory")]
    Memory(#[source] io::Error),
}

impl CompileError {
    /// Tells a module that is refused, now and whenever it is tried again, from a failure of this
    /// node.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NotAFile
            | Self::TooLarge(_)
            | Self::WrongDigest { .. }
            | Self::NativeCode
            | Self::NotWasm(_)
            | Self::Invalid(_) => true,
            Self::Read(_) | Self::Engine(_) | Self::Memory(_) => false,
        }
    }
}

/// Native code for a module, open and mapped nowhere yet.
#[derive(Debug)]
pub struct Native {
    pub(crate) artifact: Artifact,
    /// What the engine that it suits is set to.
    pub settings: EngineSettings,
    pub origin: Origin,
}

/// Whose work native code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was compiled by this call.
    Compiled,
    /// Somebody else has stored it meanwhile.
    Found,
}

impl Native {
    /// Takes it apart, to be sent to the process that forked this one.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, EngineSettings, Origin) {
        (self.artifact.into_descriptor(), self.settings, self.origin)
    }

    /// Puts together what came from [`Native::into_parts`]. What is in the descriptor will be run as
    /// native code: it must have come from a process that the caller forked for [`compile`] alone.
    #[must_use]
    pub fn from_own_compiler(file: OwnedFd, settings: EngineSettings, origin: Origin) -> Self {
        Self { artifact: Artifact::handed_on(file), settings, origin }
    }
}

/// What the engine for a module is set to: what was asked for, and what modules of its kind need.
/// Who answers requests can always be interrupted, for a request has a deadline.
fn settings_for(asked: &EngineSettings, bytes: &[u8]) -> EngineSettings {
    if world::answers_http(bytes) { interruptible(asked) } else { asked.clone() }
}

/// Lists all that [`settings_for`] can make of what was asked for, the most frequent first.
pub(crate) fn variants(asked: &EngineSettings) -> Vec<EngineSettings> {
    let mut variants = vec![asked.clone()];
    let other = interruptible(asked);
    if other != *asked {
        variants.push(other);
    }
    variants
}

fn interruptible(asked: &EngineSettings) -> EngineSettings {
    EngineSettings { interruption: Interruption::Epochs, ..asked.clone() }
}

/// Compiles the module that `wasm` holds, unless somebody else does so meanwhile, and stores it under
/// its digest. Without a cache, or where that fails, the native code is in memory alone.
///
/// # Errors
/// Nothing is stored when the bytes do not have the digest `expected`, are not WebAssembly, or do not
/// validate.
pub fn compile(
    engines: &mut Engines,
    cache: Option<&Cache>,
    asked: &EngineSettings,
    wasm: &File,
    expected: &Digest,
) -> Result<Native, CompileError> {
    let bytes = read_whole(wasm)?;
    let found = Digest::of(&bytes);
    if found != *expected {
        return Err(CompileError::WrongDigest { expected: *expected, found });
    }
    let kind = kind_of(&bytes)?;
    let settings = settings_for(asked, &bytes);
    let engine = engines.with(&settings)?;
    let place = match cache.map(|cache| cache.await_turn(&engine, expected)) {
        Some(Ok(Turn::Done(artifact))) => {
            return Ok(Native { artifact, settings, origin: Origin::Found });
        }
        Some(Ok(Turn::Yours(place))) => Some(place),
        Some(Err(error)) => {
            warn_uncached(expected, &error);
            None
        }
        None => None,
    };
    let native = translate(&engine, &kind, &bytes)?;
    let artifact = keep(place, &native, expected)?;
    Ok(Native { artifact, settings, origin: Origin::Compiled })
}

fn translate(engine: &Engine, kind: &Kind, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    match kind {
        Kind::Module => engine.wasmtime().precompile_module(bytes),
        Kind::Component => engine.wasmtime().precompile_component(bytes),
    }
    .map_err(|error| CompileError::Invalid(error.into_boxed_dyn_error()))
}

fn keep(place: Option<Place>, native: &[u8], digest: &Digest) -> Result<Artifact, CompileError> {
    match place.map(|place| place.fill(native)) {
        Some(Ok(artifact)) => return Ok(artifact),
        Some(Err(error)) => warn_uncached(digest, &error),
        None => {}
    }
    Artifact::in_memory(native).map_err(CompileError::Memory)
}

fn warn_uncached(digest: &Digest, error: &dyn std::error::Error) {
    log::warn!("module {digest} runs uncached, and shares its code with nobody: {}", chain(error));
}

enum Kind {
    Module,
    Component,
}

fn kind_of(bytes: &[u8]) -> Result<Kind, CompileError> {
    if bytes.starts_with(ELF_MAGIC) {
        return Err(CompileError::NativeCode);
    }
    // After the magic comes a version and a layer, two bytes each: layer 0 is a core module, layer
    // 1 a component. Whether the version is known is the validator's to say.
    match bytes.split_first_chunk::<4>() {
        Some((MAGIC, [_, _, 0, 0, ..])) => Ok(Kind::Module),
        Some((MAGIC, [_, _, 1, 0, ..])) => Ok(Kind::Component),
        _ => Err(CompileError::NotWasm(beginning_of(bytes))),
    }
}

fn beginning_of(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing: it is empty".to_owned();
    }
    let hex: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    hex.join(" ")
}

fn read_whole(file: &File) -> Result<Vec<u8>, CompileError> {
    let metadata = file.metadata().map_err(CompileError::Read)?;
    if !metadata.is_file() {
        return Err(CompileError::NotAFile);
    }
    if metadata.len() > MAX_MODULE {
        return Err(CompileError::TooLarge(metadata.len()));
    }
    let length =
        usize::try_from(metadata.len()).map_err(|_| CompileError::TooLarge(metadata.len()))?;
    let mut bytes = vec![0; length];
    // From offset 0, whatever this descriptor was used for before.
    file.read_exact_at(&mut bytes, 0).map_err(CompileError::Read)?;
    Ok(bytes)
}
