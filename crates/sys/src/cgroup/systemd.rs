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
use zbus::blocking::{Proxy, connection};
use zbus::zvariant::{OwnedObjectPath, Value};

use super::resources::Setting;
use super::{Cgroup, CgroupError, Driver, Hierarchies, Location, Result, read, v2};

/// How long systemd may take for one scope; it has other jobs too.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long an ended scope of the same name may take to vanish.
const PREDECESSOR: Duration = Duration::from_secs(5);

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;

/// In microseconds: a quota per second of processor time is kept by systemd in
/// whole hundredths; rounded down, a reload would tighten the limit.
const SECOND: u64 = 1_000_000;
const HUNDREDTH: u64 = SECOND / 100;

type Property = (&'static str, Value<'static>);
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
    properties.extend(v2::settings(resources)?.iter().flat_map(properties_of));
    let failed = |source| CgroupError::Systemd { unit: scope.unit.clone(), source };
    scope.start(&properties).map_err(failed)?;
    let arrived = read(Path::new("/proc/self/cgroup"))?;
    match Path::new(arrived.trim_start_matches("0::/")) == location.relative() {
        true => Ok(()),
        false => Err(failed(format!("it is not where it should be, but at {arrived}").into())),
    }
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
        let bus = connection::Builder::system()?.method_timeout(PATIENCE).build()?;
        let manager = Proxy::new(
            &bus,
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        )?;
        // Only subscribers are told of jobs, and only of those after that.
        manager.call_method("Subscribe", &())?;
        let ended_jobs = manager.receive_signal("JobRemoved")?;
        let job = self.ask(&manager, properties)?;
        match await_job(ended_jobs, job)?.as_str() {
            "done" => Ok(()),
            other => Err(format!("its start ended with {other:?}").into()),
        }
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

/// A limit as systemd knows it; what systemd does not know is the kernel's alone.
fn properties_of(setting: &Setting) -> Vec<Property> {
    let value = setting.value.as_str();
    let one = |name, value: Option<u64>| {
        value.map(|value| (name, Value::from(value))).into_iter().collect()
    };
    let set = |name, mask: Option<Vec<u8>>| {
        mask.map(|mask| (name, Value::from(mask))).into_iter().collect()
    };
    match setting.files[0].as_str() {
        "memory.max" => one("MemoryMax", number(value)),
        "memory.low" => one("MemoryLow", number(value)),
        "memory.swap.max" => one("MemorySwapMax", number(value)),
        "pids.max" => one("TasksMax", number(value)),
        "cpu.weight" => one("CPUWeight", number(value)),
        "cpu.max" => cpu_quota(value),
        "cpuset.cpus" => set("AllowedCPUs", mask(value)),
        "cpuset.mems" => set("AllowedMemoryNodes", mask(value)),
        "io.weight" | "io.bfq.weight" => {
            one("IOWeight", value.strip_prefix("default ").and_then(number))
        }
        _ => Vec::new(),
    }
}

fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(INFINITY) } else { text.parse().ok() }
}

/// `QUOTA [PERIOD]`, in microseconds.
fn cpu_quota(text: &str) -> Vec<Property> {
    let (quota, period) = text.split_once(' ').unwrap_or((text, "100000"));
    let (Some(quota), Ok(period @ 1..)) = (number(quota), period.parse::<u64>()) else {
        return Vec::new();
    };
    let per_second = match quota {
        INFINITY => INFINITY,
        quota => (quota.saturating_mul(SECOND) / period).div_ceil(HUNDREDTH) * HUNDREDTH,
    };
    vec![("CPUQuotaPerSecUSec", per_second.into()), ("CPUQuotaPeriodUSec", period.into())]
}

/// A list such as `0-2,7` as bits, the lowest first.
fn mask(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel is built for.
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        for each in first..=last {
            if bytes.len() <= each / 8 {
                bytes.resize(each / 8 + 1, 0);
            }
            bytes[each / 8] |= 1 << (each % 8);
        }
    }
    Some(bytes)
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

    #[test]
    fn a_limit_is_told_in_systemds_words() {
        let table: [(&str, &str, &[Property]); 10] = [
            ("memory.max", "4096", &[("MemoryMax", 4096u64.into())]),
            ("memory.max", "max", &[("MemoryMax", INFINITY.into())]),
            ("memory.max", "1G", &[]),
            ("pids.max", "7", &[("TasksMax", 7u64.into())]),
            ("cpu.weight", "20", &[("CPUWeight", 20u64.into())]),
            ("io.bfq.weight", "default 50", &[("IOWeight", 50u64.into())]),
            ("io.max", "8:0 rbps=1", &[]),
            (
                "cpu.max",
                "50000 100000",
                &[
                    ("CPUQuotaPerSecUSec", 500_000u64.into()),
                    ("CPUQuotaPeriodUSec", 100_000u64.into()),
                ],
            ),
            (
                "cpu.max",
                "max",
                &[
                    ("CPUQuotaPerSecUSec", INFINITY.into()),
                    ("CPUQuotaPeriodUSec", 100_000u64.into()),
                ],
            ),
            ("cpuset.cpus", "0-2,9", &[("AllowedCPUs", vec![0b111u8, 0b10].into())]),
        ];
        for (file, value, expected) in table {
            let setting = Setting::new("any", file, value);
            assert_eq!(properties_of(&setting), expected, "{file} {value}");
        }
    }

    #[test]
    fn a_fraction_of_a_hundredth_is_rounded_up() {
        let told = cpu_quota("33333 100000");
        assert_eq!(told[0], ("CPUQuotaPerSecUSec", 340_000u64.into()));
    }

    #[test]
    fn a_list_that_is_none_has_no_mask() {
        for list in ["", "a", "0-", "-1", "0-99999999"] {
            assert_eq!(mask(list), None, "{list:?}");
        }
        assert_eq!(mask("3-1"), Some(Vec::new()));
    }
}
