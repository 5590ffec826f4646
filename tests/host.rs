//! What the host sees of a container's process, read from /proc and /sys.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::containerd::Daemon;
use testkit::process::{Process, cgroups_of};

/// Says how many times slower than usual the machine is: one whose processors are emulated.
const SLOWNESS_VARIABLE: &str = "HYBRID_TEST_SLOWNESS";

/// File systems through which the kernel itself can be read or changed.
pub const KERNEL_INTERFACES: [&str; 12] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devtmpfs",
    "devpts",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "configfs",
];

const CGROUPS: &str = "/sys/fs/cgroup";

/// One line of a process's mountinfo.
#[derive(Debug, Clone)]
pub struct Mount {
    /// The folder of the file system that is mounted.
    pub root: String,
    /// Where the process sees it.
    pub point: String,
    /// The options of this mount.
    pub options: Vec<String>,
    /// The file system's type.
    pub kind: String,
}

impl Mount {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }
}

/// Returns a field of /proc/PID/status without its name.
pub fn status(pid: i32, field: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .with_context(|| format!("{path} has no {field}"))
}

/// Returns the soft and hard limit of a line of /proc/PID/limits, such as `Max open files`.
pub fn limit(pid: i32, name: &str) -> Result<(String, String)> {
    let path = format!("/proc/{pid}/limits");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.with_context(|| format!("{path} has no {name}"))?.split_whitespace();
    let mut next = || words.next().unwrap_or_default().to_owned();
    Ok((next(), next()))
}

/// Returns what identifies a namespace of a process, such as `net:[4026531840]`.
pub fn namespace(pid: i32, kind: &str) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/ns/{kind}");
    fs::read_link(&path).with_context(|| format!("reading {path}"))
}

/// Returns the open descriptors of a process and what each is.
pub fn descriptors(pid: i32) -> Result<BTreeMap<i32, String>> {
    let folder = format!("/proc/{pid}/fd");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {folder}"))? {
        let path = entry.with_context(|| format!("listing {folder}"))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // One that is closed in the meantime is none.
        if let (Some(number), Ok(target)) = (number, fs::read_link(&path)) {
            found.insert(number, target.display().to_string());
        }
    }
    Ok(found)
}

/// Returns the strings of /proc/PID/environ, in their order.
pub fn environment(pid: i32) -> Result<Vec<String>> {
    strings(&format!("/proc/{pid}/environ"))
}

/// Returns the strings of /proc/PID/cmdline.
pub fn command_line(pid: i32) -> Result<Vec<String>> {
    strings(&format!("/proc/{pid}/cmdline"))
}

fn strings(path: &str) -> Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("reading {path}"))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Returns the mounts a process sees.
pub fn mounts(pid: i32) -> Result<Vec<Mount>> {
    let path = format!("/proc/{pid}/mountinfo");
    let table = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    table.lines().map(|line| mount(line).with_context(|| format!("parsing {line:?}"))).collect()
}

/// Reads one line; proc(5) has the fields' order.
fn mount(line: &str) -> Option<Mount> {
    let (own, file_system) = line.split_once(" - ")?;
    let mut fields = own.split(' ').skip(3).map(str::to_owned);
    Some(Mount {
        root: fields.next()?,
        point: fields.next()?,
        options: fields.next()?.split(',').map(str::to_owned).collect(),
        kind: file_system.split(' ').next()?.to_owned(),
    })
}

/// Returns the cgroup folders of a process, one for each hierarchy in which it is below the top: those without
/// controllers (`name=systemd`, an empty unified one) limit nothing, and a runtime need not use them.
pub fn cgroup_folders(pid: i32) -> Vec<PathBuf> {
    let own = cgroups_of(pid);
    let mut hierarchies = vec![PathBuf::from(CGROUPS)];
    if let Ok(entries) = fs::read_dir(CGROUPS) {
        hierarchies
            .extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    let below = own.iter().map(|path| path.trim_start_matches('/')).filter(|path| !path.is_empty());
    let below: Vec<&str> = below.collect();
    let mut found: Vec<PathBuf> = hierarchies
        .iter()
        .flat_map(|hierarchy| below.iter().map(|path| hierarchy.join(path)))
        .filter(|folder| holds(folder, pid))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn holds(folder: &Path, pid: i32) -> bool {
    let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    list.lines().any(|line| line.parse() == Ok(pid))
}

/// Returns the content of a file of a process's cgroup, under the name it has in either version.
pub fn control(pid: i32, names: &[&str]) -> Result<String> {
    let folders = cgroup_folders(pid);
    let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    let text = files.into_iter().find_map(|path| fs::read_to_string(path).ok());
    Ok(text.with_context(|| format!("no {names:?} in {folders:?}"))?.trim().to_owned())
}

/// Returns a number of a file of the form `name value` of a process's cgroup.
pub fn counter(pid: i32, files: &[&str], name: &str) -> Result<u64> {
    let text = control(pid, files)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("no {name} in {text}"))?;
    value.trim().parse().with_context(|| format!("reading {value:?}"))
}

/// Says whether the machine limits by version 2 of cgroups.
pub fn has_unified_cgroups() -> bool {
    Path::new(CGROUPS).join("cgroup.controllers").exists()
}

/// Returns the memory limit of a process's cgroup in bytes, on either version of cgroups; of none, the largest number.
pub fn memory_limit(pid: i32) -> Result<u64> {
    let names = ["memory.limit_in_bytes", "memory.max"];
    let text = cgroup_folders(pid)
        .iter()
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find_map(|path| fs::read_to_string(path).ok())
        .with_context(|| format!("process {pid} has no memory cgroup"))?;
    match text.trim() {
        "max" => Ok(u64::MAX),
        number => number.parse().with_context(|| format!("reading the limit {text:?}")),
    }
}

/// Says whether a process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    Process::read(pid).is_some_and(|process| !process.is_zombie())
}

/// Kills a process with SIGKILL.
pub fn kill_hard(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("killing process {pid}"))
}

/// Kills a container's init through containerd and deletes its task, whose exit status must be that of a killed one.
pub fn end(daemon: &Daemon, id: &str) -> Result<()> {
    daemon.ctr(["tasks", "kill", "--signal", "SIGKILL", id])?.ok()?;
    daemon.wait_for_status(id, "STOPPED", Duration::from_secs(10))?;
    let deleted = daemon.ctr(["tasks", "delete", id])?.ok()?;
    if !deleted.stderr.contains("137") {
        bail!("no exit status 137: {}", deleted.report());
    }
    Ok(())
}

/// The two processes of one shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shim {
    /// Speaks with containerd.
    pub server: i32,
    /// Makes the containers' processes; the server's child.
    pub keeper: i32,
}

/// Returns the shim whose keeper is an ancestor of a container's process.
pub fn shim_of(daemon: &Daemon, pid: i32) -> Result<Shim> {
    let servers = servers(daemon);
    let mut line = vec![pid];
    while let Some(parent) = line.last().and_then(|pid| Process::read(*pid)).map(|it| it.parent) {
        if servers.contains(&parent) {
            let keeper = line.last().copied().context("a line of one at least")?;
            return Ok(Shim { server: parent, keeper });
        }
        line.push(parent);
    }
    bail!("process {pid} does not descend from a shim of {servers:?}: {line:?}")
}

/// Returns the shim servers of a daemon: the shim processes no other shim process has started, but for those that only
/// start or delete one.
pub fn servers(daemon: &Daemon) -> Vec<i32> {
    let shims = daemon.shims();
    let is_shim = |pid: i32| shims.iter().any(|shim| shim.pid == pid);
    let serves = |shim: &&Process| {
        let errand = shim.arguments.iter().any(|word| word == "start" || word == "delete");
        !errand && !shim.is_zombie() && !is_shim(shim.parent)
    };
    shims.iter().filter(serves).map(|shim| shim.pid).collect()
}

/// How many times slower than usual this machine is, by [`SLOWNESS_VARIABLE`]; 1 unless it says so.
pub fn slowness() -> u32 {
    let said = std::env::var(SLOWNESS_VARIABLE).ok();
    said.map_or(1, |said| said.parse().expect("HYBRID_TEST_SLOWNESS is a number"))
}

/// Asks again and again until the answer is yes.
pub fn eventually(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let patience = patience * slowness();
    let deadline = Instant::now() + patience;
    while !ask()? {
        if Instant::now() > deadline {
            bail!("not within {patience:?}: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
