//! The node file, `/etc/hybrid/config.toml`: the operator's word for one machine.
//!
//! ```toml
//! wasm_runtime = "wasmtime"
//! container_runtime = "runc"
//! auto_detect = true
//! cache = "/var/lib/hybrid/cache"
//!
//! [limits]
//! memory = "128MiB"
//! table_elements = 1000
//! fuel = 1000000        # none by default
//! ```

use std::path::{Component, Path, PathBuf};

use toml::Value;

use crate::limits::{self, NodeLimits};
use crate::options::{self, Options};
use crate::table::{Reader, TableError, no_hint};

/// Where the node file is.
pub const PATH: &str = "/etc/hybrid/config.toml";

/// What the node file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The keys it shares with containerd's options.
    pub options: Options,
    /// `cache`: the folder of compiled modules.
    pub cache: Option<PathBuf>,
    /// `[limits]`.
    pub limits: NodeLimits,
}

/// Reads the node file's text; an absent file is an empty one.
pub fn parse(toml: &str) -> Result<Node, TableError> {
    let mut table = Reader::of("the node file's settings", toml)?;
    let options = options::read(&mut table)?;
    let cache = table.take(
        "cache",
        "an absolute path of a folder of its own, without . and ..",
        |value| value.as_str().and_then(folder),
    )?;
    let mut of_limits = table.table("limits", "the node file's [limits]")?;
    table.finish(no_hint)?;
    let limits = limits::read(&mut of_limits)?;
    of_limits.finish(no_hint)?;
    Ok(Node { options, cache, limits })
}

fn folder(raw: &str) -> Option<PathBuf> {
    let path = Path::new(raw);
    let mut parts = path.components();
    let is_plain = parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !raw.split('/').any(|part| part == ".")
        && !raw.chars().any(char::is_control);
    is_plain.then(|| path.to_owned())
}

/// Reads a whole number that is not negative.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|number| u64::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_file_reads_in_full() {
        let node = parse(
            "wasm_runtime = \"wasmtime\"\ncontainer_runtime = \"runc\"\nauto_detect = true\n\
             cache = \"/srv/hybrid\"\n[limits]\nmemory = \"64MiB\"\ntable_elements = 500\nfuel = 7\n",
        )
        .unwrap();
        assert_eq!(node.options.auto_detect, Some(true));
        assert_eq!(node.cache, Some(PathBuf::from("/srv/hybrid")));
        let limits =
            NodeLimits { memory: Some(64 << 20), table_elements: Some(500), fuel: Some(7) };
        assert_eq!(node.limits, limits);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parse("").unwrap(), Node::default());
    }

    #[test]
    fn a_default_that_is_written_is_the_operators_word() {
        assert_eq!(parse("[limits]\n").unwrap().limits.memory, None);
        let written = parse("[limits]\nmemory = \"128MiB\"\n").unwrap().limits;
        assert_eq!(written.memory, Some(128 << 20));
        assert_eq!(written.within(Some(1 << 30)).memory, 128 << 20);
        assert_eq!(NodeLimits::default().within(Some(1 << 30)).memory, (1 << 30) - (8 << 20));
    }

    #[test]
    fn unusable_keys_and_values_are_refused_by_name() {
        let table = [
            ("memory = 1", "unknown key \"memory\""),
            ("[limits]\nmem = 1", "the node file's [limits] have the unknown key \"mem\""),
            ("limits = 1", "expected a table"),
            ("[limits]\nmemory = -1", "memory"),
            ("[limits]\nmemory = 1", "memory"),
            ("[limits]\nmemory = \"5GiB\"", "memory"),
            ("[limits]\nmemory = \"much\"", "memory"),
            ("[limits]\ntable_elements = \"x\"", "table_elements"),
            ("[limits]\nfuel = 0", "fuel"),
            ("cache = \"cache\"", "an absolute path"),
            ("cache = \"/\"", "an absolute path"),
            ("cache = \"/a/../b\"", "an absolute path"),
            ("cache = \"/a/./b\"", "an absolute path"),
            ("cache = 1", "an absolute path"),
            ("TypeUrl = \"x\"", "unknown key"),
        ];
        for (text, part) in table {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _node = parse(&text);
        }
    }
}
