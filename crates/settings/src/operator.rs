//! The tables of the operator that bound wasm workloads, `[limits]` and `[engine]`. Node file and
//! containerd's options may both have them; key by key the options go before.
//!
//! ```toml
//! [limits]                                   # for every workload: its default, and the most it may ask for
//! memory = "128MiB"
//! table_elements = 1000
//! instances = 1000
//! stack = "512KiB"
//! fuel = 1000000                             # none by default
//! deadline = "30s"                           # none by default
//!
//! [engine]
//! optimization = "speed_and_size"            # the default of workloads: none, speed, speed_and_size
//! proposals = ["-relaxed_simd", "memory64"]  # switched on, or off, for all
//! proposals_allowed = ["wide_arithmetic"]    # what a pod may switch on beside
//! p3 = false                                 # whether a workload may use WASI 0.3
//! ```

use toml::Value;

use crate::engine::{Optimise, P3, Proposal, Proposals};
use crate::limits::{Limit, Setter};
use crate::proposals::Switch;
use crate::quantity::number;
use crate::table::{Reader, TableError, no_hint};

const PROPOSALS: &str = "a list of bulk_memory, custom_page_sizes, exceptions, extended_const, \
     function_references, gc, memory64, multi_memory, multi_value, reference_types, relaxed_simd, \
     simd, tail_call, wide_arithmetic";
const SWITCHES: &str = "a list of names as in proposals_allowed, with a hyphen before to switch \
     one off, as in [\"-relaxed_simd\"]";

/// One of the operator's two documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The node file.
    NodeFile,
    /// containerd's options.
    Options,
}

impl From<Document> for Setter {
    fn from(document: Document) -> Self {
        match document {
            Document::NodeFile => Self::NodeFile,
            Document::Options => Self::Options,
        }
    }
}

/// What the operator has written of the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLimits([Option<(u64, Document)>; 6]);

/// What the operator has written of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEngine {
    pub(crate) optimise: Option<Optimise>,
    pub(crate) proposals: Option<Vec<Switch>>,
    pub(crate) allowed: Option<Proposals>,
    pub(crate) p3: Option<P3>,
}

impl NodeLimits {
    /// What is written of one of them, a deadline in milliseconds, and where.
    pub(crate) fn get(&self, limit: Limit) -> Option<(u64, Setter)> {
        self.0[limit as usize].map(|(value, document)| (value, document.into()))
    }

    /// These with one of them written in the node file, a deadline in milliseconds.
    #[must_use]
    pub fn with(mut self, limit: Limit, value: u64) -> Self {
        self.0[limit as usize] = Some((value, Document::NodeFile));
        self
    }

    /// These, and what they do not say from `below`.
    #[must_use]
    pub(crate) fn over(mut self, below: &Self) -> Self {
        for (own, below) in self.0.iter_mut().zip(below.0) {
            *own = own.or(below);
        }
        self
    }
}

impl NodeEngine {
    /// This, and what it does not say from `below`.
    #[must_use]
    pub(crate) fn over(self, below: &Self) -> Self {
        Self {
            optimise: self.optimise.or(below.optimise),
            proposals: self.proposals.or_else(|| below.proposals.clone()),
            allowed: self.allowed.or(below.allowed),
            p3: self.p3.or(below.p3),
        }
    }
}

/// Takes the table `[limits]` out of a document.
pub(crate) fn limits(table: &mut Reader, document: Document) -> Result<NodeLimits, TableError> {
    let what = match document {
        Document::NodeFile => "the node file's [limits]",
        Document::Options => "the runtime options' [limits]",
    };
    let mut table = table.table("limits", what)?;
    let mut limits = NodeLimits::default();
    for limit in Limit::ALL {
        let read = |value: &Value| match limit {
            Limit::Deadline => value.as_str().and_then(|raw| limit.read(raw)),
            Limit::Memory | Limit::Stack => number(value)
                .filter(|value| limit.allows(*value))
                .or_else(|| value.as_str().and_then(|raw| limit.read(raw))),
            Limit::TableElements | Limit::Instances | Limit::Fuel => {
                number(value).filter(|value| limit.allows(*value))
            }
        };
        let value = table.take(limit.key(), limit.expected(), read)?;
        limits.0[limit as usize] = value.map(|value| (value, document));
    }
    table.finish(no_hint)?;
    Ok(limits)
}

/// Takes the table `[engine]` out of a document.
pub(crate) fn engine(table: &mut Reader, document: Document) -> Result<NodeEngine, TableError> {
    let what = match document {
        Document::NodeFile => "the node file's [engine]",
        Document::Options => "the runtime options' [engine]",
    };
    let mut table = table.table("engine", what)?;
    let engine = NodeEngine {
        optimise: table.take("optimization", Optimise::EXPECTED, |value| {
            value.as_str().and_then(Optimise::read)
        })?,
        proposals: table.take("proposals", SWITCHES, |value| list(value, Switch::read))?,
        allowed: table
            .take("proposals_allowed", PROPOSALS, |value| list(value, Proposal::named))?
            .map(Proposals::of),
        p3: table.take("p3", "true or false", |value| {
            value.as_bool().map(|is_on| if is_on { P3::On } else { P3::Off })
        })?,
    };
    table.finish(no_hint)?;
    Ok(engine)
}

fn list<T>(value: &Value, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(|each| each.as_str().and_then(&read)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node, options};

    const BOTH: &str = "[limits]\nmemory = \"64MiB\"\ntable_elements = 500\ninstances = 9\n\
         stack = \"1MiB\"\nfuel = 7\ndeadline = \"30s\"\n[engine]\noptimization = \"none\"\n\
         proposals = [\"-relaxed_simd\", \"memory64\"]\nproposals_allowed = [\"wide_arithmetic\"]\n\
         p3 = true\n";

    #[test]
    fn both_documents_have_the_same_tables() {
        let node = node::parse(BOTH).unwrap().options;
        let options = options::parse(BOTH).unwrap();
        assert_eq!(node.engine, options.engine);
        let expected = [64 << 20, 500, 9, 1 << 20, 7, 30_000];
        for (limit, value) in Limit::ALL.into_iter().zip(expected) {
            assert_eq!(node.limits.get(limit), Some((value, Setter::NodeFile)));
            assert_eq!(options.limits.get(limit), Some((value, Setter::Options)));
        }
        let engine = options.engine;
        assert_eq!((engine.optimise, engine.p3), (Some(Optimise::None), Some(P3::On)));
        let switches = vec![Switch::Off(Proposal::RelaxedSimd), Switch::On(Proposal::Memory64)];
        assert_eq!(engine.proposals, Some(switches));
        assert_eq!(engine.allowed, Some(Proposals::of([Proposal::WideArithmetic])));
    }

    #[test]
    fn the_options_go_before_key_by_key() {
        let node = node::parse("[limits]\nfuel = 7\nmemory = 65536\n[engine]\np3 = true").unwrap();
        let options = options::parse("[limits]\nfuel = 9\n[engine]\noptimization = \"speed\"");
        let options = options.unwrap();
        let limits = options.limits.over(&node.options.limits);
        assert_eq!(limits.get(Limit::Fuel), Some((9, Setter::Options)));
        assert_eq!(limits.get(Limit::Memory), Some((65536, Setter::NodeFile)));
        assert_eq!(limits.get(Limit::Stack), None);
        let engine = options.engine.over(&node.options.engine);
        assert_eq!((engine.optimise, engine.p3), (Some(Optimise::Speed), Some(P3::On)));
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        let table = [
            ("[limits]\nmem = 1", "[limits] have the unknown key \"mem\""),
            ("limits = 1", "expected a table"),
            ("[limits]\nmemory = -1", "memory = \"-1\"; expected bytes between"),
            ("[limits]\nmemory = 1", "memory = \"1\""),
            ("[limits]\nmemory = \"5GiB\"", "memory"),
            ("[limits]\nmemory = \"much\"", "memory"),
            ("[limits]\ntable_elements = \"x\"", "table_elements"),
            ("[limits]\nfuel = 0", "fuel = \"0\"; expected a number of at least 1"),
            ("[limits]\nstack = \"1KiB\"", "stack = \"1KiB\""),
            ("[limits]\ninstances = 0", "instances"),
            ("[limits]\ndeadline = 30", "text like \"30s\""),
            ("[engine]\noptimisation = \"none\"", "unknown key \"optimisation\""),
            ("[engine]\noptimization = \"fast\"", "expected \"none\", \"speed\""),
            ("[engine]\nproposals = \"gc\"", "proposals"),
            ("[engine]\nproposals = [\"threads\"]", "proposals"),
            ("[engine]\nproposals_allowed = [\"-gc\"]", "proposals_allowed"),
            ("[engine]\np3 = \"true\"", "expected true or false"),
        ];
        for (text, part) in table {
            let refusals = [node::parse(text).unwrap_err(), options::parse(text).unwrap_err()];
            for refused in refusals.map(|error| error.to_string()) {
                assert!(refused.contains(part), "{text}: {refused}");
            }
        }
    }

    #[test]
    fn the_names_that_are_listed_are_those_that_are_known() {
        for proposal in Proposal::ALL {
            assert!(PROPOSALS.contains(proposal.name()), "{proposal:?}");
        }
    }
}
