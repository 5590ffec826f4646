//! Whether reading and writing a descriptor waits. All copies of a descriptor share it.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Makes reads of a descriptor wait for data, and writes wait for room.
///
/// # Errors
/// What fcntl(2) says.
pub fn set_blocking(fd: impl AsFd) -> io::Result<()> {
    set(fd, false)
}

/// Makes reads and writes of a descriptor answer at once, with `WouldBlock` in place of waiting.
///
/// # Errors
/// What fcntl(2) says.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    set(fd, true)
}

fn set(fd: impl AsFd, nonblocking: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, nonblocking);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags))?;
    Ok(())
}
