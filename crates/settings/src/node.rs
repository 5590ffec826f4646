//! The node file, `/etc/hybrid/config.toml`: the operator's word for one machine.
//!
//! ```toml
//! wasm_runtime = "wasmtime"
//! container_runtime = "runc"
//! auto_detect = true
//! cache = "/var/lib/hybrid/cache"
//! cache_enabled = true
//! cache_size = "2GiB"
//! ```
//!
//! Below these stand the tables of [`crate::operator`] and [`crate::http`].

use std::path::{Component, Path, PathBuf};

use crate::cache;
use crate::operator::Document;
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
    /// `cache_size`: how large it may become, in bytes.
    pub cache_size: Option<u64>,
}

/// Reads the node file's text; an absent file is an empty one.
pub fn parse(toml: &str) -> Result<Node, TableError> {
    let mut table = Reader::of("the node file's settings", toml)?;
    let options = options::read(&mut table, Document::NodeFile)?;
    let cache = table.take(
        "cache",
        "an absolute path of a folder of its own, without . and ..",
        |value| value.as_str().and_then(folder),
    )?;
    let cache_size = table.take("cache_size", cache::EXPECTED_SIZE, cache::size_of)?;
    table.finish(no_hint)?;
    Ok(Node { options, cache, cache_size })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::Limit;
    use crate::operator::NodeLimits;

    #[test]
    fn the_documented_file_reads_in_full() {
        let node = parse(
            "wasm_runtime = \"wasmtime\"\ncontainer_runtime = \"runc\"\nauto_detect = true\n\
             cache = \"/srv/hybrid\"\n[limits]\nmemory = \"64MiB\"\n",
        )
        .unwrap();
        assert_eq!(node.options.auto_detect, Some(true));
        assert_eq!(node.cache, Some(PathBuf::from("/srv/hybrid")));
        assert_eq!(node.options.limits, NodeLimits::default().with(Limit::Memory, 64 << 20));
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parse("").unwrap(), Node::default());
    }

    #[test]
    fn unusable_keys_and_values_are_refused_by_name() {
        let table = [
            ("memory = 1", "unknown key \"memory\""),
            ("cache = \"cache\"", "an absolute path"),
            ("cache = \"/\"", "an absolute path"),
            ("cache = \"/a/../b\"", "an absolute path"),
            ("cache = \"/a/./b\"", "an absolute path"),
            ("cache = 1", "an absolute path"),
            ("cache_size = 1000", "at least 1MiB"),
            ("cache_size = \"big\"", "at least 1MiB"),
            ("cache_size = -1", "at least 1MiB"),
            ("cache_enabled = \"no\"", "true or false"),
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
