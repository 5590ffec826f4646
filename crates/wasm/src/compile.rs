//! Wasm bytes to native code in the cache.
//!
//! Runs in a process of its own, whose limits the caller has set: what a stranger's module costs to
//! compile must not be paid by the keeper or by a guest. The bytes are read once, and it is these
//! bytes that are hashed and compiled: a file that changes meanwhile cannot poison the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use image::Digest;
use image::detect::MAX_MODULE;

use crate::cache::{Cache, CacheError};
use crate::engine::{Engine, EngineError, EngineSettings, Interruption};
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
    #[error("cannot make an engine for the module")]
    Engine(#[from] EngineError),
    #[error("cannot keep the compiled module")]
    Cache(#[from] CacheError),
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
            Self::Read(_) | Self::Engine(_) | Self::Cache(_) => false,
        }
    }
}

/// Compiles the module that `wasm` holds and stores it under its digest.
///
/// # Errors
/// Nothing is stored when the bytes do not have the digest `expected`, are not WebAssembly, or do not
/// validate.
pub fn compile(
    engine: &Engine,
    cache: &Cache,
    wasm: &File,
    expected: &Digest,
) -> Result<(), CompileError> {
    let bytes = read_whole(wasm)?;
    let found = Digest::of(&bytes);
    if found != *expected {
        return Err(CompileError::WrongDigest { expected: *expected, found });
    }
    let kind = kind_of(&bytes)?;
    let needed = settings_for(engine.settings(), &bytes);
    let engine = if needed == *engine.settings() { engine } else { &Engine::new(&needed)? };
    let native = match kind {
        Kind::Module => engine.wasmtime().precompile_module(&bytes),
        Kind::Component => engine.wasmtime().precompile_component(&bytes),
    }
    .map_err(|error| CompileError::Invalid(error.into_boxed_dyn_error()))?;
    Ok(cache.store(engine, expected, &native)?)
}

/// Returns how these bytes are compiled where `asked` is asked for: who answers requests can always
/// be interrupted, for a request has a deadline.
#[must_use]
pub fn settings_for(asked: &EngineSettings, bytes: &[u8]) -> EngineSettings {
    if world::answers_http(bytes) { interruptible(asked) } else { asked.clone() }
}

/// Returns the other settings under which the code of a module may be found for which `asked` is
/// asked: see [`settings_for`].
#[must_use]
pub fn interruptible(asked: &EngineSettings) -> EngineSettings {
    EngineSettings { interruption: Interruption::Epochs, ..asked.clone() }
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
