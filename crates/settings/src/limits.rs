//! The bounds of one wasm guest inside the engine.
//!
//! They stand beside the container's cgroup, which bounds what the kernel sees;
//! these bound what the engine lets the guest ask for.

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
        Self { memory: 128 * MIB, table_elements: 1000, fuel: None }
    }
}

/// Takes the keys of a `[limits]` table.
pub(crate) fn read(table: &mut Reader) -> Result<Limits, TableError> {
    let default = Limits::default();
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
    Ok(Limits {
        memory: memory.unwrap_or(default.memory),
        table_elements: table_elements.unwrap_or(default.table_elements),
        fuel,
    })
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
