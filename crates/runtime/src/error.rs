//! What can go wrong with a container, told apart as a caller would.

use keeper::message::Failure;

/// Why a call on a container failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime asked for does not exist in this build.
    #[error("invalid runtime type: {0}")]
    InvalidRuntimeType(String),
    /// The image could not be looked at, or it contradicts itself or its hints.
    #[error("image inspection failed: {0}")]
    ImageInspection(String),
    /// The bundle or the request is not one that can be run.
    #[error("{0}")]
    InvalidSpec(String),
    /// The runtime failed at something that should have worked.
    #[error("{0}")]
    Runtime(String),
    /// There is no such container or process, or it has ended.
    #[error("{0}")]
    NotFound(String),
    /// containerd, or another part this depends on, does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// This build can't do it.
    #[error("{0}")]
    NotBuilt(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotCompiled => Self::Runtime(Failure::NotCompiled.to_string()),
            Failure::Refused(why) => Self::InvalidSpec(why),
            Failure::Failed(why) | Failure::Lost(why) => Self::Runtime(why),
        }
    }
}
