//! The proposals of WebAssembly that can be switched on and off, by the names that the engine's own
//! tool gives them. Parts of the first version of WebAssembly are no proposals, and threads are not
//! built in: a guest has one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proposal {
    /// `memory.copy`, `table.init` and their like.
    BulkMemory,
    /// Memories whose pages are not 64 KiB.
    CustomPageSizes,
    /// Throwing and catching.
    Exceptions,
    /// Arithmetic in constant expressions.
    ExtendedConst,
    /// Typed references to functions.
    FunctionReferences,
    /// Structures and arrays that are collected.
    Gc,
    /// Memories that are addressed by 64 bits.
    Memory64,
    /// More than one memory in a module.
    MultiMemory,
    /// More than one result.
    MultiValue,
    /// References as values.
    ReferenceTypes,
    /// SIMD whose results differ between processors.
    RelaxedSimd,
    /// 128-bit SIMD.
    Simd,
    /// Calls that replace their caller.
    TailCall,
    /// 128-bit arithmetic.
    WideArithmetic,
}

impl Proposal {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 14] = [
        Self::BulkMemory,
        Self::CustomPageSizes,
        Self::Exceptions,
        Self::ExtendedConst,
        Self::FunctionReferences,
        Self::Gc,
        Self::Memory64,
        Self::MultiMemory,
        Self::MultiValue,
        Self::ReferenceTypes,
        Self::RelaxedSimd,
        Self::Simd,
        Self::TailCall,
        Self::WideArithmetic,
    ];

    /// Its name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BulkMemory => "bulk_memory",
            Self::CustomPageSizes => "custom_page_sizes",
            Self::Exceptions => "exceptions",
            Self::ExtendedConst => "extended_const",
            Self::FunctionReferences => "function_references",
            Self::Gc => "gc",
            Self::Memory64 => "memory64",
            Self::MultiMemory => "multi_memory",
            Self::MultiValue => "multi_value",
            Self::ReferenceTypes => "reference_types",
            Self::RelaxedSimd => "relaxed_simd",
            Self::Simd => "simd",
            Self::TailCall => "tail_call",
            Self::WideArithmetic => "wide_arithmetic",
        }
    }

    /// Finds a proposal by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|proposal| proposal.name() == name)
    }

    /// Whether the engine has it on by itself.
    fn is_usual(self) -> bool {
        !matches!(self, Self::CustomPageSizes | Self::WideArithmetic)
    }

    /// The proposal that it extends, without which it cannot be on.
    fn base(self) -> Option<Self> {
        match self {
            Self::RelaxedSimd => Some(Self::Simd),
            Self::Gc => Some(Self::FunctionReferences),
            Self::FunctionReferences | Self::Exceptions => Some(Self::ReferenceTypes),
            _ => None,
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// A proposal to switch on or off, as `gc` or `-gc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    On(Proposal),
    Off(Proposal),
}

impl Switch {
    pub(crate) fn read(raw: &str) -> Option<Self> {
        match raw.strip_prefix('-') {
            Some(name) => Proposal::named(name).map(Self::Off),
            None => Proposal::named(raw).map(Self::On),
        }
    }

    pub(crate) fn proposal(self) -> Proposal {
        match self {
            Self::On(proposal) | Self::Off(proposal) => proposal,
        }
    }
}

/// The proposals that are on: by default those that the engine has on by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proposals(u16);

impl Default for Proposals {
    fn default() -> Self {
        Self::of(Proposal::ALL.into_iter().filter(|proposal| proposal.is_usual()))
    }
}

impl Proposals {
    /// These and no others.
    #[must_use]
    pub fn of(proposals: impl IntoIterator<Item = Proposal>) -> Self {
        Self(proposals.into_iter().fold(0, |bits, proposal| bits | proposal.bit()))
    }

    /// Says whether this one is on.
    #[must_use]
    pub fn has(self, proposal: Proposal) -> bool {
        self.0 & proposal.bit() != 0
    }

    /// Returns these after the switches were turned, one after the other.
    pub(crate) fn switched(self, switches: &[Switch]) -> Self {
        Self(switches.iter().fold(self.0, |bits, switch| match switch {
            Switch::On(proposal) => bits | proposal.bit(),
            Switch::Off(proposal) => bits & !proposal.bit(),
        }))
    }

    /// Returns these and those.
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Finds a proposal that is on, and the one it extends, which is off.
    pub(crate) fn baseless(self) -> Option<(Proposal, Proposal)> {
        let on = Proposal::ALL.into_iter().filter(|proposal| self.has(*proposal));
        on.filter_map(|proposal| Some((proposal, proposal.base()?)))
            .find(|(_, base)| !self.has(*base))
    }
}

impl fmt::Display for Proposals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = Proposal::ALL.into_iter().filter(|proposal| self.has(*proposal));
        f.write_str(&on.map(Proposal::name).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Proposals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposals({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proposal_has_a_name_and_a_place_of_its_own() {
        for (at, proposal) in Proposal::ALL.into_iter().enumerate() {
            assert_eq!(proposal as usize, at, "{proposal:?}");
            assert_eq!(Proposal::named(proposal.name()), Some(proposal));
            let json = serde_json::to_value(proposal).unwrap();
            assert_eq!(json, proposal.name(), "one name in every text");
        }
        assert_eq!(Proposal::named("threads"), None);
        assert_eq!(Proposals::default().baseless(), None);
    }

    #[test]
    fn switches_are_turned_in_order() {
        let default = Proposals::default();
        assert!(default.has(Proposal::Simd) && !default.has(Proposal::WideArithmetic));
        let read = |raw: &[&str]| -> Vec<Switch> {
            raw.iter().map(|each| Switch::read(each).unwrap()).collect()
        };
        let other = default.switched(&read(&["-relaxed_simd", "-simd", "wide_arithmetic"]));
        assert!(!other.has(Proposal::Simd) && other.has(Proposal::WideArithmetic));
        assert_eq!(other.baseless(), None);
        let bad = default.switched(&read(&["-simd"]));
        assert_eq!(bad.baseless(), Some((Proposal::RelaxedSimd, Proposal::Simd)));
        for raw in ["", "-", "+simd", "SIMD", "--simd", "threads"] {
            assert_eq!(Switch::read(raw), None, "{raw:?}");
        }
    }
}
