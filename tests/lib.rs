//! What the end-to-end tests share: daemons that are started once, bundles, and a hand on the shim itself.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod events;
pub mod host;
pub mod kind;
pub mod lab;
pub mod shared;
pub mod shim;
pub mod streams;
