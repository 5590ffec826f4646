//! Containers from a `config.json` of the test's own, for what `ctr run` has no flag for.
//!
//! The spec starts as containerd's default one (`ctr oci spec`); the root filesystem is a folder of the test's own, so
//! a test can put into both whatever a hostile image or a careless operator might.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::command::{Invocation, Output};
use testkit::containerd::{Daemon, runtime};

const BUSYBOX: &str = "/usr/bin/busybox";
const APPLETS: [&str; 11] =
    ["cat", "echo", "id", "ls", "mkdir", "readlink", "sh", "sleep", "test", "touch", "true"];

/// A container that is about to be made.
#[derive(Debug)]
pub struct Bundle<'daemon> {
    daemon: &'daemon Daemon,
    id: String,
    folder: PathBuf,
    /// What will be in config.json.
    pub spec: Value,
}

impl<'daemon> Bundle<'daemon> {
    /// Starts one whose root filesystem holds busybox, with the program's words.
    pub fn linux(
        daemon: &'daemon Daemon,
        name: &str,
        words: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let bundle = Self::empty(daemon, name, words)?;
        let bin = bundle.rootfs().join("bin");
        make(&bin)?;
        fs::copy(BUSYBOX, bin.join("busybox")).with_context(|| format!("copying {BUSYBOX}"))?;
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).with_context(|| format!("linking {applet}"))?;
        }
        for name in ["dev", "proc", "sys", "tmp", "etc"] {
            make(&bundle.rootfs().join(name))?;
        }
        Ok(bundle)
    }

    /// Starts one whose root filesystem holds a module as `/app.wasm`, with arguments for it.
    pub fn wasm(
        daemon: &'daemon Daemon,
        name: &str,
        module: &[u8],
        args: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let words = std::iter::once("/app.wasm".to_owned()).chain(args.into_iter().map(Into::into));
        let bundle = Self::empty(daemon, name, words)?;
        let path = bundle.rootfs().join("app.wasm");
        fs::write(&path, module).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {} executable", path.display()))?;
        Ok(bundle)
    }

    fn empty(
        daemon: &'daemon Daemon,
        name: &str,
        words: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let id = daemon.unique(name);
        let folder = daemon.scratch()?.join("bundles").join(&id);
        make(&folder.join("rootfs"))?;
        let printed = daemon.ctr(["oci", "spec"])?.ok()?;
        let mut spec: Value = serde_json::from_str(&printed.stdout).context("reading a spec")?;
        spec["root"]["path"] = folder.join("rootfs").display().to_string().into();
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        spec["process"]["args"] = words.into();
        spec["process"]["env"] = json!(["PATH=/bin"]);
        spec["linux"]["cgroupsPath"] = format!("/{}/{id}", daemon.namespace()).into();
        Ok(Self { daemon, id, folder, spec })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns a folder for the test's own files; the root filesystem and config.json are in it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Mounts a host's file or folder.
    pub fn bind(mut self, source: &Path, target: &str, access: &str) -> Result<Self> {
        let mount = json!({
            "type": "bind",
            "source": source,
            "destination": target,
            "options": ["rbind", access],
        });
        self.spec["mounts"].as_array_mut().context("a spec without mounts")?.push(mount);
        Ok(self)
    }

    /// Shares one shim with all containers of this group, as the containers of a pod do.
    pub fn group(mut self, name: &str) -> Self {
        self.spec["annotations"]["io.containerd.runc.v2.group"] = name.into();
        self
    }

    /// Runs a shell script on the host at one point of the container's life.
    pub fn hook(mut self, point: &str, script: &str) -> Self {
        let hook = json!({
            "path": "/bin/sh",
            "args": ["sh", "-c", script],
            "env": ["PATH=/usr/bin:/bin"],
        });
        match self.spec["hooks"][point].as_array_mut() {
            Some(hooks) => hooks.push(hook),
            None => self.spec["hooks"][point] = json!([hook]),
        }
        self
    }

    /// Lets the container see and signal the host's processes.
    pub fn host_processes(mut self) -> Result<Self> {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut();
        namespaces.context("a spec without namespaces")?.retain(|one| one["type"] != "pid");
        Ok(self)
    }

    /// Prepares `ctr run` with these flags.
    pub fn command(
        &self,
        flags: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Invocation> {
        let config = self.folder.join("config.json");
        let text = serde_json::to_vec_pretty(&self.spec).context("writing a spec")?;
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let Some(run) = self.daemon.address().parent() else {
            bail!("containerd's socket is in no folder");
        };
        Ok(self
            .daemon
            .ctr_command()
            .args(["run", "--runtime", &runtime()])
            .args(flags.into_iter().map(Into::into))
            .arg("--fifo-dir")
            .arg(run.join("fifo"))
            .arg("--config")
            .arg(config)
            .arg(&self.id))
    }

    /// Runs the container to its end and removes it.
    pub fn run(&self) -> Result<Output> {
        self.command(["--rm"])?.run()
    }

    /// Starts the container in the background and returns its process.
    pub fn start(&self) -> Result<i32> {
        self.command(["--detach"])?.run()?.ok()?;
        self.daemon.task_pid(&self.id)
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
