//! The runtime spec's limits as version 2 files.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::Result;
use super::files::{read, try_write};
use super::resources::{Setting, limit, pids_setting, rdma_settings, refused};

/// Lists what has to be written for `resources`, in order.
///
/// # Errors
/// A limit that version 2 does not have.
pub(super) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        list.extend(memory_settings(memory)?);
    }
    if let Some(cpu) = resources.cpu() {
        list.extend(cpu_settings(cpu)?);
    }
    list.extend(resources.pids().and_then(|pids| pids_setting(pids.limit())));
    if let Some(block_io) = resources.block_io() {
        list.extend(block_io_settings(block_io)?);
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", huge.page_size());
        list.push(Setting::new("hugetlb", &file, or_max(huge.limit())));
    }
    list.extend(rdma_settings(resources));
    // Last: the operator's own words replace what was translated. Sorted, so
    // that the same spec always fails at the same file.
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in unified {
        if file.contains('/') || !file.contains('.') {
            return Err(refused("unified", file, "it is not the name of a cgroup file"));
        }
        list.push(Setting::new("unified", file, value));
    }
    Ok(list)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory_settings(memory: &LinuxMemory) -> Result<Vec<Setting>> {
    let mut list = Vec::new();
    if let Some(swap) = swap_alone(memory)? {
        list.push(Setting::new("memory", "memory.swap.max", or_max(swap)));
    }
    if let Some(bytes) = limit(memory.limit()) {
        list.push(Setting::new("memory", "memory.max", or_max(bytes)));
    }
    if let Some(bytes) = limit(memory.reservation()) {
        list.push(Setting::new("memory", "memory.low", or_max(bytes)));
    }
    Ok(list)
}

/// The spec's number is memory plus swap; version 2 limits swap by itself.
fn swap_alone(memory: &LinuxMemory) -> Result<Option<i64>> {
    let refuse = |reason| Err(refused("memory.swap", memory.swap().unwrap_or_default(), reason));
    match (memory.limit().unwrap_or_default(), memory.swap().unwrap_or_default()) {
        (-1, 0 | -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some(-1)),
        (_, swap) if swap < -1 => refuse("it is negative"),
        (bytes, _) if bytes <= 0 => refuse("there is no memory limit beside it"),
        (bytes, swap) if swap < bytes => refuse("it is below the memory limit"),
        (bytes, swap) => Ok(Some(swap - bytes)),
    }
}

fn cpu_settings(cpu: &LinuxCpu) -> Result<Vec<Setting>> {
    if cpu.realtime_runtime().is_some_and(|value| value > 0) {
        return Err(refused(
            "cpu.realtimeRuntime",
            cpu.realtime_runtime().unwrap_or_default(),
            "cgroup version 2 does not have it",
        ));
    }
    let mut list = Vec::new();
    // cpu.weight cannot be set on a group that is idle, so idle comes first.
    list.extend(cpu.idle().map(|value| Setting::new("cpu", "cpu.idle", value)));
    if cpu.idle() != Some(1)
        && let Some(shares) = cpu.shares().filter(|shares| *shares != 0)
    {
        list.push(Setting::new("cpu", "cpu.weight", weight_of(shares)));
    }
    let period = cpu.period().filter(|period| *period != 0);
    match (limit(cpu.quota()), period) {
        (None, None) => {}
        (quota, period) => {
            let quota = or_max(quota.unwrap_or(-1));
            let period = period.map(|period| format!(" {period}")).unwrap_or_default();
            list.push(Setting::new("cpu", "cpu.max", quota + &period));
        }
    }
    list.extend(cpu.burst().map(|value| Setting::new("cpu", "cpu.max.burst", value)));
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            list.push(Setting::new("cpuset", file, value));
        }
    }
    Ok(list)
}

/// Maps shares, 2 to 262144, on weight, 1 to 10000, in a straight line, as
/// Kubernetes does for the pods above.
pub(super) fn weight_of(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

fn block_io_settings(block_io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(refused("blockIO.leafWeight", "", "no current kernel has it"));
    }
    let mut list = Vec::new();
    let weight = |value: String| Setting::new("io", "io.bfq.weight", value).or_in("io.weight");
    if let Some(value) = block_io.weight().filter(|value| *value != 0) {
        list.push(weight(format!("default {value}")));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(value) = device.weight() {
            list.push(weight(format!("{}:{} {value}", device.major(), device.minor())));
        }
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            list.push(Setting::new("io", "io.max", value));
        }
    };
    throttle("rbps", block_io.throttle_read_bps_device());
    throttle("wbps", block_io.throttle_write_bps_device());
    throttle("riops", block_io.throttle_read_iops_device());
    throttle("wiops", block_io.throttle_write_iops_device());
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
