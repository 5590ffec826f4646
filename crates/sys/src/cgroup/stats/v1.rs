//! The counters of version 1: a hierarchy per controller.

use std::collections::HashMap;
use std::path::Path;

use super::super::Cgroup;
use super::super::error::Result;
use super::super::files::{read, read_number, read_optional, unreadable};
use super::super::folder::Folder;
use super::{CpuStats, Keyed, MemoryStats, PidStats, Rdma, Stats, huge_page_sizes, pids, rdma};

/// Version 1 says "no limit" with a number near the largest there is.
const NO_LIMIT: u64 = 1 << 62;

/// The kernel counts in ticks of 10 ms towards programs, on every architecture.
const NANOSECONDS_OF_TICK: u64 = 10_000_000;

/// All that version 1 counts; what is `None` has no controller here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `cpu.stat`: throttling, in nanoseconds.
    pub cpu: Option<Keyed>,
    /// Processor time.
    pub cpu_account: Option<CpuAccount>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<PidStats>,
    /// What went to and from block devices.
    pub block_io: Option<BlockIo>,
    /// Huge pages, by their size.
    pub huge_pages: Vec<HugePages>,
    /// RDMA devices.
    pub rdma: Option<Rdma>,
}

/// Processor time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuAccount {
    /// In all.
    pub total: u64,
    /// Of it in user mode; exact to 10 ms.
    pub user: u64,
    /// Of it in the kernel; exact to 10 ms.
    pub kernel: u64,
    /// In all, by processor.
    pub per_cpu: Vec<u64>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `memory.stat`; names with `total_` include the cgroups below.
    pub stat: Keyed,
    /// `memory.oom_control`.
    pub oom_control: Keyed,
    /// Memory of all kinds.
    pub usage: Usage,
    /// Memory plus swap; `None` where swap is not counted.
    pub with_swap: Option<Usage>,
    /// The kernel's own; `None` where it is not counted.
    pub kernel: Option<Usage>,
    /// Buffers of TCP; `None` where they are not counted.
    pub kernel_tcp: Option<Usage>,
}

/// The use of one kind of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub usage: u64,
    /// The most that was ever in use.
    pub peak: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// The limit, as the kernel gives it: near 2^63 for none.
    pub limit: u64,
}

/// What went to and from block devices, those below included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Bytes.
    pub service_bytes: Vec<DeviceCount>,
    /// Operations.
    pub serviced: Vec<DeviceCount>,
    /// Operations that wait now.
    pub queued: Vec<DeviceCount>,
    /// Nanoseconds in the device.
    pub service_time: Vec<DeviceCount>,
    /// Nanoseconds in its queue.
    pub wait_time: Vec<DeviceCount>,
    /// Operations that were joined with others.
    pub merged: Vec<DeviceCount>,
    /// Milliseconds of the device's time.
    pub time: Vec<DeviceCount>,
    /// Sectors.
    pub sectors: Vec<DeviceCount>,
}

/// A counter of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceCount {
    /// The device's file, empty for one that is gone.
    pub device: String,
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Total` and others; empty where they are not told apart.
    pub operation: String,
    /// The number.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size, such as `2MB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The most that was ever in use.
    pub peak: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

impl Counters {
    pub(super) fn of(cgroup: &Cgroup) -> Result<Self> {
        Ok(Self {
            cpu: cgroup.counted_by("cpu", |folder| keyed(folder, "cpu.stat").map(Some))?,
            cpu_account: cgroup.counted_by("cpuacct", |folder| cpu_account(folder).map(Some))?,
            memory: cgroup.counted_by("memory", |folder| memory(folder).map(Some))?,
            pids: cgroup.counted_by("pids", pids)?,
            block_io: cgroup.counted_by("blkio", |folder| block_io(folder).map(Some))?,
            huge_pages: cgroup.counted_by("hugetlb", huge_pages)?.unwrap_or_default(),
            rdma: cgroup.counted_by("rdma", rdma)?,
        })
    }
}

impl From<Counters> for Stats {
    fn from(counters: Counters) -> Self {
        let account = counters.cpu_account.as_ref();
        let throttling = |name| counters.cpu.as_ref().map_or(0, |cpu| cpu.count(name));
        let cpu = (account.is_some() || counters.cpu.is_some()).then(|| CpuStats {
            usage_ns: account.map_or(0, |account| account.total),
            user_ns: account.map_or(0, |account| account.user),
            system_ns: account.map_or(0, |account| account.kernel),
            periods: throttling("nr_periods"),
            throttled_periods: throttling("nr_throttled"),
            throttled_ns: throttling("throttled_time"),
        });
        let memory = counters.memory.as_ref().map(MemoryStats::from);
        let pids = counters.pids.clone();
        Self { cpu, memory, pids, counters: Some(super::Counters::V1(Box::new(counters))) }
    }
}

impl From<&Memory> for MemoryStats {
    fn from(memory: &Memory) -> Self {
        let limit = |usage: &Usage| Some(usage.limit).filter(|bytes| *bytes < NO_LIMIT);
        Self {
            usage: memory.usage.usage,
            peak: Some(memory.usage.peak),
            limit: limit(&memory.usage),
            anonymous: memory.stat.count("total_rss"),
            file: memory.stat.count("total_cache"),
            inactive_file: memory.stat.count("total_inactive_file"),
            swap_usage: memory.stat.get("total_swap"),
            swap_limit: memory.with_swap.as_ref().and_then(limit),
            page_faults: memory.stat.count("total_pgfault"),
            major_page_faults: memory.stat.count("total_pgmajfault"),
            limit_hits: memory.usage.limit_hits,
            oom_kills: memory.oom_control.count("oom_kill"),
        }
    }
}

fn keyed(folder: &Folder, file: &str) -> Result<Keyed> {
    let path = folder.path.join(file);
    Keyed::parse(&path, &read(&path)?)
}

fn number(folder: &Folder, file: &str) -> Result<u64> {
    Ok(read_number(&folder.path.join(file))?.unwrap_or(u64::MAX))
}

fn cpu_account(folder: &Folder) -> Result<CpuAccount> {
    let path = folder.path.join("cpuacct.usage_percpu");
    let text = read(&path)?;
    let per_cpu = text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>();
    // Unlike cpuacct.usage_user, which counts whole ticks by where each finds the
    // processor, these two are cut to fit the total.
    let ticks = keyed(folder, "cpuacct.stat")?;
    Ok(CpuAccount {
        total: number(folder, "cpuacct.usage")?,
        user: ticks.count("user").saturating_mul(NANOSECONDS_OF_TICK),
        kernel: ticks.count("system").saturating_mul(NANOSECONDS_OF_TICK),
        per_cpu: per_cpu.map_err(|_| unreadable(&path, &text))?,
    })
}

fn memory(folder: &Folder) -> Result<Memory> {
    Ok(Memory {
        stat: keyed(folder, "memory.stat")?,
        oom_control: keyed(folder, "memory.oom_control")?,
        usage: usage(folder, "memory")?,
        with_swap: usage_if_counted(folder, "memory.memsw")?,
        kernel: usage_if_counted(folder, "memory.kmem")?,
        kernel_tcp: usage_if_counted(folder, "memory.kmem.tcp")?,
    })
}

fn usage_if_counted(folder: &Folder, kind: &str) -> Result<Option<Usage>> {
    match folder.path.join(format!("{kind}.usage_in_bytes")).exists() {
        true => usage(folder, kind).map(Some),
        false => Ok(None),
    }
}

fn usage(folder: &Folder, kind: &str) -> Result<Usage> {
    let number = |name: &str| number(folder, &format!("{kind}.{name}"));
    Ok(Usage {
        usage: number("usage_in_bytes")?,
        peak: number("max_usage_in_bytes")?,
        limit_hits: number("failcnt")?,
        limit: number("limit_in_bytes")?,
    })
}

fn huge_pages(folder: &Folder) -> Result<Option<Vec<HugePages>>> {
    let counted =
        |size: &&String| folder.path.join(format!("hugetlb.{size}.usage_in_bytes")).exists();
    let of_size = |size: &String| {
        let number = |name: &str| number(folder, &format!("hugetlb.{size}.{name}"));
        Ok(HugePages {
            page_size: size.clone(),
            usage: number("usage_in_bytes")?,
            peak: number("max_usage_in_bytes")?,
            limit_hits: number("failcnt")?,
        })
    };
    huge_page_sizes().iter().filter(counted).map(of_size).collect::<Result<_>>().map(Some)
}

/// Reads the first that has counted anything: CFQ's own counters (before Linux 5.0),
/// those of throttling, which most kernels keep for every device, and BFQ's.
fn block_io(folder: &Folder) -> Result<BlockIo> {
    let mut names = HashMap::new();
    let mut found = BlockIo::default();
    for source in ["", "throttle.", "bfq."] {
        if !folder.path.join(format!("blkio.{source}io_serviced_recursive")).exists() {
            continue;
        }
        let mut counts = |counter: &str| {
            let path = folder.path.join(format!("blkio.{source}{counter}_recursive"));
            let text = read_optional(&path)?.unwrap_or_default();
            device_counts(&path, &text, &mut names)
        };
        found = BlockIo {
            service_bytes: counts("io_service_bytes")?,
            serviced: counts("io_serviced")?,
            queued: counts("io_queued")?,
            service_time: counts("io_service_time")?,
            wait_time: counts("io_wait_time")?,
            merged: counts("io_merged")?,
            time: counts("time")?,
            sectors: counts("sectors")?,
        };
        if found != BlockIo::default() {
            break;
        }
    }
    Ok(found)
}

fn device_counts(
    path: &Path,
    text: &str,
    names: &mut HashMap<(u64, u64), String>,
) -> Result<Vec<DeviceCount>> {
    // The last line is the sum of all devices.
    let lines = text.lines().filter(|line| !line.starts_with("Total "));
    let mut count = |line: &str| {
        let mut count = device_count(line)?;
        let name = names.entry((count.major, count.minor));
        let name = name.or_insert_with(|| device_file(count.major, count.minor));
        count.device.clone_from(name);
        Some(count)
    };
    lines.map(|line| count(line).ok_or_else(|| unreadable(path, line))).collect()
}

/// `8:0 Read 4096`, or `8:0 4096`
fn device_count(line: &str) -> Option<DeviceCount> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let (operation, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
    Some(DeviceCount {
        device: String::new(),
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        operation: operation.to_owned(),
        value: value.parse().ok()?,
    })
}

fn device_file(major: u64, minor: u64) -> String {
    // A device may be gone while what went through it is still counted.
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"));
    let text = text.unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_a_device_has_an_operation_or_none() {
        let count = |operation: &str, value| {
            let operation = operation.to_owned();
            Some(DeviceCount { major: 8, minor: 16, operation, value, ..DeviceCount::default() })
        };
        let table = [
            ("8:16 Read 4096", count("Read", 4096)),
            ("8:16 7", count("", 7)),
            ("8:16", None),
            ("8 Read 1", None),
            ("8:x Read 1", None),
            ("8:16 Read x", None),
        ];
        for (line, expected) in table {
            assert_eq!(device_count(line), expected, "{line}");
        }
    }

    #[test]
    fn the_sum_of_all_devices_is_not_a_device() {
        let path = Path::new("blkio.throttle.io_serviced");
        let mut names = HashMap::from([((8, 0), "/dev/sda".to_owned())]);
        let counts = device_counts(path, "8:0 Read 1\n8:0 Total 1\nTotal 1", &mut names).unwrap();
        let seen: Vec<_> =
            counts.iter().map(|count| (count.device.as_str(), count.operation.as_str())).collect();
        assert_eq!(seen, [("/dev/sda", "Read"), ("/dev/sda", "Total")]);
        assert!(device_counts(path, "8:0 Read", &mut names).is_err());
    }
}
