//! Wasm containers behind the trait, through our own sandbox and engine in the
//! keeper.

use std::path::PathBuf;

use async_trait::async_trait;
use image::annotations::{Annotations, FILESYSTEM_WRITE, WIT_WORLD};
use image::detect::{self, ImageFacts, Source};
use image::entrypoint;
use image::quoted::Quoted;
use keeper::client::Keeper;
use keeper::message::CreateWasm;
use oci_spec::runtime::LinuxResources;
use sys::error::chain;
use wasm::command::{Access, Guest};
use wasm::entry::Entry;
use wasm::sandbox::SandboxPlan;
use wasm::world::Asked;

mod exec;
mod guests;
mod make;
mod module;

pub(crate) use guests::Guests;

use crate::error::Error;
use crate::handle::{Container, ContainerHandle, Kind, blocking};
use crate::hooks::Hooks;
use crate::logs::Kept;
use crate::probe;
use crate::process::Process;
use crate::record::{self, Record};
use crate::spec::{Command, ContainerSpec, ExecOptions};
use crate::stats::Stats;
use crate::universal::UniversalContainer;

use guests::{Own, Runs};
use make::{Make, What};
use module::Module;

/// Runs wasm containers.
#[derive(Debug, Clone)]
pub struct WasmContainers {
    keeper: Keeper,
}

impl WasmContainers {
    /// Runs containers through this keeper.
    #[must_use]
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper }
    }

    /// Creates a container that runs the module at `source`.
    ///
    /// # Errors
    /// As [`UniversalContainer::create`].
    pub(crate) async fn create_from(
        &self,
        mut spec: ContainerSpec,
        source: &Source,
        image: Option<&ImageFacts>,
        pod: &Annotations,
    ) -> Result<ContainerHandle, Error> {
        let log = Kept::begin(&mut spec)?;
        let sandbox = SandboxPlan::from_spec(&spec.oci, &spec.id, &spec.bundle)
            .map_err(|error| Error::InvalidSpec(chain(&error)))?;
        let hooks = Hooks::from_spec(&spec.oci, &spec.id, &spec.bundle)?;
        let location = sandbox.cgroup.clone();
        let asked = annotations_of(image, source)?;
        check_requests(&asked, pod, &writable(&sandbox))?;
        let cgroup_memory = sandbox.resources.as_ref().and_then(guests::memory_limit);
        let workload =
            settings::policy::decide(&spec.policy, &asked, pod, cgroup_memory).map_err(invalid)?;
        let (http, world) = (workload.http, world_of(&asked.replaced_by(pod))?);
        let args = spec.process()?.args().clone().unwrap_or_default();
        let own = Own { args, source: source.clone(), image: image.cloned() };
        let module = Module::locate(spec.rootfs()?, source).await?;
        let what = Runs { module: module.digest, own, workload };
        let guests = Guests::new(&spec, &sandbox, hooks, what)?;
        let guest = guest_of(&spec, image, source, &guests)?;
        let guest = Guest { http: Some(http), world, ..guest };
        let keeper = self.keeper.identity();
        let record = Record { id: spec.id.clone(), cgroup: location.clone(), keeper };
        record::begin(spec.bundle.clone(), record).await?;
        let (engine, caching) = (guests.engine(), guests.caching);
        let create = CreateWasm { sandbox, guest, module: module.digest, engine, caching };
        let make = Make { keeper: &self.keeper, gauge: &guests.gauge, stdio: &spec.stdio };
        let created = match make.with(&module, &*spec.image, What::Init(create)).await {
            Ok(created) => created,
            Err(failure) => {
                // Usually gone already; after the keeper's own end it is not.
                let left = blocking("remove the cgroup", move || sys::cgroup::remove(&location));
                return Err(match left.await {
                    Ok(()) => {
                        record::forget(spec.bundle).await?;
                        failure
                    }
                    Err(left) => Error::Runtime(format!("{failure}; and then: {left}")),
                });
            }
        };
        let pid = created.pid;
        let (kind, init) = (Kind::Wasm(Box::new(guests)), Process::new(created));
        let handle = ContainerHandle(Container::new(spec, location, kind, log, init).into());
        if let Err(error) = guests_of(&handle)?.hooks.before_start(pid).await {
            return Err(match self.delete(&handle).await {
                Ok(()) => error,
                Err(left) => {
                    Error::Runtime(format!("{error}; undoing the create failed too: {left}"))
                }
            });
        }
        Ok(handle)
    }
}

#[async_trait]
impl UniversalContainer for WasmContainers {
    async fn create(&self, spec: ContainerSpec) -> Result<ContainerHandle, Error> {
        let (facts, source) = probe::wasm_source(&spec).await?;
        let image = detect::choose(&facts).and_then(|at| facts.images.get(at));
        self.create_from(spec, &source, image, &facts.pod).await
    }

    async fn start(&self, container: &ContainerHandle) -> Result<(), Error> {
        let pid = container.pid();
        container.0.start_by(self.keeper.start_wasm(pid)).await?;
        guests_of(container)?.hooks.after_start(pid).await;
        Ok(())
    }

    async fn delete(&self, container: &ContainerHandle) -> Result<(), Error> {
        container.0.kill_and_wait().await?;
        container.0.remove_cgroup().await?;
        record::forget(container.0.bundle.clone()).await?;
        guests_of(container)?.hooks.after_stop().await;
        Ok(())
    }

    async fn exec(
        &self,
        container: &ContainerHandle,
        command: Command,
        options: ExecOptions,
    ) -> Result<Process, Error> {
        exec::exec(&self.keeper, container, guests_of(container)?, &command, &options).await
    }

    async fn update(
        &self,
        container: &ContainerHandle,
        resources: LinuxResources,
    ) -> Result<(), Error> {
        let guests = guests_of(container)?;
        let Some(memory) = guests::memory_limit(&resources) else {
            return container.update(resources).await;
        };
        // Whichever is lower goes first: never may a guest take what its cgroup kills for.
        let before = guests.cgroup_memory();
        if guests.is_lowered_by(memory) {
            guests.follow(Some(memory))?;
            let updated = container.update(resources).await;
            return updated.or_else(|error| guests.follow(before).and(Err(error)));
        }
        container.update(resources).await?;
        guests.follow(Some(memory))
    }

    async fn stats(&self, container: &ContainerHandle) -> Result<Stats, Error> {
        let guest = Some(guests_of(container)?.stats()?);
        Ok(Stats { cgroup: container.usage().await?, guest })
    }
}

/// What is kept of a wasm container.
fn guests_of(container: &ContainerHandle) -> Result<&Guests, Error> {
    match &container.0.kind {
        Kind::Wasm(guests) => Ok(guests),
        Kind::Linux => Err(Error::InvalidRuntimeType(format!(
            "container {} is no wasm container",
            container.id()
        ))),
    }
}

fn invalid(error: impl std::error::Error) -> Error {
    Error::InvalidSpec(chain(&error))
}

/// What the image says of the module that runs.
fn annotations_of(image: Option<&ImageFacts>, source: &Source) -> Result<Annotations, Error> {
    let found = image.map(|image| image.annotations_for(source)).transpose();
    found.map(Option::unwrap_or_default).map_err(invalid)
}

/// The world that image and pod say the program is of, as far as that decides how it is run.
fn world_of(annotations: &Annotations) -> Result<Option<Asked>, Error> {
    let Some(entry) = annotations.get(WIT_WORLD) else { return Ok(None) };
    Asked::parse(&entry.value).map_err(|error| {
        Error::InvalidSpec(format!(
            "annotation {WIT_WORLD} of {} is {}; {error}",
            entry.origin,
            Quoted(&entry.value)
        ))
    })
}

/// Refuses what the image or the pod asks for beyond what this version grants.
fn check_requests(
    image: &Annotations,
    pod: &Annotations,
    writable: &[PathBuf],
) -> Result<(), Error> {
    let request = settings::capabilities::parse(image, pod).map_err(invalid)?;
    request.without_network().map_err(invalid)?;
    let beyond = request.files.writes_beyond(writable);
    match beyond {
        None => Ok(()),
        Some(path) => Err(Error::InvalidSpec(format!(
            "{FILESYSTEM_WRITE} asks to write {path}, and a guest may write only {}: mount a writable \
             folder there, or ask for less",
            writable
                .iter()
                .map(|granted| granted.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}

/// The folders that the sandbox lets the guest write to.
fn writable(sandbox: &SandboxPlan) -> Vec<PathBuf> {
    let granted = sandbox.grants.iter().filter(|grant| grant.access == Access::ReadWrite);
    granted.map(|grant| PathBuf::from(&grant.guest)).collect()
}

/// What the guest sees of `process`.
fn guest_of(
    spec: &ContainerSpec,
    image: Option<&ImageFacts>,
    source: &Source,
    guests: &Guests,
) -> Result<Guest, Error> {
    let process = spec.process()?;
    let layer = image.and_then(|image| match source {
        Source::Layer { digest, .. } => {
            image.wasm_layers.iter().find(|layer| layer.digest == *digest)
        }
        Source::File { .. } => None,
    });
    let given = process.args().as_deref().unwrap_or_default();
    let guest = Guest {
        args: entrypoint::guest_arguments(given, layer),
        env: process.env().clone().unwrap_or_default(),
        entry: Entry::Command,
        limits: guests.limits(),
        config: guests.config(),
        http: None,
        world: None,
    };
    guest.check().map_err(|error| Error::InvalidSpec(chain(&error)))?;
    Ok(guest)
}
