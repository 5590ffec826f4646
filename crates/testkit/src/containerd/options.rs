//! How a private containerd is to be started.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, bail};
use toml::Table;

use super::config::{self, Cri};
use super::network::Subnet;
use super::{CRI_NAMESPACE, Daemon, Release, Territory, release};
use crate::{catalogue, place};

/// Changes the derived configuration before it is written.
type Change = Box<dyn FnOnce(&mut Table)>;
/// Writes a node file, given the daemon's scratch folder.
type NodeFile = Box<dyn FnOnce(&Path) -> String>;

/// The options of one daemon, all with defaults.
pub struct Options {
    release: Release,
    shim: PathBuf,
    cri: Cri,
    env: Vec<(String, String)>,
    changes: Vec<Change>,
    node_file: Option<NodeFile>,
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options")
            .field("release", &self.release)
            .field("shim", &self.shim)
            .field("cri", &self.cri)
            .field("env", &self.env)
            .finish_non_exhaustive()
    }
}

impl Options {
    pub(super) fn new(release: Release) -> Self {
        Self {
            release,
            shim: place::shim(),
            cri: Cri::Off,
            env: Vec::new(),
            changes: Vec::new(),
            node_file: None,
        }
    }

    /// Puts another shim binary under test.
    pub fn shim(mut self, path: impl Into<PathBuf>) -> Self {
        self.shim = path.into();
        self
    }

    /// Runs the CRI plugin, with a pod network and a pause image.
    pub fn cri(mut self) -> Self {
        self.cri = Cri::On;
        self
    }

    /// Sets a variable in the environment of containerd and its shims, which else hold only `PATH`.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Changes the derived configuration before it is written.
    pub fn configure(mut self, change: impl FnOnce(&mut Table) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Gives the daemon's shims a node file of their own, whose text may name paths below the daemon's scratch folder.
    /// The daemon has mounts of its own then: those of its containers are not seen from outside.
    pub fn node_file(mut self, text: impl FnOnce(&Path) -> String + 'static) -> Self {
        self.node_file = Some(Box::new(text));
        self
    }

    /// Starts containerd and waits until it answers.
    pub fn start(self) -> Result<Daemon> {
        if !nix::unistd::geteuid().is_root() {
            bail!("a private containerd needs root");
        }
        let binaries = self.release.fetch()?;
        let runc = release::runc()?;
        Territory::clear_abandoned();
        let territory = Territory::claim()?;
        // From here on the daemon's drop clears the territory, also when a later step fails.
        let mut daemon = Daemon {
            release: self.release,
            cri: self.cri == Cri::On,
            territory,
            env: self.env,
            has_node_file: self.node_file.is_some(),
            process: None,
            next_id: AtomicU32::new(0),
            network: None,
        };
        let territory = &daemon.territory;
        for name in ["containerd", "ctr", "containerd-shim-runc-v2"] {
            link(&binaries.join(name), &territory.bin())?;
        }
        link(&runc, &territory.bin())?;
        // Tests of the peer alone run before there is a shim.
        if self.shim.exists() {
            link_as(&self.shim, &territory.bin().join("containerd-shim-hybrid-v1"))?;
        } else {
            eprintln!("testkit: no shim at {}", self.shim.display());
        }
        let mut config = config::derive(self.release, territory, self.cri)?;
        for change in self.changes {
            change(&mut config);
        }
        if let Some(text) = self.node_file {
            let folder = territory.etc().join("hybrid");
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            let text = text(&daemon.scratch()?);
            fs::write(folder.join("config.toml"), text).context("writing the node file")?;
        }
        fs::write(territory.config(), config.to_string()).context("writing containerd's config")?;
        if daemon.cri {
            fs::write(territory.crictl_config(), "").context("writing crictl's config")?;
            daemon.network = Some(Subnet::reserve(territory)?);
        }
        daemon.launch().with_context(|| format!("starting containerd {}", self.release))?;
        if daemon.cri {
            daemon.import_in(CRI_NAMESPACE, &catalogue::pause()?)?;
        }
        Ok(daemon)
    }
}

fn link(target: &Path, folder: &Path) -> Result<()> {
    let name = target.file_name().context("a binary without a name")?;
    link_as(target, &folder.join(name))
}

fn link_as(target: &Path, path: &Path) -> Result<()> {
    symlink(target, path)
        .with_context(|| format!("linking {} to {}", path.display(), target.display()))
}
