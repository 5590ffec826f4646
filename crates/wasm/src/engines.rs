//! The engines of one process, one for each way that code is compiled and run.
//!
//! An engine is made when the first guest asks for its settings, and kept: containers of one pod
//! may ask for different ones, and most ask for the same.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::engine::{Engine, EngineError, EngineSettings};

/// Engines by their settings, made on demand.
#[derive(Debug, Default)]
pub struct Engines(HashMap<EngineSettings, Engine>);

impl Engines {
    /// Returns the engine with these settings, the same one each time.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with(&mut self, settings: &EngineSettings) -> Result<Engine, EngineError> {
        match self.0.entry(settings.clone()) {
            Entry::Occupied(made) => Ok(made.get().clone()),
            Entry::Vacant(place) => Ok(place.insert(Engine::new(settings)?).clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Optimise;

    #[test]
    fn each_settings_have_one_engine() {
        let mut engines = Engines::default();
        let usual = engines.with(&EngineSettings::default()).unwrap();
        let quick = EngineSettings { optimise: Optimise::None, ..EngineSettings::default() };
        let other = engines.with(&quick).unwrap();
        assert_ne!(usual.compatibility(), other.compatibility());
        let again = engines.with(&EngineSettings::default()).unwrap();
        assert!(wasmtime::Engine::same(usual.wasmtime(), again.wasmtime()));
    }
}
