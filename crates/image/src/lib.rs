//! Says what an image is and who must run it.
//!
//! Everything here is pure: callers read blobs and files, this crate turns the
//! bytes into typed facts ([`manifest`], [`annotations`], [`binary`],
//! [`entrypoint`]) and the facts into one answer ([`detect`]). An image is
//! written by a stranger, so each reader has bounds, and whatever it cannot
//! read it refuses with a sentence instead of guessing.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod binary;
pub mod detect;
pub mod digest;
pub mod entrypoint;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod quoted;
pub mod requirement;

pub use digest::Digest;
pub use platform::Platform;
