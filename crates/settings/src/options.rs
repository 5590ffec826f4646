//! The `options` table of the runtime in containerd's configuration.
//!
//! containerd hands it over as TOML text (`config_body` of
//! `runtimeoptions.v1.Options`):
//!
//! ```toml
//! wasm_runtime = "wasmtime"
//! container_runtime = "runc"   # or "libcontainer": the same path
//! auto_detect = true
//! cache_enabled = true
//! ```
//!
//! Below these stand the tables of [`crate::operator`] and [`crate::http`].

use serde::{Deserialize, Serialize};
use toml::Value;

use crate::cache::{self, Caching};
use crate::http::{self, NodeHttp};
use crate::operator::{self, Document, NodeEngine, NodeLimits};
use crate::table::{Reader, TableError};

/// Who runs wasm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WasmRuntime {
    /// The built-in engine.
    #[default]
    Wasmtime,
}

/// Who runs Linux containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerRuntime {
    /// libcontainer, in process. `runc` in a configuration means this too: it
    /// asks for that behaviour.
    #[default]
    Libcontainer,
}

/// What the table says; nothing for keys that it leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `wasm_runtime`.
    pub wasm_runtime: Option<WasmRuntime>,
    /// `container_runtime`.
    pub container_runtime: Option<ContainerRuntime>,
    /// `auto_detect`.
    pub auto_detect: Option<bool>,
    /// `cache_enabled`.
    pub caching: Option<Caching>,
    /// `[limits]`.
    pub limits: NodeLimits,
    /// `[engine]`.
    pub engine: NodeEngine,
    /// `[http]`.
    pub http: NodeHttp,
}

/// Reads the table's text; an empty one says nothing.
pub fn parse(toml: &str) -> Result<Options, TableError> {
    let mut table = Reader::of("the runtime options", toml)?;
    let options = read(&mut table, Document::Options)?;
    // containerd's own key beside ours: the type under which it sends the table.
    let _type_url: Option<String> =
        table.take("TypeUrl", "a text", |value| value.as_str().map(str::to_owned))?;
    table.finish(hint)?;
    Ok(options)
}

/// Takes the keys that options and node file have in common.
pub(crate) fn read(table: &mut Reader, document: Document) -> Result<Options, TableError> {
    Ok(Options {
        wasm_runtime: table.take(
            "wasm_runtime",
            "\"wasmtime\", the one engine that is built in",
            |value| (value.as_str() == Some("wasmtime")).then_some(WasmRuntime::Wasmtime),
        )?,
        container_runtime: table.take(
            "container_runtime",
            "\"runc\" or \"libcontainer\"; others are not built in",
            |value| {
                matches!(value.as_str(), Some("runc" | "libcontainer"))
                    .then_some(ContainerRuntime::Libcontainer)
            },
        )?,
        auto_detect: table.take("auto_detect", "true or false", Value::as_bool)?,
        caching: table.take("cache_enabled", cache::EXPECTED_CACHING, cache::caching)?,
        limits: operator::limits(table, document)?,
        engine: operator::engine(table, document)?,
        http: http::read(table, document)?,
    })
}

/// Says what to do about keys that people copy from runc's table.
fn hint(key: &str) -> &'static str {
    match key {
        "SystemdCgroup" => "; the cgroup driver is read from each container's cgroups path",
        "BinaryName" | "Root" | "NoPivotRoot" | "ShimCgroup" | "IoUid" | "IoGid"
        | "CriuImagePath" | "CriuWorkPath" | "NoNewKeyring" => "; this one is runc's",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_table_reads_in_full() {
        let options = parse(
            "wasm_runtime = \"wasmtime\"\ncontainer_runtime = \"runc\"\nauto_detect = true\n",
        )
        .unwrap();
        assert_eq!(
            options,
            Options {
                wasm_runtime: Some(WasmRuntime::Wasmtime),
                container_runtime: Some(ContainerRuntime::Libcontainer),
                auto_detect: Some(true),
                ..Options::default()
            }
        );
    }

    #[test]
    fn what_is_left_out_is_not_said() {
        assert_eq!(parse("").unwrap(), Options::default());
        assert_eq!(parse("# a comment\n").unwrap(), Options::default());
        assert_eq!(parse("TypeUrl = \"x\"\nauto_detect = false").unwrap().auto_detect, Some(false));
        let other_name = parse("container_runtime = \"libcontainer\"").unwrap();
        assert_eq!(other_name.container_runtime, Some(ContainerRuntime::Libcontainer));
    }

    #[test]
    fn an_unknown_key_is_refused_beside_the_known_ones() {
        let refused = parse("auto_detct = true").unwrap_err().to_string();
        assert_eq!(
            refused,
            "the runtime options have the unknown key \"auto_detct\"; known are wasm_runtime, container_runtime, auto_detect, cache_enabled, limits, engine, http, TypeUrl"
        );
        let runcs = parse("SystemdCgroup = true").unwrap_err().to_string();
        assert!(runcs.ends_with("read from each container's cgroups path"), "{runcs}");
    }

    #[test]
    fn values_of_another_kind_or_engine_are_refused() {
        let table = [
            ("wasm_runtime = \"wasmedge\"", "wasm_runtime = \"wasmedge\"; expected \"wasmtime\""),
            ("wasm_runtime = 1", "wasm_runtime = \"1\""),
            ("container_runtime = \"kata\"", "others are not built in"),
            ("auto_detect = \"true\"", "auto_detect = \"true\"; expected true or false"),
            ("auto_detect = 1", "expected true or false"),
        ];
        for (text, part) in table {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn what_is_no_table_or_too_long_is_refused() {
        for text in ["{", "[]", "auto_detect", "auto_detect = true\nauto_detect = false"] {
            assert!(matches!(parse(text), Err(TableError::NotToml { .. })), "{text}");
        }
        let long = "#".repeat(65 << 10);
        assert!(matches!(parse(&long), Err(TableError::TooLarge { .. })));
        let deep = format!("auto_detect = {}", "[".repeat(60_000));
        assert!(parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _options = parse(&text);
        }

        #[test]
        fn reading_near_the_table_never_panics(text in "(auto_detect|wasm_runtime|x) ?= ?[a-z0-9\"\\[{.]{0,12}\n?") {
            let _options = parse(&text);
        }
    }
}
