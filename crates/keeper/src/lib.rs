//! The keeper: the single-threaded process that starts containers.
//!
//! The shim server is full of threads, and a process with threads can neither
//! fork safely nor call libcontainer. So the server forks a keeper before it
//! makes its first thread, and asks it over a message socket:
//!
//! ```text
//! server (tokio) -- Call, descriptors --> keeper -- clone --> wasm init
//!                <-- Reply, Exited ------    |---- fork --> worker -- libcontainer --> init
//! ```
//!
//! The keeper never waits: a libcontainer call, an exec or a compilation runs in a
//! worker, a child that makes one call and reports; a wasm process reports when it
//! stands in its sandbox. It is a child subreaper, so it learns every exit.
//! It never compiles either: a heap grown by a compiler would make each later
//! fork dearer.
#![forbid(unsafe_code)]

mod calls;
mod child;
pub mod client;
mod linux_side;
pub mod message;
mod process;
mod reports;
mod wasm_side;
mod watched;
mod worker;

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use sys::pidfd::Identity;
use sys::process::{Fork, SingleThreaded};
use sys::seqpacket::Seqpacket;

pub use watched::watched;

/// A keeper, as the process that forked it knows it.
#[derive(Debug)]
pub struct Spawned {
    /// The server's end of their socket.
    pub socket: Seqpacket,
    /// Which process it is.
    pub identity: Identity,
}

/// What the operator decides of wasm on this node.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder of native code, made at the first use.
    pub cache: PathBuf,
    /// How large it may become, in bytes.
    pub cache_size: u64,
}

/// Forks the keeper.
///
/// In the child this never returns: all descriptors but the standard ones are
/// closed, so that nothing of the server lives on in it, `prepare` is called, and it
/// serves until the server's end of the socket closes.
///
/// # Errors
/// Returns the error of the socket pair or of the fork.
pub fn spawn(single: SingleThreaded, place: Place, prepare: impl FnOnce()) -> io::Result<Spawned> {
    let (socket, keeper_end) = Seqpacket::pair()?;
    match single.fork(nix::sched::CloneFlags::empty())? {
        Fork::Child => {
            if let Err(error) = sys::stdio::close_all_except(&[keeper_end.as_raw_fd()]) {
                log::error!("cannot close the server's descriptors: {error}");
                sys::process::exit_now(1);
            }
            prepare();
            process::serve(keeper_end, single, place)
        }
        Fork::Parent { pid, .. } => Ok(Spawned { socket, identity: Identity::of(pid)? }),
    }
}
