//! A folder that holds secrets and native code: its owner's alone, and so is every file in it.
//!
//! All access goes through one descriptor of the folder, checked when it was opened: renaming the
//! folder, or a symlink in its place, changes nothing afterwards.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, UnlinkatFlags, linkat, unlinkat};

/// A file or folder of the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder could not be made or opened.
    #[error("cannot open the module cache {}", .dir.display())]
    Open { dir: PathBuf, source: io::Error },
    /// Somebody else could have put native code there.
    #[error(
        "{} of the module cache is not trusted: {why}; it must belong to user {} and be writable by nobody else",
        .path.display(), Uid::effective()
    )]
    Untrusted { path: PathBuf, why: String },
    /// Reading or writing an entry failed.
    #[error("cannot {attempt} {} of the module cache", .path.display())]
    Entry { attempt: &'static str, path: PathBuf, source: io::Error },
}

/// An open folder that nobody else can write to.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Open { dir: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let folder = File::options()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
            .open(path)
            .map_err(failed)?;
        let metadata = folder.metadata().map_err(failed)?;
        trusted(path, metadata.uid(), metadata.mode())?;
        Ok(Self { path: path.to_owned(), descriptor: folder.into() })
    }

    /// Opens a file for reading, after checking that it is one and whose it is. `None` when there is
    /// nothing of that name.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>, CacheError> {
        // Without O_NONBLOCK a FIFO would hang this call before its type can be seen.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(self.failed("open", name, errno.into())),
        };
        let metadata = file.metadata().map_err(|source| self.failed("look at", name, source))?;
        let path = self.path.join(name);
        if !metadata.is_file() {
            return Err(CacheError::Untrusted { path, why: "it is not a regular file".to_owned() });
        }
        trusted(&path, metadata.uid(), metadata.mode())?;
        Ok(Some(file))
    }

    /// Makes a file of these parts, in place of any that has the name.
    pub(super) fn replace(&self, name: &str, parts: &[&[u8]]) -> Result<(), CacheError> {
        self.write(name, parts, |temporary| {
            renameat(&self.descriptor, temporary, &self.descriptor, name)
        })
    }

    /// Makes a file of these parts, unless there is one of that name by now.
    pub(super) fn add(&self, name: &str, parts: &[&[u8]]) -> Result<(), CacheError> {
        self.write(name, parts, |temporary| {
            let flags = AtFlags::empty();
            match linkat(&self.descriptor, temporary, &self.descriptor, name, flags) {
                Ok(()) | Err(Errno::EEXIST) => {
                    unlinkat(&self.descriptor, temporary, UnlinkatFlags::NoRemoveDir)
                }
                failure => failure,
            }
        })
    }

    /// Writes a temporary file and lets `publish` give it its name: nobody ever opens a part of it.
    fn write(
        &self,
        name: &str,
        parts: &[&[u8]],
        publish: impl FnOnce(&str) -> nix::Result<()>,
    ) -> Result<(), CacheError> {
        let temporary = format!(".{name}.{}.tmp", std::process::id());
        // A compiler that was killed may have left one under a process id that came round again.
        self.discard(&temporary);
        let written = self
            .write_new(&temporary, parts)
            .and_then(|()| publish(&temporary).map_err(io::Error::from));
        written.map_err(|source| {
            self.discard(&temporary);
            self.failed("write", name, source)
        })
    }

    fn write_new(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = File::from(openat(&self.descriptor, name, flags, mode)?);
        parts.iter().try_for_each(|part| file.write_all(part))
    }

    fn discard(&self, temporary: &str) {
        match unlinkat(&self.descriptor, temporary, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => {
                log::warn!("cannot remove {}: {errno}", self.path.join(temporary).display());
            }
        }
    }

    pub(super) fn failed(
        &self,
        attempt: &'static str,
        name: &str,
        source: io::Error,
    ) -> CacheError {
        CacheError::Entry { attempt, path: self.path.join(name), source }
    }
}

/// Refuses what another user owns or could write to.
fn trusted(path: &Path, owner: u32, mode: u32) -> Result<(), CacheError> {
    let why = if owner != Uid::effective().as_raw() {
        format!("it belongs to user {owner}")
    } else if mode & 0o022 != 0 {
        format!("its mode is {:o}", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(CacheError::Untrusted { path: path.to_owned(), why })
}
