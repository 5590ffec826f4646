//! `io.containerd.cgroups.v2.Metrics`

use containerd_shim::protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats,
    PidsStat, RdmaEntry, RdmaStat,
};
use containerd_shim::protos::protobuf::MessageField;
use sys::cgroup::stats::v2::{Counters, Cpu, HugePages, Io, IoDevice, Memory, Pressure, Waiting};
use sys::cgroup::stats::{self, Keyed, PidStats, Rdma};

pub(super) fn metrics(counters: &Counters) -> Metrics {
    Metrics {
        pids: MessageField::some(counters.pids.as_ref().map(pids).unwrap_or_default()),
        cpu: MessageField::some(counters.cpu.as_ref().map(cpu).unwrap_or_default()),
        memory: MessageField::some(counters.memory.as_ref().map(memory).unwrap_or_default()),
        rdma: MessageField::some(counters.rdma.as_ref().map(rdma).unwrap_or_default()),
        io: MessageField::some(counters.io.as_ref().map(io).unwrap_or_default()),
        hugetlb: counters.huge_pages.iter().map(hugetlb).collect(),
        memory_events: counters.memory.as_ref().map(|memory| events(&memory.events)).into(),
        ..Metrics::default()
    }
}

fn cpu(cpu: &Cpu) -> CPUStat {
    let count = |name| cpu.stat.count(name);
    CPUStat {
        usage_usec: count("usage_usec"),
        user_usec: count("user_usec"),
        system_usec: count("system_usec"),
        nr_periods: count("nr_periods"),
        nr_throttled: count("nr_throttled"),
        throttled_usec: count("throttled_usec"),
        nr_bursts: count("nr_bursts"),
        burst_usec: count("burst_usec"),
        psi: pressure(cpu.pressure.as_ref()),
        ..CPUStat::default()
    }
}

fn memory(memory: &Memory) -> MemoryStat {
    let count = |name| memory.stat.count(name);
    MemoryStat {
        anon: count("anon"),
        file: count("file"),
        kernel_stack: count("kernel_stack"),
        slab: count("slab"),
        sock: count("sock"),
        shmem: count("shmem"),
        file_mapped: count("file_mapped"),
        file_dirty: count("file_dirty"),
        file_writeback: count("file_writeback"),
        anon_thp: count("anon_thp"),
        inactive_anon: count("inactive_anon"),
        active_anon: count("active_anon"),
        inactive_file: count("inactive_file"),
        active_file: count("active_file"),
        unevictable: count("unevictable"),
        slab_reclaimable: count("slab_reclaimable"),
        slab_unreclaimable: count("slab_unreclaimable"),
        pgfault: count("pgfault"),
        pgmajfault: count("pgmajfault"),
        workingset_refault: whole(&memory.stat, "workingset_refault"),
        workingset_activate: whole(&memory.stat, "workingset_activate"),
        workingset_nodereclaim: count("workingset_nodereclaim"),
        pgrefill: count("pgrefill"),
        pgscan: count("pgscan"),
        pgsteal: count("pgsteal"),
        pgactivate: count("pgactivate"),
        pgdeactivate: count("pgdeactivate"),
        pglazyfree: count("pglazyfree"),
        pglazyfreed: count("pglazyfreed"),
        thp_fault_alloc: count("thp_fault_alloc"),
        thp_collapse_alloc: count("thp_collapse_alloc"),
        usage: memory.usage,
        usage_limit: memory.limit,
        max_usage: memory.peak.unwrap_or_default(),
        swap_usage: memory.swap_usage.unwrap_or_default(),
        swap_limit: memory.swap_limit.unwrap_or_default(),
        swap_max_usage: memory.swap_peak.unwrap_or_default(),
        psi: pressure(memory.pressure.as_ref()),
        ..MemoryStat::default()
    }
}

/// Linux 5.9 counts two parts of what was one number.
fn whole(stat: &Keyed, name: &str) -> u64 {
    let part = |kind| stat.count(&format!("{name}_{kind}"));
    stat.get(name).unwrap_or_else(|| part("anon").saturating_add(part("file")))
}

fn events(events: &Keyed) -> MemoryEvents {
    MemoryEvents {
        low: events.count("low"),
        high: events.count("high"),
        max: events.count("max"),
        oom: events.count("oom"),
        oom_kill: events.count("oom_kill"),
        oom_group_kill: events.count("oom_group_kill"),
        ..MemoryEvents::default()
    }
}

fn pids(pids: &PidStats) -> PidsStat {
    let limit = pids.limit.unwrap_or(u64::MAX);
    PidsStat { current: pids.current, limit, ..PidsStat::default() }
}

fn io(io: &Io) -> IOStat {
    let usage = io.devices.iter().map(device).collect();
    IOStat { usage, psi: pressure(io.pressure.as_ref()), ..IOStat::default() }
}

fn device(device: &IoDevice) -> IOEntry {
    IOEntry {
        major: device.major,
        minor: device.minor,
        rbytes: device.read_bytes,
        wbytes: device.written_bytes,
        rios: device.reads,
        wios: device.writes,
        ..IOEntry::default()
    }
}

fn hugetlb(pages: &HugePages) -> HugeTlbStat {
    HugeTlbStat {
        current: pages.usage,
        max: pages.limit,
        pagesize: pages.page_size.clone(),
        failcnt: pages.limit_hits,
        ..HugeTlbStat::default()
    }
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

fn pressure(pressure: Option<&Pressure>) -> MessageField<PSIStats> {
    let stats = |pressure: &Pressure| PSIStats {
        some: pressure.some.as_ref().map(waiting).into(),
        full: pressure.full.as_ref().map(waiting).into(),
        ..PSIStats::default()
    };
    pressure.map(stats).into()
}

fn waiting(waiting: &Waiting) -> PSIData {
    let per_cent = |hundredths| f64::from(hundredths) / 100.0;
    PSIData {
        avg10: per_cent(waiting.of_10_s),
        avg60: per_cent(waiting.of_60_s),
        avg300: per_cent(waiting.of_300_s),
        total: waiting.total,
        ..PSIData::default()
    }
}
