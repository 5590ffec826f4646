//! A folder that holds secrets and native code: its owner's alone, and so is every file in it.
//!
//! All access goes through one descriptor of the folder, checked when it was opened: renaming the
//! folder, or a symlink in its place, changes nothing afterwards. What is in it and is no plain file
//! of its owner is never read, and makes way for what belongs there.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

/// The cache, or a file of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder could not be made or opened.
    #[error("cannot open the module cache {}", .dir.display())]
    Open { dir: PathBuf, source: io::Error },
    /// Somebody else could have put native code there.
    #[error(
        "the module cache {} is not trusted: {why}; it must belong to user {} and be writable by nobody else",
        .path.display(), Uid::effective()
    )]
    Untrusted { path: PathBuf, why: String },
    /// Its code could not be mapped.
    #[error(
        "the module cache {} is on a file system mounted noexec, from which no code can be run",
        .0.display()
    )]
    NoExec(PathBuf),
    /// Reading or writing a file of it failed.
    #[error("cannot {attempt} {} of the module cache", .path.display())]
    Entry { attempt: &'static str, path: PathBuf, source: io::Error },
}

/// An open folder that nobody else can write to.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// What is found under a name.
#[derive(Debug)]
pub(super) enum Opened {
    File(File),
    /// It is not what this program puts there, for this reason.
    Unfit(String),
    Nothing,
}

impl Folder {
    /// Opens the folder; `None` when there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, CacheError> {
        let failed = |source| CacheError::Open { dir: path.to_owned(), source };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let folder = match File::options().read(true).custom_flags(flags.bits()).open(path) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = folder.metadata().map_err(failed)?;
        if let Some(why) = distrust(metadata.uid(), metadata.mode()) {
            return Err(CacheError::Untrusted { path: path.to_owned(), why });
        }
        let file_system = fstatvfs(&folder).map_err(|errno| failed(errno.into()))?;
        if file_system.flags().contains(FsFlags::ST_NOEXEC) {
            return Err(CacheError::NoExec(path.to_owned()));
        }
        Ok(Some(Self { path: path.to_owned(), descriptor: folder.into() }))
    }

    /// Opens the folder, after making it, for its owner alone, where there is none.
    pub(super) fn make(path: &Path) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Open { dir: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        Self::open(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Opens a file for reading, after checking that it is one and whose it is.
    pub(super) fn open_file(&self, name: &str) -> Result<Opened, CacheError> {
        self.open_as(name, OFlag::O_RDONLY)
    }

    /// Opens a file as these flags say, after checking that it is one and whose it is.
    pub(super) fn open_as(&self, name: &str, how: OFlag) -> Result<Opened, CacheError> {
        // Without O_NONBLOCK a FIFO would hang this call before its type can be seen.
        let flags = how | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = match openat(&self.descriptor, name, flags, mode) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::ENOENT) => return Ok(Opened::Nothing),
            Err(Errno::ELOOP) => return Ok(Opened::Unfit("it is a symbolic link".to_owned())),
            // What open(2) says of a socket, and of a folder that is to be written.
            Err(Errno::ENXIO | Errno::EISDIR) => return Ok(Opened::Unfit(NO_FILE.to_owned())),
            Err(errno) => return Err(self.failed("open", name, errno.into())),
        };
        let metadata = file.metadata().map_err(|source| self.failed("look at", name, source))?;
        if !metadata.is_file() {
            return Ok(Opened::Unfit(NO_FILE.to_owned()));
        }
        Ok(match distrust(metadata.uid(), metadata.mode()) {
            Some(why) => Opened::Unfit(why),
            None => Opened::File(file),
        })
    }

    /// Makes a file of these parts, in place of whatever has the name, and opens it for reading. It
    /// appears whole or not at all, and after `ready` has seen it.
    ///
    /// The caller has the name's [lock](Self::lock), so that half-written files found beside it are
    /// leftovers, and removed.
    pub(super) fn replace(
        &self,
        name: &str,
        parts: &[&[u8]],
        ready: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<File, CacheError> {
        self.remove_leftovers_of(name)?;
        let temporary = format!(".{name}.{}.tmp", std::process::id());
        let made = self.write_new(&temporary, parts).and_then(|file| {
            ready(&file)?;
            // A rename does not replace a folder. What is in one is nobody's to lose silently.
            if let Opened::Unfit(_) = self.open_file(name).map_err(io::Error::other)? {
                self.remove(name)?;
            }
            renameat(&self.descriptor, temporary.as_str(), &self.descriptor, name)?;
            Ok(file)
        });
        made.map_err(|source| {
            self.discard(&temporary);
            self.failed("write", name, source)
        })
    }

    /// Writes a new file and opens it for reading.
    fn write_new(&self, name: &str, parts: &[&[u8]]) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = File::from(openat(&self.descriptor, name, flags, mode)?);
        parts.iter().try_for_each(|part| file.write_all(part))?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.descriptor, name, flags, Mode::empty())?.into())
    }

    fn remove_leftovers_of(&self, name: &str) -> Result<(), CacheError> {
        let leftovers = self.names()?.into_iter().filter(|left| written_for(left) == Some(name));
        leftovers.for_each(|left| self.discard(&left));
        Ok(())
    }

    /// Lists the names of everything in the folder.
    pub(super) fn names(&self) -> Result<Vec<String>, CacheError> {
        let failed = |errno: Errno| self.failed("list", ".", errno.into());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listed =
            Dir::openat(&self.descriptor, ".", flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in listed.iter() {
            let entry = entry.map_err(failed)?;
            // What is not text is none of ours.
            if let Ok(name) = entry.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes whatever has this name, unless it is a folder that holds something.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR) => Ok(unlinkat(&self.descriptor, name, UnlinkatFlags::RemoveDir)?),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes a file that nobody needs; that it stays is told in the log.
    pub(super) fn discard(&self, name: &str) {
        if let Err(error) = self.remove(name) {
            log::warn!("cannot remove {}: {error}", self.path.join(name).display());
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

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

const NO_FILE: &str = "it is not a regular file";

/// Tells for which file a half-written one was meant, by its name.
pub(super) fn written_for(temporary: &str) -> Option<&str> {
    let inner = temporary.strip_prefix('.')?.strip_suffix(".tmp")?;
    let (name, process) = inner.rsplit_once('.')?;
    process.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// Says why what has this owner and mode is not trusted, if it is not.
fn distrust(owner: u32, mode: u32) -> Option<String> {
    if owner != Uid::effective().as_raw() {
        Some(format!("it belongs to user {owner}"))
    } else if mode & 0o022 != 0 {
        Some(format!("its mode is {:o}", mode & 0o7777))
    } else {
        None
    }
}
