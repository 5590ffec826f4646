//! The bounds of one wasm guest inside the engine: which there are, and what they are for a guest.
//!
//! They stand beside the container's cgroup, which bounds what the kernel sees; these bound what
//! the engine lets the guest ask for. Each remembers who has set it, so that a guest that meets one
//! is told where to look. What a workload gets is decided in [`crate::policy`].

use std::fmt;
use std::time::Duration;

use image::annotations;
use serde::{Deserialize, Serialize};

use crate::node;
use crate::quantity::{digits, milliseconds, shown_size, shown_span, size};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A guest's linear memory where nobody limits it.
pub const DEFAULT_MEMORY: u64 = 128 * MIB;
/// The elements of a guest's table where nobody limits them.
pub const DEFAULT_TABLE_ELEMENTS: u64 = 1000;
/// A guest's instances where nobody limits them.
pub const DEFAULT_INSTANCES: u64 = 1000;
/// A guest's stack where nobody limits it.
pub const DEFAULT_STACK: u64 = 512 * KIB;

/// One of the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Bytes that all linear memories may have together.
    Memory,
    /// Elements that one table may grow to.
    TableElements,
    /// Instances of core modules; a component has many.
    Instances,
    /// Bytes of stack.
    Stack,
    /// How much may be computed, in the engine's fuel.
    Fuel,
    /// How long the guest may run.
    Deadline,
}

/// Who has set a bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setter {
    /// Nobody: it is built in.
    #[default]
    BuiltIn,
    /// The node file.
    NodeFile,
    /// containerd's options.
    Options,
    /// The image.
    Image,
    /// The pod.
    Pod,
    /// The memory limit of the container's cgroup.
    Cgroup,
}

/// The bounds of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most bytes all of its linear memories may have together; 128 MiB by default. More is
    /// refused: `memory.grow` gives -1, and a module that declares more does not start.
    pub memory: u64,
    /// The most elements one of its tables may grow to; 1000 by default. A table that was declared
    /// larger stays as it is.
    pub table_elements: u64,
    /// The most instances of core modules; 1000 by default. A program that needs more does not
    /// start.
    pub instances: u64,
    /// The bytes of its stack; 512 KiB by default. Beyond it, it traps.
    pub stack: u64,
    /// How much it may compute, in the engine's fuel; no bound by default. Beyond it, it traps. To
    /// count makes the guest slower.
    pub fuel: Option<u64>,
    /// How long it may run, from its start, by the clock on the wall; no bound by default. Then it
    /// traps.
    pub deadline: Option<Duration>,
    /// Who has set each of them.
    pub set_by: Setters,
}

/// Who has set each bound of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setters([Setter; 6]);

impl Limit {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Memory,
        Self::TableElements,
        Self::Instances,
        Self::Stack,
        Self::Fuel,
        Self::Deadline,
    ];

    /// Its key in a `[limits]` table.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TableElements => "table_elements",
            Self::Instances => "instances",
            Self::Stack => "stack",
            Self::Fuel => "fuel",
            Self::Deadline => "deadline",
        }
    }

    /// Its annotation.
    #[must_use]
    pub fn annotation(self) -> &'static str {
        match self {
            Self::Memory => annotations::LIMITS_MEMORY,
            Self::TableElements => annotations::LIMITS_TABLE_ELEMENTS,
            Self::Instances => annotations::LIMITS_INSTANCES,
            Self::Stack => annotations::LIMITS_STACK,
            Self::Fuel => annotations::LIMITS_FUEL,
            Self::Deadline => annotations::LIMITS_DEADLINE,
        }
    }

    /// What holds where nobody says anything; `None` is no bound. A deadline is in milliseconds
    /// here and below.
    pub(crate) fn default(self) -> Option<u64> {
        match self {
            Self::Memory => Some(DEFAULT_MEMORY),
            Self::TableElements => Some(DEFAULT_TABLE_ELEMENTS),
            Self::Instances => Some(DEFAULT_INSTANCES),
            Self::Stack => Some(DEFAULT_STACK),
            Self::Fuel | Self::Deadline => None,
        }
    }

    /// The least and the most that it can be set to.
    pub(crate) fn range(self) -> (u64, u64) {
        match self {
            // From one page of wasm memory to all that 32-bit wasm can address.
            Self::Memory => (64 * KIB, 4 << 30),
            // Ten million references take about 80 MB of the host's memory.
            Self::TableElements => (0, 10_000_000),
            Self::Instances => (1, 100_000),
            // Less is not enough for the libraries of some languages to begin; more would let a
            // guest take beside its linear memory what no limit of the engine counts.
            Self::Stack => (64 * KIB, 64 * MIB),
            Self::Fuel => (1, u64::MAX),
            // A year.
            Self::Deadline => (1, 365 * 24 * 3_600_000),
        }
    }

    /// What a value of it looks like.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Memory => "bytes between 64KiB and 4GiB, as a number or as text like \"128MiB\"",
            Self::TableElements => "a number between 0 and 10000000",
            Self::Instances => "a number between 1 and 100000",
            Self::Stack => "bytes between 64KiB and 64MiB, as a number or as text like \"512KiB\"",
            Self::Fuel => "a number of at least 1",
            Self::Deadline => "a time between 1ms and 8760h, as text like \"30s\"",
        }
    }

    /// Reads the text of a value.
    pub(crate) fn read(self, raw: &str) -> Option<u64> {
        let value = match self {
            Self::Memory | Self::Stack => size(raw),
            Self::TableElements | Self::Instances | Self::Fuel => digits(raw),
            Self::Deadline => milliseconds(raw),
        };
        value.filter(|value| self.allows(*value))
    }

    /// Says whether it can be set to this value at all.
    pub(crate) fn allows(self, value: u64) -> bool {
        let (least, most) = self.range();
        (least..=most).contains(&value)
    }

    /// Shows a value as it would be written.
    #[must_use]
    pub fn shown(self, value: u64) -> String {
        match self {
            Self::Memory | Self::Stack => shown_size(value),
            Self::TableElements | Self::Instances | Self::Fuel => value.to_string(),
            Self::Deadline => shown_span(Duration::from_millis(value)),
        }
    }

    /// Says in words where its value stands.
    #[must_use]
    pub fn place(self, setter: Setter) -> String {
        let (key, annotation) = (self.key(), self.annotation());
        match setter {
            Setter::BuiltIn => format!(
                "built in; {key} under [limits] of {} or annotation {annotation} changes it",
                node::PATH
            ),
            Setter::NodeFile => format!("set by {key} under [limits] of {}", node::PATH),
            Setter::Options => format!("set by {key} under [limits] of containerd's options"),
            Setter::Image => format!("set by annotation {annotation} of the image"),
            Setter::Pod => format!("set by annotation {annotation} of the pod"),
            Setter::Cgroup => "the container's memory limit less what the engine needs".to_owned(),
        }
    }
}

impl Setters {
    /// Who has set this one.
    #[must_use]
    pub fn of(&self, limit: Limit) -> Setter {
        self.0[limit as usize]
    }

    pub(crate) fn set(&mut self, limit: Limit, setter: Setter) {
        self.0[limit as usize] = setter;
    }
}

impl Limits {
    /// The value of one of them, a deadline in milliseconds; `None` where there is no bound.
    #[must_use]
    pub fn get(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Memory => Some(self.memory),
            Limit::TableElements => Some(self.table_elements),
            Limit::Instances => Some(self.instances),
            Limit::Stack => Some(self.stack),
            Limit::Fuel => self.fuel,
            Limit::Deadline => {
                self.deadline.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }

    /// Names one of them with its value and where that stands.
    #[must_use]
    pub fn named(&self, limit: Limit) -> String {
        let value = self.get(limit).map_or_else(|| "none".to_owned(), |value| limit.shown(value));
        format!("{} = {value} ({})", limit.key(), limit.place(self.set_by.of(limit)))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: DEFAULT_MEMORY,
            table_elements: DEFAULT_TABLE_ELEMENTS,
            instances: DEFAULT_INSTANCES,
            stack: DEFAULT_STACK,
            fuel: None,
            deadline: None,
            set_by: Setters::default(),
        }
    }
}

impl fmt::Display for Limits {
    /// A line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Limit::ALL.iter().try_for_each(|limit| writeln!(f, "limits.{}", self.named(*limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_bounds_are_the_documented_ones() {
        let limits = Limits::default();
        for limit in Limit::ALL {
            assert_eq!(limits.get(limit), limit.default(), "{limit:?}");
            assert!(limit.default().is_none_or(|value| limit.allows(value)), "{limit:?}");
        }
        assert_eq!((limits.memory, limits.table_elements), (128 << 20, 1000));
        assert_eq!((limits.instances, limits.stack), (1000, 512 << 10));
    }

    #[test]
    fn values_outside_their_range_cannot_be_read() {
        let table = [
            (Limit::Memory, "64KiB", Some(64 << 10)),
            (Limit::Memory, "4GiB", Some(4 << 30)),
            (Limit::Memory, "65535", None),
            (Limit::Memory, "5GiB", None),
            (Limit::TableElements, "0", Some(0)),
            (Limit::TableElements, "10000001", None),
            (Limit::Instances, "0", None),
            (Limit::Instances, "1", Some(1)),
            (Limit::Stack, "1MiB", Some(1 << 20)),
            (Limit::Stack, "65MiB", None),
            (Limit::Fuel, "0", None),
            (Limit::Fuel, "1MiB", None),
            (Limit::Deadline, "30s", Some(30_000)),
            (Limit::Deadline, "30", None),
            (Limit::Deadline, "0s", None),
            (Limit::Deadline, "8761h", None),
        ];
        for (limit, raw, expected) in table {
            assert_eq!(limit.read(raw), expected, "{limit:?} {raw}");
        }
    }

    #[test]
    fn a_bound_is_named_with_its_value_and_its_place() {
        let mut limits = Limits { fuel: Some(7), ..Limits::default() };
        limits.set_by.set(Limit::Fuel, Setter::Pod);
        assert_eq!(
            limits.named(Limit::Fuel),
            "fuel = 7 (set by annotation com.wasm.limits.fuel of the pod)"
        );
        limits.set_by.set(Limit::Memory, Setter::NodeFile);
        let lines = limits.to_string();
        let expected =
            "limits.memory = 128MiB (set by memory under [limits] of /etc/hybrid/config.toml)\n";
        assert!(lines.starts_with(expected), "{lines}");
        assert!(lines.contains("limits.deadline = none (built in"), "{lines}");
    }
}
