//! The one place that picks who runs a container.

use std::io;

use async_trait::async_trait;
use image::detect::Route;
use keeper::Spawned;
use keeper::client::Keeper;
use oci_spec::runtime::LinuxResources;

use crate::error::Error;
use crate::handle::{ContainerHandle, Kind};
use crate::linux::LinuxContainers;
use crate::probe;
use crate::process::Process;
use crate::spec::{Command, ContainerSpec, ExecOptions, RuntimeType, WasmEngine};
use crate::stats::Stats;
use crate::universal::UniversalContainer;
use crate::wasm::WasmContainers;

/// Runs both kinds of containers.
#[derive(Debug, Clone)]
pub struct Hybrid {
    linux: LinuxContainers,
    wasm: WasmContainers,
}

impl Hybrid {
    /// Runs containers through this keeper. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Returns the error of making the socket asynchronous.
    pub fn connect(keeper: Spawned) -> io::Result<Self> {
        let keeper = Keeper::connect(keeper)?;
        Ok(Self { linux: LinuxContainers::new(keeper.clone()), wasm: WasmContainers::new(keeper) })
    }

    /// Who runs this container.
    fn of(&self, container: &ContainerHandle) -> &dyn UniversalContainer {
        match container.0.kind {
            Kind::Linux => &self.linux,
            Kind::Wasm(_) => &self.wasm,
        }
    }
}

#[async_trait]
impl UniversalContainer for Hybrid {
    async fn create(&self, spec: ContainerSpec) -> Result<ContainerHandle, Error> {
        let detection = match spec.runtime {
            RuntimeType::Oci => return self.linux.create(spec).await,
            RuntimeType::Wasm(WasmEngine::Wasmtime) => return self.wasm.create(spec).await,
            RuntimeType::Hybrid(detection) => detection,
        };
        let (facts, decision) = probe::route(&spec, detection).await?;
        match decision.route {
            Route::Linux => self.linux.create(spec).await,
            Route::Wasm(source) => {
                let image = decision.image.and_then(|at| facts.images.get(at));
                self.wasm.create_from(spec, &source, image, &facts.pod).await
            }
        }
    }

    async fn start(&self, container: &ContainerHandle) -> Result<(), Error> {
        self.of(container).start(container).await
    }

    async fn delete(&self, container: &ContainerHandle) -> Result<(), Error> {
        self.of(container).delete(container).await
    }

    async fn exec(
        &self,
        container: &ContainerHandle,
        command: Command,
        options: ExecOptions,
    ) -> Result<Process, Error> {
        self.of(container).exec(container, command, options).await
    }

    async fn update(
        &self,
        container: &ContainerHandle,
        resources: LinuxResources,
    ) -> Result<(), Error> {
        self.of(container).update(container, resources).await
    }

    async fn stats(&self, container: &ContainerHandle) -> Result<Stats, Error> {
        self.of(container).stats(container).await
    }
}
