//! A new process's descriptors: standard input, output and error, and nothing else.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

/// What a new process has as its standard input, output and error.
#[derive(Debug)]
pub enum Stdio {
    /// These three, in that order.
    Streams([OwnedFd; 3]),
    /// The slave end of a terminal that is made for the process, three times.
    Terminal,
}

/// Makes the three descriptors the caller's 0, 1 and 2, kept across exec, and closes the originals.
///
/// # Errors
/// What fcntl(2) and dup2(2) say; some of the three may have been replaced then.
pub fn install(stdio: [OwnedFd; 3]) -> io::Result<()> {
    // A source that is itself one of 0, 1 and 2 would be overwritten before its turn.
    let [stdin, stdout, stderr] = stdio.map(above_standard);
    let (stdin, stdout, stderr) = (stdin?, stdout?, stderr?);
    dup2_stdin(&stdin)?;
    dup2_stdout(&stdout)?;
    dup2_stderr(&stderr)?;
    Ok(())
}

/// Returns the descriptor itself, or a copy above 2 if it is one of 0, 1 and 2; that one is left
/// open, because it is about to be replaced, and closing it would free its number.
///
/// # Errors
/// What fcntl(2) says.
pub fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let copy = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    let _replaced_soon = fd.into_raw_fd();
    // SAFETY: fcntl has just made this descriptor for us alone.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}

/// Closes every descriptor above 2.
///
/// # Errors
/// What close_range(2) says.
pub fn close_others() -> io::Result<()> {
    close_all_except(&[])
}

/// Closes every descriptor above 2 that is not listed.
///
/// Objects of this process that own one of them are left with a dead number: they must not be
/// used or dropped any more. Only for a child that goes on to exec, or to run nothing but code
/// whose descriptors are listed.
///
/// # Errors
/// What close_range(2) says.
pub fn close_all_except(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first: u32 = 3;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: close_range takes integers and touches no memory; that owners of these descriptors
    // are not used again is what `close_all_except` asks of its caller.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;
    use std::fs::File;
    use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

    fn identity(fd: RawFd) -> (u64, u64) {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("open descriptor");
        (metadata.dev(), metadata.ino())
    }

    fn open_descriptors() -> Vec<RawFd> {
        // SAFETY: F_GETFD of a number that is not open is an error and nothing more.
        let is_open = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
        (0..512).filter(is_open).collect()
    }

    #[test]
    fn the_three_descriptors_are_installed_and_inheritable() {
        in_child(|| {
            let files = ["/proc/self/maps", "/proc/self/stat", "/proc/self/status"]
                .map(|path| OwnedFd::from(File::open(path).expect("open")));
            let expected = [0, 1, 2].map(|index: usize| identity(files[index].as_raw_fd()));
            install(files).expect("install");
            for fd in 0..3 {
                assert_eq!(identity(fd), expected[fd as usize]);
                // SAFETY: 0, 1 and 2 were just installed and stay open.
                let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
                assert_eq!(fcntl(borrowed.as_fd(), FcntlArg::F_GETFD).expect("flags"), 0);
            }
        });
    }

    #[test]
    fn sources_among_the_standard_three_are_not_lost() {
        in_child(|| {
            let files = ["/proc/self/maps", "/proc/self/stat", "/proc/self/status"]
                .map(|path| OwnedFd::from(File::open(path).expect("open")));
            let expected = [0, 1, 2].map(|index: usize| identity(files[index].as_raw_fd()));
            install(files).expect("install");
            // SAFETY: nothing in this child owns 0, 1 and 2 but the process itself.
            let rotated = [2, 0, 1].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
            install(rotated).expect("install rotated");
            assert_eq!(
                [identity(0), identity(1), identity(2)],
                [expected[2], expected[0], expected[1]]
            );
        });
    }

    #[test]
    fn only_the_listed_descriptors_stay_open() {
        in_child(|| {
            for fd in [3, 4, 10, 11, 40, 200] {
                // SAFETY: overwriting descriptors is what this child is for.
                assert_eq!(unsafe { libc::dup2(0, fd) }, fd);
            }
            close_all_except(&[40, 3, 11, 11, 1, -1]).expect("close");
            assert_eq!(open_descriptors(), [0, 1, 2, 3, 11, 40]);
            close_others().expect("close");
            assert_eq!(open_descriptors(), [0, 1, 2]);
        });
    }
}
