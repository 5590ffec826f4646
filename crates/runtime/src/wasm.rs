//! Wasm containers behind the trait, through our own sandbox and engine in the
//! keeper.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use async_trait::async_trait;
use image::annotations::{Annotations, FILESYSTEM_WRITE};
use image::detect::{self, ImageFacts, Source};
use image::{Digest, entrypoint};
use keeper::client::{Created, Keeper};
use keeper::message::{CreateWasm, Failure};
use sys::error::chain;
use wasm::command::{Access, Guest};
use wasm::sandbox::SandboxPlan;

use crate::error::Error;
use crate::handle::{Container, ContainerHandle, Kind, blocking};
use crate::hooks::Hooks;
use crate::logs::{LogOptions, LogStream};
use crate::probe;
use crate::record::{self, Record};
use crate::spec::{Command, ContainerSpec, ExecOptions, Image};
use crate::universal::UniversalContainer;

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
        spec: ContainerSpec,
        source: &Source,
        image: Option<&ImageFacts>,
        pod: &Annotations,
    ) -> Result<ContainerHandle, Error> {
        let sandbox = SandboxPlan::from_spec(&spec.oci, &spec.id, &spec.bundle)
            .map_err(|error| Error::InvalidSpec(chain(&error)))?;
        let hooks = Hooks::from_spec(&spec.oci, &spec.id, &spec.bundle)?;
        let location = sandbox.cgroup.clone();
        check_requests(image, source, pod, &writable(&sandbox))?;
        let guest = guest_of(&spec, image, source)?;
        let module = Module::locate(&spec, source).await?;
        let keeper = self.keeper.identity();
        let record = Record { id: spec.id.clone(), cgroup: location.clone(), keeper };
        record::begin(spec.bundle.clone(), record).await?;
        let created = match self.make(&spec, &module, sandbox, guest).await {
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
        let container = Container::new(spec.id, spec.bundle, location, Kind::Wasm(hooks), created);
        let handle = ContainerHandle(container.into());
        let Kind::Wasm(hooks) = &handle.0.kind else { unreachable!("made just above") };
        if let Err(error) = hooks.before_start(pid).await {
            return Err(match self.delete(&handle).await {
                Ok(()) => error,
                Err(left) => {
                    Error::Runtime(format!("{error}; undoing the create failed too: {left}"))
                }
            });
        }
        Ok(handle)
    }

    /// Asks the keeper, bringing the module's bytes only if it needs them.
    async fn make(
        &self,
        spec: &ContainerSpec,
        module: &Module,
        sandbox: SandboxPlan,
        guest: Guest,
    ) -> Result<Created, Error> {
        let digest = module.digest;
        let create = CreateWasm { sandbox, guest, module: digest };
        match self.keeper.create_wasm(create.clone(), &spec.stdio, None).await {
            Err(Failure::NotCompiled) => {
                let bytes = module.bytes(&*spec.image).await?;
                Ok(self.keeper.create_wasm(create, &spec.stdio, Some(bytes.as_fd())).await?)
            }
            made => Ok(made?),
        }
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
        self.keeper.start_wasm(container.0.pid).await?;
        container.0.mark_started();
        if let Kind::Wasm(hooks) = &container.0.kind {
            hooks.after_start(container.0.pid).await;
        }
        Ok(())
    }

    async fn delete(&self, container: &ContainerHandle) -> Result<(), Error> {
        container.0.kill_and_wait().await?;
        container.0.remove_cgroup().await?;
        record::forget(container.0.bundle.clone()).await?;
        if let Kind::Wasm(hooks) = &container.0.kind {
            hooks.after_stop().await;
        }
        Ok(())
    }

    async fn exec(
        &self,
        _container: &ContainerHandle,
        _command: Command,
        _options: ExecOptions,
    ) -> Result<ContainerHandle, Error> {
        Err(Error::NotBuilt("exec is not built yet for wasm containers".to_owned()))
    }

    async fn logs(&self, _: &ContainerHandle, _: LogOptions) -> Result<LogStream, Error> {
        Err(Error::NotBuilt("reading logs back from a container is not built yet".to_owned()))
    }
}

/// The module of a container: its digest, and where its bytes are.
struct Module {
    digest: Digest,
    bytes: Bytes,
}

enum Bytes {
    Layer { size: u64 },
    File(File),
}

impl Module {
    async fn locate(spec: &ContainerSpec, source: &Source) -> Result<Self, Error> {
        match source {
            Source::Layer { digest, size } => {
                Ok(Self { digest: *digest, bytes: Bytes::Layer { size: *size } })
            }
            Source::File { path } => {
                let (digest, file) = probe::module_file(spec.rootfs()?, path.into()).await?;
                Ok(Self { digest, bytes: Bytes::File(file) })
            }
        }
    }

    async fn bytes(&self, image: &dyn Image) -> Result<File, Error> {
        match &self.bytes {
            Bytes::Layer { size } => image.layer(&self.digest, *size).await,
            Bytes::File(file) => file.try_clone().map_err(|error| {
                Error::Runtime(format!("cannot duplicate the module's descriptor: {error}"))
            }),
        }
    }
}

/// Refuses what the image or the pod asks for beyond what this version grants.
fn check_requests(
    image: Option<&ImageFacts>,
    source: &Source,
    pod: &Annotations,
    writable: &[PathBuf],
) -> Result<(), Error> {
    let refused = |error: image::annotations::AnnotationError| Error::InvalidSpec(chain(&error));
    let asked = match image {
        Some(image) => image.annotations_for(source).map_err(refused)?,
        None => Annotations::default(),
    };
    let request = settings::capabilities::parse(&asked, pod)
        .map_err(|error| Error::InvalidSpec(chain(&error)))?;
    request.without_network().map_err(|error| Error::InvalidSpec(chain(&error)))?;
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
        limits: spec.limits,
    };
    guest.check().map_err(|error| Error::InvalidSpec(chain(&error)))?;
    Ok(guest)
}
