//! Turns what the operator and the annotations say into checked values.
//!
//! Two documents are the operator's: the node file ([`node`]) and the `options` table of
//! containerd's configuration ([`options`]), which goes before it. [`Settings`]
//! is both together with the defaults filled in. [`capabilities`] reads what an image or a pod
//! asks for; [`policy`] decides how a wasm workload is run. Pure: callers read the files. A key that
//! is not known and a value that cannot be read are refused, never skipped.
#![forbid(unsafe_code)]

pub mod cache;
pub mod capabilities;
pub mod engine;
pub mod http;
pub mod limits;
pub mod memory;
pub mod node;
pub mod operator;
pub mod options;
pub mod policy;
mod proposals;
mod quantity;
mod table;

use std::path::PathBuf;

pub use cache::Caching;
pub use http::{Http, NodeHttp};
pub use limits::Limits;
pub use node::Node;
pub use options::{ContainerRuntime, Options, WasmRuntime};
pub use policy::{Policy, Workload};
pub use table::TableError;

/// Where compiled modules are kept unless the node file says otherwise.
pub const DEFAULT_CACHE: &str = "/var/lib/hybrid/cache";

/// Everything the operator decides, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who runs wasm.
    pub wasm_runtime: WasmRuntime,
    /// Who runs Linux containers.
    pub container_runtime: ContainerRuntime,
    /// Whether images are looked at to find out what they are; on by default.
    pub auto_detect: bool,
    /// The folder of compiled modules, absolute.
    pub cache: PathBuf,
    /// How large it may become, in bytes.
    pub cache_size: u64,
    /// Whether it is used; it is by default.
    pub caching: Caching,
    /// What wasm workloads get and may ask for.
    pub policy: Policy,
}

impl Settings {
    /// Puts containerd's options over the node file over the defaults.
    pub fn of(node: Node, options: &Options) -> Self {
        let below = &node.options;
        Self {
            wasm_runtime: options.wasm_runtime.or(below.wasm_runtime).unwrap_or_default(),
            container_runtime: options
                .container_runtime
                .or(below.container_runtime)
                .unwrap_or_default(),
            auto_detect: options.auto_detect.or(below.auto_detect).unwrap_or(true),
            cache: node.cache.unwrap_or_else(|| PathBuf::from(DEFAULT_CACHE)),
            cache_size: node.cache_size.unwrap_or(cache::DEFAULT_SIZE),
            caching: options.caching.or(below.caching).unwrap_or_default(),
            policy: Policy {
                limits: options.limits.over(&below.limits),
                engine: options.engine.clone().over(&below.engine),
                http: options.http.over(below.http),
            },
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(Node::default(), &Options::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_gives_the_documented_defaults() {
        let settings = Settings::default();
        assert_eq!(settings.wasm_runtime, WasmRuntime::Wasmtime);
        assert_eq!(settings.container_runtime, ContainerRuntime::Libcontainer);
        assert!(settings.auto_detect);
        assert_eq!(settings.cache, PathBuf::from("/var/lib/hybrid/cache"));
        assert_eq!((settings.cache_size, settings.caching), (2 << 30, Caching::On));
        assert_eq!(settings.policy, Policy::default());
    }

    #[test]
    fn options_go_before_the_node_file() {
        let node = node::parse("auto_detect = false\ncache = \"/srv/cache\"").unwrap();
        let silent = Settings::of(node.clone(), &Options::default());
        assert!(!silent.auto_detect);
        assert_eq!(silent.cache, PathBuf::from("/srv/cache"));
        let options = options::parse("auto_detect = true").unwrap();
        assert!(Settings::of(node, &options).auto_detect);
        let node = node::parse("[limits]\nfuel = 7\n[engine]\np3 = true").unwrap();
        let options = options::parse("[limits]\nfuel = 8").unwrap();
        let policy = Settings::of(node.clone(), &options).policy;
        assert_eq!(policy.limits, options.limits);
        assert_eq!(policy.engine, node.options.engine);
    }

    #[test]
    fn the_cache_is_the_nodes_and_its_use_the_options_to_refuse() {
        let node = node::parse("cache_enabled = true\ncache_size = \"512MiB\"").unwrap();
        let settings = Settings::of(node.clone(), &Options::default());
        assert_eq!((settings.cache_size, settings.caching), (512 << 20, Caching::On));
        let options = options::parse("cache_enabled = false").unwrap();
        assert_eq!(Settings::of(node, &options).caching, Caching::Off);
        assert!(options::parse("cache_size = \"512MiB\"").is_err(), "it is shared by all");
    }
}
