//! What a bundle remembers of its container, for whoever has to remove it when
//! the shim that made it is gone.
//!
//! `hybrid.json` is written before anything else is made, so that no process or
//! cgroup exists that it does not name.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, CgroupError, Location};
use sys::pidfd::Identity;

use crate::error::Error;
use crate::handle::blocking;
use crate::hooks::Hooks;

const RECORD: &str = "hybrid.json";
const STATE_FOLDER: &str = "libcontainer";
const INIT_PID: &str = "init.pid";

/// How long the keeper of a dead server may take to end by itself; then it is
/// killed. containerd gives the whole removal five seconds.
const KEEPERS_PATIENCE: Duration = Duration::from_millis(1500);

/// How long killed processes may take to die before that is an error.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a container's server is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// It serves the pod's other containers, and so does its keeper.
    Lives,
    /// It is gone, and its keeper ends.
    Gone,
}

/// What is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The container's id.
    pub id: String,
    /// Where the container's processes are found.
    pub cgroup: Location,
    /// The process that may still be making it.
    pub keeper: Identity,
}

/// Where libcontainer keeps the state of the bundle's container.
#[must_use]
pub fn state_root(bundle: &Path) -> PathBuf {
    bundle.join(STATE_FOLDER)
}

/// Claims the cgroup and writes what a later removal needs.
///
/// From here on whatever is found in that cgroup came with this container, and may
/// be killed with it; so a cgroup that is somebody's is refused first.
///
/// # Errors
/// [`Error::InvalidSpec`] for a cgroup in use, [`Error::Runtime`] for a bundle that
/// can't be written to (a full disk, a read-only one).
pub(crate) async fn begin(bundle: PathBuf, record: Record) -> Result<(), Error> {
    let location = record.cgroup.clone();
    let claim = move || -> Result<Option<CgroupError>, CgroupError> {
        match Cgroup::open(&location)?.map(|cgroup| cgroup.refuse_occupied()) {
            Some(Err(refusal @ CgroupError::InUse(_))) => Ok(Some(refusal)),
            Some(Err(error)) => Err(error),
            Some(Ok(())) | None => Ok(None),
        }
    };
    if let Some(refusal) = blocking("look at the container's cgroup", claim).await? {
        return Err(Error::InvalidSpec(refusal.to_string()));
    }
    let write =
        move || -> io::Result<()> { fs::write(bundle.join(RECORD), serde_json::to_vec(&record)?) };
    blocking("write the container's record", write).await
}

/// Forgets a container that is gone, off the async thread.
pub(crate) async fn forget(bundle: PathBuf) -> Result<(), Error> {
    let forget = move || -> Result<(), Infallible> {
        erase(&bundle);
        Ok(())
    };
    blocking("forget the container", forget).await
}

/// Writes the init's process id, as runc's shim does.
///
/// # Errors
/// Returns the error of writing into the bundle.
pub fn write_pid(bundle: &Path, pid: i32) -> io::Result<()> {
    fs::write(bundle.join(INIT_PID), pid.to_string())
}

/// Reads the init's process id; `None` when the container got no init.
#[must_use]
pub fn read_pid(bundle: &Path) -> Option<i32> {
    fs::read_to_string(bundle.join(INIT_PID)).ok()?.trim().parse().ok()
}

/// Forgets a container that is gone. What can't be removed is left to containerd,
/// which removes the bundle as a whole.
fn erase(bundle: &Path) {
    let erased = [RECORD, INIT_PID]
        .map(|file| fs::remove_file(bundle.join(file)))
        .into_iter()
        .chain([fs::remove_dir_all(state_root(bundle))]);
    for error in erased.filter_map(Result::err) {
        if error.kind() != io::ErrorKind::NotFound {
            log::warn!("bundle {}: {error}", bundle.display());
        }
    }
}

/// Kills and removes what a shim that is gone left of the bundle's container:
/// processes, cgroup, state. A bundle without a record has nothing to remove.
///
/// Calls libcontainer for a Linux container, so it must not be called where there
/// are threads.
///
/// # Errors
/// Returns what could not be removed.
pub fn remove_leftovers(bundle: &Path, server: Server) -> io::Result<()> {
    let record: Record = match fs::read(bundle.join(RECORD)) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if server == Server::Gone {
        outlast(record.keeper)?;
    }
    let is_linux = state_root(bundle).exists();
    if is_linux {
        linux::delete(&state_root(bundle), &record.id, Some(bundle)).map_err(io::Error::other)?;
    }
    empty(&record.cgroup)?;
    sys::cgroup::remove(&record.cgroup)?;
    erase(bundle);
    if !is_linux {
        run_poststop_hooks(bundle, &record.id);
    }
    Ok(())
}

/// Waits for the keeper's end. It ends by itself once its server is gone, and with
/// it whatever it was making: only then is what is found all there will be.
fn outlast(keeper: Identity) -> io::Result<()> {
    let Some(handle) = keeper.open()? else {
        return Ok(());
    };
    if handle.ends_within(KEEPERS_PATIENCE)? {
        return Ok(());
    }
    handle.send_signal(nix::sys::signal::Signal::SIGKILL as i32)?;
    if handle.ends_within(PATIENCE)? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the container's keeper does not end"))
}

/// Runs the hooks that libcontainer would run for a Linux container. The container
/// is gone whatever becomes of them.
fn run_poststop_hooks(bundle: &Path, id: &str) {
    let run = || -> anyhow::Result<()> {
        let spec = Spec::load(bundle.join("config.json"))?;
        let hooks = Hooks::from_spec(&spec, id, bundle)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(hooks.after_stop());
        Ok(())
    };
    if let Err(error) = run() {
        log::warn!("poststop hooks of container {id}: {error:#}");
    }
}

/// Kills every process of a cgroup and waits for their end.
fn empty(location: &Location) -> io::Result<()> {
    let Some(cgroup) = Cgroup::open(location)? else {
        return Ok(());
    };
    let deadline = Instant::now() + PATIENCE;
    while !cgroup.pids()?.is_empty() {
        match cgroup.signal_all(nix::sys::signal::Signal::SIGKILL as i32) {
            // What still forks is killed again, until the deadline.
            Ok(()) | Err(CgroupError::Unending { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            let message =
                format!("processes in cgroup {} do not die", location.relative().display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
