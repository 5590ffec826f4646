//! Why a process was not made, and whose fault that is.

use std::io;

use lifecycle::InvalidId;
use sys::cgroup::CgroupError;
use sys::seccomp::FilterError;

use crate::home::StateError;
use crate::plan::Unsupported;

/// Why no process was made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The id cannot name a container.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// There is no such container.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// Its first process has ended.
    #[error("cannot exec in a stopped container")]
    Stopped,
    /// Its processes do not move, and a new one would not either.
    #[error("cannot exec in a paused container")]
    Paused,
    /// It shares the mounts of the host.
    #[error("cannot exec in a container without a mount namespace of its own")]
    NoRootOfItsOwn,
    /// The process asks for what cannot be given.
    #[error("process cannot be honoured")]
    Unsupported(#[from] Unsupported),
    /// The container's seccomp profile cannot be made into a filter.
    #[error(transparent)]
    Seccomp(#[from] FilterError),
    /// What is known of the container cannot be read.
    #[error("container state cannot be read")]
    State(#[source] StateError),
    /// The container's cgroup cannot be used.
    #[error("cgroup of the container cannot be used")]
    Cgroup(#[from] CgroupError),
    /// The worker cannot do its part.
    #[error("prepare to exec: {attempt}")]
    Prepare {
        /// What was tried.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The container has no such program or directory, or its user may not use it.
    #[error("unable to start container process: {0}")]
    NotRunnable(String),
    /// The process failed on its way into the container.
    #[error("unable to start container process: {0}")]
    Process(String),
}

impl ExecError {
    /// Tells what is wrong with the request or the container, and will be the next
    /// time, from a failure of this node.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::InvalidId(_)
            | Self::NotFound(_)
            | Self::Stopped
            | Self::Paused
            | Self::NoRootOfItsOwn
            | Self::Unsupported(_)
            | Self::Seccomp(_)
            | Self::NotRunnable(_) => true,
            Self::State(_) | Self::Cgroup(_) | Self::Prepare { .. } | Self::Process(_) => false,
        }
    }
}
