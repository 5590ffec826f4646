//! The one constructor of the engine.
//!
//! Code that is compiled under one configuration cannot be run under another, so compiling and
//! running share this constructor and nothing else in the tree builds a `wasmtime::Engine`.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, OptLevel, WasmBacktraceDetails};

/// Bytes of stack a guest may use before it traps.
const MAX_WASM_STACK: usize = 512 * 1024;

/// Frames a trap's backtrace shows at most.
const BACKTRACE_FRAMES: usize = 32;

/// How hard the compiler works for faster or smaller native code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Whether what a guest computes is counted. It makes every guest slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fuel {
    /// A guest may compute as long as it likes.
    #[default]
    Unmetered,
    /// A guest may be given a bound.
    Metered,
}

/// What of the engine can be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// The compiler's optimisation level.
    pub optimise: Optimise,
    /// Whether [`settings::Limits::fuel`] can be given.
    pub fuel: Fuel,
}

impl EngineSettings {
    /// The defaults, and what enforcing these limits takes.
    #[must_use]
    pub fn enforcing(limits: &settings::Limits) -> Self {
        let fuel = if limits.fuel.is_some() { Fuel::Metered } else { Fuel::Unmetered };
        Self { fuel, ..Self::default() }
    }
}

/// The engine would not start with these settings on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the WebAssembly engine")]
pub struct EngineError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// A configured engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    compatibility: String,
    fuel: Fuel,
}

impl Engine {
    /// Sets up the engine. Starts no thread, so the process may fork afterwards.
    ///
    /// # Errors
    /// When this machine lacks what the configuration needs.
    pub fn new(settings: &EngineSettings) -> Result<Self, EngineError> {
        let inner = wasmtime::Engine::new(&configure(settings))
            .map_err(|error| EngineError(error.into_boxed_dyn_error()))?;
        let compatibility = compatibility_of(&inner);
        Ok(Self { inner, compatibility, fuel: settings.fuel })
    }

    /// Returns 16 hex digits that differ whenever native code of one engine would not suit
    /// another: other version, other settings, other processor features.
    #[must_use]
    pub fn compatibility(&self) -> &str {
        &self.compatibility
    }

    pub(crate) fn fuel(&self) -> Fuel {
        self.fuel
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("compatibility", &self.compatibility).finish_non_exhaustive()
    }
}

fn configure(settings: &EngineSettings) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(match settings.optimise {
            Optimise::None => OptLevel::None,
            Optimise::Speed => OptLevel::Speed,
            Optimise::SpeedAndSize => OptLevel::SpeedAndSize,
        })
        // Compiling happens in a child of its own, where threads harm nobody.
        .parallel_compilation(true)
        .max_wasm_stack(MAX_WASM_STACK)
        // The initial memory is mapped from the artifact instead of being copied into each guest.
        .memory_init_cow(true)
        .signals_based_traps(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES))
        // Source lines would need the guest's DWARF in every artifact, and the default asks an
        // environment variable.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Backtraces walk frame pointers; the tables for system unwinders would only be registered
        // and checked at every load.
        .native_unwind_info(false)
        .consume_fuel(settings.fuel == Fuel::Metered)
        .epoch_interruption(false)
        .wasm_component_model(true);
    config
}

fn compatibility_of(engine: &wasmtime::Engine) -> String {
    let mut hasher = StableHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// A hasher whose result does not depend on the version of the standard library.
struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_engines_with_the_same_settings_are_compatible() {
        let settings = EngineSettings::default();
        let first = Engine::new(&settings).unwrap();
        let second = Engine::new(&settings).unwrap();
        assert_eq!(first.compatibility(), second.compatibility());
        assert_eq!(first.compatibility().len(), 16);
    }

    #[test]
    fn computing_is_counted_only_where_it_is_bounded() {
        let limits = |fuel| settings::Limits { fuel, ..settings::Limits::default() };
        assert_eq!(EngineSettings::enforcing(&limits(None)), EngineSettings::default());
        assert_eq!(EngineSettings::enforcing(&limits(Some(1))).fuel, Fuel::Metered);
    }

    #[test]
    fn other_settings_are_not_compatible() {
        let default = EngineSettings::default();
        let quick = EngineSettings { optimise: Optimise::None, ..default.clone() };
        let metered = EngineSettings { fuel: Fuel::Metered, ..default.clone() };
        let usual = Engine::new(&default).unwrap();
        for other in [quick, metered] {
            assert_ne!(Engine::new(&other).unwrap().compatibility(), usual.compatibility());
        }
    }
}
