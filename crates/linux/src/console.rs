//! The socket over which libcontainer hands out the master of a container's
//! terminal, and what it leaves to do for that terminal.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, fchown};
use sys::terminal::{Size, receive_master, resize, slave_of};

/// The socket's name in the container's state folder.
const SOCKET: &str = "console.sock";

/// A console socket; its file goes when this does.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Makes the socket in `folder`.
    pub(crate) fn listen(folder: &Path) -> io::Result<Self> {
        // By descriptor: a socket's address is at most 108 bytes long, and the
        // folder's path may well be longer. libcontainer connects by a symlink.
        let reference = File::open(folder)?;
        let address = format!("/proc/self/fd/{}/{SOCKET}", reference.as_raw_fd());
        let listener = UnixListener::bind(address)?;
        // When it is asked the master must have come: this never waits.
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: folder.join(SOCKET) })
    }

    /// Where libcontainer finds it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master, once the container is made.
    pub(crate) fn take(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        receive_master(stream.as_fd())
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            // The folder it lies in is removed with the container.
            log::debug!("remove console socket {}: {error}", self.path.display());
        }
    }
}

/// Does for a terminal what runc does and libcontainer does not: gives it the
/// spec's size, and to the container's user.
pub(crate) fn settle(master: &OwnedFd, size: Option<Size>, owner: Option<u32>) -> io::Result<()> {
    if let Some(size) = size {
        resize(master.as_fd(), size)?;
    }
    if let Some(owner) = owner {
        // Its group stays, which is the one that the mount's options name.
        fchown(slave_of(master.as_fd())?, Some(Uid::from_raw(owner)), None)?;
    }
    Ok(())
}
