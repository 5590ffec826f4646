//! The states a child of the keeper goes through until it is reaped.

use std::os::fd::OwnedFd;

use sys::cgroup::Location;
use sys::pidfd::PidFd;
use sys::seqpacket::Seqpacket;

use crate::message::CreateWasm;
use crate::worker::Holder;

/// A child of the keeper that is not reaped yet.
pub(crate) enum Child {
    /// Makes one call for the request `seq`. Without a link it has fallen silent
    /// and is judged by its end.
    Worker { seq: u64, link: Option<Seqpacket>, then: Then },
    /// A worker that has reported and is about to end.
    Spent,
    /// A wasm init that is building its sandbox. Until it is in its cgroup, a
    /// scope of systemd's is held open for it.
    Preparing { seq: u64, link: Seqpacket, pidfd: PidFd, cgroup: Location, holder: Option<Holder> },
    /// A wasm init that could not, and is about to end.
    Doomed { seq: u64, cgroup: Location, why: String },
    /// A wasm init whose sandbox stands; it runs its module when told.
    Waiting { link: Seqpacket },
    /// A container's init.
    Running,
}

/// What follows a worker's success.
pub(crate) enum Then {
    /// Pass its reply on.
    Answer,
    /// It tidied up after a failure: tell that.
    Fail { why: String },
    /// It made a container: watch the init, then pass the reply on.
    TellCreated,
    /// Load the compiled module and clone the container's init.
    Launch { create: Box<CreateWasm>, stdio: [OwnedFd; 3] },
    /// Clone the container's init into the scope that the worker holds open.
    Enter { create: Box<CreateWasm>, stdio: [OwnedFd; 3] },
}

impl Child {
    /// The link that this child is still expected to speak on.
    pub(crate) fn link(&self) -> Option<&Seqpacket> {
        match self {
            Self::Worker { link, .. } => link.as_ref(),
            Self::Preparing { link, .. } => Some(link),
            Self::Spent | Self::Doomed { .. } | Self::Waiting { .. } | Self::Running => None,
        }
    }
}
