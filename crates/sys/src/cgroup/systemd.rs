//! Asking systemd for a container's scope.
//!
//! On a host whose cgroup tree systemd owns, a `cgroupsPath` of the form
//! `slice:prefix:name` names a scope, which only systemd may make. It makes none
//! that is empty: some process has to be in it from the first, until the
//! container's own has come. The scope is delegated, so what is below it is
//! ours; but systemd sets the scope's own limits anew whenever it reloads, so it
//! is told them too.
//!
//! Nothing is asked of systemd at the end: a scope ends with its last process,
//! and its `CollectMode` lets it be forgotten even when that failed.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use zbus::blocking::proxy::SignalIterator;
use zbus::blocking::{Connection, Proxy, connection};
use zbus::zvariant::OwnedObjectPath;

use super::error::{CgroupError, Result};
use super::files::read;
use super::resources::Place;
use super::v2::{self, Standing};
use super::{Cgroup, Driver, Hierarchies, Location};

mod properties;

pub(super) use properties::round_as_kept;
use properties::{Property, of_limit};

/// How long systemd may take for one scope; it has other jobs too.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long an ended scope of the same name may take to vanish.
const PREDECESSOR: Duration = Duration::from_secs(5);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Has systemd make the scope at `location`, and moves the calling process into
/// it. The scope lives as long as a process is in it.
///
/// Starts threads: only for a process that was forked for this call alone.
///
/// # Errors
/// [`CgroupError::SystemdScope`] on a host with cgroup version 1,
/// [`CgroupError::InUse`] when processes live there already,
/// [`CgroupError::Systemd`] when systemd cannot be asked or refuses, and what
/// [`Cgroup::update`] says of limits that make no sense.
pub fn start_scope(location: &Location, resources: &LinuxResources) -> Result<()> {
    let hierarchies = Hierarchies::of_host()?;
    let scope = Scope::at(location).filter(|_| hierarchies.is_unified());
    let scope = scope.ok_or_else(|| CgroupError::SystemdScope(location.relative().to_owned()))?;
    if !Cgroup::at(hierarchies, location).pids()?.is_empty() {
        return Err(CgroupError::InUse(location.relative().to_owned()));
    }
    let mut properties = scope.properties(std::process::id());
    let settings = v2::settings(resources, &Standing::default())?;
    properties.extend(settings.iter().flat_map(|setting| &setting.places).flat_map(of_limit));
    let failed =
        |source| CgroupError::Systemd { what: "the scope", unit: scope.unit.clone(), source };
    scope.start(&properties).map_err(failed)?;
    let arrived = read(Path::new("/proc/self/cgroup"))?;
    match Path::new(arrived.trim_start_matches("0::/")) == location.relative() {
        true => Ok(()),
        false => Err(failed(format!("it is not where it should be, but at {arrived}").into())),
    }
}

/// Tells systemd the limits of the scope at `location`, until the next boot; it
/// sets them, now and whenever it reloads. What it does not know it is not told.
///
/// Starts threads, which end with the call but for one that waits for the bus.
///
/// # Errors
/// [`CgroupError::Systemd`] when systemd cannot be asked or refuses.
pub(super) fn tell_limits<'a>(
    location: &Location,
    limits: impl IntoIterator<Item = &'a Place>,
) -> Result<()> {
    let properties: Vec<Property> = limits.into_iter().flat_map(of_limit).collect();
    let Some(scope) = Scope::at(location).filter(|_| !properties.is_empty()) else {
        return Ok(());
    };
    scope.tell(&properties).map_err(|source| CgroupError::Systemd {
        what: "the limits of the scope",
        unit: scope.unit.clone(),
        source,
    })
}

/// Waits until systemd has removed the folder of a scope without processes.
///
/// Whoever removed it himself could do so before systemd is told that it is
/// empty, and systemd would keep the unit for ever.
pub(super) fn await_end(folder: &Path, deadline: Instant) {
    let mut pause = Duration::from_micros(500);
    while folder.is_dir() && Instant::now() < deadline {
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A scope by its name, and the slice it is in.
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    unit: String,
    slice: String,
}

impl Scope {
    fn at(location: &Location) -> Option<Self> {
        if location.driver() != Driver::Systemd {
            return None;
        }
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let path = location.relative();
        let slice = path.parent().and_then(name).unwrap_or_else(|| "-.slice".to_owned());
        Some(Self { unit: name(path)?, slice })
    }

    /// What makes it a container's scope.
    fn properties(&self, process: u32) -> Vec<Property> {
        vec![
            ("Description", format!("container {}", self.unit).into()),
            ("Slice", self.slice.clone().into()),
            ("PIDs", vec![process].into()),
            // The controllers of its limits, and systemd's hands off what is below.
            ("Delegate", true.into()),
            // The container goes when its runtime says so, not with the host's
            // other services at shutdown.
            ("DefaultDependencies", false.into()),
            // Killed for its memory, it would be kept as failed.
            ("CollectMode", "inactive-or-failed".into()),
        ]
    }

    fn start(&self, properties: &[Property]) -> std::result::Result<(), Cause> {
        let bus = bus()?;
        let manager = manager(&bus)?;
        // Only subscribers are told of jobs, and only of those after that.
        manager.call_method("Subscribe", &())?;
        let ended_jobs = manager.receive_signal("JobRemoved")?;
        let job = self.ask(&manager, properties)?;
        match await_job(ended_jobs, job)?.as_str() {
            "done" => Ok(()),
            other => Err(format!("its start ended with {other:?}").into()),
        }
    }

    fn tell(&self, properties: &[Property]) -> std::result::Result<(), Cause> {
        let runtime = true;
        let request = (self.unit.as_str(), runtime, properties);
        manager(&bus()?)?.call_method("SetUnitProperties", &request)?;
        Ok(())
    }

    /// Asks for the start; one of the same name that is on its way out is
    /// waited for.
    fn ask(&self, manager: &Proxy<'_>, properties: &[Property]) -> zbus::Result<OwnedObjectPath> {
        let auxiliary_units: Vec<(&str, Vec<Property>)> = Vec::new();
        let request = (self.unit.as_str(), "replace", properties, auxiliary_units);
        let deadline = Instant::now() + PREDECESSOR;
        loop {
            match manager.call("StartTransientUnit", &request) {
                Err(zbus::Error::MethodError(name, ..))
                    if name.as_str() == "org.freedesktop.systemd1.UnitExists"
                        && Instant::now() < deadline =>
                {
                    // Another runtime's may have failed and been kept; one that
                    // has not is none of ours to reset, and this says so.
                    if let Err(error) = manager.call_method("ResetFailedUnit", &self.unit) {
                        log::debug!("reset {}: {error}", self.unit);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                answer => return answer,
            }
        }
    }
}

fn bus() -> zbus::Result<Connection> {
    connection::Builder::system()?.method_timeout(PATIENCE).build()
}

fn manager(bus: &Connection) -> zbus::Result<Proxy<'static>> {
    Proxy::new(
        bus,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    )
}

/// Waits for the end of a job and returns its result in systemd's words.
fn await_job(
    ended_jobs: SignalIterator<'static>,
    job: OwnedObjectPath,
) -> std::result::Result<String, Cause> {
    let (tell, told) = mpsc::channel();
    // The iterator itself has no limit of time. The thread ends with this
    // process, which does nothing else.
    thread::spawn(move || {
        for signal in ended_jobs {
            let body = signal.body();
            let read = body.deserialize::<(u32, OwnedObjectPath, String, String)>();
            if let Ok((_, ended, _, result)) = read
                && ended == job
            {
                // Nobody waits any more when the time was up.
                let _late = tell.send(result);
                return;
            }
        }
    });
    told.recv_timeout(PATIENCE).map_err(|_| "its start took too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_named_by_the_last_two_parts_of_its_path() {
        let table = [
            ("system.slice:docker:1", "docker-1.scope", "system.slice"),
            ("-.slice:x:1", "x-1.scope", "-.slice"),
            ("a-b.slice:x:1", "x-1.scope", "a-b.slice"),
        ];
        for (given, unit, slice) in table {
            let location = Location::parse(Some(given), "").unwrap();
            let scope = Scope { unit: unit.to_owned(), slice: slice.to_owned() };
            assert_eq!(Scope::at(&location), Some(scope), "{given}");
        }
        assert_eq!(Scope::at(&Location::parse(Some("/a/b"), "").unwrap()), None);
    }
}
