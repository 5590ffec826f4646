//! What is said of imports that nobody here provides: each by its name, with what would.
//!
//! The linker decides what is missing; this module only finds words for it.

use std::fmt;

use wasmtime::component::Component;
use wasmtime::{ExternType, Module};

use crate::engine::{Engine, P3};
use crate::entry::shown;

/// Imports are named up to this many; a module may have a hundred thousand.
const SHOWN: usize = 16;

/// The one module of functions that core modules are given.
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// Imports that are not provided.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing(Vec<Import>);

#[derive(Debug, PartialEq, Eq)]
struct Import {
    name: String,
    advice: Advice,
}

/// What would provide or grant an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// WASI 0.3, which is not on.
    P3,
    /// An interface that another component can export.
    Compose,
    /// The interfaces of a version that is not this one's.
    Version,
    /// An older or other system interface of core modules.
    Rebuild,
    /// A host that runs JavaScript.
    JavaScript,
    /// Threads, which share a memory that no limit could hold.
    Threads,
}

impl Missing {
    /// Finds what a core module misses; `unknown` is what the linker stumbled over first, as module
    /// and name.
    pub(crate) fn of_module(module: &Module, unknown: (&str, &str)) -> Self {
        let missing = |import: &wasmtime::ImportType<'_>| {
            import.module() != PREVIEW1
                || !matches!(import.ty(), ExternType::Func(_))
                || (import.module(), import.name()) == unknown
        };
        Self(
            module
                .imports()
                .filter(missing)
                .map(|import| Import {
                    name: shown(format_args!("{}::{}", import.module(), import.name())),
                    advice: of_core(import.module()),
                })
                .collect(),
        )
    }

    /// Finds what a component misses; none where all interfaces are known by name, so that a
    /// version or a type must be what does not fit.
    pub(crate) fn of_component(component: &Component, engine: &Engine) -> Option<Self> {
        let kind = component.component_type();
        let missing: Vec<Import> = kind
            .imports(engine.wasmtime())
            .filter_map(|(name, _)| {
                let advice = of_interface(name, engine.p3())?;
                Some(Import { name: shown(name), advice })
            })
            .collect();
        (!missing.is_empty()).then_some(Self(missing))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(imports) = self;
        for (at, Import { name, advice }) in imports.iter().take(SHOWN).enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}`{name}` ({})", advice.text())?;
        }
        match imports.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Advice {
    fn text(self) -> &'static str {
        match self {
            Self::P3 => {
                "WASI 0.3 is off: annotation com.wasm.engine.p3 = true turns it on where the node file's \
                 [engine] p3 = true allows it"
            }
            Self::Compose => "compose the component with one that exports it, as `wac plug` does",
            Self::Version => "another version of it is provided: build against that",
            Self::Rebuild => "not provided: build for wasm32-wasip1 or wasm32-wasip2",
            Self::JavaScript => {
                "wasm-bindgen's, for a JavaScript host: build for wasm32-wasip1 or wasm32-wasip2"
            }
            Self::Threads => "wasi-threads is not provided: build without threads",
        }
    }
}

fn of_core(module: &str) -> Advice {
    match module {
        "wasi" => Advice::Threads,
        _ if module.starts_with("__wbindgen") || module == "wbg" => Advice::JavaScript,
        _ => Advice::Rebuild,
    }
}

/// Says what provides an interface that is not provided here; none for one that is.
fn of_interface(name: &str, p3: P3) -> Option<Advice> {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    let Some((package, interface)) = path.split_once('/') else { return Some(Advice::Compose) };
    let base = ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:random", "wasi:sockets"];
    let (provided, is_ours) = match package {
        _ if base.contains(&package) => {
            let is_p3 = p3 == P3::On && version.starts_with("0.3.");
            (version.starts_with("0.2.") || is_p3, true)
        }
        "wasi:io" | "wasi:http" => (version.starts_with("0.2."), true),
        "wasi:config" => (version == "0.2.0-rc.1" && interface == "store", true),
        "wasi:keyvalue" => (
            version == "0.2.0-draft" && ["store", "atomics", "batch"].contains(&interface),
            ["store", "atomics", "batch"].contains(&interface),
        ),
        _ => (false, false),
    };
    if provided {
        None
    } else if p3 == P3::Off && base.contains(&package) && version.starts_with("0.3.") {
        Some(Advice::P3)
    } else if is_ours {
        Some(Advice::Version)
    } else {
        Some(Advice::Compose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_provided_or_advised_on() {
        let table = [
            ("wasi:cli/environment@0.2.0", None),
            ("wasi:cli/environment@0.2.12", None),
            ("wasi:io/streams@0.2.6", None),
            ("wasi:http/outgoing-handler@0.2.3", None),
            ("wasi:config/store@0.2.0-rc.1", None),
            ("wasi:keyvalue/store@0.2.0-draft", None),
            ("wasi:keyvalue/store@0.2.0-draft2", Some(Advice::Version)),
            ("wasi:keyvalue/watcher@0.2.0-draft", Some(Advice::Compose)),
            ("wasi:config/runtime@0.2.0-draft", Some(Advice::Version)),
            ("wasi:cli/environment@0.3.0", Some(Advice::P3)),
            ("wasi:cli/environment@0.1.0", Some(Advice::Version)),
            ("wasi:http/handler@0.3.0", Some(Advice::Version)),
            ("wasi:nn/tensor@0.2.0", Some(Advice::Compose)),
            ("acme:store/door@1.0.0", Some(Advice::Compose)),
            ("acme", Some(Advice::Compose)),
            ("", Some(Advice::Compose)),
        ];
        for (name, advice) in table {
            assert_eq!(of_interface(name, P3::Off), advice, "{name}");
        }
    }

    #[test]
    fn what_is_switched_on_is_provided() {
        assert_eq!(of_interface("wasi:cli/run@0.3.0", P3::On), None);
        assert_eq!(of_interface("wasi:http/handler@0.3.0", P3::On), Some(Advice::Version));
    }

    #[test]
    fn the_list_is_bounded() {
        let imports = |count: usize| {
            let each = |at: usize| Import { name: at.to_string(), advice: Advice::Rebuild };
            Missing((0..count).map(each).collect()).to_string()
        };
        assert!(imports(1).starts_with("`0` (not provided: build for"));
        assert!(imports(100).ends_with("wasm32-wasip2) and 84 more"));
    }
}
