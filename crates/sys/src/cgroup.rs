//! The cgroup of one container: made before the container's first process,
//! removed after its last.
//!
//! Version 1 (one folder per hierarchy) and version 2 look the same from outside.
//! Nothing here reads mountinfo or lists cgroups of others, so no call grows
//! dearer with the number of containers on the host.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;

use crate::process::SingleThreaded;

mod files;
mod freezer;
mod hierarchies;
mod location;
mod resources;
mod stats;
mod systemd;
mod v1;
mod v2;

pub use hierarchies::Hierarchies;
pub use location::{Driver, InvalidLocation, Location};
pub use stats::{CpuStats, MemoryStats, PidStats, Stats};
pub use systemd::start_scope;

use files::{read, read_optional, write};
use hierarchies::Hierarchy;
use resources::Setting;

/// How long [`Cgroup::remove`] waits for processes that are dying.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// Rounds of [`Cgroup::signal_all`]: each finds what was forked during the last.
const SIGNAL_ROUNDS: u32 = 64;

/// Why a cgroup could not be made, limited, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or folder of the hierarchy refused.
    #[error("{attempt} {}", .path.display())]
    File {
        /// What was tried, e.g. `write 100 to`.
        attempt: String,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the hierarchy does not read as it should.
    #[error("cgroup file {} reads {text:?}, which is not understood", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its first characters.
        text: String,
    },
    /// The host has no hierarchy that could hold this limit.
    #[error("no cgroup hierarchy here can hold the limit {0}")]
    NoController(String),
    /// The limit makes no sense as it stands.
    #[error("the limit {name} of {value} is refused: {reason}")]
    Refused {
        /// The limit's name in the runtime spec.
        name: String,
        /// Its value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// Another container lives there.
    #[error("cgroup {} already has processes or cgroups in it: name one of the container's own", .0.display())]
    InUse(PathBuf),
    /// Freezing or thawing was not done in time.
    #[error("cgroup {} did not become {wanted} in time", .path.display())]
    Slow {
        /// The cgroup.
        path: PathBuf,
        /// The state asked for.
        wanted: &'static str,
    },
    /// The path names a scope, which only systemd may make.
    #[error("cgroup {} would have to be made by systemd, which is not supported here; use the cgroupfs driver", .0.display())]
    SystemdScope(PathBuf),
    /// systemd was asked for a scope and there is none.
    #[error("ask systemd for {unit}")]
    Systemd {
        /// The scope's name.
        unit: String,
        /// What systemd said, or why it could not be asked.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<CgroupError> for io::Error {
    /// Keeps the error as it is, under the kind of its cause.
    fn from(error: CgroupError) -> Self {
        let kind = match &error {
            CgroupError::File { source, .. } => source.kind(),
            CgroupError::Unreadable { .. } => io::ErrorKind::InvalidData,
            CgroupError::NoController(_) | CgroupError::SystemdScope(_) => {
                io::ErrorKind::Unsupported
            }
            CgroupError::Refused { .. } => io::ErrorKind::InvalidInput,
            CgroupError::InUse(_) => io::ErrorKind::ResourceBusy,
            CgroupError::Slow { .. } => io::ErrorKind::TimedOut,
            CgroupError::Systemd { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

type Result<T> = std::result::Result<T, CgroupError>;

/// The cgroup of one container, made or not.
#[derive(Clone, Debug)]
pub struct Cgroup {
    location: Location,
    /// One folder per hierarchy of the host.
    folders: Vec<Folder>,
}

#[derive(Clone, Debug)]
struct Folder {
    hierarchy: Hierarchy,
    path: PathBuf,
}

impl Cgroup {
    /// Names the cgroup at `location`; touches nothing.
    #[must_use]
    pub fn at(hierarchies: &Hierarchies, location: &Location) -> Self {
        let folder = |hierarchy: &Hierarchy| Folder {
            path: hierarchy.mount.join(location.relative()),
            hierarchy: hierarchy.clone(),
        };
        let folders = hierarchies.all().iter().map(folder).collect();
        Self { location: location.clone(), folders }
    }

    /// Opens the cgroup at `location` if it exists in any hierarchy of this host.
    ///
    /// # Errors
    /// When the host's hierarchies cannot be found.
    pub fn open(location: &Location) -> Result<Option<Self>> {
        let cgroup = Self::at(Hierarchies::of_host()?, location);
        Ok(cgroup.exists().then_some(cgroup))
    }

    /// Makes the folder in every hierarchy and applies the limits. On any
    /// error all that this call made is removed again.
    ///
    /// Device rules are not applied: the guests whose cgroup is made here have
    /// no device nodes, and every mount they see is `nodev`.
    ///
    /// On version 2 a location in a slice is only limited: its scope must stand,
    /// made by [`start_scope`] for this container, and goes by itself on an error.
    ///
    /// # Errors
    /// [`CgroupError::InUse`] when processes live there already,
    /// [`CgroupError::SystemdScope`] for a location in a slice that has no
    /// scope, and whatever keeps a folder from being made or a limit from being
    /// set.
    pub fn create(&self, resources: &LinuxResources) -> Result<()> {
        // A folder made behind systemd's back would lose its controllers, and
        // with them its limits, at systemd's next reload. Of version 1 systemd
        // manages a hierarchy of its own, and the others are anybody's.
        if self.location.driver() == Driver::Systemd && self.is_unified() {
            return match self.exists() {
                true => self.update(resources),
                false => Err(CgroupError::SystemdScope(self.location.relative().to_owned())),
            };
        }
        let mut made = Made::default();
        for folder in &self.folders {
            folder.create(&mut made)?;
        }
        self.update(resources)?;
        made.keep();
        Ok(())
    }

    /// Checks that the cgroup is nobody's yet: not there, or left over and empty.
    /// What is in it after that came with the container.
    ///
    /// # Errors
    /// [`CgroupError::InUse`], and those of reading the folders.
    pub fn refuse_occupied(&self) -> Result<()> {
        self.folders.iter().try_for_each(Folder::refuse_occupied)
    }

    /// Applies limits to a cgroup that exists; what `resources` does not name
    /// stays as it is.
    ///
    /// # Errors
    /// The first limit that cannot be set; the ones before it stay set.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let unified = self.is_unified();
        let settings = if unified { v2::settings(resources)? } else { v1::settings(resources)? };
        for setting in &settings {
            self.apply(setting)?;
        }
        Ok(())
    }

    fn apply(&self, setting: &Setting) -> Result<()> {
        let folder = self
            .folders
            .iter()
            .find(|folder| folder.hierarchy.holds(setting.controller))
            .ok_or_else(|| CgroupError::NoController(setting.files[0].clone()))?;
        setting.write_in(&folder.path)
    }

    /// Moves a process into the cgroup, in every hierarchy.
    ///
    /// # Errors
    /// Those of writing `cgroup.procs`.
    pub fn join(&self, pid: Pid) -> Result<()> {
        for folder in &self.folders {
            write(&folder.path.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Moves the calling process, which must have one thread, into the cgroup,
    /// in every hierarchy.
    ///
    /// # Errors
    /// Those of writing `tasks` or `cgroup.procs`.
    pub fn join_self(&self, _single: &SingleThreaded) -> Result<()> {
        for folder in &self.folders {
            // Moving a process takes a lock against every fork and exit of the
            // system, and an RCU grace period with it: 11 ms on an idle
            // machine. A thread that moves itself is let in without it, and
            // the only thread is the process. Version 2 does not let a thread
            // alone cross from one domain to another.
            let door = if folder.hierarchy.is_v2() { "cgroup.procs" } else { "tasks" };
            write(&folder.path.join(door), "0")?;
        }
        Ok(())
    }

    /// Opens the cgroup for [`SingleThreaded::fork_into`]. `None` on a host with
    /// version 1, whose cgroups are joined after the fork.
    ///
    /// # Errors
    /// Those of opening the folder.
    pub fn door(&self) -> Result<Option<OwnedFd>> {
        let [folder] = self.folders.as_slice() else {
            return Ok(None);
        };
        if !folder.hierarchy.is_v2() {
            return Ok(None);
        }
        let opened = fs::File::open(&folder.path);
        opened.map(|file| Some(file.into())).map_err(|error| failed("open", &folder.path, error))
    }

    /// Says whether the cgroup exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folders.iter().any(|folder| folder.path.is_dir())
    }

    /// Lists the processes in the cgroup and in those below it.
    ///
    /// # Errors
    /// Those of reading `cgroup.procs`; a cgroup that does not exist is empty.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        if let Some(folder) = self.census() {
            collect_pids(&folder.path, &mut pids)?;
        }
        Ok(pids)
    }

    /// The folder that is asked who is in: the one that also freezes or
    /// counts processes, else any that exists.
    fn census(&self) -> Option<&Folder> {
        let existing = || self.folders.iter().filter(|folder| folder.path.is_dir());
        existing()
            .find(|folder| folder.hierarchy.holds("pids") || folder.hierarchy.holds("freezer"))
            .or_else(|| existing().next())
    }

    /// Sends a signal to every process in the cgroup and below, including
    /// those forked meanwhile. SIGKILL also thaws what is frozen, since a
    /// frozen process of version 1 does not die.
    ///
    /// # Errors
    /// Those of listing the processes, and of kill(2) but for processes that
    /// are gone.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let kill = signal == libc::SIGKILL;
        if kill {
            self.kill_at_once()?;
        }
        let mut known = Vec::new();
        for _ in 0..SIGNAL_ROUNDS {
            let fresh: Vec<Pid> =
                self.pids()?.into_iter().filter(|pid| !known.contains(pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                self.signal(pid, signal)?;
                known.push(pid);
            }
            if kill {
                self.thaw()?;
            }
        }
        Ok(())
    }

    /// Uses the kernel's own way (version 2, Linux 5.14) where it is there; it
    /// misses no fork. What it cannot reach the caller signals one by one.
    fn kill_at_once(&self) -> Result<()> {
        for folder in self.folders.iter().filter(|folder| folder.hierarchy.is_v2()) {
            let lever = folder.path.join("cgroup.kill");
            if lever.exists() {
                write(&lever, "1")?;
            }
        }
        Ok(())
    }

    fn signal(&self, pid: Pid, signal: i32) -> Result<()> {
        // SAFETY: kill(2) takes two numbers and touches no memory of ours.
        let done = unsafe { libc::kill(pid.as_raw(), signal) };
        match (done, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            (_, gone) if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            (_, source) => Err(CgroupError::File {
                attempt: format!("send signal {signal} to process {pid} of"),
                path: self.location.relative().to_owned(),
                source,
            }),
        }
    }

    /// Removes the cgroup, and any below it, from every hierarchy; waits up to
    /// two seconds for dying processes, and for systemd to remove a scope. One
    /// that does not exist is removed.
    ///
    /// # Errors
    /// `EBUSY` when processes are still in it after that time.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        for folder in &self.folders {
            if self.location.driver() == Driver::Systemd && folder.hierarchy.is_v2() {
                systemd::await_end(&folder.path, deadline);
            }
            remove_tree(&folder.path, deadline)?;
        }
        Ok(())
    }

    fn is_unified(&self) -> bool {
        self.folders.iter().all(|folder| folder.hierarchy.is_v2())
    }
}

/// Says whether systemd has to make the cgroup at `location` on this host: a scope
/// of version 2. On version 1 its path is a folder like any other, as for a
/// Linux container.
///
/// # Errors
/// When the host's hierarchies cannot be found.
pub fn needs_scope(location: &Location) -> Result<bool> {
    Ok(location.driver() == Driver::Systemd && Hierarchies::of_host()?.is_unified())
}

/// Removes the cgroup at `location` from every hierarchy of this host, as
/// [`Cgroup::remove`] does.
///
/// # Errors
/// When the hierarchies cannot be found, or processes stay in the cgroup.
pub fn remove(location: &Location) -> Result<()> {
    Cgroup::at(Hierarchies::of_host()?, location).remove()
}

/// Folders that this call has made and takes back unless it succeeds.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.0.drain(..).rev() {
            if let Err(error) = fs::remove_dir(&folder) {
                // The error that led here is already on its way to the caller.
                log::warn!("remove half-made cgroup {}: {error}", folder.display());
            }
        }
    }
}

impl Folder {
    fn create(&self, made: &mut Made) -> Result<()> {
        if !make_folder(&self.path, made)? {
            self.refuse_occupied()?;
        }
        if self.hierarchy.is_v2() {
            v2::enable_controllers(&self.hierarchy.mount, &self.path)
        } else if self.hierarchy.holds("cpuset") {
            v1::inherit_cpuset(&self.hierarchy.mount, &self.path)
        } else {
            Ok(())
        }
    }

    /// A folder that is left over from a crash may be used again, one with
    /// processes or cgroups below may not: limits would hit, and a kill would end,
    /// a stranger.
    fn refuse_occupied(&self) -> Result<()> {
        let processes = read_optional(&self.path.join("cgroup.procs"))?.unwrap_or_default();
        match processes.is_empty() && children(&self.path)?.is_empty() {
            true => Ok(()),
            false => Err(CgroupError::InUse(self.path.clone())),
        }
    }
}

/// Makes a folder with its parents; says whether it is new.
fn make_folder(path: &Path, made: &mut Made) -> Result<bool> {
    let result = match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or_else(|| failed("make", path, error))?;
            make_folder(parent, made)?;
            fs::create_dir(path)
        }
        other => other,
    };
    match result {
        Ok(()) => {
            made.0.push(path.to_owned());
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make", path, error)),
    }
}

fn failed(attempt: &str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::File { attempt: attempt.to_owned(), path: path.to_owned(), source }
}

fn collect_pids(folder: &Path, pids: &mut Vec<Pid>) -> Result<()> {
    let file = folder.join("cgroup.procs");
    for line in read_optional(&file)?.unwrap_or_default().lines() {
        let pid = line
            .parse()
            .map_err(|_| CgroupError::Unreadable { path: file.clone(), text: line.to_owned() })?;
        pids.push(Pid::from_raw(pid));
    }
    for child in children(folder)? {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

/// The folders right below; none when the folder is gone.
fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        if entry.file_type().map_err(|error| failed("list", folder, error))?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn remove_tree(folder: &Path, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        // The folder itself first: nearly always there is nothing below it,
        // and listing a cgroup costs more than removing it.
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline =>
            {
                return Err(failed("remove", folder, error));
            }
            Err(_) => {}
        }
        for child in children(folder)? {
            remove_tree(&child, deadline)?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests;
