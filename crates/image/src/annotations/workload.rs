//! The annotations that say how a wasm workload is to be run: its limits, its engine, its
//! configuration. What they may ask for is the operator's to decide.

/// Linear memory, in bytes or as `64MiB`.
pub const LIMITS_MEMORY: &str = "com.wasm.limits.memory";
/// Elements of one table.
pub const LIMITS_TABLE_ELEMENTS: &str = "com.wasm.limits.table_elements";
/// Instances of core modules.
pub const LIMITS_INSTANCES: &str = "com.wasm.limits.instances";
/// Bytes of stack.
pub const LIMITS_STACK: &str = "com.wasm.limits.stack";
/// How much is computed, in the engine's fuel.
pub const LIMITS_FUEL: &str = "com.wasm.limits.fuel";
/// How long it may run, as `30s`.
pub const LIMITS_DEADLINE: &str = "com.wasm.limits.deadline";
/// `none`, `speed` or `speed_and_size`.
pub const ENGINE_OPTIMIZATION: &str = "com.wasm.engine.optimization";
/// Proposals of WebAssembly to switch on, or off with a hyphen before: `wide_arithmetic,-relaxed_simd`.
pub const ENGINE_PROPOSALS: &str = "com.wasm.engine.proposals";
/// `true` for a component of WASI 0.3.
pub const ENGINE_P3: &str = "com.wasm.engine.p3";
/// What the keys of a workload's own configuration begin with; the name follows.
pub const CONFIG: &str = "com.wasm.config.";

/// The longest name of a configuration value, in characters.
pub const MAX_CONFIG_NAME: usize = 64;

/// Says whether a text can name a configuration value.
pub(super) fn is_config_name(name: &str) -> bool {
    (1..=MAX_CONFIG_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
