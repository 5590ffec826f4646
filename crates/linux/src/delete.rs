//! Removing a container, whatever state it is in.
//!
//! Never goes by a bare process id: a process is killed because it is in the
//! container's cgroup, or because it is the recorded first process with the
//! recorded start time, held by a pidfd while that is compared.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use libcontainer::container::{ContainerStatus, State};
use libcontainer::hooks::run_hooks;
use lifecycle::InvalidId;
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use sys::cgroup::{Cgroup, Hierarchies, Location};
use sys::error::chain;
use sys::pidfd::Identity;

use crate::home::{Home, Record, load_spec};

/// How long [`delete`] waits for a create or an exec that was cut off.
const MAKERS_PATIENCE: Duration = Duration::from_secs(2);

/// Why a container was not removed completely. All that could be is gone; it
/// can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The id cannot name a container.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// Some of it is left.
    #[error("container {id:?} was not removed completely: {}", .leftover.join("; "))]
    LeftBehind {
        /// The container.
        id: String,
        /// What is left, and why, one sentence each.
        leftover: Vec<String>,
    },
}

/// Kills what is left of the container and removes its cgroup and its state,
/// then runs the `poststop` hooks. A container that does not exist is removed.
///
/// `bundle` stands in when the state is damaged or incomplete: the cgroup is
/// then the one that its config.json names.
///
/// # Errors
/// [`DeleteError::LeftBehind`] says what could not be removed.
pub fn delete(state_root: &Path, id: &str, bundle: Option<&Path>) -> Result<(), DeleteError> {
    let home = Home::at(state_root, id)?;
    let mut leftover = Vec::new();
    let record = match home.load_record() {
        Ok(record) => record,
        Err(error) => {
            // Not left behind: the folder goes, and the bundle fills in.
            log::warn!("state of container {id}: {}", chain(&error));
            None
        }
    };
    let location = match (&record, bundle) {
        (Some(record), _) => Some(record.cgroup.clone()),
        (None, Some(bundle)) => location_of(bundle, id, &mut leftover),
        (None, None) => None,
    };
    let cgroup = location.and_then(|location| find(&location, &mut leftover));
    let spec = record.as_ref().and_then(|_| home.load_spec().ok());
    let known = home.exists();
    match wait_for_makers(&home, cgroup.as_ref()) {
        Ok(()) => {
            let init = record.as_ref().and_then(|it| it.init);
            leftover.extend(sweep(&home, cgroup.as_ref(), init));
        }
        Err(reason) => leftover.push(reason),
    }
    if let (true, Some(record), Some(spec)) = (known, &record, &spec) {
        poststop(id, record, spec);
    }
    match leftover.is_empty() {
        true => Ok(()),
        false => Err(DeleteError::LeftBehind { id: id.to_owned(), leftover }),
    }
}

fn location_of(bundle: &Path, id: &str, leftover: &mut Vec<String>) -> Option<Location> {
    let spec = match load_spec(bundle) {
        Ok(spec) => spec,
        // Neither state nor bundle: nothing was made, or nobody knows of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            leftover.push(chain(&error));
            return None;
        }
    };
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()?.to_str());
    Location::parse(path, id).map_err(|error| leftover.push(error.to_string())).ok()
}

fn find(location: &Location, leftover: &mut Vec<String>) -> Option<Cgroup> {
    match Hierarchies::discover() {
        Ok(hierarchies) => Some(Cgroup::at(&hierarchies, location)),
        Err(error) => {
            leftover.push(format!("find the cgroup hierarchies: {error}"));
            None
        }
    }
}

/// Waits until no process makes or joins the container any more. A worker that was
/// killed can leave some that have not yet joined the cgroup: they would make it
/// anew after it was removed, or outlive it.
fn wait_for_makers(home: &Home, cgroup: Option<&Cgroup>) -> Result<(), String> {
    let deadline = Instant::now() + MAKERS_PATIENCE;
    loop {
        match home.is_being_made() {
            Ok(false) => return Ok(()),
            Ok(true) if Instant::now() < deadline => {}
            Ok(true) => return Err("a process is still being made for it".to_owned()),
            Err(error) => return Err(chain(&error)),
        }
        if let Some(Err(error)) = cgroup.map(|it| it.signal_all(Signal::SIGKILL as i32)) {
            log::debug!("kill what makes the container: {}", chain(&error));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills and removes; returns a sentence for each thing that is left. The state
/// goes last, and only if all else went: while it is there, one can try again.
pub(crate) fn sweep(home: &Home, cgroup: Option<&Cgroup>, init: Option<Identity>) -> Vec<String> {
    let mut leftover = Vec::new();
    if let Some(init) = init
        && let Err(error) = kill(init)
    {
        leftover.push(format!("kill its first process: {error}"));
    }
    if let Some(cgroup) = cgroup {
        // After the kill of the first process, so that most are gone by now.
        if let Err(error) = cgroup.signal_all(Signal::SIGKILL as i32) {
            leftover.push(chain(&error));
        }
        if let Err(error) = cgroup.remove() {
            leftover.push(chain(&error));
        }
    }
    if leftover.is_empty() {
        match home.remove() {
            // Whoever made the bundle read-only has to remove it.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                log::warn!("{}", chain(&error));
            }
            Err(error) => leftover.push(chain(&error)),
            Ok(()) => {}
        }
    }
    leftover
}

fn kill(init: Identity) -> io::Result<()> {
    let Some(handle) = init.open()? else {
        return Ok(());
    };
    match handle.send_signal(Signal::SIGKILL as i32) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32) => Err(error),
        _ => Ok(()),
    }
}

/// As runc, goes on when a hook fails: the container is gone in any case.
fn poststop(id: &str, record: &Record, spec: &Spec) {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
    if hooks.is_none() {
        return;
    }
    let mut state = State::new(id, ContainerStatus::Stopped, None, record.bundle.clone());
    state.annotations.clone_from(spec.annotations());
    if let Err(error) = run_hooks(hooks, Some(&state), None, None, None) {
        log::warn!("poststop hook of container {id}: {}", chain(&error));
    }
}
