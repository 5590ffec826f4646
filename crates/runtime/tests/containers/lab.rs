//! A bundle to make a container from, built anew for each.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use image::annotations::{Annotations, Wanted};
use image::detect::{ImageFacts, LayerFacts};
use image::{Digest, Platform, media_type};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use runtime::spec::{Detection, Image, Metadata, Stdio};
use runtime::{ContainerSpec, Error, RuntimeType};
use serde_json::{Value, json};
use settings::{Caching, Policy};
use sys::cgroup::{Cgroup, Location};
use tempfile::TempDir;

use crate::running::{Ends, Running};
use crate::world::Node;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a container is made of; its folder goes with this and with the container.
pub(crate) struct Lab {
    scratch: Arc<TempDir>,
    pub(crate) id: String,
    pub(crate) spec: Spec,
    pub(crate) policy: Policy,
    pub(crate) log: Option<PathBuf>,
    image: Arc<dyn Image>,
}

impl Lab {
    /// A Linux container that runs `sh -c SCRIPT`.
    pub(crate) fn linux(script: &str) -> Self {
        let lab = Self::new(&["sh", "-c", script], Arc::new(NoImage));
        let rootfs = lab.rootfs();
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy(crate::BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "dd", "head", "sleep", "tr", "tty"] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        lab
    }

    /// A wasm container whose module is a file of the root filesystem.
    pub(crate) fn wasm(module: &[u8]) -> Self {
        let lab = Self::new(&["/app.wasm"], Arc::new(NoImage));
        fs::write(lab.rootfs().join("app.wasm"), module).unwrap();
        lab
    }

    /// A wasm container whose module is a layer of its image.
    pub(crate) fn layered(image: &Arc<Layers>) -> Self {
        Self::new(&["/app.wasm"], Arc::clone(image) as Arc<dyn Image>)
    }

    fn new(args: &[&str], image: Arc<dyn Image>) -> Self {
        let scratch = Arc::new(tempfile::tempdir().unwrap());
        fs::create_dir_all(scratch.path().join("bundle/rootfs")).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", shared());
        let spec = serde_json::from_value(default_spec(&id, args)).unwrap();
        Self { scratch, id, spec, policy: Policy::default(), log: None, image }
    }

    /// Limits the container.
    pub(crate) fn limited(mut self, limits: Value) -> Self {
        let linux = self.spec.linux_mut().as_mut().unwrap();
        linux.set_resources(Some(resources(limits)));
        self
    }

    /// Has the output kept.
    pub(crate) fn logged(mut self) -> Self {
        self.log = Some(self.log_file());
        self
    }

    /// Gives the container a terminal.
    pub(crate) fn on_terminal(mut self) -> Self {
        self.spec.process_mut().as_mut().unwrap().set_terminal(Some(true));
        self
    }

    pub(crate) fn arguments(mut self, args: &[&str]) -> Self {
        self.spec.process_mut().as_mut().unwrap().set_args(Some(texts(args)));
        self
    }

    /// A process like the container's own with other arguments.
    pub(crate) fn process(&self, args: &[&str]) -> Process {
        let mut process = self.spec.process().clone().unwrap();
        process.set_args(Some(texts(args))).set_terminal(None);
        process
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.scratch.path().join("bundle")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.scratch.path().join("output.log")
    }

    /// The names in the bundle folder.
    pub(crate) fn bundle_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.bundle()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Asks for the container.
    pub(crate) async fn try_create<'a>(&self, node: &'a Node) -> Result<Running<'a>, Error> {
        self.spec.save(self.bundle().join("config.json")).unwrap();
        let has_terminal = self.spec.process().as_ref().unwrap().terminal().unwrap_or_default();
        let (stdio, ends) = match has_terminal {
            true => (Stdio::Terminal, None),
            false => Ends::new(),
        };
        let spec = ContainerSpec {
            id: self.id.clone(),
            bundle: self.bundle(),
            oci: Arc::new(self.spec.clone()),
            image: Arc::clone(&self.image),
            runtime: RuntimeType::Hybrid(Detection::Auto),
            policy: self.policy.clone(),
            caching: Caching::On,
            metadata: Metadata::default(),
            stdio,
            log: self.log.clone(),
        };
        let runtime = node.runtime();
        let handle = runtime.create(spec).await?;
        Ok(Running { runtime, handle, ends, bundle: Arc::clone(&self.scratch) })
    }

    pub(crate) async fn create<'a>(&self, node: &'a Node) -> Running<'a> {
        self.try_create(node).await.unwrap()
    }

    /// Creates the container and starts it.
    pub(crate) async fn run<'a>(&self, node: &'a Node) -> Running<'a> {
        let running = self.create(node).await;
        running.start().await;
        running
    }

    /// What a file of the container's cgroup says: `v1` names a controller and its file.
    pub(crate) fn cgroup_file(&self, v1: &str, v2: &str) -> String {
        let below = Path::new(&shared()).join(&self.id);
        let root = Path::new("/sys/fs/cgroup");
        let path = match (is_unified(), v1.split_once('/')) {
            (false, Some((controller, file))) => root.join(controller).join(below).join(file),
            _ => root.join(below).join(v2),
        };
        fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

/// Nobody has an image: what there is, is in the root filesystem.
#[derive(Debug)]
struct NoImage;

#[async_trait]
impl Image for NoImage {
    async fn facts(&self, _: Wanted) -> Result<Arc<Vec<ImageFacts>>, Error> {
        Ok(Arc::default())
    }

    async fn layer(&self, digest: &Digest, _: u64) -> Result<File, Error> {
        Err(Error::NotFound(format!("there is no layer {digest}: there is no image")))
    }
}

/// An image of wasm layers.
#[derive(Debug)]
pub(crate) struct Layers {
    layers: Vec<(Digest, &'static str, Vec<u8>)>,
    /// How often a layer's bytes were asked for.
    pub(crate) asked: AtomicU32,
}

impl Layers {
    /// Of titles and modules.
    pub(crate) fn new(layers: &[(&'static str, Vec<u8>)]) -> Arc<Self> {
        let layer = |(title, bytes): &(_, Vec<u8>)| (Digest::of(bytes), *title, bytes.clone());
        Arc::new(Self { layers: layers.iter().map(layer).collect(), asked: AtomicU32::new(0) })
    }
}

#[async_trait]
impl Image for Layers {
    async fn facts(&self, _: Wanted) -> Result<Arc<Vec<ImageFacts>>, Error> {
        let layer = |(digest, title, bytes): &(Digest, &str, Vec<u8>)| LayerFacts {
            title: Some((*title).to_owned()),
            ..LayerFacts::new(*digest, bytes.len() as u64, media_type::WASM)
        };
        Ok(Arc::new(vec![ImageFacts {
            name: "example/app:1".to_owned(),
            digest: Digest::of(b"manifest"),
            platform: Platform::stated("wasip1", "wasm", None),
            config_media_type: "application/vnd.oci.image.config.v1+json".to_owned(),
            labels: Default::default(),
            annotations: Annotations::default(),
            wasm_layers: self.layers.iter().map(layer).collect(),
            tar_layers: 0,
            entrypoint: vec!["/app.wasm".to_owned()],
            cmd: Vec::new(),
            chain_id: None,
        }]))
    }

    async fn layer(&self, digest: &Digest, _: u64) -> Result<File, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (.., bytes) = self.layers.iter().find(|(each, ..)| each == digest).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        Ok(file)
    }
}

/// Reads limits as a runtime spec writes them.
pub(crate) fn resources(limits: Value) -> LinuxResources {
    serde_json::from_value(limits).unwrap()
}

/// Names the cgroups of all containers that have one.
pub(crate) fn cgroups() -> Vec<String> {
    let below = shared_folders().into_iter().flat_map(|shared| fs::read_dir(shared).unwrap());
    let paths = below.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    paths.map(|path| path.display().to_string()).collect()
}

/// Ends what a failed case has left, and removes the cgroups.
pub(crate) fn remove_cgroups() {
    for left in cgroups() {
        let id = Path::new(&left).file_name().unwrap().to_str().unwrap().to_owned();
        let location = Location::parse(Some(&format!("/{}/{id}", shared())), &id).unwrap();
        if let Some(cgroup) = Cgroup::open(&location).unwrap() {
            cgroup.signal_all(9).unwrap();
            cgroup.thaw().unwrap();
            cgroup.remove().unwrap();
        }
    }
    // One by one: two names may be of one folder.
    while let Some(shared) = shared_folders().first() {
        fs::remove_dir(shared).unwrap();
    }
}

/// The folder that the cgroups of this process's containers are in.
fn shared() -> String {
    format!("hybrid-runtime-test-{}", std::process::id())
}

/// In each hierarchy the folder of that name.
fn shared_folders() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let folders = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(shared()));
    folders.filter(|folder| folder.is_dir()).collect()
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// As containerd makes it, but for the network.
fn default_spec(id: &str, args: &[&str]) -> Value {
    let mount = |typ: &str, target: &str, options: &[&str]| json!({ "type": typ, "source": typ, "destination": target, "options": options });
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "args": args, "env": ["PATH=/usr/bin:/bin"], "cwd": "/",
            "user": { "uid": 0, "gid": 0 }, "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "mounts": [
            mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
            mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("devpts", "/dev/pts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{}/{id}", shared()),
            "resources": {},
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "network" },
            ],
        },
    })
}
