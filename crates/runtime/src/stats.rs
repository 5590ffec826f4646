//! What a container uses.

/// Counters of a container's cgroup.
pub type Stats = sys::cgroup::Stats;
