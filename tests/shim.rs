//! A shim driven by hand: its binary is started in a bundle of the test's own, and its task API is asked directly.
//!
//! containerd writes each config.json itself, makes every FIFO, and never sends a bad id: what a shim does with those
//! is only seen this way. The shim still gets the addresses of a real containerd.

mod process;
mod server;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use containerd_shim::protos::api::CreateTaskRequest;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use testkit::command::{Invocation, Output};
use testkit::containerd::{HYBRID, Release, runtime};
use testkit::guest;

pub use process::{Process, spec_type};
pub use server::{Answer, Denied, Server};

use crate::lab::{Lab, PATIENCE};

/// Whose shim is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The shim under test.
    Hybrid,
    /// The one whose answers clients know.
    Runc,
}

impl Peer {
    /// Returns the one that serves the runtime tests run with.
    pub fn under_test() -> Self {
        if runtime() == HYBRID { Self::Hybrid } else { Self::Runc }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Hybrid => "containerd-shim-hybrid-v1",
            Self::Runc => "containerd-shim-runc-v2",
        }
    }
}

/// A bundle folder: a config.json and a root filesystem.
#[derive(Debug, Clone)]
pub struct HandBundle {
    lab: Arc<Lab>,
    id: String,
    folder: PathBuf,
    spec: Value,
    containerd: PathBuf,
    peer: Peer,
}

impl HandBundle {
    /// Makes a bundle that runs a text guest of the test images as `/app.wasm`.
    ///
    /// # Errors
    /// When the guest cannot be assembled or the folder cannot be made.
    pub fn wasm(lab: &Arc<Lab>, guest: &str, args: &[&str]) -> Result<Self> {
        Self::wasm_module(lab, guest, &guest::wat(guest)?, args)
    }

    /// Makes a bundle that runs a module as `/app.wasm`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn wasm_module(lab: &Arc<Lab>, name: &str, module: &[u8], args: &[&str]) -> Result<Self> {
        let words: Vec<&str> = ["/app.wasm"].iter().chain(args).copied().collect();
        let bundle = Self::empty(lab, name, &words)?;
        fs::write(bundle.rootfs().join("app.wasm"), module).context("writing a guest")?;
        Ok(bundle)
    }

    /// Makes a bundle that runs one applet of busybox.
    ///
    /// # Errors
    /// When busybox is not installed or the folder cannot be made.
    pub fn linux(lab: &Arc<Lab>, words: &[&str]) -> Result<Self> {
        let bundle = Self::empty(lab, "linux", words)?;
        let bin = bundle.rootfs().join("bin");
        for folder in [&bin, &bundle.rootfs().join("proc"), &bundle.rootfs().join("dev")] {
            fs::create_dir_all(folder).context("making a root filesystem")?;
        }
        let bundle = bundle.configure(has_terminals)?;
        fs::copy("/usr/bin/busybox", bin.join("busybox")).context("copying busybox")?;
        for applet in ["cat", "echo", "id", "sh", "sleep", "stty", "true"] {
            symlink("busybox", bin.join(applet)).context("linking an applet")?;
        }
        Ok(bundle)
    }

    fn empty(lab: &Arc<Lab>, name: &str, words: &[&str]) -> Result<Self> {
        let id = lab.unique(name);
        let folder = lab.folder(&id)?;
        let spec = spec(lab.namespace(), &id, words);
        let containerd = lab.address().to_owned();
        let peer = Peer::Hybrid;
        let bundle = Self { lab: Arc::clone(lab), id, folder, spec, containerd, peer };
        fs::create_dir_all(bundle.rootfs()).context("making a root filesystem")?;
        fs::set_permissions(bundle.rootfs(), fs::Permissions::from_mode(0o755))
            .context("opening a root filesystem")?;
        bundle.write_spec()?;
        Ok(bundle)
    }

    /// Returns the container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the bundle's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the root filesystem's folder.
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Returns the path of config.json.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Returns the good spec, to be spoilt.
    pub fn spec(&self) -> Value {
        self.spec.clone()
    }

    /// Writes the good spec.
    ///
    /// # Errors
    /// When the folder takes no file.
    pub fn write_spec(&self) -> Result<()> {
        fs::write(self.config(), self.spec.to_string()).context("writing config.json")
    }

    /// Changes the good spec.
    ///
    /// # Errors
    /// When the folder takes no file.
    pub fn configure(mut self, change: impl FnOnce(&mut Value)) -> Result<Self> {
        change(&mut self.spec);
        self.write_spec()?;
        Ok(self)
    }

    /// Has the bundle served by another shim.
    #[must_use]
    pub fn by(mut self, peer: Peer) -> Self {
        self.peer = peer;
        self
    }

    /// Returns whose shim serves the bundle.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn release(&self) -> Release {
        self.lab.release()
    }

    /// Names another socket to the shim as containerd's.
    #[must_use]
    pub fn asking(mut self, containerd: &Path) -> Self {
        self.containerd = containerd.to_owned();
        self
    }

    /// Moves the bundle's content to another folder, such as a small file system.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn moved_to(mut self, folder: &Path) -> Result<Self> {
        let copied = Invocation::new("/bin/cp").args(["-a", "--"]);
        let content = self.folder.join(".");
        copied.arg(content).arg(folder).run()?.ok()?;
        self.folder = folder.to_owned();
        Ok(self)
    }

    /// Prepares the shim's binary in this bundle, with containerd's environment and `-id`, `-namespace`, `-address`.
    pub fn shim(&self, id: &str) -> Invocation {
        let address = self.containerd.display().to_string();
        // The daemon's own links have the names by which shims are told from other processes.
        let binaries = self.lab.state().with_file_name("bin");
        Invocation::new(binaries.join(self.peer.binary()))
            .directory(&self.folder)
            .env("PATH", binaries)
            .env("TTRPC_ADDRESS", format!("{address}.ttrpc"))
            .env("GRPC_ADDRESS", &address)
            .env("NAMESPACE", self.lab.namespace())
            .args(["-namespace", self.lab.namespace(), "-id", id, "-address", &address])
            .timeout(PATIENCE)
    }

    /// Runs `start`, as containerd does.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn start(&self) -> Result<Output> {
        self.shim(&self.id).arg("start").run()
    }

    /// Starts a shim and connects to it.
    ///
    /// # Errors
    /// When the shim does not start or does not listen.
    pub fn serve(&self) -> Result<Server> {
        Server::of(self)
    }

    /// Returns the request that creates the container without standard streams.
    pub fn request(&self) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.folder.display().to_string(),
            ..CreateTaskRequest::default()
        }
    }

    /// Makes the FIFO into which a shim logs, as containerd does, and holds its other end.
    fn log_reader(&self) -> Result<File> {
        let path = self.folder.join("log");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).context("making the shim's log")?;
        File::options().read(true).write(true).open(&path).context("opening the shim's log")
    }

    /// Returns the shim servers of this bundle that are alive.
    pub fn servers(&self) -> Vec<testkit::process::Process> {
        let ours = |process: &testkit::process::Process| process.arguments.contains(&self.id);
        self.lab.shims().into_iter().filter(ours).collect()
    }
}

/// Mounts where a Linux container's terminals are.
fn has_terminals(spec: &mut Value) {
    let mounts = spec["mounts"].as_array_mut().expect("a list of mounts");
    for (destination, kind, options) in [
        ("/dev", "tmpfs", &["nosuid", "mode=755", "size=64k"][..]),
        ("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    ] {
        mounts.push(json!({
            "destination": destination,
            "type": kind,
            "source": kind,
            "options": options,
        }));
    }
}

/// A small spec: namespaces of its own, and what containerd gives a Linux container at least.
fn spec(namespace: &str, id: &str, words: &[&str]) -> Value {
    let namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": words,
            "cwd": "/",
            "env": ["PATH=/bin"],
        },
        "root": {"path": "rootfs"},
        "mounts": [{
            "destination": "/proc",
            "type": "proc",
            "source": "proc",
            "options": ["nosuid", "noexec", "nodev"],
        }],
        "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{namespace}/{id}")},
    })
}
