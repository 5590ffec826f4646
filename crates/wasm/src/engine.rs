//! The one constructor of the engine.
//!
//! Code that is compiled under one configuration cannot be run under another, so compiling and
//! running share this constructor and nothing else in the tree builds a `wasmtime::Engine`.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, OptLevel, WasmBacktraceDetails, WasmFeatures};

pub use settings::engine::{Optimise, P3, Proposal, Proposals};

/// Bytes that the host's functions have on a guest's stack beside what the guest may use itself.
const HOST_STACK: u64 = 1536 << 10;

/// Frames a trap's backtrace shows at most.
const BACKTRACE_FRAMES: usize = 32;

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

/// Whether a guest that computes can be interrupted. It makes every loop and call a little slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// Only a signal ends it.
    #[default]
    None,
    /// When the engine's epoch has reached the store's deadline.
    Epochs,
}

/// What of the engine can be chosen: all that changes how code is compiled or run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// The compiler's optimisation level.
    pub optimise: Optimise,
    /// Whether [`settings::Limits::fuel`] can be given.
    pub fuel: Fuel,
    /// Whether [`settings::Limits::deadline`] can be given.
    pub interruption: Interruption,
    /// Bytes of stack a guest may use before it traps.
    pub stack: u64,
    /// The proposals of WebAssembly that are on.
    pub proposals: Proposals,
    /// Whether components may use what WASI 0.3 builds on.
    pub p3: P3,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self::of(&settings::engine::Engine::default(), &settings::Limits::default())
    }
}

impl EngineSettings {
    /// What was decided for a workload, and what enforcing its limits takes.
    #[must_use]
    pub fn of(engine: &settings::engine::Engine, limits: &settings::Limits) -> Self {
        let bounded = limits.deadline.is_some();
        Self {
            optimise: engine.optimise,
            fuel: if limits.fuel.is_some() { Fuel::Metered } else { Fuel::Unmetered },
            interruption: if bounded { Interruption::Epochs } else { Interruption::None },
            stack: limits.stack,
            proposals: engine.proposals,
            p3: engine.p3,
        }
    }

    /// The defaults, and what enforcing these limits takes.
    #[must_use]
    pub fn enforcing(limits: &settings::Limits) -> Self {
        Self::of(&settings::engine::Engine::default(), limits)
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
    settings: EngineSettings,
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
        Ok(Self { inner, compatibility, settings: settings.clone() })
    }

    /// Returns 16 hex digits that differ whenever native code of one engine would not suit
    /// another: other version, other settings, other processor features.
    #[must_use]
    pub fn compatibility(&self) -> &str {
        &self.compatibility
    }

    pub(crate) fn fuel(&self) -> Fuel {
        self.settings.fuel
    }

    pub(crate) fn interruption(&self) -> Interruption {
        self.settings.interruption
    }

    pub(crate) fn p3(&self) -> P3 {
        self.settings.p3
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
    let mut config = configure_all_but_proposals(settings);
    for proposal in Proposal::ALL {
        config.wasm_features(feature(proposal), settings.proposals.has(proposal));
    }
    config
}

fn configure_all_but_proposals(settings: &EngineSettings) -> Config {
    let stack = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut config = Config::new();
    config
        .cranelift_opt_level(match settings.optimise {
            Optimise::None => OptLevel::None,
            Optimise::Speed => OptLevel::Speed,
            Optimise::SpeedAndSize => OptLevel::SpeedAndSize,
        })
        // Compiling happens in a child of its own, where threads harm nobody.
        .parallel_compilation(true)
        .max_wasm_stack(stack(settings.stack))
        .async_stack_size(stack(settings.stack.saturating_add(HOST_STACK)))
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
        .epoch_interruption(settings.interruption == Interruption::Epochs)
        .wasm_component_model(true)
        // What is asynchronous in components is on wherever it is built in, unless it is refused.
        .concurrency_support(settings.p3 == P3::On);
    config
}

fn feature(proposal: Proposal) -> WasmFeatures {
    match proposal {
        Proposal::BulkMemory => WasmFeatures::BULK_MEMORY,
        Proposal::CustomPageSizes => WasmFeatures::CUSTOM_PAGE_SIZES,
        Proposal::Exceptions => WasmFeatures::EXCEPTIONS,
        Proposal::ExtendedConst => WasmFeatures::EXTENDED_CONST,
        Proposal::FunctionReferences => WasmFeatures::FUNCTION_REFERENCES,
        Proposal::Gc => WasmFeatures::GC,
        Proposal::Memory64 => WasmFeatures::MEMORY64,
        Proposal::MultiMemory => WasmFeatures::MULTI_MEMORY,
        Proposal::MultiValue => WasmFeatures::MULTI_VALUE,
        Proposal::ReferenceTypes => WasmFeatures::REFERENCE_TYPES,
        Proposal::RelaxedSimd => WasmFeatures::RELAXED_SIMD,
        Proposal::Simd => WasmFeatures::SIMD,
        Proposal::TailCall => WasmFeatures::TAIL_CALL,
        Proposal::WideArithmetic => WasmFeatures::WIDE_ARITHMETIC,
    }
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
    use std::time::Duration;

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
    fn the_engine_has_what_enforcing_the_limits_takes() {
        let of = |limits: settings::Limits| EngineSettings::enforcing(&limits);
        let default = settings::Limits::default();
        assert_eq!(of(default), EngineSettings::default());
        assert_eq!(of(settings::Limits { fuel: Some(1), ..default }).fuel, Fuel::Metered);
        let bounded = of(settings::Limits { deadline: Some(Duration::from_secs(1)), ..default });
        assert_eq!(bounded.interruption, Interruption::Epochs);
        assert_eq!(of(settings::Limits { stack: 1 << 20, ..default }).stack, 1 << 20);
    }

    #[test]
    fn other_settings_are_not_compatible() {
        let default = EngineSettings::default();
        let usual = Engine::new(&default).unwrap();
        let without = |proposal| {
            let rest = Proposal::ALL.into_iter().filter(|each| *each != proposal);
            Proposals::of(rest.filter(|each| default.proposals.has(*each)))
        };
        for other in [
            EngineSettings { optimise: Optimise::None, ..default.clone() },
            EngineSettings { fuel: Fuel::Metered, ..default.clone() },
            EngineSettings { interruption: Interruption::Epochs, ..default.clone() },
            EngineSettings { proposals: without(Proposal::RelaxedSimd), ..default.clone() },
            EngineSettings { proposals: Proposals::of(Proposal::ALL), ..default.clone() },
        ] {
            assert_ne!(Engine::new(&other).unwrap().compatibility(), usual.compatibility());
        }
        // The stack is not the code's matter, so that one compilation serves all sizes.
        let deep = EngineSettings { stack: 8 << 20, ..default.clone() };
        assert_eq!(Engine::new(&deep).unwrap().compatibility(), usual.compatibility());
    }

    #[test]
    fn the_usual_proposals_are_those_of_the_engine() {
        let settings = EngineSettings::default();
        let plain = wasmtime::Engine::new(&configure_all_but_proposals(&settings)).unwrap();
        assert_eq!(compatibility_of(&plain), Engine::new(&settings).unwrap().compatibility());
    }

    #[test]
    fn every_engine_that_can_be_asked_for_can_be_made() {
        let default = EngineSettings::default();
        let proposals = |on: &[Proposal]| Proposals::of(on.iter().copied());
        for proposals in [
            proposals(&[]),
            proposals(&[Proposal::Simd]),
            proposals(&[Proposal::ReferenceTypes, Proposal::Exceptions]),
            proposals(&[Proposal::ReferenceTypes, Proposal::FunctionReferences, Proposal::Gc]),
        ] {
            Engine::new(&EngineSettings { proposals, ..default.clone() }).unwrap();
        }
        for stack in [64 << 10, 64 << 20] {
            Engine::new(&EngineSettings { stack, ..default.clone() }).unwrap();
        }
    }
}
