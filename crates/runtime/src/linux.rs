//! Linux containers behind the trait, through libcontainer in the keeper.

use std::path::Path;
use std::process::Stdio;

use async_trait::async_trait;
use keeper::client::Keeper;
use keeper::message::{Failure, LinuxContainer};
use oci_spec::runtime::LinuxResources;
use sys::cgroup::Location;

use crate::error::Error;
use crate::handle::{Container, ContainerHandle, Kind};
use crate::logs::Kept;
use crate::process::Process;
use crate::record::{self, Record};
use crate::spec::{Command, ContainerSpec, ExecOptions};
use crate::stats::Stats;
use crate::universal::UniversalContainer;

/// Runs Linux containers.
#[derive(Debug, Clone)]
pub struct LinuxContainers {
    keeper: Keeper,
}

impl LinuxContainers {
    /// Runs containers through this keeper.
    #[must_use]
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper }
    }

    /// Removes state and cgroup; nothing of the container runs any more.
    async fn remove(&self, container: LinuxContainer) -> Result<(), Error> {
        let bundle = container.bundle.clone();
        if self.keeper.is_gone() {
            return remove_without_keeper(&bundle).await;
        }
        self.keeper.delete_linux(container).await?;
        record::forget(bundle).await
    }

    fn of(container: &Container) -> LinuxContainer {
        LinuxContainer {
            state_root: record::state_root(&container.bundle),
            id: container.id.clone(),
            bundle: container.bundle.clone(),
        }
    }
}

#[async_trait]
impl UniversalContainer for LinuxContainers {
    async fn create(&self, mut spec: ContainerSpec) -> Result<ContainerHandle, Error> {
        let log = Kept::begin(&mut spec)?;
        let location = cgroup_location(&spec)?;
        let keeper = self.keeper.identity();
        let record = Record { id: spec.id.clone(), cgroup: location.clone(), keeper };
        record::begin(spec.bundle.clone(), record).await?;
        let create = linux::CreateRequest {
            id: spec.id.clone(),
            bundle: spec.bundle.clone(),
            spec: Box::new(oci_spec::runtime::Spec::clone(&spec.oci)),
            state_root: record::state_root(&spec.bundle),
        };
        match self.keeper.create_linux(create, &spec.stdio).await {
            Ok(created) => {
                let init = Process::new(created);
                let container = Container::new(spec, location, Kind::Linux, log, init);
                Ok(ContainerHandle(container.into()))
            }
            Err(Failure::Lost(why)) => {
                let state_root = record::state_root(&spec.bundle);
                let (id, bundle) = (spec.id, spec.bundle);
                let half_made = LinuxContainer { state_root, id, bundle };
                Err(Error::Runtime(match self.remove(half_made).await {
                    Ok(()) => why,
                    Err(left) => format!("{why}; and then: {left}"),
                }))
            }
            Err(failure) => {
                record::forget(spec.bundle).await?;
                Err(failure.into())
            }
        }
    }

    async fn start(&self, container: &ContainerHandle) -> Result<(), Error> {
        let start = self.keeper.start_linux(Self::of(&container.0));
        container.0.start_by(start).await
    }

    async fn delete(&self, container: &ContainerHandle) -> Result<(), Error> {
        container.0.kill_and_wait().await?;
        self.remove(Self::of(&container.0)).await?;
        if !container.0.bundle.exists() {
            // Somebody has removed it, and with it the state that says where the cgroup is.
            container.0.remove_cgroup().await?;
        }
        Ok(())
    }

    async fn exec(
        &self,
        container: &ContainerHandle,
        command: Command,
        options: ExecOptions,
    ) -> Result<Process, Error> {
        let LinuxContainer { state_root, id, .. } = Self::of(&container.0);
        let process = Box::new(command.process);
        let exec = linux::ExecRequest { id, state_root, process };
        Ok(Process::new(self.keeper.exec_linux(exec, &options.stdio).await?))
    }

    async fn update(
        &self,
        container: &ContainerHandle,
        resources: LinuxResources,
    ) -> Result<(), Error> {
        container.update(resources).await
    }

    async fn stats(&self, container: &ContainerHandle) -> Result<Stats, Error> {
        Ok(Stats { cgroup: container.usage().await?, guest: None })
    }
}

/// Removes a container in a process of its own: this program, asked to delete, as
/// containerd asks it when a shim is gone.
async fn remove_without_keeper(bundle: &Path) -> Result<(), Error> {
    let output = tokio::process::Command::new("/proc/self/exe")
        .arg0("containerd-shim-hybrid-v1")
        .args(["-bundle".as_ref(), bundle.as_os_str(), "delete".as_ref()])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Error::Runtime(format!("cannot run the removal of the container: {error}"))
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Runtime(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Where the container's cgroup is to be.
pub(crate) fn cgroup_location(spec: &ContainerSpec) -> Result<Location, Error> {
    let path = spec.oci.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let text = path.map(|path| path.to_string_lossy());
    Location::parse(text.as_deref(), &spec.id)
        .map_err(|error| Error::InvalidSpec(format!("linux.cgroupsPath of config.json: {error}")))
}
