//! All that belongs to one daemon, derived from one tag: folders, socket, cgroups, processes.
//!
//! The tag holds the pid of the test process, so that what a killed test left can be told from what a living one uses,
//! and be cleared by the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leftovers::{STATE_FOLDERS, cgroups, mounts};
use crate::place;
use crate::process::{self as processes, Process};

/// When set, a daemon's folders are kept after its end, to look into.
pub(super) const KEEP_VARIABLE: &str = "HYBRID_TEST_KEEP";

const RUN_PREFIX: &str = "hybrid-test-";
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The names and places of one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Territory {
    number: String,
    tag: String,
    run: PathBuf,
    root: PathBuf,
    address: PathBuf,
}

impl Territory {
    /// Claims a new one and makes its folders.
    pub(super) fn claim() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let territory = Self::named(&format!("{}-{number}", process::id()));
        // A process with our number may have left its things here before us.
        territory.clear();
        for folder in [&territory.bin(), &territory.fifos(), &territory.root] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(territory)
    }

    fn named(number: &str) -> Self {
        let tag = format!("{RUN_PREFIX}{number}");
        // A socket's path may have 107 characters, and the shim derives others from it: not below target/.
        let run = Path::new("/run").join(&tag);
        Self {
            number: number.to_owned(),
            root: place::scratch().join("daemons").join(number),
            address: run.join("containerd.sock"),
            run,
            tag,
        }
    }

    /// Clears what test processes that are gone have left.
    pub(super) fn clear_abandoned() {
        let Ok(entries) = fs::read_dir("/run") else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(number) = name.to_str().and_then(|name| name.strip_prefix(RUN_PREFIX)) else {
                continue;
            };
            let Some((pid, _)) = number.split_once('-') else {
                continue;
            };
            if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
                eprintln!("testkit: clearing {} of a test that is gone", entry.path().display());
                Self::named(number).clear();
            }
        }
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn number(&self) -> &str {
        &self.number
    }

    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn address(&self) -> &Path {
        &self.address
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.run.join("state")
    }

    pub(super) fn bin(&self) -> PathBuf {
        self.run.join("bin")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.run.join("config.toml")
    }

    /// Returns an empty configuration for crictl, which else would look for the machine's.
    pub(crate) fn crictl_config(&self) -> PathBuf {
        self.run.join("crictl.yaml")
    }

    /// Returns the folder of what its shims find in /etc beside the machine's own files.
    pub(super) fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    /// Returns the folder for the FIFOs of `ctr run`.
    pub(crate) fn fifos(&self) -> PathBuf {
        self.run.join("fifo")
    }

    /// Returns the cgroup under which this daemon's pods are.
    pub(crate) fn pods_cgroup(&self) -> String {
        format!("{}-pods", self.tag)
    }

    /// Returns every process that belongs here: one whose command line names our folder, what descends from such a one,
    /// and what is in our cgroups.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let folder = format!("{}/", self.run.display());
        let ours = |process: &Process| process.arguments.iter().any(|arg| arg.starts_with(&folder));
        let groups = [format!("/{}", self.tag), format!("/{}", self.pods_cgroup())];
        let mut found = processes::family(ours, &groups);
        // The test itself and the clients it runs name the folder too.
        found.retain(|process| {
            process.pid != process::id().cast_signed() && !is_client(process.program())
        });
        found
    }

    /// Ends and removes whatever is left. Nothing here fails: what cannot be cleared is reported.
    pub(super) fn clear(&self) {
        let sockets = self.shim_sockets();
        self.end_processes();
        for mount in mounts().iter().rev() {
            if self.owns(mount) {
                report("unmounting", mount, umount2(mount, MntFlags::MNT_DETACH));
            }
        }
        for group in cgroups(&[&self.tag, &self.pods_cgroup()]).iter().rev() {
            report("removing", group, fs::remove_dir(group));
        }
        for socket in sockets.iter().filter(|socket| socket.exists()) {
            report("removing", socket, fs::remove_file(socket));
        }
        // runc leaves the folder of a namespace, though it is empty.
        let states = STATE_FOLDERS.map(|folder| Path::new(folder).join(&self.tag));
        let folders = states.iter().chain([&self.run, &self.root]);
        for folder in folders.filter(|folder| folder.exists()) {
            report("removing", folder, fs::remove_dir_all(folder));
        }
    }

    fn owns(&self, path: &Path) -> bool {
        path.starts_with(&self.run) || path.starts_with(&self.root)
    }

    fn end_processes(&self) {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            let left: Vec<Process> =
                self.processes().into_iter().filter(|process| !process.is_zombie()).collect();
            if left.is_empty() {
                return;
            }
            self.thaw();
            for process in &left {
                // Whatever ended in the meantime needs no signal.
                let _gone = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            if Instant::now() > deadline {
                eprintln!("testkit: cannot end {left:?}");
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets paused containers go on: on version 1, not even a killed process ends while it is frozen.
    fn thaw(&self) {
        for group in cgroups(&[&self.tag, &self.pods_cgroup()]) {
            for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let file = group.join(file);
                if file.exists() {
                    // The group may go at any moment.
                    let _gone = fs::write(&file, word);
                }
            }
        }
    }

    /// Returns the sockets of the shims that still have a bundle: they are outside our folders.
    fn shim_sockets(&self) -> Vec<PathBuf> {
        let mut sockets = Vec::new();
        let tasks = self.state().join("io.containerd.runtime.v2.task");
        for bundle in folders_of(&tasks).iter().flat_map(|folder| folders_of(folder)) {
            for file in ["address", "bootstrap.json"] {
                let text = fs::read_to_string(bundle.join(file)).unwrap_or_default();
                let start = text.find("unix://").map(|at| &text[at + "unix://".len()..]);
                let path = start.and_then(|rest| rest.split(['"', '\n']).next());
                sockets.extend(path.filter(|path| path.starts_with('/')).map(PathBuf::from));
            }
        }
        sockets
    }
}

fn is_client(program: &str) -> bool {
    matches!(program, "ctr" | "crictl" | "nerdctl")
}

fn folders_of(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn report<E: std::fmt::Display>(verb: &str, what: &Path, result: Result<(), E>) {
    if let Err(error) = result {
        eprintln!("testkit: {verb} {}: {error}", what.display());
    }
}
