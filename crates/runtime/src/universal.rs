//! The trait that every kind of container is driven through.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Error;
use crate::handle::{ContainerHandle, ContainerStatus, Exit, ExitStatus, Scope};
use crate::logs::{LogOptions, LogStream};
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
    /// [`Error::WrongState`] unless the container is created.
    async fn start(&self, container: &ContainerHandle) -> Result<(), Error>;

    /// Removes what the container held: its processes if it still has any, its
    /// cgroup, its state.
    ///
    /// # Errors
    /// Says what could not be removed.
    async fn delete(&self, container: &ContainerHandle) -> Result<(), Error>;

    /// Runs another process in a running container.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] where this build can't.
    async fn exec(
        &self,
        container: &ContainerHandle,
        command: Command,
        options: ExecOptions,
    ) -> Result<ContainerHandle, Error>;

    /// Streams what the container wrote.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] where this build can't.
    async fn logs(
        &self,
        container: &ContainerHandle,
        options: LogOptions,
    ) -> Result<LogStream, Error>;

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

    /// Returns what the container's cgroup counts.
    ///
    /// # Errors
    /// Returns the error of a counter that could not be read.
    async fn stats(&self, container: &ContainerHandle) -> Result<Stats, Error> {
        container.stats().await
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
