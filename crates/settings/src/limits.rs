//! The bounds of one wasm guest inside the engine.
//!
//! They stand beside the container's cgroup, which bounds what the kernel sees;
//! these bound what the engine lets the guest ask for. A guest that reaches the
//! engine's bound gets an answer, one that reaches the cgroup's is killed; so the
//! engine's memory stays below the cgroup's:
//!
//! ```text
//! cgroup limit   node file's memory   engine's memory
//! none           not written          128 MiB
//! none           N                    N
//! L              not written          L less the overhead
//! L              N                    the smaller of N and L less the overhead
//! ```

use serde::{Deserialize, Serialize};
use toml::Value;

use crate::node::number;
use crate::table::{Reader, TableError};

const MIB: u64 = 1 << 20;
/// One page of wasm memory.
const LEAST_MEMORY: u64 = 64 << 10;
/// What 32-bit wasm can address.
const MOST_MEMORY: u64 = 4 << 30;
/// Ten million references take about 80 MB of the host's memory.
const MOST_TABLE_ELEMENTS: u64 = 10_000_000;

/// A guest's linear memory where nobody limits it.
pub const DEFAULT_MEMORY: u64 = 128 * MIB;
/// The elements of a guest's table where nobody limits them.
pub const DEFAULT_TABLE_ELEMENTS: u64 = 1000;
/// What a guest's process needs beside the guest's linear memory: the engine's own
/// tables, stacks and page tables, and pages of the module that it has written to.
pub const OVERHEAD: u64 = 8 * MIB;

/// The bounds of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most bytes all of its linear memories may have together; 128 MiB by default. More is
    /// refused: `memory.grow` gives -1, and a module that declares more does not start.
    pub memory: u64,
    /// The most elements one of its tables may grow to; 1000 by default. A table that was declared
    /// larger stays as it is.
    pub table_elements: u64,
    /// How much it may compute, in the engine's fuel; no bound by default. Beyond it, it traps. To
    /// count makes every guest of the node slower.
    pub fuel: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        NodeLimits::default().within(None)
    }
}

/// What the node file says of every guest's bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// `memory`, if it is written.
    pub memory: Option<u64>,
    /// `table_elements`, if it is written.
    pub table_elements: Option<u64>,
    /// `fuel`, if it is written.
    pub fuel: Option<u64>,
}

impl NodeLimits {
    /// The bounds of a guest whose container's cgroup has this memory limit, as the runtime
    /// specification writes it: 0 says nothing, and less is no limit.
    #[must_use]
    pub fn within(&self, cgroup_memory: Option<i64>) -> Limits {
        Limits {
            memory: engine_memory(cgroup_memory, self.memory),
            table_elements: self.table_elements.unwrap_or(DEFAULT_TABLE_ELEMENTS),
            fuel: self.fuel,
        }
    }
}

/// Decides how much linear memory a guest may have, from its cgroup's limit and the node file's.
fn engine_memory(cgroup: Option<i64>, written: Option<u64>) -> u64 {
    let limit = cgroup.and_then(|bytes| u64::try_from(bytes).ok()).filter(|&bytes| bytes > 0);
    match (limit, written) {
        (None, None) => DEFAULT_MEMORY,
        (None, Some(written)) => written,
        (Some(limit), written) => {
            // Of a small limit half is left: some guest may still run in it.
            let below = limit - OVERHEAD.min(limit / 2);
            written.map_or(below, |written| written.min(below))
        }
    }
}

/// Takes the keys of a `[limits]` table.
pub(crate) fn read(table: &mut Reader) -> Result<NodeLimits, TableError> {
    let memory = table.take(
        "memory",
        "bytes between 64KiB and 4GiB, as a number or as text like \"128MiB\"",
        |value| size_of(value).filter(|size| (LEAST_MEMORY..=MOST_MEMORY).contains(size)),
    )?;
    let table_elements =
        table.take("table_elements", "a number between 0 and 10000000", |value| {
            number(value).filter(|&count| count <= MOST_TABLE_ELEMENTS)
        })?;
    let fuel = table
        .take("fuel", "a number of at least 1", |value| number(value).filter(|&fuel| fuel > 0))?;
    Ok(NodeLimits { memory, table_elements, fuel })
}

fn size_of(value: &Value) -> Option<u64> {
    number(value).or_else(|| value.as_str().and_then(size))
}

/// Reads a number of bytes: digits alone, or followed by `KiB`, `MiB` or `GiB`.
pub(crate) fn size(raw: &str) -> Option<u64> {
    let end = raw.find(|c: char| !c.is_ascii_digit()).unwrap_or(raw.len());
    let (digits, unit) = raw.split_at(end);
    let unit = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_memory_stays_below_the_cgroups_and_the_nodes() {
        const KIB: u64 = 1 << 10;
        let mib = |count: i64| Some(count << 20);
        let node = |count: u64| Some(count * MIB);
        let table = [
            // Without a limit on the cgroup: the node's, or the default.
            (None, None, 128 * MIB),
            (None, node(64), 64 * MIB),
            (None, node(4096), 4096 * MIB),
            (Some(0), None, 128 * MIB),
            (Some(-1), None, 128 * MIB),
            (Some(-1), node(64), 64 * MIB),
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
            // Never above what the operator wrote.
            (mib(256), node(64), 64 * MIB),
            (mib(64), node(64), 56 * MIB),
            (mib(64), node(128), 56 * MIB),
            (mib(72), node(64), 64 * MIB),
        ];
        for (cgroup, written, expected) in table {
            assert_eq!(engine_memory(cgroup, written), expected, "{cgroup:?} {written:?}");
        }
    }

    #[test]
    fn what_the_node_file_does_not_say_has_its_default() {
        let silent = NodeLimits::default();
        let default = Limits { memory: 128 * MIB, table_elements: 1000, fuel: None };
        assert_eq!((silent.within(None), Limits::default()), (default, default));
        let said = NodeLimits { memory: Some(MIB), table_elements: Some(0), fuel: Some(9) };
        let expected = Limits { memory: MIB, table_elements: 0, fuel: Some(9) };
        assert_eq!(said.within(Some(64 << 20)), expected);
    }

    #[test]
    fn sizes_are_digits_and_a_unit() {
        let table = [
            ("0", Some(0)),
            ("10485760", Some(10 << 20)),
            ("10MiB", Some(10 << 20)),
            ("1KiB", Some(1024)),
            ("2GiB", Some(2 << 30)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("17179869184GiB", None),
            ("", None),
            ("MiB", None),
            ("10 MiB", None),
            ("10MB", None),
            ("+1", None),
            ("-1", None),
            ("1.5GiB", None),
            ("1_000", None),
            ("0x10", None),
        ];
        for (raw, expected) in table {
            assert_eq!(size(raw), expected, "{raw:?}");
        }
    }
}
