//! The runtime spec's limits as version 2 files.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::error::{CgroupError, Result};
use super::files::{read, read_number, read_optional, try_write};
use super::resources::{Setting, limit, pids_setting, rdma_settings, refused};

/// What holds already, for limits that the spec and the kernel cut differently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// The limit on memory, -1 for none; `None` when it is not known.
    pub(super) memory: Option<i64>,
    /// The processor quota and its period, as in `cpu.max`.
    pub(super) quota: Option<(String, String)>,
}

impl Standing {
    /// Reads what holds in a folder.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let memory = folder.join("memory.max");
        let memory = match read_optional(&memory)? {
            Some(_) => Some(match read_number(&memory)? {
                Some(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
                None => -1,
            }),
            None => None,
        };
        let quota = read_optional(&folder.join("cpu.max"))?;
        let quota = quota.as_deref().and_then(|text| text.split_once(' '));
        let quota = quota.map(|(quota, period)| (quota.to_owned(), period.to_owned()));
        Ok(Self { memory, quota })
    }
}

/// Refuses a limit that is below what is in use, where the request says to look first:
/// the kernel would kill until it holds.
///
/// # Errors
/// [`CgroupError::Rejected`], and those of reading `memory.current`.
pub(super) fn check_usage(resources: &LinuxResources, folder: &Path) -> Result<()> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    let (limit, both) = (memory.limit().unwrap_or_default(), memory.swap().unwrap_or_default());
    if memory.check_before_update() != Some(true) || limit <= 0 && both <= 0 {
        return Ok(());
    }
    let usage = read_number(&folder.join("memory.current"))?.unwrap_or_default();
    for (what, limit) in [("memory+swap", both), ("memory", limit)] {
        if limit > 0 && limit.cast_unsigned() <= usage {
            return Err(CgroupError::Rejected { what, limit, usage });
        }
    }
    Ok(())
}

/// Lists what has to be written for `resources`, in order.
///
/// # Errors
/// A limit that version 2 does not have.
pub(super) fn settings(resources: &LinuxResources, standing: &Standing) -> Result<Vec<Setting>> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        list.extend(memory_settings(memory, standing)?);
    }
    if let Some(cpu) = resources.cpu() {
        list.extend(cpu_settings(cpu, standing)?);
    }
    list.extend(resources.pids().and_then(|pids| pids_setting(pids.limit())));
    if let Some(block_io) = resources.block_io() {
        list.extend(block_io_settings(block_io)?);
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", huge.page_size());
        list.push(Setting::new("hugetlb", "hugepageLimits", &file, or_max(huge.limit())));
    }
    list.extend(rdma_settings(resources));
    // Last: the operator's own words replace what was translated. Sorted, so
    // that the same spec always fails at the same file.
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in unified {
        if file.contains('/') || !file.contains('.') {
            return Err(refused("unified", file, "it is not the name of a cgroup file"));
        }
        list.push(Setting::new("unified", &format!("unified {file}"), file, value));
    }
    Ok(list)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory_settings(memory: &LinuxMemory, standing: &Standing) -> Result<Vec<Setting>> {
    let setting = |key, file, value| Setting::new("memory", key, file, or_max(value));
    let mut list = Vec::new();
    if let Some(swap) = swap_alone(memory, standing)? {
        let limit = setting("memory.swap", "memory.swap.max", swap);
        // A kernel that does not count swap has no file for it; what asks for
        // none, or for no limit, is kept there as well.
        list.push(if swap > 0 { limit } else { limit.kept_if_absent() });
    }
    list.extend(limit(memory.limit()).map(|bytes| setting("memory.limit", "memory.max", bytes)));
    list.extend(
        limit(memory.reservation()).map(|bytes| setting("memory.reservation", "memory.low", bytes)),
    );
    Ok(list)
}

/// The spec's number is memory plus swap; version 2 limits swap by itself.
fn swap_alone(memory: &LinuxMemory, standing: &Standing) -> Result<Option<i64>> {
    let refuse = |reason| Err(refused("memory.swap", memory.swap().unwrap_or_default(), reason));
    let bytes = limit(memory.limit()).or(standing.memory);
    match (bytes, memory.swap().unwrap_or_default()) {
        (Some(-1), 0) if memory.limit() == Some(-1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some(-1)),
        (_, swap) if swap < -1 => refuse("it is negative"),
        (None, _) => refuse("there is no memory limit beside it"),
        // Without a limit on memory there is nothing to take off.
        (Some(bytes), swap) if bytes < 0 => Ok(Some(swap)),
        (Some(bytes), swap) if swap < bytes => refuse("it is below the memory limit"),
        (Some(bytes), swap) => Ok(Some(swap - bytes)),
    }
}

fn cpu_settings(cpu: &LinuxCpu, standing: &Standing) -> Result<Vec<Setting>> {
    if cpu.realtime_runtime().is_some_and(|value| value > 0) {
        return Err(refused(
            "cpu.realtimeRuntime",
            cpu.realtime_runtime().unwrap_or_default(),
            "cgroup version 2 does not have it",
        ));
    }
    let mut list = Vec::new();
    // cpu.weight cannot be set on a group that is idle, so idle comes first.
    list.extend(cpu.idle().map(|value| Setting::new("cpu", "cpu.idle", "cpu.idle", value)));
    if cpu.idle() != Some(1)
        && let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
    {
        list.push(Setting::new("cpu", "cpu.shares", "cpu.weight", weight_of(shares)));
    }
    let burst = cpu.burst().map(|value| Setting::new("cpu", "cpu.burst", "cpu.max.burst", value));
    if let Some((key, value)) = cpu_max(cpu, standing) {
        // A quota below the old burst is refused until that has been lowered.
        list.push(Setting::new("cpu", key, "cpu.max", value).unless_refused(burst.clone()));
    }
    list.extend(burst);
    let sets = [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())];
    for (key, file, value) in sets {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            list.push(Setting::new("cpuset", key, file, value));
        }
    }
    Ok(list)
}

/// Quota and period share a file. A quota alone leaves the period as it is, and
/// a period alone the quota.
fn cpu_max(cpu: &LinuxCpu, standing: &Standing) -> Option<(&'static str, String)> {
    let quota = limit(cpu.quota()).map(or_max);
    let period = cpu.period().filter(|period| *period != 0).map(|period| period.to_string());
    let key = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
    let old = standing.quota.clone();
    match (quota, period, old) {
        (None, None, _) => None,
        (Some(quota), Some(period), _)
        | (None, Some(period), Some((quota, _)))
        | (Some(quota), None, Some((_, period))) => Some((key, format!("{quota} {period}"))),
        (Some(quota), None, None) => Some((key, quota)),
        (None, Some(period), None) => Some((key, format!("max {period}"))),
    }
}

/// Maps shares, 2 to 262144, on weight, 1 to 10000, by the curve that also maps the
/// default of the one, 1024, on the default of the other, 100. runc, crun and
/// libcontainer have the same.
#[expect(
    clippy::cast_possible_truncation,
    reason = "clamped to small positive numbers on both sides"
)]
pub(super) fn weight_of(shares: u64) -> u64 {
    // The ends are exact; in the curve a rounding error would lift them.
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

/// Maps a weight of the spec, 10 to 1000, on one of `io.weight`, 1 to 10000, in a
/// straight line.
fn io_weight_of(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990
}

fn block_io_settings(block_io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(refused("blockIO.leafWeight", "", "no current kernel has it"));
    }
    let mut list = Vec::new();
    let weight = |key, who: &str, value: u16| {
        Setting::new("io", key, "io.bfq.weight", format!("{who} {value}"))
            .or_in("io.weight", format!("{who} {}", io_weight_of(value)))
    };
    if let Some(value) = block_io.weight().filter(|value| *value != 0) {
        list.push(weight("blockIO.weight", "default", value));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(value) = device.weight() {
            let device = format!("{}:{}", device.major(), device.minor());
            list.push(weight("blockIO.weightDevice", &device, value));
        }
    }
    let mut throttle = |key, word: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {word}={}", device.major(), device.minor(), device.rate());
            list.push(Setting::new("io", key, "io.max", value));
        }
    };
    throttle("blockIO.throttleReadBpsDevice", "rbps", block_io.throttle_read_bps_device());
    throttle("blockIO.throttleWriteBpsDevice", "wbps", block_io.throttle_write_bps_device());
    throttle("blockIO.throttleReadIOPSDevice", "riops", block_io.throttle_read_iops_device());
    throttle("blockIO.throttleWriteIOPSDevice", "wiops", block_io.throttle_write_iops_device());
    Ok(list)
}

/// Hands every controller that exists down from the mount to the parent of
/// `folder`. One that cannot be handed down is no error here: the limit that
/// needs it will be, by name.
///
/// # Errors
/// Those of reading `cgroup.controllers`.
pub(super) fn enable_controllers(mount: &Path, folder: &Path) -> Result<()> {
    let Some(parent) = folder.parent().filter(|_| folder != mount) else {
        return Ok(());
    };
    let control = parent.join("cgroup.subtree_control");
    let available = read(&parent.join("cgroup.controllers"))?;
    let enabled = read(&control)?;
    let missing = |text: &str| !enabled.split(' ').any(|name| name == text);
    if parent != mount && available.is_empty() || available.split(' ').any(missing) {
        enable_controllers(mount, parent)?;
        for name in read(&parent.join("cgroup.controllers"))?.split_whitespace() {
            if missing(name)
                && let Err(error) = try_write(&control, &format!("+{name}"))
            {
                log::debug!("enable cgroup controller {name} in {}: {error}", control.display());
            }
        }
    }
    Ok(())
}
