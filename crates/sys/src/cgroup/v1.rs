//! The runtime spec's limits as version 1 files.

use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use super::error::Result;
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
        list.push(Setting::new("hugetlb", "hugepageLimits", &file, huge.limit()));
    }
    if let Some(network) = resources.network() {
        list.extend(network_settings(network));
    }
    list.extend(rdma_settings(resources));
    Ok(list)
}

fn memory_settings(memory: &LinuxMemory) -> Vec<Setting> {
    let setting = |key, file, value: i64| Setting::new("memory", key, file, value);
    let both = |value| setting("memory.swap", "memory.memsw.limit_in_bytes", value);
    let mut list = Vec::new();
    let swap = match (limit(memory.limit()), limit(memory.swap())) {
        // Without a word about swap, "no limit" has to lift the limit on memory
        // plus swap too, which may not be below it.
        (Some(-1), None) => Some(both(-1).kept_if_absent()),
        (_, swap) => swap.map(both),
    };
    // Raised above the old limit on memory plus swap, memory is refused until
    // that has been raised.
    list.extend(limit(memory.limit()).map(|bytes| {
        setting("memory.limit", "memory.limit_in_bytes", bytes).unless_refused(swap.clone())
    }));
    list.extend(swap);
    list.extend(
        limit(memory.reservation())
            .map(|bytes| setting("memory.reservation", "memory.soft_limit_in_bytes", bytes)),
    );
    list.extend(
        limit(memory.kernel_tcp())
            .map(|bytes| setting("memory.kernelTCP", "memory.kmem.tcp.limit_in_bytes", bytes)),
    );
    list.extend(
        memory
            .swappiness()
            .map(|value| Setting::new("memory", "memory.swappiness", "memory.swappiness", value)),
    );
    list.extend(
        memory.disable_oom_killer().map(|is_off| {
            setting("memory.disableOOMKiller", "memory.oom_control", i64::from(is_off))
        }),
    );
    list
}

fn cpu_settings(cpu: &LinuxCpu) -> Vec<Setting> {
    let setting =
        |key, file, value: Option<String>| value.map(|value| Setting::new("cpu", key, file, value));
    let text =
        |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let signed = |value: Option<i64>| value.map(|value| value.to_string());
    let mut list = Vec::new();
    // A group that is idle has no shares that could be set.
    list.extend(setting("cpu.idle", "cpu.idle", signed(cpu.idle())));
    if cpu.idle() != Some(1) {
        list.extend(setting("cpu.shares", "cpu.shares", text(cpu.shares())));
    }
    let runtime = signed(limit(cpu.realtime_runtime()));
    let runtime = setting("cpu.realtimeRuntime", "cpu.rt_runtime_us", runtime);
    let period = setting("cpu.realtimePeriod", "cpu.rt_period_us", text(cpu.realtime_period()));
    list.extend(period.map(|period| period.unless_refused(runtime.clone())));
    list.extend(runtime);
    // No quota may exceed the share of the group above, and no burst the quota:
    // which has to go first is for the old values to say.
    let burst = cpu.burst().map(|value| value.to_string());
    let burst = setting("cpu.burst", "cpu.cfs_burst_us", burst);
    let quota = setting("cpu.quota", "cpu.cfs_quota_us", signed(limit(cpu.quota())));
    let quota = quota.map(|quota| quota.unless_refused(burst.clone()));
    let period = setting("cpu.period", "cpu.cfs_period_us", text(cpu.period()));
    list.extend(period.map(|period| period.unless_refused(quota.clone())));
    list.extend(quota);
    list.extend(burst);
    let set = |key, file, value: &Option<String>| {
        let value = value.as_deref().filter(|value| !value.is_empty());
        value.map(|value| Setting::new("cpuset", key, file, value))
    };
    list.extend(set("cpu.cpus", "cpuset.cpus", cpu.cpus()));
    list.extend(set("cpu.mems", "cpuset.mems", cpu.mems()));
    list
}

fn block_io_settings(block_io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(refused("blockIO.leafWeight", "", "no current kernel has it"));
    }
    let mut list = Vec::new();
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        list.push(
            Setting::new("blkio", "blockIO.weight", "blkio.bfq.weight", weight)
                .or_in("blkio.weight", weight),
        );
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            list.push(
                Setting::new("blkio", "blockIO.weightDevice", "blkio.bfq.weight_device", &value)
                    .or_in("blkio.weight_device", &value),
            );
        }
    }
    let mut throttle = |key, file, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            list.push(Setting::new("blkio", key, file, value));
        }
    };
    throttle(
        "blockIO.throttleReadBpsDevice",
        "blkio.throttle.read_bps_device",
        block_io.throttle_read_bps_device(),
    );
    throttle(
        "blockIO.throttleWriteBpsDevice",
        "blkio.throttle.write_bps_device",
        block_io.throttle_write_bps_device(),
    );
    throttle(
        "blockIO.throttleReadIOPSDevice",
        "blkio.throttle.read_iops_device",
        block_io.throttle_read_iops_device(),
    );
    throttle(
        "blockIO.throttleWriteIOPSDevice",
        "blkio.throttle.write_iops_device",
        block_io.throttle_write_iops_device(),
    );
    Ok(list)
}

fn network_settings(network: &LinuxNetwork) -> Vec<Setting> {
    let class = network.class_id().filter(|class| *class != 0);
    let class =
        class.map(|class| Setting::new("net_cls", "network.classID", "net_cls.classid", class));
    let priority = network.priorities().iter().flatten().map(|each| {
        let value = format!("{} {}", each.name(), each.priority());
        Setting::new("net_prio", "network.priorities", "net_prio.ifpriomap", value)
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
