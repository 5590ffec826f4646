//! What the first start of a module costs, which compiles it, what the next ones cost, and what one container of an
//! image costs where there are many of it.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::catalogue;
use testkit::command::Invocation;
use testkit::containerd::{Daemon, HYBRID, Release};
use testkit::image::Archive;

use crate::effort::Effort;
use crate::figures::milliseconds;

/// The containers of one image that run at once.
pub(crate) const MANY: usize = 20;

/// The starts of one module, in milliseconds, one value a round.
#[derive(Debug)]
pub(crate) struct Starts {
    pub(crate) name: &'static str,
    /// `ctr run` of an image nobody has run on this node.
    pub(crate) first: Vec<f64>,
    /// `ctr run` of the same image once more.
    pub(crate) second: Vec<f64>,
    /// What the first start takes beyond the second: compiling, and all that is done to keep the code.
    pub(crate) compiling: Vec<f64>,
    /// `wasmtime compile` of the same module.
    pub(crate) peer: Vec<f64>,
}

/// What each of many containers of one image needs, in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sharing {
    /// The proportional set size of the guest's process while it is the only one.
    pub(crate) alone: f64,
    /// The same while there are [`MANY`].
    pub(crate) among_many: f64,
}

/// A containerd whose shims keep native code in a folder of its own.
#[derive(Debug)]
struct Node {
    daemon: Daemon,
    cache: PathBuf,
    scratch: PathBuf,
}

/// Measures the starts of a small and of a large module.
pub(crate) fn measure(effort: &Effort) -> Result<(Vec<Starts>, Sharing)> {
    let node = Node::start()?;
    let mut all = Vec::new();
    for (name, module, image) in [
        ("C, 0.1 MiB of code", testkit::guest::c("hello")?, catalogue::c_image("hello")?),
        ("Go, 6 MiB of code", testkit::guest::go("hello")?, catalogue::go_image("hello")?),
    ] {
        node.daemon.import(&image)?;
        let mut starts = Starts::of(name);
        for round in 1..=effort.start_rounds {
            eprintln!("bench: starts of {name}, round {round} of {}", effort.start_rounds);
            starts.take(&node, &image, &module)?;
        }
        all.push(starts);
    }
    let sharing = Sharing::take(&node).context("many containers of one image")?;
    Ok((all, sharing))
}

impl Node {
    fn start() -> Result<Self> {
        let daemon = Daemon::options(Release::V1_7)
            .node_file(|scratch| format!("cache = {:?}\n", scratch.join("cache")))
            .start()?;
        let scratch = daemon.scratch()?;
        Ok(Self { cache: scratch.join("cache"), scratch, daemon })
    }

    /// Forgets all native code.
    fn forget(&self) -> Result<()> {
        match fs::remove_dir_all(&self.cache) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("emptying {}", self.cache.display()))
            }
            _ => Ok(()),
        }
    }

    fn run(&self, image: &Archive) -> Result<f64> {
        let run = self.daemon.run(image, &self.daemon.unique("start")).runtime(HYBRID);
        Ok(milliseconds(run.output()?.ok()?.took))
    }
}

impl Starts {
    fn of(name: &'static str) -> Self {
        let (first, second) = (Vec::new(), Vec::new());
        Self { name, first, second, compiling: Vec::new(), peer: Vec::new() }
    }

    fn take(&mut self, node: &Node, image: &Archive, module: &[u8]) -> Result<()> {
        node.forget()?;
        let (first, second) = (node.run(image)?, node.run(image)?);
        self.first.push(first);
        self.second.push(second);
        self.compiling.push(first - second);
        let file = node.scratch.join("module.wasm");
        fs::write(&file, module).context("writing a module")?;
        let compiled = Invocation::new(testkit::peers::wasmtime()?)
            .arg("compile")
            .arg("-o")
            .arg(node.scratch.join("module.cwasm"))
            .arg(&file)
            .run()?
            .ok()?;
        self.peer.push(milliseconds(compiled.took));
        Ok(())
    }
}

impl Sharing {
    /// Each container has a shim of its own: what they share, they share by files alone.
    fn take(node: &Node) -> Result<Self> {
        let image = catalogue::guest_image("sleeper")?;
        node.daemon.import(&image)?;
        let mut pids = Vec::new();
        let mut alone = 0.0;
        for at in 0..MANY {
            let id = node.daemon.unique("many");
            node.daemon.run(&image, &id).runtime(HYBRID).detach().output()?.ok()?;
            pids.push(node.daemon.task_pid(&id)?);
            if at == 0 {
                thread::sleep(Duration::from_secs(1));
                alone = size(pids[0])?;
            }
        }
        thread::sleep(Duration::from_secs(1));
        let last = *pids.last().context("no container")?;
        ensure!(pids.len() == MANY, "not all containers run");
        Ok(Self { alone, among_many: size(last)? })
    }
}

fn size(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("reading the memory of process {pid}"))?;
    crate::memory::mebibytes(&text, "Pss:").context("no Pss")
}
