//! Wasm containers: the only crate that names Wasmtime.
//!
//! The life of a module, each step a narrower type:
//!
//! ```text
//! bytes + digest --compile--> cache entry        in a child with its own limits
//! cache entry    --load-----> Prepared           in the keeper: mapped, linked, nothing run
//! Prepared       --run------> exit code          in the container's init, inside its sandbox
//! ```
//!
//! Native code is only ever loaded from the cache, and the cache only holds what this node compiled.

#![deny(unsafe_code)]

pub mod bounds;
pub mod cache;
pub mod command;
pub mod compile;
pub mod engine;
pub mod engines;
pub mod entry;
pub mod filter;
pub mod gauge;
pub mod grants;
pub mod http;
pub mod limits;
pub mod module;
pub mod sandbox;
pub mod world;

mod artifact;
mod deadline;
mod imports;
mod keyvalue;
mod outcome;
mod provided;
mod stdio;
