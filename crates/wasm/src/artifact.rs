//! Native code that may be trusted, and the one place that loads it.
//!
//! Deserialising native code is running it. An [`Artifact`] can only be had from the cache, which
//! checks the file before it hands it over; nothing else in the tree may make one.

#![allow(unsafe_code, reason = "the only way Wasmtime offers to map precompiled code")]

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// An open file of our own compiler's output, checked by the cache.
#[derive(Debug)]
pub(crate) struct Artifact(File);

/// Mapped native code.
pub(crate) enum Program {
    Module(Module),
    Component(Component),
}

/// Mapped native code and the descriptors it is mapped from.
pub(crate) struct Loaded {
    pub(crate) program: Program,
    /// Must stay open, with these numbers, wherever the program is instantiated: its initial memory
    /// is mapped from them.
    pub(crate) descriptors: Vec<RawFd>,
}

impl Artifact {
    /// Takes over a file whose owner, mode and seal the cache has checked.
    pub(super) fn vouched(file: File) -> Self {
        Self(file)
    }

    /// Maps the code. Pages are shared with every other process that maps the same file.
    pub(crate) fn load(self, engine: &Engine) -> wasmtime::Result<Loaded> {
        let Self(file) = self;
        // Through the descriptor, so that the file which was checked is the file that is mapped.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let program = match Engine::detect_precompiled_file(&path)? {
            Some(Precompiled::Module) => {
                // SAFETY: an `Artifact` is only built by `cache`, from a regular file in a folder
                // that no other user can write to, whose seal covers every byte and the name it was
                // stored under, and which `compile` wrote from this compiler's output for an engine
                // of the same compatibility hash. So the bytes are unaltered output of
                // `precompile_module`; and since only a rename ever replaces an entry, nobody
                // writes to the inode while it is mapped.
                let module = unsafe { Module::deserialize_file(engine, &path) }?;
                Program::Module(module)
            }
            Some(Precompiled::Component) => {
                // SAFETY: as above, for `precompile_component`.
                let component = unsafe { Component::deserialize_file(engine, &path) }?;
                Program::Component(component)
            }
            None => wasmtime::bail!("cache entry holds no native code"),
        };
        let identity = identity(&file.metadata()?);
        drop(file);
        Ok(Loaded { program, descriptors: descriptors_of(identity)? })
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Lists this process's descriptors of one file. Wasmtime keeps the file open but does not say
/// under which number.
fn descriptors_of(file: (u64, u64)) -> std::io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor that is gone by now, such as the one that reads this list, is none of ours.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        if identity(&metadata) == file
            && let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            found.push(number);
        }
    }
    Ok(found)
}
