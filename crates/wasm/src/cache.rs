//! The node's store of native code: one file per module and engine, in a folder only its owner can
//! write.
//!
//! A file is named `<digest of the wasm>-<compatibility of the engine>.cwasm` and ends in a seal
//! over its name and its content, made with a key that never leaves the folder. A flipped byte, a
//! truncated file, two swapped entries or a file from elsewhere break the seal, and an entry whose
//! seal is broken is compiled anew. Entries appear by rename, so a reader never sees half of one,
//! and an entry that is mapped is never written to.
//!
//! ```text
//! reader    find: open, lock shared, check the seal          keeps the lock while it is mapped
//! compiler  await_turn: lock the name, find again            one compiles, the others find
//!           Turn::fill: write, seal, rename; make room       the least recently found go first
//! ```
//!
//! A reader never waits and changes nothing but a time stamp, so that a folder that is read-only is
//! as good as another. Whoever makes room removes no entry that anybody holds locked.

mod folder;
mod lock;
mod room;
mod seal;

use std::fs::File;
use std::path::{Path, PathBuf};

use image::Digest;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use crate::artifact::Artifact;
use crate::engine::Engine;
use folder::{Folder, Opened};
use lock::Lock;
use seal::Key;

pub use folder::CacheError;

/// What the cache holds for a module.
#[derive(Debug)]
pub(crate) enum Found {
    Intact(Artifact),
    /// There is something that cannot be used, for this reason.
    Damaged(String),
    Nothing,
}

/// Where the cache is, and how large it may become. Nothing is open: the folder may be removed,
/// replaced or repaired while this process lives.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
    size: u64,
}

/// Whether the right to compile a module came with a need to.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Somebody else was faster.
    Done(Artifact),
    Yours(Place),
}

/// The place of an entry that is missing, held against every other compiler.
#[derive(Debug)]
pub(crate) struct Place {
    folder: Folder,
    key: Key,
    name: String,
    size: u64,
    lock: Lock,
}

impl Cache {
    /// Describes the cache at `path`, which may take up to `size` bytes. The folder is made, with
    /// mode 0700, when something is first to be stored.
    #[must_use]
    pub fn new(path: &Path, size: u64) -> Self {
        Self { path: path.to_owned(), size }
    }

    /// Opens the module's entry, checks that it is what was once stored for it, and keeps it from
    /// being removed while it is open.
    pub(crate) fn find(&self, engine: &Engine, digest: &Digest) -> Result<Found, CacheError> {
        let Some(folder) = Folder::open(&self.path)? else {
            return Ok(Found::Nothing);
        };
        find(&folder, &name_of(engine, digest))
    }

    /// Waits until nobody else compiles this module for this engine, and looks again.
    pub(crate) fn await_turn(&self, engine: &Engine, digest: &Digest) -> Result<Turn, CacheError> {
        let folder = Folder::make(&self.path)?;
        let key = Key::ensured(&folder)?;
        let name = name_of(engine, digest);
        let lock = folder.lock(&name)?;
        Ok(match find(&folder, &name)? {
            Found::Intact(artifact) => Turn::Done(artifact),
            Found::Damaged(why) => {
                log::warn!("{name} of the module cache is compiled anew: {why}");
                Turn::Yours(Place { folder, key, name, size: self.size, lock })
            }
            Found::Nothing => Turn::Yours(Place { folder, key, name, size: self.size, lock }),
        })
    }
}

impl Place {
    /// Stores the native code, lets the others go on, and makes room for it by removing what was
    /// not used for longest.
    pub(crate) fn fill(self, native: &[u8]) -> Result<Artifact, CacheError> {
        let Self { folder, key, name, size, lock } = self;
        let seal = key.seal(&name, native);
        // Locked before it can be found, so that nobody who makes room ever sees it unused.
        let file = folder.replace(&name, &[native, &seal], File::lock_shared)?;
        drop(lock);
        if let Err(error) = room::make(&folder, size) {
            log::warn!("no room was made in the module cache: {}", sys::error::chain(&error));
        }
        Ok(Artifact::vouched(file))
    }
}

fn find(folder: &Folder, name: &str) -> Result<Found, CacheError> {
    let file = match folder.open_file(name)? {
        Opened::File(file) => file,
        Opened::Unfit(why) => return Ok(Found::Damaged(why)),
        Opened::Nothing => return Ok(Found::Nothing),
    };
    // Without waiting: it is locked against readers only in the moment in which it is removed.
    if file.try_lock_shared().is_err() {
        return Ok(Found::Nothing);
    }
    let key = match Key::of(folder)? {
        seal::Found::Key(key) => key,
        seal::Found::Unusable(why) => {
            return Ok(Found::Damaged(format!("{} is unusable: {why}", seal::KEY_NAME)));
        }
        seal::Found::Nothing => {
            return Ok(Found::Damaged(format!("there is no {} to check it with", seal::KEY_NAME)));
        }
    };
    match key.sealed(&file, name) {
        Ok(true) => {
            mark_used(&file, name);
            Ok(Found::Intact(Artifact::vouched(file)))
        }
        Ok(false) => Ok(Found::Damaged("its seal is broken".to_owned())),
        Err(source) => Err(folder.failed("read", name, source)),
    }
}

/// Notes that an entry was used now; that is what decides how long it stays.
fn mark_used(file: &File, name: &str) {
    // A read-only cache removes nothing either, so its time stamps do not matter.
    if let Err(errno) = futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW) {
        log::debug!("the use of {name} of the module cache is not noted: {errno}");
    }
}

fn name_of(engine: &Engine, digest: &Digest) -> String {
    format!("{}-{}{ENTRY}", digest.hex(), engine.compatibility())
}

/// How the names of entries end.
const ENTRY: &str = ".cwasm";

#[cfg(test)]
mod tests;
