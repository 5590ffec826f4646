//! Limits changed while processes run under them.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimitBuilder, LinuxMemory};

use super::*;
use crate::cgroup::v2::{Standing, weight_of};

const MIB: i64 = 1 << 20;

fn of_memory(memory: LinuxMemoryBuilder) -> LinuxResources {
    LinuxResourcesBuilder::default().memory(memory.build().unwrap()).build().unwrap()
}

fn of_cpu(cpu: LinuxCpuBuilder) -> LinuxResources {
    LinuxResourcesBuilder::default().cpu(cpu.build().unwrap()).build().unwrap()
}

fn memory_limit(lab: &Lab) -> Option<u64> {
    lab.cgroup.stats().unwrap().memory.unwrap().limit
}

#[test]
fn a_memory_limit_is_raised_lowered_and_lifted() {
    let Some(lab) = Lab::new("raise") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    for bytes in [256 * MIB, 32 * MIB, 33 * MIB, 512 * MIB] {
        let both = LinuxMemoryBuilder::default().limit(bytes).swap(bytes);
        lab.cgroup.update(&of_memory(both)).unwrap();
        assert_eq!(memory_limit(&lab), Some(bytes.cast_unsigned()));
    }
    lab.cgroup.update(&of_memory(LinuxMemoryBuilder::default().limit(-1))).unwrap();
    assert_eq!(memory_limit(&lab), None);
    assert_eq!(lab.cgroup.stats().unwrap().memory.unwrap().swap_limit, None);
}

#[test]
fn only_what_is_named_changes() {
    let Some(lab) = Lab::new("named") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    let before = |lab: &Lab| {
        let stats = lab.cgroup.stats().unwrap();
        let cpu = lab.limit("cpu", "cpu.shares", "cpu.weight");
        (stats.memory.unwrap().limit, stats.pids.unwrap().limit, cpu)
    };
    let all = before(&lab);
    lab.cgroup.update(&LinuxResources::default()).unwrap();
    assert_eq!(before(&lab), all);
    let pids = LinuxPidsBuilder::default().limit(9).build().unwrap();
    let pids = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
    lab.cgroup.update(&pids).unwrap();
    assert_eq!(before(&lab), (all.0, Some(9), all.2));
    lab.cgroup.update(&of_cpu(LinuxCpuBuilder::default().shares(1024u64))).unwrap();
    let shares = unified_or(&lab, "1024", "100");
    assert_eq!(before(&lab), (all.0, Some(9), shares.to_owned()));
}

#[test]
fn quota_period_and_burst_go_in_any_order() {
    let Some(lab) = Lab::new("quota") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    let steps = [
        (Some(20_000i64), None, None, "20000", "20000 100000"),
        (None, Some(50_000u64), None, "20000", "20000 50000"),
        (Some(80_000), Some(100_000), Some(70_000u64), "80000", "80000 100000"),
        (Some(30_000), None, Some(10_000), "30000", "30000 100000"),
        (Some(-1), None, None, "-1", "max 100000"),
    ];
    for (quota, period, burst, v1, v2) in steps {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(quota).set_period(period).set_burst(burst);
        let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
        lab.cgroup.update(&resources).unwrap();
        let found = lab.limit("cpu", "cpu.cfs_quota_us", "cpu.max");
        assert_eq!(found, unified_or(&lab, v1, v2));
    }
    let cpu = LinuxCpuBuilder::default().idle(1i64).shares(512u64);
    lab.cgroup.update(&of_cpu(cpu)).unwrap();
    assert_eq!(lab.file("cpu", "cpu.idle"), "1");
    let cpu = LinuxCpuBuilder::default().idle(0i64).shares(512u64);
    lab.cgroup.update(&of_cpu(cpu)).unwrap();
    assert_eq!(lab.limit("cpu", "cpu.shares", "cpu.weight"), unified_or(&lab, "512", "59"));
}

#[test]
fn a_refused_limit_takes_the_others_back_and_is_named() {
    let Some(lab) = Lab::new("all-or-none") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    let all = |lab: &Lab| {
        [
            lab.limit("memory", "memory.limit_in_bytes", "memory.max"),
            lab.limit("memory", "memory.soft_limit_in_bytes", "memory.low"),
            lab.limit("cpu", "cpu.shares", "cpu.weight"),
            lab.limit("cpu", "cpu.cfs_quota_us", "cpu.max"),
            lab.limit("cpu", "cpu.cfs_burst_us", "cpu.max.burst"),
            lab.file("cpuset", "cpuset.mems"),
            lab.file("pids", "pids.max"),
        ]
    };
    let before = all(&lab);
    let ask = |cpus: &str| {
        let memory = LinuxMemoryBuilder::default().limit(96 * MIB).swap(96 * MIB).reservation(MIB);
        let cpu = LinuxCpuBuilder::default().shares(2u64).quota(90_000).burst(1_000u64);
        LinuxResourcesBuilder::default()
            .memory(memory.build().unwrap())
            .cpu(cpu.cpus(cpus).mems("0").build().unwrap())
            .pids(LinuxPidsBuilder::default().limit(3).build().unwrap())
            .build()
            .unwrap()
    };
    let refused = lab.cgroup.update(&ask("4000")).unwrap_err();
    let sentence = refused.to_string();
    assert!(matches!(refused, CgroupError::Limit { .. }), "{sentence}");
    assert!(sentence.starts_with("set cpu.cpus: write \"4000\" to /sys/fs/cgroup"), "{sentence}");
    assert_eq!(all(&lab), before);
    lab.cgroup.update(&ask("0")).unwrap();
    assert_ne!(all(&lab), before);
    assert_eq!(lab.file("cpuset", "cpuset.cpus"), "0");
}

#[test]
fn a_limit_of_a_controller_that_is_not_there_changes_nothing() {
    let Some(lab) = Lab::new("no-controller") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    let huge = LinuxHugepageLimitBuilder::default().page_size("3MB").limit(MIB).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(9).build().unwrap();
    let resources = LinuxResourcesBuilder::default().pids(pids).hugepage_limits(vec![huge]);
    let refused = lab.cgroup.update(&resources.build().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("hugepageLimits"), "{refused}");
    assert_eq!(lab.cgroup.stats().unwrap().pids.unwrap().limit, Some(7));
}

#[test]
fn a_throttled_device_is_freed_again() {
    let Some(lab) = Lab::new("throttle") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata("/").unwrap());
    let (major, minor) = (nix::libc::major(device), nix::libc::minor(device));
    if !std::path::Path::new(&format!("/sys/dev/block/{major}:{minor}/queue")).exists() {
        eprintln!("SKIPPED: / is on no whole block device");
        return;
    }
    let throttle = oci_spec::runtime::LinuxThrottleDeviceBuilder::default()
        .major(i64::from(major))
        .minor(i64::from(minor))
        .rate(1u64 << 30)
        .build()
        .unwrap();
    let block_io = oci_spec::runtime::LinuxBlockIoBuilder::default()
        .throttle_read_bps_device(vec![throttle])
        .build()
        .unwrap();
    let controller = unified_or(&lab, "blkio", "io");
    let line = |lab: &Lab| {
        let file = unified_or(lab, "blkio.throttle.read_bps_device", "io.max");
        lab.file(controller, file)
    };
    let resources = || LinuxResourcesBuilder::default().block_io(block_io.clone());
    lab.cgroup.update(&resources().build().unwrap()).unwrap();
    assert!(line(&lab).contains("1073741824"), "{}", line(&lab));
    lab.cgroup.remove().unwrap();
    lab.cgroup.create(&some_limits()).unwrap();
    // Huge pages come after block devices.
    let huge = LinuxHugepageLimitBuilder::default().page_size("3MB").limit(MIB).build().unwrap();
    let resources = resources().hugepage_limits(vec![huge]).build().unwrap();
    lab.cgroup.update(&resources).unwrap_err();
    assert_eq!(line(&lab), "");
}

#[test]
fn a_limit_below_what_is_in_use_says_how_much_is() {
    let Some(lab) = Lab::new("in-use") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    // Memory that cannot be taken back: without swap, and held.
    let mut holder = lab.running("x=$(head -c 24m /dev/zero | tr '\\0' x); echo held; sleep 60");
    lab.await_word(&mut holder);
    let limit = LinuxMemoryBuilder::default().limit(4 * MIB).check_before_update(true);
    let refused = lab.cgroup.update(&of_memory(limit)).unwrap_err().to_string();
    if lab.hierarchies.is_unified() {
        assert!(refused.starts_with("rejecting memory limit 4194304 <= usage "), "{refused}");
    } else {
        let start = "unable to set memory limit to 4194304 (current usage: ";
        assert!(refused.starts_with(start), "{refused}");
    }
    assert_eq!(memory_limit(&lab), Some(64 << 20));
    let limit = LinuxMemoryBuilder::default().limit(60 * MIB).check_before_update(true);
    lab.cgroup.update(&of_memory(limit)).unwrap();
    assert!(holder.try_wait().unwrap().is_none());
    lab.cgroup.signal_all(libc::SIGKILL).unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_scopes_limits_stay_when_systemd_reloads() {
    let location = Location::parse(Some("system.slice:hybrid:updated"), "").unwrap();
    if !needs_scope(&location).unwrap() {
        eprintln!("SKIPPED: needs cgroup version 2 alone, and systemd");
        return;
    }
    crate::forked::in_child(|| {
        start_scope(&location, &some_limits()).unwrap();
        let cgroup = Cgroup::open(&location).unwrap().unwrap();
        cgroup.create(&some_limits()).unwrap();
        let lab = Lab { cgroup, hierarchies: Hierarchies::of_host().unwrap().clone() };
        let cpu = LinuxCpuBuilder::default().quota(33_333).build().unwrap();
        let memory = LinuxMemoryBuilder::default().limit(80 * MIB).build().unwrap();
        let pids = LinuxPidsBuilder::default().limit(11).build().unwrap();
        let resources = LinuxResourcesBuilder::default().cpu(cpu).memory(memory).pids(pids);
        lab.cgroup.update(&resources.build().unwrap()).unwrap();
        let all = || ["memory.max", "pids.max", "cpu.max"].map(|file| lab.file("memory", file));
        let wanted = ["83886080", "11", "34000 100000"];
        assert_eq!(all(), wanted);
        // What is refused is taken back from systemd as well.
        let memory = LinuxMemoryBuilder::default().limit(90 * MIB).build().unwrap();
        let cpu = LinuxCpuBuilder::default().idle(7i64).build().unwrap();
        let refused = LinuxResourcesBuilder::default().memory(memory).cpu(cpu).build().unwrap();
        lab.cgroup.update(&refused).unwrap_err();
        let reloaded = Command::new("systemctl").arg("daemon-reload").status().unwrap();
        assert!(reloaded.success());
        assert_eq!(all(), wanted);
        std::mem::forget(lab);
    });
}

#[test]
fn swap_of_version_2_is_what_exceeds_memory() {
    let table = [
        (Some(100), Some(150), None, Ok(Some("50"))),
        (Some(100), Some(100), None, Ok(Some("0"))),
        (Some(100), Some(-1), None, Ok(Some("max"))),
        (Some(-1), None, None, Ok(Some("max"))),
        (Some(-1), Some(50), None, Ok(Some("50"))),
        (Some(100), None, Some(200), Ok(None)),
        (Some(100), Some(50), None, Err(())),
        (None, Some(50), None, Err(())),
        (None, Some(50), Some(20), Ok(Some("30"))),
        (None, Some(50), Some(-1), Ok(Some("50"))),
        (None, Some(50), Some(60), Err(())),
        (Some(100), Some(-2), None, Err(())),
    ];
    for (limit, swap, standing, wanted) in table {
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit);
        memory.set_swap(swap);
        let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        let standing = Standing { memory: standing, quota: None };
        let found = v2::settings(&resources, &standing).map_err(drop).map(|list| {
            let mut places = list.into_iter().flat_map(|setting| setting.places);
            places.find(|place| place.file == "memory.swap.max").map(|place| place.value)
        });
        let wanted = wanted.map(|text| text.map(str::to_owned));
        assert_eq!(found, wanted, "{limit:?} {swap:?} {standing:?}");
    }
}

#[test]
fn quota_and_period_of_version_2_keep_each_other() {
    let old = || Standing { memory: None, quota: Some(("20000".into(), "50000".into())) };
    let table = [
        (Some(10), None, old(), "10 50000"),
        (None, Some(40_000), old(), "20000 40000"),
        (Some(-1), None, old(), "max 50000"),
        (Some(10), Some(40_000), old(), "10 40000"),
        (Some(10), None, Standing::default(), "10"),
        (None, Some(40_000), Standing::default(), "max 40000"),
    ];
    for (quota, period, standing, wanted) in table {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(quota);
        cpu.set_period(period);
        let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
        let settings = v2::settings(&resources, &standing).unwrap();
        assert_eq!(settings[0].places[0].value, wanted, "{quota:?} {period:?}");
    }
}

#[test]
fn shares_become_weights_end_to_end() {
    let table = [
        (2, 1),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (1, 1),
        (u64::MAX, 10_000),
    ];
    for (shares, weight) in table {
        assert_eq!(weight_of(shares), weight, "{shares}");
    }
}
