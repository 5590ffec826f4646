//! Why a container was not made, and whose fault that is.

use std::io;
use std::path::PathBuf;

use lifecycle::InvalidId;

use crate::check::UnsafeBundle;
use crate::home::StateError;
use crate::plan::Unsupported;

/// Why a container was not made. Nothing of it is left, unless the error says so.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The id cannot name a container.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// The id is taken.
    #[error("container {0:?} already exists")]
    AlreadyExists(String),
    /// The bundle has a hostile element.
    #[error("bundle is refused")]
    Unsafe(#[from] UnsafeBundle),
    /// The spec asks for what cannot be given.
    #[error("config.json cannot be honoured")]
    Unsupported(#[from] Unsupported),
    /// The state folder refused.
    #[error("container state cannot be kept")]
    State(#[source] StateError),
    /// The cgroup is somebody else's.
    #[error("cgroup of the container is not empty: {0} processes found")]
    CgroupInUse(usize),
    /// The host's cgroups cannot be used.
    #[error("cgroup of the container cannot be used")]
    Cgroup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What a bind mount shows is not there.
    #[error("error mounting {} to rootfs at {}", .mount.display(), .target.display())]
    MountSource {
        /// The host's path.
        mount: PathBuf,
        /// The container's path.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The working directory cannot be made.
    #[error("mkdir of working directory {}", .path.display())]
    WorkingDirectory {
        /// The container's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The worker itself cannot be made ready.
    #[error("prepare to create: {attempt}")]
    Prepare {
        /// What was tried.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The image has no such program, or the container's user may not run it.
    #[error("unable to start container process: {0}")]
    NotRunnable(String),
    /// libcontainer, or the first process, failed: in its words.
    #[error("unable to start container process: {0}")]
    Process(String),
    /// The container was not made, and something of it is left.
    #[error("{failure}; and it was not cleaned up: {leftover}")]
    LeftBehind {
        /// Why it was not made.
        failure: Box<CreateError>,
        /// What is left, and why.
        leftover: String,
    },
}

impl CreateError {
    /// Tells what is wrong with the image, the bundle or the request, and will be
    /// the next time, from a failure of this node.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::InvalidId(_)
            | Self::AlreadyExists(_)
            | Self::Unsupported(_)
            | Self::NotRunnable(_) => true,
            Self::Unsafe(UnsafeBundle::Rootfs { source, .. })
            | Self::MountSource { source, .. }
            | Self::WorkingDirectory { source, .. } => lies_in_the_tree(source),
            Self::Unsafe(_) => true,
            Self::State(_)
            | Self::CgroupInUse(_)
            | Self::Cgroup(_)
            | Self::Prepare { .. }
            | Self::Process(_)
            | Self::LeftBehind { .. } => false,
        }
    }
}

/// Tells a path that leads nowhere, which is how the tree is made, from a kernel
/// or a disk that failed to look or to write.
fn lies_in_the_tree(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidInput, NotADirectory, NotFound};

    matches!(error.kind(), AlreadyExists | InvalidInput | NotADirectory | NotFound)
        || error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32)
}
