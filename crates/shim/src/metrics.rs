//! What a container has used, as containerd's clients read it: the `Metrics` message of
//! its cgroup version, in nanoseconds for version 1 and microseconds for version 2.
//!
//! Which fields are there is as runc's shim has it, because clients follow some of
//! them without looking: processor time always, on version 2 also memory, processes
//! and block devices, the rest where there is a controller. "No limit" is the kernel's
//! own large number for memory of version 1, 0 for processes of version 1, and the
//! largest number there is on version 2.

mod v1;
mod v2;

use anyhow::{Context, Result};
use containerd_shim::protos::protobuf::MessageFull;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use runtime::stats::Stats;
use sys::cgroup::Hierarchies;
use sys::cgroup::stats::Counters;

/// Encodes what was counted. A cgroup that is gone has the message of the host's version
/// with nothing in it.
///
/// # Errors
/// When the host's cgroup version can't be found.
pub(crate) fn encode(stats: &Stats) -> Result<Any> {
    match &stats.cgroup.counters {
        Some(Counters::V1(counters)) => any(&v1::metrics(counters)),
        Some(Counters::V2(counters)) => any(&v2::metrics(counters)),
        None if Hierarchies::of_host()?.is_unified() => any(&v2::metrics(&Default::default())),
        None => any(&v1::metrics(&Default::default())),
    }
}

/// The type is named without a host before it, as containerd's own library does.
fn any<M: MessageFull>(message: &M) -> Result<Any> {
    let type_url = M::descriptor().full_name().to_owned();
    let value = message.write_to_bytes().with_context(|| format!("cannot encode {type_url}"))?;
    Ok(Any { type_url, value, ..Any::default() })
}

#[cfg(test)]
mod tests;
