//! Why a capability cannot be read or had.

use image::annotations::Origin;
use image::quoted::Quoted;

use super::Asked;

/// An annotation that asks for something unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {key} of {origin} has the value {}: {reason}", Quoted(value))]
pub struct CapabilityError {
    /// The annotation's key.
    pub key: &'static str,
    /// Where it was found.
    pub origin: Origin,
    /// Its value.
    pub value: String,
    /// What is wrong and what was expected.
    pub reason: String,
}

/// A capability that can be read but not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation {key} of {origin} asks for {}, but this build grants no network to wasm; remove the annotation, or set {} to \"none\" in the pod",
    Quoted(value),
    image::annotations::NETWORK
)]
pub struct NotGranted {
    /// The annotation's key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Where it was found.
    pub origin: Origin,
}

/// Says what is wrong with one annotation.
pub(super) fn unreadable(asked: &Asked, reason: impl Into<String>) -> CapabilityError {
    CapabilityError {
        key: asked.key,
        origin: asked.origin,
        value: asked.value.clone(),
        reason: reason.into(),
    }
}
