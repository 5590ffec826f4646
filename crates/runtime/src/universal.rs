//! The trait that every kind of container is driven through.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use oci_spec::runtime::LinuxResources;
use tokio::sync::watch;

use crate::error::Error;
use crate::handle::{ContainerHandle, ContainerStatus, Scope};
use crate::logs::{LogOptions, LogStream};
use crate::memory::MemoryKills;
use crate::process::{Exit, ExitStatus, Process};
use crate::spec::{Command, ContainerSpec, ExecOptions};
use crate::stats::Stats;

/// Runs containers of one kind, or of several.
///
/// The states and transitions are those of the OCI runtime specification,
/// "Runtime and Lifecycle". Every method may be called concurrently.
#[async_trait]
pub trait UniversalContainer: Debug + Send + Sync {
    /// Makes the container's environment and its init process, which waits for
    /// [`UniversalContainer::start`].
    ///
    /// # Errors
    /// Says what was refused or failed; nothing of the container is left then.
    async fn create(&self, spec: ContainerSpec) -> Result<ContainerHandle, Error>;

    /// Lets the init process run the user's program.
    ///
    /// # Errors
    /// Says why it does not run; so for a container that was started before.
    async fn start(&self, container: &ContainerHandle) -> Result<(), Error>;

    /// Removes what the container held: its processes if it still has any, its
    /// cgroup, its state.
    ///
    /// # Errors
    /// Says what could not be removed.
    async fn delete(&self, container: &ContainerHandle) -> Result<(), Error>;

    /// Runs another process in a container that was created and has not stopped:
    /// with the identity, arguments and environment of the command, and in all else
    /// confined as the container is.
    ///
    /// # Errors
    /// Says why it does not run; nothing of it is left then.
    async fn exec(
        &self,
        container: &ContainerHandle,
        command: Command,
        options: ExecOptions,
    ) -> Result<Process, Error>;

    /// Changes the container's resource limits while it runs. What `resources` leaves
    /// out stays as it is.
    ///
    /// # Errors
    /// Says which limit could not be set; the others are as before then.
    async fn update(
        &self,
        container: &ContainerHandle,
        resources: LinuxResources,
    ) -> Result<(), Error>;

    /// Returns what the container uses.
    ///
    /// # Errors
    /// Returns the error of a counter that could not be read.
    async fn stats(&self, container: &ContainerHandle) -> Result<Stats, Error>;

    /// Streams what the container wrote, where that is kept
    /// ([`crate::ContainerSpec::log`]).
    ///
    /// # Errors
    /// [`Error::NotFound`] for a container whose output went elsewhere.
    async fn logs(
        &self,
        container: &ContainerHandle,
        options: LogOptions,
    ) -> Result<LogStream, Error> {
        container.logs(options).await
    }

    /// Asks the init process to end with SIGTERM, and ends every process of the
    /// container with SIGKILL once `timeout` has passed.
    ///
    /// # Errors
    /// Returns the error of a signal that could not be sent.
    async fn stop(
        &self,
        container: &ContainerHandle,
        timeout: Duration,
    ) -> Result<ExitStatus, Error> {
        container.stop(timeout).await
    }

    /// Returns the container's state, process, exit status and times.
    ///
    /// # Errors
    /// None today; a kind whose state lives elsewhere may fail.
    async fn status(&self, container: &ContainerHandle) -> Result<ContainerStatus, Error> {
        Ok(container.status())
    }

    /// Stops the container's processes where they are.
    ///
    /// # Errors
    /// Says why they go on.
    async fn pause(&self, container: &ContainerHandle) -> Result<(), Error> {
        container.pause().await
    }

    /// Lets a paused container's processes go on.
    ///
    /// # Errors
    /// Says why they do not.
    async fn resume(&self, container: &ContainerHandle) -> Result<(), Error> {
        container.resume().await
    }

    /// Tells how often the kernel has killed in the container for lack of memory.
    /// The count is complete once [`UniversalContainer::wait`] has returned.
    fn memory_kills(&self, container: &ContainerHandle) -> watch::Receiver<MemoryKills> {
        container.memory_kills()
    }

    /// Ends the processes that outlive the container's init, because they live in a
    /// PID namespace which is not the container's alone.
    ///
    /// # Errors
    /// Returns the error of a signal that could not be sent.
    async fn end_others(&self, container: &ContainerHandle) -> Result<(), Error> {
        container.end_others().await
    }

    /// Sends a signal, by number, to the init process or to every process.
    ///
    /// # Errors
    /// [`Error::NotFound`] once the init process has ended.
    async fn signal(
        &self,
        container: &ContainerHandle,
        signal: i32,
        scope: Scope,
    ) -> Result<(), Error> {
        container.signal(signal, scope).await
    }

    /// Waits for the init process to end.
    ///
    /// # Errors
    /// None today; a kind whose processes live elsewhere may fail.
    async fn wait(&self, container: &ContainerHandle) -> Result<Exit, Error> {
        Ok(container.wait().await)
    }

    /// Returns the process ids of the container, in the caller's process namespace.
    ///
    /// # Errors
    /// Returns the error of reading the cgroup.
    async fn processes(&self, container: &ContainerHandle) -> Result<Vec<i32>, Error> {
        container.processes().await
    }
}
