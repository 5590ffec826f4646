//! The node's store of native code: one file per module and engine, in a folder only its owner can
//! write.
//!
//! A file is named `<digest of the wasm>-<compatibility of the engine>.cwasm` and ends in a seal
//! over its name and its content, made with a key that never leaves the folder. A flipped byte, a
//! truncated file, two swapped entries or a file from elsewhere break the seal, and an entry whose
//! seal is broken is compiled anew. Entries appear by rename, so a reader never sees half of one,
//! and an entry that is mapped is never written to.

mod folder;
mod seal;

use std::path::Path;

use image::Digest;

use crate::artifact::Artifact;
use crate::engine::Engine;
use folder::Folder;
use seal::Key;

pub use folder::CacheError;

/// What the cache holds for a module.
#[derive(Debug)]
pub(crate) enum Found {
    Intact(Artifact),
    Damaged,
    Nothing,
}

/// An open cache.
#[derive(Debug)]
pub struct Cache {
    folder: Folder,
    key: Key,
}

impl Cache {
    /// Opens the cache at `dir`, making the folder (mode 0700) and its key when they are missing.
    ///
    /// # Errors
    /// [`CacheError::Untrusted`] when folder or key are another user's or others can write to them.
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        let folder = Folder::open(dir)?;
        Ok(Self { key: Key::of(&folder)?, folder })
    }

    /// Opens the module's entry and checks that it is what was once stored for it.
    pub(crate) fn find(&self, engine: &Engine, digest: &Digest) -> Result<Found, CacheError> {
        let name = name_of(engine, digest);
        let Some(file) = self.folder.open_file(&name)? else {
            return Ok(Found::Nothing);
        };
        match self.key.sealed(&file, &name) {
            Ok(true) => Ok(Found::Intact(Artifact::vouched(file))),
            Ok(false) => Ok(Found::Damaged),
            Err(source) => Err(self.folder.failed("read", &name, source)),
        }
    }

    /// Stores native code for the module, replacing what was there.
    pub(crate) fn store(
        &self,
        engine: &Engine,
        digest: &Digest,
        native: &[u8],
    ) -> Result<(), CacheError> {
        let name = name_of(engine, digest);
        let seal = self.key.seal(&name, native);
        self.folder.replace(&name, &[native, &seal])
    }
}

fn name_of(engine: &Engine, digest: &Digest) -> String {
    format!("{}-{}.cwasm", digest.hex(), engine.compatibility())
}
