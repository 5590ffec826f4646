//! Wasm containers: the only crate that names Wasmtime.
//!
//! The life of a module, each step a narrower type:
//!
//! ```text
//! bytes + digest --compile--> cache entry        in a child with its own limits; or, where nothing
//!                                                can be kept, sealed memory
//! either         --load-----> Prepared           in the keeper: mapped, linked, nothing run
//! Prepared       --run------> exit code          in the container's init, inside its sandbox
//!                --serve----> exit code          the same, of an HTTP server
//! ```
//!
//! Native code is only ever loaded from the cache, which only holds what this node compiled, and
//! from the hand of a compiler that the keeper has forked itself.

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
