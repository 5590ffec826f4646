//! What a component finds beside the interfaces of WASI 0.2 themselves: its configuration
//! (`wasi:config`) and a store of keys and values (`wasi:keyvalue`).

use std::sync::Arc;

use wasmtime::component::Linker;
use wasmtime_wasi::WasiView;
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};

use crate::command::{Guest, Host};
use crate::keyvalue::{self, Store};

/// What all instances of one guest share. Clones are the same.
#[derive(Clone)]
pub(crate) struct Provided {
    config: Arc<WasiConfigVariables>,
    store: Store,
}

impl Provided {
    /// The configuration is what the annotations `com.wasm.config.*` say, and the environment where
    /// they say nothing; the store is empty.
    pub(crate) fn of(guest: &Guest) -> Self {
        let mut config = WasiConfigVariables::new();
        for (name, value) in guest.env.iter().filter_map(|variable| variable.split_once('=')) {
            config.insert(name, value);
        }
        for (name, value) in &guest.config {
            config.insert(name, value);
        }
        Self { config: Arc::new(config), store: Store::default() }
    }
}

/// Provides both.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi_config::add_to_linker(linker, |host| WasiConfig::from(&*host.provided.config))?;
    keyvalue::add_to_linker(linker, |host| keyvalue::View {
        store: &host.provided.store,
        table: host.wasi.ctx().table,
    })
}
