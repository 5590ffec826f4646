//! What a container uses.

pub use wasm::gauge::{CodeOrigin, GuestStats, Phases};

/// Counters of one container.
#[derive(Debug, Clone)]
pub struct Stats {
    /// What its cgroup counts.
    pub cgroup: sys::cgroup::Stats,
    /// What a wasm guest's engine counts.
    pub guest: Option<GuestStats>,
}
