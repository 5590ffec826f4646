//! Linux containers: the only crate that names libcontainer.
//!
//! Every function here is called in a short-lived, single-threaded worker, a
//! child of the process that keeps the containers; what a call changes about its
//! own process (dumpable, umask, groups, OOM score) ends with the worker. The
//! container's first process becomes a sibling of the worker.
//!
//! libcontainer is used for making the container and for nothing else. What it
//! takes as given is checked first ([`check()`]), what it gets wrong is put right in
//! the spec it is given ([`plan`]), and starting and deleting, where it goes by
//! process ids that may have been reused, are done here.

#![forbid(unsafe_code)]

mod cause;
pub mod check;
mod command;
mod confinement;
mod console;
pub mod create;
pub mod delete;
pub mod exec;
mod home;
mod image_tree;
pub mod plan;
mod program;
mod resolve;
mod shown_bundle;
pub mod start;
mod stdio;

pub use check::{UnsafeBundle, check};
pub use create::{CreateError, create};
pub use delete::{DeleteError, delete};
pub use exec::{ExecError, ExecRequest, exec};
pub use plan::{CreateRequest, Unsupported};
pub use start::{StartError, start};

/// A process that a call has made: a child of the caller's parent.
#[derive(Debug)]
pub struct Made {
    /// Its id in the caller's PID namespace.
    pub pid: nix::unistd::Pid,
    /// The master of its terminal, if it has one.
    pub console: Option<std::os::fd::OwnedFd>,
}

// A configured seccomp profile is skipped in silence by a libcontainer built
// without this function; then this crate must not build either.
const _: () = {
    let _ = libcontainer::seccomp::initialize_seccomp;
};
