//! One trait over every kind of container, and the one place that picks an
//! implementation.
//!
//! [`UniversalContainer`] is what a front door (the shim, a command line) works
//! with; it never learns which kind it holds. [`select::Hybrid`] looks at an
//! image and hands the container to [`linux::LinuxContainers`] or
//! [`wasm::WasmContainers`], which share all that is the same for both
//! ([`handle`]): the init's pidfd, its cgroup, its state.
#![forbid(unsafe_code)]

pub mod error;
pub mod handle;
mod hooks;
pub mod linux;
pub mod logs;
pub mod memory;
pub mod probe;
pub mod process;
pub mod record;
pub mod select;
pub mod spec;
pub mod stats;
pub mod universal;
pub mod wasm;

pub use error::Error;
pub use handle::{ContainerHandle, ContainerState, ContainerStatus};
pub use keeper::{Place, Spawned as Keeper, spawn as spawn_keeper, watched};
pub use process::Process;
pub use spec::{ContainerSpec, DetectionStrategy, RuntimeType, WasmEngine};
pub use universal::UniversalContainer;
