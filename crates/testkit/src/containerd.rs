//! A private containerd: a real daemon with root, state, socket, PATH and cgroup names of its own.
//!
//! Any number of them run side by side, of different releases. In a daemon's PATH are the shim under test, runc, and
//! that release's binaries, and nothing else. Dropping a [`Daemon`] ends it together with every shim and container that
//! it leaves, and removes what is left below its own folders; to see what a shim itself leaves behind, take a
//! [`crate::leftovers::Census`] before that.

mod config;
mod lifecycle;
mod network;
mod options;
mod release;
mod run;
mod territory;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::command::{Invocation, Output};
use crate::image::Archive;
use crate::process::Process;

pub(crate) use config::PAUSE_IMAGE;
pub(crate) use network::CNI_PLUGINS;
pub use options::Options;
pub use release::{Release, runc};
pub use run::Run;
pub(crate) use territory::Territory;

/// The runtime type of the shim under test.
pub const HYBRID: &str = "io.containerd.hybrid.v1";
/// The runtime type of runc's shim, the peer.
pub const RUNC: &str = "io.containerd.runc.v2";
/// Names another runtime than the shim under test for the tests to run containers with: with runc's, they show what it
/// does.
pub const RUNTIME_VARIABLE: &str = "HYBRID_TEST_RUNTIME";
/// The namespace in which CRI keeps its images and containers.
pub const CRI_NAMESPACE: &str = "k8s.io";

/// Returns the runtime type tests run their containers with: the shim's under test, unless the environment says
/// otherwise.
pub fn runtime() -> String {
    std::env::var(RUNTIME_VARIABLE).unwrap_or_else(|_| HYBRID.to_owned())
}

/// Returns the name of that runtime in CRI's configuration.
pub fn handler() -> &'static str {
    if runtime() == RUNC { "runc" } else { "hybrid" }
}

/// A running private containerd.
#[derive(Debug)]
pub struct Daemon {
    release: Release,
    cri: bool,
    territory: Territory,
    env: Vec<(String, String)>,
    has_node_file: bool,
    process: Option<Child>,
    next_id: AtomicU32,
    // Held for as long as the daemon lives: it reserves the subnet.
    network: Option<network::Subnet>,
}

impl Daemon {
    /// Starts containerd of this release with the shim under test, without CRI.
    pub fn start(release: Release) -> Result<Self> {
        Self::options(release).start()
    }

    /// Returns options with which to start one.
    pub fn options(release: Release) -> Options {
        Options::new(release)
    }

    pub fn release(&self) -> Release {
        self.release
    }

    pub(crate) fn territory(&self) -> &Territory {
        &self.territory
    }

    /// Says whether the CRI plugin runs.
    pub fn has_cri(&self) -> bool {
        self.cri
    }

    /// Returns containerd's pid; an error while it is stopped.
    pub fn pid(&self) -> Result<i32> {
        let process = self.process.as_ref().context("containerd is stopped")?;
        Ok(process.id().cast_signed())
    }

    /// Returns the path of containerd's socket.
    pub fn address(&self) -> &Path {
        self.territory.address()
    }

    /// Returns the containerd namespace of this daemon's own containers. No other daemon uses it, so that the cgroups
    /// of equally named containers never meet.
    pub fn namespace(&self) -> &str {
        self.territory.tag()
    }

    /// Returns containerd's state folder, which holds the bundles.
    pub fn state(&self) -> PathBuf {
        self.territory.state()
    }

    /// Returns containerd's root folder.
    pub fn root(&self) -> PathBuf {
        self.territory.root().join("containerd")
    }

    /// Returns the bundle folder of a container in this daemon's namespace.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.state().join("io.containerd.runtime.v2.task").join(self.namespace()).join(id)
    }

    /// Returns a folder of the test's own, removed with the daemon.
    pub fn scratch(&self) -> Result<PathBuf> {
        let folder = self.territory.root().join("scratch");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Returns what containerd and the shims have logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.territory.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the last lines of [`Self::log`].
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Returns an id that no other test on this machine uses.
    pub fn unique(&self, name: &str) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{name}-{}-{number}", self.territory.number())
    }

    /// Runs `ctr` in the daemon's namespace.
    pub fn ctr(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.ctr_command().args(args).run()
    }

    /// Prepares `ctr` in the daemon's namespace, for other timeouts or an input.
    pub fn ctr_command(&self) -> Invocation {
        self.ctr_in(self.namespace())
    }

    /// Prepares `ctr` in any namespace.
    pub fn ctr_in(&self, namespace: &str) -> Invocation {
        Invocation::new(self.territory.bin().join("ctr"))
            .arg("-a")
            .arg(self.address())
            .args(["-n", namespace])
    }

    /// Imports an image for all its platforms.
    pub fn import(&self, archive: &Archive) -> Result<()> {
        self.import_in(self.namespace(), archive)
    }

    /// Imports an image into a namespace; into CRI's, it waits until CRI knows the image.
    pub fn import_in(&self, namespace: &str, archive: &Archive) -> Result<()> {
        self.ctr_in(namespace)
            .args(["images", "import"])
            .args(self.import_flags(archive))
            .arg(&archive.path)
            .run()?
            .ok()
            .with_context(|| format!("importing {}", archive.name))?;
        if namespace == CRI_NAMESPACE && self.cri {
            self.wait_for_cri_image(&archive.name)?;
        }
        Ok(())
    }

    /// Removes an image, and the content nobody else needs.
    pub fn remove_image(&self, name: impl AsRef<str>) -> Result<()> {
        self.ctr(["images", "rm", "--sync", name.as_ref()])?.ok()?;
        Ok(())
    }

    /// Prepares `ctr run --rm` of an imported image with the shim under test.
    pub fn run(&self, archive: &Archive, id: &str) -> Run {
        Run::new(self, &archive.name, id)
            .platform(archive.platforms.first().map_or("", String::as_str))
    }

    /// Prepares `ctr tasks exec` with these flags in a container of this daemon's namespace; the words to run follow.
    pub fn exec_command(
        &self,
        id: &str,
        flags: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Invocation {
        self.ctr_command()
            .args(["tasks", "exec", "--exec-id", &self.unique("exec"), "--fifo-dir"])
            .arg(self.territory.fifos())
            .args(flags)
            .arg(id)
    }

    /// Runs words in a container to their end, as `ctr tasks exec` does.
    pub fn exec(
        &self,
        id: &str,
        words: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Output> {
        self.exec_command(id, [""; 0]).args(words).run()
    }

    /// Returns the pid of a task in this daemon's namespace, as containerd tells it.
    pub fn task_pid(&self, id: &str) -> Result<i32> {
        let tasks = self.ctr(["tasks", "ls"])?.ok()?;
        for line in tasks.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some(id) {
                let pid = words.next().unwrap_or_default();
                return pid.parse().with_context(|| format!("reading {line:?}"));
            }
        }
        bail!("containerd lists no task {id}:\n{}", tasks.stdout)
    }

    /// Returns the state of a task: `RUNNING`, `STOPPED`, `PAUSED` or `CREATED`; none when there is no such task.
    pub fn task_status(&self, id: &str) -> Result<Option<String>> {
        let tasks = self.ctr(["tasks", "ls"])?.ok()?;
        Ok(tasks.lines().iter().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.first() == Some(&id)).then(|| words.get(2).unwrap_or(&"").to_string())
        }))
    }

    /// Waits until a task has the given state.
    pub fn wait_for_status(&self, id: &str, wanted: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.task_status(id)?;
            if status.as_deref() == Some(wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("task {id} is {status:?}, not {wanted}, after {timeout:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the shim processes this daemon has started that are still alive, of whatever runtime.
    pub fn shims(&self) -> Vec<Process> {
        self.territory
            .processes()
            .into_iter()
            .filter(|process| process.program().contains("containerd-shim"))
            .collect()
    }

    fn import_flags(&self, archive: &Archive) -> Vec<String> {
        match archive.platforms.as_slice() {
            [one] => vec!["--platform".to_owned(), one.clone()],
            _ => vec!["--all-platforms".to_owned()],
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "testkit: the log of containerd {} ends with:\n{}",
                self.release,
                self.log_tail(30)
            );
        }
        if self.process.is_some() {
            self.remove_pods();
            if let Err(error) = self.end(Signal::SIGTERM) {
                eprintln!("testkit: stopping containerd: {error:#}");
            }
        }
        if std::env::var_os(territory::KEEP_VARIABLE).is_some() {
            eprintln!("testkit: keeping {}", self.territory.run().display());
        } else {
            self.territory.clear();
        }
        if let Some(network) = self.network.take() {
            network.remove();
        }
    }
}
