//! Why a cgroup could not be made, limited, read or removed.

use std::io;
use std::path::{Path, PathBuf};

/// Why a cgroup could not be made, limited, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or folder of the hierarchy refused.
    #[error("{attempt} {}", .path.display())]
    File {
        /// What was tried, e.g. `read`.
        attempt: String,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the hierarchy does not read as it should.
    #[error("cgroup file {} reads {text:?}, which is not understood", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its first characters.
        text: String,
    },
    /// The host has no hierarchy that could hold this limit.
    #[error("no cgroup hierarchy here can hold the limit {0}")]
    NoController(String),
    /// The limit makes no sense as it stands.
    #[error("the limit {name} of {value} is refused: {reason}")]
    Refused {
        /// The limit's name in the runtime spec.
        name: String,
        /// Its value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// The kernel does not take the limit.
    #[error("set {key}: write {value:?} to {}", .path.display())]
    Limit {
        /// The limit's name in the runtime spec.
        key: String,
        /// What was written.
        value: String,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// More memory is in use than the limit would allow.
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    InUseAbove {
        /// The limit.
        limit: String,
        /// What is in use, in bytes.
        usage: u64,
        /// The most that was ever in use, in bytes.
        peak: u64,
    },
    /// More memory is in use than the limit would allow, and the request said to look first.
    #[error("rejecting {what} limit {limit} <= usage {usage}")]
    Rejected {
        /// Which limit.
        what: &'static str,
        /// The limit, in bytes.
        limit: i64,
        /// What is in use, in bytes.
        usage: u64,
    },
    /// Some limits were changed, one was refused, and not all went back.
    #[error("{source}; of the limits changed before it these could not be put back: {left}")]
    HalfChanged {
        /// Why the change failed.
        source: Box<CgroupError>,
        /// What is left changed.
        left: String,
    },
    /// Another container lives there.
    #[error("cgroup {} already has processes or cgroups in it: name one of the container's own", .0.display())]
    InUse(PathBuf),
    /// Freezing or thawing was not done in time.
    #[error("cgroup {} did not become {wanted} in time", .path.display())]
    Slow {
        /// The cgroup.
        path: PathBuf,
        /// The state asked for.
        wanted: &'static str,
    },
    /// Not every process got the signal: there were new ones at every look.
    #[error("processes of cgroup {} fork faster than signal {signal} reaches them", .path.display())]
    Unending {
        /// The cgroup.
        path: PathBuf,
        /// The signal's number.
        signal: i32,
    },
    /// The path names a scope, which only systemd may make.
    #[error("cgroup {} would have to be made by systemd, which is not supported here; use the cgroupfs driver", .0.display())]
    SystemdScope(PathBuf),
    /// systemd was asked for something and did not do it.
    #[error("ask systemd for {what} {unit}")]
    Systemd {
        /// What was asked for, e.g. `the scope`.
        what: &'static str,
        /// The scope's name.
        unit: String,
        /// What systemd said, or why it could not be asked.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<CgroupError> for io::Error {
    /// Keeps the error as it is, under the kind of its cause.
    fn from(error: CgroupError) -> Self {
        Self::new(error.kind(), error)
    }
}

impl CgroupError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::File { source, .. } | Self::Limit { source, .. } => source.kind(),
            Self::Unreadable { .. } => io::ErrorKind::InvalidData,
            Self::NoController(_) | Self::SystemdScope(_) => io::ErrorKind::Unsupported,
            Self::Refused { .. } => io::ErrorKind::InvalidInput,
            Self::HalfChanged { source, .. } => source.kind(),
            Self::InUse(_) | Self::InUseAbove { .. } | Self::Rejected { .. } => {
                io::ErrorKind::ResourceBusy
            }
            Self::Slow { .. } | Self::Unending { .. } => io::ErrorKind::TimedOut,
            Self::Systemd { .. } => io::ErrorKind::Other,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, CgroupError>;

pub(super) fn failed(attempt: &str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::File { attempt: attempt.to_owned(), path: path.to_owned(), source }
}
