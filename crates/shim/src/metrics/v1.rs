//! `io.containerd.cgroups.v1.Metrics`

use containerd_shim::protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};
use containerd_shim::protos::protobuf::MessageField;
use sys::cgroup::stats::v1::{BlockIo, Counters, DeviceCount, HugePages, Memory, Usage};
use sys::cgroup::stats::{self, Keyed, PidStats, Rdma};

pub(super) fn metrics(counters: &Counters) -> Metrics {
    Metrics {
        hugetlb: counters.huge_pages.iter().map(hugetlb).collect(),
        pids: counters.pids.as_ref().map(pids).into(),
        cpu: MessageField::some(cpu(counters)),
        memory: counters.memory.as_ref().map(memory).into(),
        blkio: counters.block_io.as_ref().map(block_io).into(),
        rdma: counters.rdma.as_ref().map(rdma).into(),
        memory_oom_control: counters.memory.as_ref().map(|memory| oom(&memory.oom_control)).into(),
        ..Metrics::default()
    }
}

fn cpu(counters: &Counters) -> CPUStat {
    let account = counters.cpu_account.clone().unwrap_or_default();
    let throttling = |name| counters.cpu.as_ref().map_or(0, |stat| stat.count(name));
    CPUStat {
        usage: MessageField::some(CPUUsage {
            total: account.total,
            kernel: account.kernel,
            user: account.user,
            per_cpu: account.per_cpu,
            ..CPUUsage::default()
        }),
        throttling: MessageField::some(Throttle {
            periods: throttling("nr_periods"),
            throttled_periods: throttling("nr_throttled"),
            throttled_time: throttling("throttled_time"),
            ..Throttle::default()
        }),
        ..CPUStat::default()
    }
}

fn memory(memory: &Memory) -> MemoryStat {
    let count = |name| memory.stat.count(name);
    let or_empty = |usage: Option<Usage>| MessageField::some(entry(&usage.unwrap_or_default()));
    MemoryStat {
        cache: count("cache"),
        rss: count("rss"),
        rss_huge: count("rss_huge"),
        mapped_file: count("mapped_file"),
        dirty: count("dirty"),
        writeback: count("writeback"),
        pg_pg_in: count("pgpgin"),
        pg_pg_out: count("pgpgout"),
        pg_fault: count("pgfault"),
        pg_maj_fault: count("pgmajfault"),
        inactive_anon: count("inactive_anon"),
        active_anon: count("active_anon"),
        inactive_file: count("inactive_file"),
        active_file: count("active_file"),
        unevictable: count("unevictable"),
        hierarchical_memory_limit: count("hierarchical_memory_limit"),
        hierarchical_swap_limit: count("hierarchical_memsw_limit"),
        total_cache: count("total_cache"),
        total_rss: count("total_rss"),
        total_rss_huge: count("total_rss_huge"),
        total_mapped_file: count("total_mapped_file"),
        total_dirty: count("total_dirty"),
        total_writeback: count("total_writeback"),
        total_pg_pg_in: count("total_pgpgin"),
        total_pg_pg_out: count("total_pgpgout"),
        total_pg_fault: count("total_pgfault"),
        total_pg_maj_fault: count("total_pgmajfault"),
        total_inactive_anon: count("total_inactive_anon"),
        total_active_anon: count("total_active_anon"),
        total_inactive_file: count("total_inactive_file"),
        total_active_file: count("total_active_file"),
        total_unevictable: count("total_unevictable"),
        usage: MessageField::some(entry(&memory.usage)),
        swap: or_empty(memory.with_swap),
        kernel: or_empty(memory.kernel),
        kernel_tcp: or_empty(memory.kernel_tcp),
        ..MemoryStat::default()
    }
}

fn entry(usage: &Usage) -> MemoryEntry {
    MemoryEntry {
        limit: usage.limit,
        usage: usage.usage,
        max: usage.peak,
        failcnt: usage.limit_hits,
        ..MemoryEntry::default()
    }
}

fn oom(control: &Keyed) -> MemoryOomControl {
    MemoryOomControl {
        oom_kill_disable: control.count("oom_kill_disable"),
        under_oom: control.count("under_oom"),
        oom_kill: control.count("oom_kill"),
        ..MemoryOomControl::default()
    }
}

fn pids(pids: &PidStats) -> PidsStat {
    let limit = pids.limit.unwrap_or_default();
    PidsStat { current: pids.current, limit, ..PidsStat::default() }
}

fn hugetlb(pages: &HugePages) -> HugetlbStat {
    HugetlbStat {
        usage: pages.usage,
        max: pages.peak,
        failcnt: pages.limit_hits,
        pagesize: pages.page_size.clone(),
        ..HugetlbStat::default()
    }
}

fn block_io(counted: &BlockIo) -> BlkIOStat {
    BlkIOStat {
        io_service_bytes_recursive: entries(&counted.service_bytes),
        io_serviced_recursive: entries(&counted.serviced),
        io_queued_recursive: entries(&counted.queued),
        io_service_time_recursive: entries(&counted.service_time),
        io_wait_time_recursive: entries(&counted.wait_time),
        io_merged_recursive: entries(&counted.merged),
        io_time_recursive: entries(&counted.time),
        sectors_recursive: entries(&counted.sectors),
        ..BlkIOStat::default()
    }
}

fn entries(counts: &[DeviceCount]) -> Vec<BlkIOEntry> {
    let entry = |count: &DeviceCount| BlkIOEntry {
        op: count.operation.clone(),
        device: count.device.clone(),
        major: count.major,
        minor: count.minor,
        value: count.value,
        ..BlkIOEntry::default()
    };
    counts.iter().map(entry).collect()
}

fn rdma(rdma: &Rdma) -> RdmaStat {
    let entries = |entries: &[stats::RdmaEntry]| {
        let entry = |entry: &stats::RdmaEntry| RdmaEntry {
            device: entry.device.clone(),
            hca_handles: entry.hca_handles,
            hca_objects: entry.hca_objects,
            ..RdmaEntry::default()
        };
        entries.iter().map(entry).collect()
    };
    RdmaStat { current: entries(&rdma.current), limit: entries(&rdma.limit), ..RdmaStat::default() }
}
