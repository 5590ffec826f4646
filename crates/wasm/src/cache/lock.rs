//! Who may write a file of the cache: one process of the node at a time.
//!
//! A lock is one byte of the file `compile.lock`, chosen by a hash of the name it protects, so that
//! there are no lock files to tidy up, and the kernel frees the lock of a compiler that is killed.
//! It belongs to an open file description: two threads or two descriptors of one process keep each
//! other out as well. Readers need none.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::folder::{CacheError, Folder, Opened};

/// The file whose bytes are the locks.
pub(super) const LOCK_NAME: &str = "compile.lock";

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it is what frees the lock")] File);

impl Folder {
    /// Waits for the lock of a name. Nothing but the caller's own alarm bounds the wait.
    pub(super) fn lock(&self, name: &str) -> Result<Lock, CacheError> {
        let file = self.lock_file()?;
        let wanted = byte_of(name);
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLKW(&wanted)) {
                Ok(_) => return Ok(Lock(file)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("lock", LOCK_NAME, errno.into())),
            }
        }
    }

    /// Takes the lock of a name, unless somebody has it.
    pub(super) fn try_lock(&self, name: &str) -> Result<Option<Lock>, CacheError> {
        let file = self.lock_file()?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte_of(name))) {
            Ok(_) => Ok(Some(Lock(file))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(self.failed("lock", LOCK_NAME, errno.into())),
        }
    }

    fn lock_file(&self) -> Result<File, CacheError> {
        let how = OFlag::O_RDWR | OFlag::O_CREAT;
        let first = self.open_as(LOCK_NAME, how)?;
        if let Opened::File(file) = first {
            return Ok(file);
        }
        if let Opened::Unfit(why) = first {
            log::warn!("{LOCK_NAME} of the module cache is replaced: {why}");
        }
        let failed = |source| self.failed("replace", LOCK_NAME, source);
        self.remove(LOCK_NAME).map_err(failed)?;
        match self.open_as(LOCK_NAME, how)? {
            Opened::File(file) => Ok(file),
            Opened::Unfit(why) => Err(failed(std::io::Error::other(why))),
            Opened::Nothing => Err(failed(std::io::ErrorKind::NotFound.into())),
        }
    }
}

/// Describes the write lock of the byte that stands for a name.
fn byte_of(name: &str) -> libc::flock {
    let hash = blake3::hash(name.as_bytes());
    let start = hash.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | i64::from(*byte));
    libc::flock {
        l_type: WRITE,
        l_whence: FROM_THE_START,
        // Two names of one byte would only wait for each other, and of 2^62 bytes there is one each.
        l_start: start & (i64::MAX >> 1),
        l_len: 1,
        // The kernel wants no process here for locks of this kind.
        l_pid: 0,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the constants are 0 and 1")]
const WRITE: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "the constants are 0 and 1")]
const FROM_THE_START: libc::c_short = libc::SEEK_SET as libc::c_short;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lock_keeps_everybody_else_out_until_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = Folder::make(&scratch.path().join("cache")).unwrap();
        let held = folder.lock("one").unwrap();
        assert!(folder.try_lock("one").unwrap().is_none());
        assert!(folder.try_lock("another").unwrap().is_some(), "each name has its own");
        let (sender, waited) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(folder.lock("one").map(drop)).unwrap());
            assert!(waited.recv_timeout(Duration::from_millis(100)).is_err(), "it waits");
            drop(held);
            waited.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
        });
        assert!(folder.try_lock("one").unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_a_lock_file_is_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("cache");
        let folder = Folder::make(&path).unwrap();
        let lock_file = path.join(LOCK_NAME);
        let spoil: [&dyn Fn(); 4] = [
            &|| nix::unistd::mkfifo(&lock_file, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            &|| std::fs::create_dir(&lock_file).unwrap(),
            &|| std::os::unix::fs::symlink("/dev/null", &lock_file).unwrap(),
            &|| {
                File::create(&lock_file).unwrap();
                let others = std::fs::Permissions::from_mode(0o666);
                std::fs::set_permissions(&lock_file, others).unwrap();
            },
        ];
        for spoil in spoil {
            spoil();
            folder.lock("one").unwrap();
            assert!(std::fs::symlink_metadata(&lock_file).unwrap().is_file());
            std::fs::remove_file(&lock_file).unwrap();
        }
    }
}
