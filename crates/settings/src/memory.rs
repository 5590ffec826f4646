//! How much linear memory a guest may have beside its container's cgroup.
//!
//! A guest that reaches the engine's bound gets an answer, one that reaches the cgroup's is killed;
//! so the engine's bound stays below the cgroup's:
//!
//! ```text
//! cgroup limit   somebody's bound    engine's memory
//! none           none                128 MiB
//! none           N                   N
//! L              none                L less the overhead
//! L              N                   the smaller of N and L less the overhead
//! ```

use crate::limits::{DEFAULT_MEMORY, Setter};

/// What a guest's process needs beside the guest's linear memory: the engine's own
/// tables, stacks and page tables, and pages of the module that it has written to.
pub const OVERHEAD: u64 = 8 << 20;

/// The rule for one guest, whose container's limit may change while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The bound that the operator, the image or the pod has given.
    pub(crate) bound: Option<(u64, Setter)>,
}

impl Memory {
    /// Decides how much it may have while the cgroup's limit is this, as the runtime specification
    /// writes it: 0 says nothing, and less is no limit.
    #[must_use]
    pub fn within(self, cgroup: Option<i64>) -> (u64, Setter) {
        match (below(cgroup), self.bound) {
            (None, None) => (DEFAULT_MEMORY, Setter::BuiltIn),
            (None, Some(bound)) => bound,
            (Some(below), Some(bound)) if bound.0 <= below => bound,
            (Some(below), _) => (below, Setter::Cgroup),
        }
    }
}

/// What a cgroup's limit leaves for linear memory; `None` where there is no limit.
pub(crate) fn below(cgroup: Option<i64>) -> Option<u64> {
    let limit = cgroup.and_then(|bytes| u64::try_from(bytes).ok()).filter(|&bytes| bytes > 0)?;
    // Of a small limit half is left: some guest may still run in it.
    Some(limit - OVERHEAD.min(limit / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn the_engines_memory_stays_below_the_cgroups_and_the_bound() {
        let mib = |count: i64| Some(count << 20);
        let bound = |count: u64| Some(count * MIB);
        let table = [
            // Without a limit on the cgroup: the bound, or the default.
            (None, None, 128 * MIB),
            (None, bound(64), 64 * MIB),
            (None, bound(4096), 4096 * MIB),
            (Some(0), None, 128 * MIB),
            (Some(-1), None, 128 * MIB),
            (Some(-1), bound(64), 64 * MIB),
            (Some(i64::MIN), None, 128 * MIB),
            // With one: less the overhead, above the default as well as below.
            (mib(64), None, 56 * MIB),
            (mib(256), None, 248 * MIB),
            (mib(16), None, 8 * MIB),
            (Some(i64::MAX), None, i64::MAX.cast_unsigned() - 8 * MIB),
            // Half of a small one.
            (mib(15), None, 7 * MIB + 512 * KIB),
            (mib(4), None, 2 * MIB),
            (Some(4096), None, 2048),
            (Some(1), None, 1),
            // Never above what somebody has given.
            (mib(256), bound(64), 64 * MIB),
            (mib(64), bound(64), 56 * MIB),
            (mib(64), bound(128), 56 * MIB),
            (mib(72), bound(64), 64 * MIB),
        ];
        for (cgroup, bound, expected) in table {
            let rule = Memory { bound: bound.map(|bytes| (bytes, Setter::Pod)) };
            assert_eq!(rule.within(cgroup).0, expected, "{cgroup:?} {bound:?}");
        }
    }

    #[test]
    fn who_decided_is_known() {
        let rule = Memory { bound: Some((64 * MIB, Setter::Pod)) };
        assert_eq!(rule.within(None).1, Setter::Pod);
        assert_eq!(rule.within(Some(72 << 20)).1, Setter::Pod);
        assert_eq!(rule.within(Some(71 << 20)).1, Setter::Cgroup);
        assert_eq!(Memory::default().within(None).1, Setter::BuiltIn);
        assert_eq!(Memory::default().within(Some(1 << 30)).1, Setter::Cgroup);
    }
}
