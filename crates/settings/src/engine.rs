//! What of the engine a workload can choose: how hard the compiler works, which proposals of
//! WebAssembly it may use, and whether it may use WASI 0.3.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::proposals::{Proposal, Proposals};

/// How hard the compiler works for faster or smaller native code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimise {
    /// Compile as quickly as possible.
    None,
    /// Optimise for speed alone.
    Speed,
    /// Optimise for speed, and for size where speed does not suffer.
    #[default]
    SpeedAndSize,
}

/// Whether a component may use WASI 0.3, which is asynchronous.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum P3 {
    /// It is not there: the engine's code for it has had faults that a guest could reach.
    #[default]
    Off,
    /// It may.
    On,
}

/// What a workload's engine is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engine {
    /// The compiler's optimisation level.
    pub optimise: Optimise,
    /// The proposals that are on.
    pub proposals: Proposals,
    /// WASI 0.3.
    pub p3: P3,
}

impl Optimise {
    /// What a value looks like.
    pub(crate) const EXPECTED: &'static str = "\"none\", \"speed\" or \"speed_and_size\"";

    /// Reads a level's name.
    pub(crate) fn read(raw: &str) -> Option<Self> {
        [Self::None, Self::Speed, Self::SpeedAndSize].into_iter().find(|level| level.name() == raw)
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Speed => "speed",
            Self::SpeedAndSize => "speed_and_size",
        }
    }
}

impl P3 {
    /// Reads `true` or `false`.
    pub(crate) fn read(raw: &str) -> Option<Self> {
        match raw {
            "true" => Some(Self::On),
            "false" => Some(Self::Off),
            _ => None,
        }
    }
}

impl fmt::Display for Engine {
    /// A line for each choice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "engine.optimization = {}", self.optimise.name())?;
        writeln!(f, "engine.proposals = {}", self.proposals)?;
        writeln!(f, "engine.p3 = {}", self.p3 == P3::On)
    }
}
