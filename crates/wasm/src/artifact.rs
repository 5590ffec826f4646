//! Native code that may be trusted, and the one place that loads it.
//!
//! Deserialising native code is running it. An [`Artifact`] can only be had from the cache, which
//! checks the file before it hands it over, and from this node's own compiler, whose output comes
//! in a file that nobody can change any more; nothing else in the tree may make one.

#![allow(unsafe_code, reason = "the only way Wasmtime offers to map precompiled code")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// An open file of our own compiler's output.
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
    /// Ours among them. It carries the lock that keeps the file in the cache.
    pub(crate) file: File,
}

impl Artifact {
    /// Takes over a file whose owner, mode and seal the cache has checked.
    pub(super) fn vouched(file: File) -> Self {
        Self(file)
    }

    /// Puts native code that is not stored anywhere into sealed memory.
    ///
    /// The caller has it from this process's compiler.
    pub(super) fn in_memory(native: &[u8]) -> io::Result<Self> {
        Ok(Self(sys::sealed_memory::holding(c"hybrid-native-code", native)?))
    }

    /// Hands the file on, to another process of ours.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0.into()
    }

    /// Takes over what [`Artifact::into_descriptor`] gave in a process that this one has forked to
    /// compile, and that only the two could talk about.
    pub(super) fn handed_on(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }

    /// Maps the code. Pages are shared with every other process that maps the same file.
    pub(crate) fn load(self, engine: &Engine) -> wasmtime::Result<Loaded> {
        let Self(file) = self;
        // Through the descriptor, so that the file which was checked is the file that is mapped.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let program = match Engine::detect_precompiled_file(&path)? {
            Some(Precompiled::Module) => {
                // SAFETY: an `Artifact` is built in two places. `cache` makes one from a regular
                // file in a folder that no other user can write to, whose seal covers every byte
                // and the name it was stored under, and which `compile` wrote from this compiler's
                // output for an engine of the same compatibility hash; only a rename ever replaces
                // an entry, so nobody writes to the inode while it is mapped. `compile` makes the
                // other from the same output, in memory that the kernel keeps anyone from writing
                // to. Either may come through `handed_on`, from the process that the keeper forked
                // to compile, which holds no code but ours. So the bytes are unaltered output of
                // `precompile_module`.
                let module = unsafe { Module::deserialize_file(engine, &path) }?;
                Program::Module(module)
            }
            Some(Precompiled::Component) => {
                // SAFETY: as above, for `precompile_component`.
                let component = unsafe { Component::deserialize_file(engine, &path) }?;
                Program::Component(component)
            }
            None => wasmtime::bail!("file holds no native code"),
        };
        let identity = identity(&file.metadata()?);
        Ok(Loaded { program, descriptors: descriptors_of(identity)?, file })
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Lists this process's descriptors of one file. Wasmtime keeps one beside ours, and does not say
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
