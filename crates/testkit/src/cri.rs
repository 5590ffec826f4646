//! Pods and their containers, made through crictl as a kubelet would make them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::containerd::Daemon;

/// `NODE` of CRI's `NamespaceMode`.
const NODE_NAMESPACE: u32 = 2;

/// Whether a container may change what is mounted into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// A pod that is about to be made.
#[derive(Debug, Clone)]
pub struct Pod {
    name: String,
    runtime: String,
    annotations: Map<String, Value>,
    host_network: bool,
}

impl Pod {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            runtime: String::new(),
            annotations: Map::new(),
            host_network: false,
        }
    }

    /// Sets the runtime handler: `hybrid` or `runc`; without it, containerd's default runs the pod.
    pub fn runtime(mut self, handler: &str) -> Self {
        self.runtime = handler.to_owned();
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Uses the machine's own network, and so needs no CNI.
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Starts the pod.
    pub fn start(self, daemon: &Daemon) -> Result<RunningPod<'_>> {
        let uid = daemon.unique(&self.name);
        let logs = daemon.scratch()?.join("pod-logs").join(&uid);
        fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        let mut security = json!({});
        if self.host_network {
            security = json!({"namespace_options": {"network": NODE_NAMESPACE}});
        }
        let config = json!({
            "metadata": {"name": self.name, "uid": uid, "namespace": "default", "attempt": 0},
            "hostname": self.name,
            "log_directory": logs,
            "annotations": self.annotations,
            "linux": {
                "cgroup_parent": format!("/{}", daemon.territory().pods_cgroup()),
                "security_context": security,
            },
        });
        let config_path = logs.join("pod.json");
        write_json(&config_path, &config)?;
        let mut command = daemon.crictl_command()?.arg("runp");
        if !self.runtime.is_empty() {
            command = command.args(["--runtime", &self.runtime]);
        }
        let output = command.arg(&config_path).run()?.ok()?;
        Ok(RunningPod { daemon, id: output.stdout.trim().to_owned(), config_path, logs })
    }
}

/// A pod that runs. Dropping it stops and removes it.
#[derive(Debug)]
pub struct RunningPod<'daemon> {
    daemon: &'daemon Daemon,
    id: String,
    config_path: PathBuf,
    logs: PathBuf,
}

impl RunningPod<'_> {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Describes a container of this pod. The image must be in CRI's namespace.
    pub fn container(&self, name: &str, image: impl AsRef<str>) -> PodContainer<'_> {
        PodContainer {
            pod: self,
            name: name.to_owned(),
            config: json!({
                "metadata": {"name": name, "attempt": 0},
                "image": {"image": image.as_ref()},
                "log_path": format!("{name}.log"),
            }),
        }
    }

    /// Returns the pod's address; none on the machine's own network.
    pub fn address(&self) -> Result<Option<String>> {
        let output = self.daemon.crictl(["inspectp", &self.id])?.ok()?;
        let status: Value =
            serde_json::from_str(&output.stdout).context("reading a pod's status")?;
        let address = status["status"]["network"]["ip"].as_str().unwrap_or_default();
        Ok((!address.is_empty()).then(|| address.to_owned()))
    }

    /// Stops and removes the pod, and says whether that went well.
    pub fn remove(self) -> Result<()> {
        self.daemon.crictl(["stopp", &self.id])?.ok()?;
        self.daemon.crictl(["rmp", &self.id])?.ok()?;
        Ok(())
    }
}

impl Drop for RunningPod<'_> {
    fn drop(&mut self) {
        // Whoever wants to know whether this works calls `remove` first.
        let _removed = self.daemon.crictl(["rmp", "--force", &self.id]);
    }
}

/// A container of a pod, about to be made.
#[derive(Debug, Clone)]
pub struct PodContainer<'pod> {
    pod: &'pod RunningPod<'pod>,
    name: String,
    config: Value,
}

impl PodContainer<'_> {
    /// Replaces the image's entrypoint.
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.config["command"] = words.into_iter().map(Into::into).collect::<Vec<String>>().into();
        self
    }

    /// Replaces the image's `Cmd`.
    pub fn args(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.config["args"] = words.into_iter().map(Into::into).collect::<Vec<String>>().into();
        self
    }

    pub fn env(self, key: &str, value: &str) -> Self {
        self.push("envs", json!({"key": key, "value": value}))
    }

    pub fn mount(self, host: &Path, container: &str, access: Access) -> Self {
        let mount = json!({
            "host_path": host,
            "container_path": container,
            "readonly": access == Access::ReadOnly,
        });
        self.push("mounts", mount)
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config["annotations"][key] = value.into();
        self
    }

    /// Limits the memory, in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.config["linux"]["resources"]["memory_limit_in_bytes"] = bytes.into();
        self
    }

    pub fn tty(mut self) -> Self {
        self.config["tty"] = true.into();
        self
    }

    /// Keeps an input open for `crictl attach`.
    pub fn stdin(mut self) -> Self {
        self.config["stdin"] = true.into();
        self
    }

    /// Changes anything else of CRI's ContainerConfig.
    pub fn configure(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self
    }

    fn push(mut self, list: &str, item: Value) -> Self {
        match self.config[list].as_array_mut() {
            Some(items) => items.push(item),
            None => self.config[list] = json!([item]),
        }
        self
    }

    /// Makes the container and returns its id.
    pub fn create(self) -> Result<String> {
        let path = self.pod.logs.join(format!("{}.json", self.name));
        write_json(&path, &self.config)?;
        let output = self
            .pod
            .daemon
            .crictl_command()?
            .args(["create", "--no-pull", &self.pod.id])
            .args([&path, &self.pod.config_path])
            .run()?
            .ok()?;
        Ok(output.stdout.trim().to_owned())
    }

    /// Makes and starts the container and returns its id.
    pub fn start(self) -> Result<String> {
        let daemon = self.pod.daemon;
        let id = self.create()?;
        daemon.crictl(["start", &id])?.ok()?;
        Ok(id)
    }

    /// Makes and starts the container, waits for its end, and returns its exit code and log.
    pub fn run(self, timeout: Duration) -> Result<(i64, String)> {
        let daemon = self.pod.daemon;
        let id = self.start()?;
        let deadline = Instant::now() + timeout;
        loop {
            let output = daemon.crictl(["inspect", &id])?.ok()?;
            let answer: Value =
                serde_json::from_str(&output.stdout).context("reading a container's status")?;
            let status = &answer["status"];
            if status["state"] == "CONTAINER_EXITED" {
                let logs = daemon.crictl(["logs", &id])?.ok()?;
                let code = status["exitCode"].as_i64().unwrap_or_default();
                return Ok((code, logs.stdout + &logs.stderr));
            }
            if Instant::now() > deadline {
                bail!("container {id} is {} after {timeout:?}", status["state"]);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn write_json(path: &Path, document: &Value) -> Result<()> {
    let text = serde_json::to_vec_pretty(document).context("writing JSON")?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
