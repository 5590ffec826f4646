//! The runtime spec's limits as version 1 files.

use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use super::Result;
use super::files::{read, write};
use super::resources::{Setting, limit, pids_setting, rdma_settings, refused};

/// Lists what has to be written for `resources`, in order.
///
/// # Errors
/// A limit that version 1 does not have.
pub(super) fn settings(resources: &LinuxResources) -> Result<Vec<Setting>> {
    if let Some(name) = resources.unified().iter().flatten().map(|(name, _)| name).min() {
        return Err(refused("unified", name, "this host has cgroup version 1"));
    }
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        list.extend(memory_settings(memory));
    }
    if let Some(cpu) = resources.cpu() {
        list.extend(cpu_settings(cpu));
    }
    list.extend(resources.pids().and_then(|pids| pids_setting(pids.limit())));
    if let Some(block_io) = resources.block_io() {
        list.extend(block_io_settings(block_io)?);
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", huge.page_size());
        list.push(Setting::new("hugetlb", &file, huge.limit()));
    }
    if let Some(network) = resources.network() {
        list.extend(network_settings(network));
    }
    list.extend(rdma_settings(resources));
    Ok(list)
}

fn memory_settings(memory: &LinuxMemory) -> Vec<Setting> {
    let setting = |file, value: i64| Setting::new("memory", file, value);
    let mut list = Vec::new();
    // Without a word about swap, "no limit" has to lift the limit on memory
    // plus swap too, which may not be below it.
    let unlimited = (memory.limit() == Some(-1)).then_some(-1);
    let swap =
        limit(memory.swap()).or(unlimited).map(|swap| setting("memory.memsw.limit_in_bytes", swap));
    if let Some(bytes) = limit(memory.limit()) {
        let bytes = setting("memory.limit_in_bytes", bytes);
        list.push(match &swap {
            // Raised above the old limit on memory plus swap, it is refused
            // until that has been raised.
            Some(swap) => bytes.unless_refused(swap.clone()),
            None => bytes,
        });
    }
    list.extend(swap.filter(|_| limit(memory.swap()).is_some()));
    list.extend(
        limit(memory.reservation()).map(|bytes| setting("memory.soft_limit_in_bytes", bytes)),
    );
    list.extend(
        limit(memory.kernel_tcp()).map(|bytes| setting("memory.kmem.tcp.limit_in_bytes", bytes)),
    );
    list.extend(
        memory.swappiness().map(|value| Setting::new("memory", "memory.swappiness", value)),
    );
    if memory.disable_oom_killer() == Some(true) {
        list.push(setting("memory.oom_control", 1));
    }
    list
}

fn cpu_settings(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut add = |file, value: Option<String>| {
        list.extend(value.map(|value| Setting::new("cpu", file, value)));
    };
    let text =
        |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    add("cpu.shares", text(cpu.shares()));
    add("cpu.rt_period_us", text(cpu.realtime_period()));
    add("cpu.rt_runtime_us", limit(cpu.realtime_runtime()).map(|value| value.to_string()));
    add("cpu.cfs_period_us", text(cpu.period()));
    add("cpu.cfs_quota_us", limit(cpu.quota()).map(|value| value.to_string()));
    add("cpu.cfs_burst_us", cpu.burst().map(|value| value.to_string()));
    add("cpu.idle", cpu.idle().map(|value| value.to_string()));
    let set = |file, value: &Option<String>| {
        let value = value.as_deref().filter(|value| !value.is_empty());
        value.map(|value| Setting::new("cpuset", file, value))
    };
    list.extend(set("cpuset.cpus", cpu.cpus()));
    list.extend(set("cpuset.mems", cpu.mems()));
    list
}

fn block_io_settings(block_io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(refused("blockIO.leafWeight", "", "no current kernel has it"));
    }
    let mut list = Vec::new();
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        list.push(Setting::new("blkio", "blkio.bfq.weight", weight).or_in("blkio.weight"));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            list.push(
                Setting::new("blkio", "blkio.bfq.weight_device", value)
                    .or_in("blkio.weight_device"),
            );
        }
    }
    let mut throttle = |file, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            list.push(Setting::new("blkio", file, value));
        }
    };
    throttle("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device());
    throttle("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device());
    throttle("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device());
    throttle("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device());
    Ok(list)
}

fn network_settings(network: &LinuxNetwork) -> Vec<Setting> {
    let class = network.class_id().filter(|class| *class != 0);
    let class = class.map(|class| Setting::new("net_cls", "net_cls.classid", class));
    let priority = network.priorities().iter().flatten().map(|each| {
        let value = format!("{} {}", each.name(), each.priority());
        Setting::new("net_prio", "net_prio.ifpriomap", value)
    });
    class.into_iter().chain(priority).collect()
}

/// Gives a new cpuset folder, and new ones above it, the processors and memory
/// nodes of its parent: the kernel makes them empty and then lets no process in.
///
/// # Errors
/// Those of reading and writing the two files.
pub(super) fn inherit_cpuset(mount: &Path, folder: &Path) -> Result<()> {
    let Some(parent) = folder.parent().filter(|_| folder != mount) else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = folder.join(file);
        if read(&own)?.is_empty() {
            inherit_cpuset(mount, parent)?;
            write(&own, &read(&parent.join(file))?)?;
        }
    }
    Ok(())
}
