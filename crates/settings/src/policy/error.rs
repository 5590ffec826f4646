//! Why a workload cannot be run as it asks.

use image::annotations::CONFIG;
use image::quoted::Quoted;

use super::MAX_CONFIG;
use crate::capabilities::Asked;
use crate::engine::Proposal;
use crate::http::HttpError;
use crate::limits::{Limit, Setter};
use crate::node;

/// What is asked for cannot be read, or cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Of how it would be served.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A value that means nothing.
    #[error(
        "annotation {} of {} has the value {}: {reason}",
        asked.key, asked.origin, Quoted(&asked.value)
    )]
    Unreadable {
        /// The annotation.
        asked: Asked,
        /// What was expected.
        reason: String,
    },
    /// More than may be had.
    #[error(
        "annotation {} of {} asks for {}, and the most it may have is {} ({}); ask for less",
        asked.key, asked.origin, Quoted(&asked.value), limit.shown(*cap), limit.place(*cap_set_by)
    )]
    BeyondCap {
        /// Of which limit.
        limit: Limit,
        /// The annotation.
        asked: Asked,
        /// The most, a deadline in milliseconds.
        cap: u64,
        /// Who has set that.
        cap_set_by: Setter,
    },
    /// A proposal that is off and stays so.
    #[error(
        "annotation {} of {} switches on {}, which is not allowed; proposals_allowed under [engine] \
         of {} or of containerd's options allows it to pods, and proposals switches it on for all",
        asked.key, asked.origin, proposal.name(), node::PATH
    )]
    ProposalBeyond {
        /// The annotation.
        asked: Asked,
        /// The proposal.
        proposal: Proposal,
    },
    /// A proposal that is on without the one it extends.
    #[error(
        "{} leaves {} on and {} off, which it extends; switch both off, or both on",
        asked.as_ref().map_or_else(
            || format!("proposals under [engine] of {} or of containerd's options", node::PATH),
            |asked| format!("annotation {} of {}", asked.key, asked.origin),
        ),
        proposal.name(),
        base.name()
    )]
    Baseless {
        /// The annotation that has the last word, if there is one.
        asked: Option<Asked>,
        /// What is on.
        proposal: Proposal,
        /// What is off.
        base: Proposal,
    },
    /// WASI 0.3 where it is not allowed.
    #[error(
        "annotation {} of {} asks for WASI 0.3, which is off; p3 = true under [engine] of {} or of \
         containerd's options allows it",
        asked.key, asked.origin, node::PATH
    )]
    P3Beyond {
        /// The annotation.
        asked: Asked,
    },
    /// Too many configuration values.
    #[error(
        "image and pod give {found} annotations under {CONFIG}; at most {MAX_CONFIG} are taken"
    )]
    TooMuchConfig {
        /// How many there are.
        found: usize,
    },
}

/// Says what is wrong with one annotation.
pub(super) fn unreadable(asked: &Asked, reason: impl Into<String>) -> PolicyError {
    PolicyError::Unreadable { asked: asked.clone(), reason: reason.into() }
}
