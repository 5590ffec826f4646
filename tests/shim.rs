//! A shim driven by hand: its binary is started in a bundle of the test's own, and its task API is asked directly.
//!
//! containerd writes each config.json itself, makes every FIFO, and never sends a bad id: what a shim does with those
//! is only seen this way. The shim still gets the addresses of a real containerd.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use containerd_shim::protos::api::{
    CreateTaskRequest, DeleteRequest, DeleteResponse, KillRequest, ShutdownRequest, StartRequest,
    StateRequest, WaitRequest,
};
use containerd_shim::protos::shim_sync::{Client, TaskClient};
use containerd_shim::protos::ttrpc::{self, context};
use containerd_shim::protos::types::task::Status;
use serde_json::{Value, json};
use testkit::command::{Invocation, Output};
use testkit::guest;
use testkit::process::Process;

use crate::lab::{Lab, PATIENCE};

/// What ends a container that must not outlive its test.
const SIGKILL: i32 = 9;

/// A bundle folder: a config.json and a root filesystem.
#[derive(Debug, Clone)]
pub struct HandBundle {
    lab: Arc<Lab>,
    id: String,
    folder: PathBuf,
    spec: Value,
    containerd: PathBuf,
}

impl HandBundle {
    /// Makes a bundle that runs a text guest of the test images as `/app.wasm`.
    ///
    /// # Errors
    /// When the guest cannot be assembled or the folder cannot be made.
    pub fn wasm(lab: &Arc<Lab>, guest: &str, args: &[&str]) -> Result<Self> {
        let words: Vec<&str> = ["/app.wasm"].iter().chain(args).copied().collect();
        let bundle = Self::empty(lab, guest, &words)?;
        fs::write(bundle.rootfs().join("app.wasm"), guest::wat(guest)?)
            .context("writing a guest")?;
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
        fs::copy("/usr/bin/busybox", bin.join("busybox")).context("copying busybox")?;
        for applet in ["sh", "sleep", "echo", "true"] {
            symlink("busybox", bin.join(applet)).context("linking an applet")?;
        }
        Ok(bundle)
    }

    fn empty(lab: &Arc<Lab>, name: &str, words: &[&str]) -> Result<Self> {
        let id = lab.unique(name);
        let folder = lab.folder(&id)?;
        let spec = spec(lab.namespace(), &id, words);
        let containerd = lab.address().to_owned();
        let bundle = Self { lab: Arc::clone(lab), id, folder, spec, containerd };
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
        // The daemon's own link has the name by which shims are told from other processes.
        let binary = self.lab.state().with_file_name("bin").join("containerd-shim-hybrid-v1");
        Invocation::new(binary)
            .directory(&self.folder)
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
        let answer = self.start()?.ok()?.stdout;
        // Some shims answer with the address alone, some with JSON around it.
        let rest = answer.find("unix://").map(|at| &answer[at..]).context("no address")?;
        let address = rest.split(['"', '\n']).next().unwrap_or_default().to_owned();
        let client = Client::connect(&address).context("connecting to the shim")?;
        Ok(Server { client: TaskClient::new(client), address, bundle: self.clone() })
    }

    /// Returns the shim servers of this bundle that are alive.
    pub fn servers(&self) -> Vec<Process> {
        let ours = |process: &Process| process.arguments.contains(&self.id);
        self.lab.shims().into_iter().filter(ours).collect()
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

/// Why a request was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub code: ttrpc::Code,
    pub message: String,
}

/// A shim that serves one bundle. Dropping it ends it and its container.
pub struct Server {
    client: TaskClient,
    address: String,
    bundle: HandBundle,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What a call gave.
pub type Answer<T> = std::result::Result<T, Denied>;

fn patience() -> context::Context {
    context::with_duration(PATIENCE)
}

fn denied(error: ttrpc::Error) -> Denied {
    match error {
        ttrpc::Error::RpcStatus(status) => {
            let code = status.code.enum_value().unwrap_or(ttrpc::Code::UNKNOWN);
            Denied { code, message: status.message }
        }
        other => Denied { code: ttrpc::Code::UNAVAILABLE, message: other.to_string() },
    }
}

impl Server {
    /// Returns the path of the shim's socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(self.address.trim_start_matches("unix://"))
    }

    /// Returns the request that creates the bundle's container without standard streams.
    pub fn request(&self) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.bundle.id.clone(),
            bundle: self.bundle.folder.display().to_string(),
            ..CreateTaskRequest::default()
        }
    }

    /// Creates the container and returns its pid.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn create(&self) -> Answer<u32> {
        self.create_by(&self.request())
    }

    /// Sends any create request.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn create_by(&self, request: &CreateTaskRequest) -> Answer<u32> {
        self.client.create(patience(), request).map(|response| response.pid).map_err(denied)
    }

    /// Starts the container.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn start(&self) -> Answer<u32> {
        let request = StartRequest { id: self.bundle.id.clone(), ..StartRequest::default() };
        self.client.start(patience(), &request).map(|response| response.pid).map_err(denied)
    }

    /// Sends the container's first process a signal.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn kill(&self, signal: i32) -> Answer<()> {
        let request = KillRequest {
            id: self.bundle.id.clone(),
            signal: signal.cast_unsigned(),
            ..KillRequest::default()
        };
        self.client.kill(patience(), &request).map(|_| ()).map_err(denied)
    }

    /// Waits for the end and returns the exit status.
    ///
    /// # Errors
    /// When the shim denies it, or nothing ends in time.
    pub fn wait(&self) -> Answer<u32> {
        let request = WaitRequest { id: self.bundle.id.clone(), ..WaitRequest::default() };
        self.client.wait(patience(), &request).map(|response| response.exit_status).map_err(denied)
    }

    /// Returns the container's state.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn state(&self) -> Answer<Status> {
        let request = StateRequest { id: self.bundle.id.clone(), ..StateRequest::default() };
        let response = self.client.state(patience(), &request).map_err(denied)?;
        Ok(response.status.enum_value().unwrap_or(Status::UNKNOWN))
    }

    /// Deletes the container.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn delete(&self) -> Answer<DeleteResponse> {
        let request = DeleteRequest { id: self.bundle.id.clone(), ..DeleteRequest::default() };
        self.client.delete(patience(), &request).map_err(denied)
    }

    /// Runs the container from create to delete and returns the exit status.
    ///
    /// # Errors
    /// When any step is denied.
    pub fn run(&self) -> Answer<u32> {
        self.create()?;
        self.start()?;
        let status = self.wait()?;
        self.delete()?;
        Ok(status)
    }

    /// Asks the shim to end and waits until its process is gone.
    ///
    /// # Errors
    /// When it lives on.
    pub fn shutdown(&self) -> Result<()> {
        let request = ShutdownRequest { id: self.bundle.id.clone(), ..ShutdownRequest::default() };
        // The connection may end before the answer.
        let _ended = self.client.shutdown(patience(), &request);
        let deadline = Instant::now() + PATIENCE;
        while !self.bundle.servers().is_empty() {
            if Instant::now() > deadline {
                bail!("the shim did not end within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever of this is denied was not needed; the daemon's end clears the rest.
        let ended = self.kill(SIGKILL).and_then(|()| self.wait());
        if ended.is_err_and(|denied| denied.code == ttrpc::Code::UNAVAILABLE) {
            // Who does not answer will not answer what follows either, and must not hold up other tests.
            for server in self.bundle.servers() {
                let _gone = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(server.pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            return;
        }
        let _deleted = self.delete();
        let request = ShutdownRequest { id: self.bundle.id.clone(), ..ShutdownRequest::default() };
        let _shut = self.client.shutdown(patience(), &request);
    }
}
