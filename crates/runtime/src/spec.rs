//! What a container is to be: the input of `create`.

use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use image::Digest;
use image::annotations::Wanted;
use image::detect::ImageFacts;
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxResources, Mount, Process, Spec};

use settings::{Caching, Policy};

use crate::error::Error;

pub use sys::stdio::Stdio;

/// A container to create.
///
/// The bundle's `config.json` is the one source of its environment, mounts,
/// network, resources and security; the methods read them from there.
#[derive(Debug)]
pub struct ContainerSpec {
    /// The container's id, already checked to be a safe folder name.
    pub id: String,
    /// The bundle: `config.json` and the mounted root filesystem are in it.
    pub bundle: PathBuf,
    /// The parsed `config.json`.
    pub oci: Arc<Spec>,
    /// What is known of the image.
    pub image: Arc<dyn Image>,
    /// Who is to run it.
    pub runtime: RuntimeType,
    /// What it gets and may ask for, should it be wasm.
    pub policy: Policy,
    /// Whether the guest's native code may come from the node's cache, and go there.
    pub caching: Caching,
    /// Who owns it.
    pub metadata: Metadata,
    /// Standard input, output and error of the init process.
    pub stdio: Stdio,
    /// The file that the output is kept in, where the runtime is to keep it.
    pub log: Option<PathBuf>,
}

/// What the caller knows of a container's image.
#[async_trait]
pub trait Image: Debug + Send + Sync {
    /// Returns what the image's manifest and configuration say: one entry for
    /// each platform of it that is here and may be the one `wanted`, the
    /// likeliest first. Empty when the caller has no image (Docker, a bare root
    /// filesystem).
    ///
    /// # Errors
    /// Says what could not be read. An image that can't be looked at is never
    /// taken for one that is not there.
    async fn facts(&self, wanted: Wanted) -> Result<Arc<Vec<ImageFacts>>, Error>;

    /// Returns a layer's bytes as a file, verified against its digest.
    ///
    /// # Errors
    /// Says why the layer can't be had.
    async fn layer(&self, digest: &Digest, size: u64) -> Result<File, Error>;
}

/// Whose container it is.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// containerd's namespace, or empty.
    pub namespace: String,
}

/// Who is to run a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeType {
    /// As a Linux container, by libcontainer: the one OCI runtime built in.
    Oci,
    /// As a wasm container.
    Wasm(WasmEngine),
    /// By what the image turns out to be.
    Hybrid(Detection),
}

/// How a [`RuntimeType::Hybrid`] container is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detection {
    /// By every strategy, in their documented order.
    Auto,
    /// By the runtime hint alone; without one it is a Linux container.
    HintOnly,
}

/// The ways of telling what an image is, in the order they are asked.
pub type DetectionStrategy = image::detect::Strategy;

/// A wasm engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WasmEngine {
    /// Built in.
    Wasmtime,
}

impl ContainerSpec {
    /// The process to run.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] when `config.json` has none.
    pub fn process(&self) -> Result<&Process, Error> {
        self.oci.process().as_ref().ok_or_else(|| {
            Error::InvalidSpec(format!(
                "config.json of {} has no process: it must say what to run",
                self.bundle.display()
            ))
        })
    }

    /// The environment of the process, as `NAME=value`.
    #[must_use]
    pub fn environment(&self) -> &[String] {
        self.oci.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default()
    }

    /// The mounts, in order.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        self.oci.mounts().as_deref().unwrap_or_default()
    }

    /// The namespaces, of which the network namespace is the container's network.
    #[must_use]
    pub fn network(&self) -> Option<&LinuxNamespace> {
        self.linux()?
            .namespaces()
            .as_ref()?
            .iter()
            .find(|namespace| namespace.typ() == oci_spec::runtime::LinuxNamespaceType::Network)
    }

    /// The resource limits.
    #[must_use]
    pub fn resources(&self) -> Option<&LinuxResources> {
        self.linux()?.resources().as_ref()
    }

    /// What the container is confined by.
    #[must_use]
    pub fn security(&self) -> Option<&oci_spec::runtime::LinuxSeccomp> {
        self.linux()?.seccomp().as_ref()
    }

    /// The root filesystem, as an absolute path.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] when `config.json` has no root.
    pub fn rootfs(&self) -> Result<PathBuf, Error> {
        let root = self.oci.root().as_ref().ok_or_else(|| {
            Error::InvalidSpec(format!(
                "config.json of {} has no root: it must name the root filesystem",
                self.bundle.display()
            ))
        })?;
        Ok(self.bundle.join(root.path()))
    }

    fn linux(&self) -> Option<&Linux> {
        self.oci.linux().as_ref()
    }
}

/// A process to run in a running container.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program, arguments, environment, user.
    pub process: Process,
}

/// Where an exec'd process reads and writes.
#[derive(Debug)]
pub struct ExecOptions {
    /// Standard input, output and error.
    pub stdio: Stdio,
}
