//! The states a child of the keeper goes through until it is reaped.

use std::os::fd::OwnedFd;

use sys::cgroup::Location;
use sys::pidfd::PidFd;
use sys::seqpacket::Seqpacket;

use crate::wasm_side::Order;
use crate::worker::Holder;

/// A child of the keeper that is not reaped yet.
pub(crate) enum Child {
    /// Makes one call for the request `seq`. Without a link it has fallen silent
    /// and is judged by its end.
    Worker { seq: u64, link: Option<Seqpacket>, then: Then },
    /// A worker that has reported and is about to end.
    Spent,
    /// A wasm process that is building its sandbox, or entering one.
    Preparing(Preparing),
    /// A wasm process that could not, and is about to end.
    Doomed { seq: u64, cgroup: Option<Location>, why: String },
    /// A wasm process in its sandbox; it runs its module when told.
    Waiting { link: Seqpacket },
    /// A process of a container.
    Running,
}

/// A wasm process that has been cloned and has not reported yet.
pub(crate) struct Preparing {
    pub(crate) seq: u64,
    pub(crate) link: Seqpacket,
    pub(crate) pidfd: PidFd,
    /// The master of its terminal.
    pub(crate) console: Option<OwnedFd>,
    /// The cgroup that was made for it, to be removed should it fail.
    pub(crate) cgroup: Option<Location>,
    /// Until it is in its cgroup, a scope of systemd's is held open for it.
    pub(crate) holder: Option<Holder>,
}

/// What follows a worker's success.
pub(crate) enum Then {
    /// Pass its reply on.
    Answer,
    /// It tidied up after a failure: tell that.
    Fail { why: String },
    /// It made a process: watch that, then pass the reply on.
    TellCreated,
    /// Load the compiled module and clone the process.
    Launch(Order),
    /// Clone the container's init into the scope that the worker holds open.
    Enter(Order),
}

impl Child {
    /// The link that this child is still expected to speak on.
    pub(crate) fn link(&self) -> Option<&Seqpacket> {
        match self {
            Self::Worker { link, .. } => link.as_ref(),
            Self::Preparing(preparing) => Some(&preparing.link),
            Self::Spent | Self::Doomed { .. } | Self::Waiting { .. } | Self::Running => None,
        }
    }
}
