//! Against a cgroup of this host and its files; needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use sys::cgroup::{Cgroup, Location};

use super::*;

/// A cgroup with processes that have worked, then sleep, so that its counters rest.
struct Lab {
    cgroup: Cgroup,
    relative: PathBuf,
    worker: Option<Child>,
}

impl Lab {
    fn new(name: &str, resources: &LinuxResources) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make cgroups");
            return None;
        }
        let path = format!("/shim-metrics-test-{name}-{}", std::process::id());
        let location = Location::parse(Some(&path), "").unwrap();
        let cgroup = Cgroup::at(Hierarchies::of_host().unwrap(), &location);
        cgroup.create(resources).unwrap();
        Some(Self { cgroup, relative: location.relative().to_owned(), worker: None })
    }

    /// Runs for some ticks, reads a file, then sleeps.
    fn work(&mut self) {
        let script = "read go; i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; \
                      cat /proc/self/maps /bin/sh > /dev/null; echo done; exec sleep 60";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut worker = shell.spawn().unwrap();
        for mount in Hierarchies::of_host().unwrap().mounts() {
            let door = mount.join(&self.relative).join("cgroup.procs");
            fs::write(door, worker.id().to_string()).unwrap();
        }
        std::io::Write::write_all(&mut worker.stdin.take().unwrap(), b"\n").unwrap();
        let mut said = String::new();
        let mut stdout = std::io::BufReader::new(worker.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut said).unwrap();
        assert_eq!(said, "done\n");
        self.worker = Some(worker);
        self.rest();
    }

    /// Waits until nothing is counted any more.
    fn rest(&self) {
        let mut last = None;
        for _ in 0..100 {
            let now = self.cgroup.stats().unwrap();
            let comparable = (now.cpu, now.memory);
            if last.as_ref() == Some(&comparable) {
                return;
            }
            last = Some(comparable);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the counters of a sleeping process do not rest: {last:?}");
    }

    fn file(&self, controller: &str, file: &str) -> String {
        let root = Path::new("/sys/fs/cgroup");
        let mount = if is_v2() { root.to_owned() } else { root.join(controller) };
        let path = mount.join(&self.relative).join(file);
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        self.file(controller, file).parse().unwrap()
    }

    fn line(&self, controller: &str, file: &str, key: &str) -> u64 {
        let text = self.file(controller, file);
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {key} in {file}")).parse().unwrap()
    }

    fn encoded<M: MessageFull>(&self, type_url: &str) -> M {
        let any = encode(&of(self.cgroup.stats().unwrap())).unwrap();
        assert_eq!(any.type_url, type_url);
        M::parse_from_bytes(&any.value).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.cgroup.signal_all(nix::sys::signal::Signal::SIGKILL as i32).unwrap();
        if let Some(worker) = &mut self.worker {
            worker.wait().unwrap();
        }
        self.cgroup.remove().unwrap();
    }
}

fn of(cgroup: sys::cgroup::Stats) -> Stats {
    Stats { cgroup, guest: None }
}

fn is_v2() -> bool {
    Hierarchies::of_host().unwrap().is_unified()
}

fn some_limits() -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(64i64 << 20).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(7).build().unwrap();
    let cpu = LinuxCpuBuilder::default().quota(90_000).period(100_000u64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).pids(pids).cpu(cpu);
    resources.build().unwrap()
}

#[test]
fn the_message_of_version_1_has_what_the_files_have() {
    if is_v2() {
        eprintln!("SKIPPED: this host has cgroup version 2");
        return;
    }
    let Some(mut lab) = Lab::new("v1", &some_limits()) else { return };
    lab.work();
    let metrics: v1::Metrics = lab.encoded("io.containerd.cgroups.v1.Metrics");
    let cpu = metrics.cpu();
    assert_eq!(cpu.usage().total(), lab.number("cpuacct", "cpuacct.usage"));
    assert!(cpu.usage().total() > 1_000_000, "{cpu:?}: these are no nanoseconds");
    let ticks = |key| lab.line("cpuacct", "cpuacct.stat", key) * 10_000_000;
    assert_eq!((cpu.usage().user(), cpu.usage().kernel()), (ticks("user"), ticks("system")));
    assert_eq!(cpu.usage().per_cpu().iter().sum::<u64>(), cpu.usage().total());
    let throttling = cpu.throttling();
    assert_eq!(throttling.periods(), lab.line("cpu", "cpu.stat", "nr_periods"));
    assert!(throttling.periods() > 0);
    assert_eq!(throttling.throttled_time(), lab.line("cpu", "cpu.stat", "throttled_time"));
    let memory = metrics.memory();
    let stat = |key| lab.line("memory", "memory.stat", key);
    assert_eq!(memory.usage().usage(), lab.number("memory", "memory.usage_in_bytes"));
    assert_eq!(memory.usage().max(), lab.number("memory", "memory.max_usage_in_bytes"));
    assert_eq!(memory.usage().limit(), 64 << 20);
    assert_eq!(memory.hierarchical_memory_limit(), 64 << 20);
    let unlimited = lab.number("memory", "memory.memsw.limit_in_bytes");
    assert_eq!(memory.swap().limit(), unlimited);
    assert!(unlimited > 1 << 62);
    assert_eq!(memory.kernel().usage(), lab.number("memory", "memory.kmem.usage_in_bytes"));
    assert!(memory.kernel().usage() > 0);
    assert_eq!(memory.total_rss(), stat("total_rss"));
    assert!(memory.total_rss() > 0);
    assert_eq!(memory.total_inactive_file(), stat("total_inactive_file"));
    assert_eq!(memory.total_pg_fault(), stat("total_pgfault"));
    assert!(memory.total_pg_fault() > 0);
    assert_eq!((memory.rss(), memory.pg_pg_in()), (stat("rss"), stat("pgpgin")));
    assert_eq!(metrics.memory_oom_control().oom_kill(), 0);
    assert_eq!((metrics.pids().current(), metrics.pids().limit()), (1, 7));
    assert!(metrics.has_blkio(), "{metrics:?}");
}

#[test]
fn the_message_of_version_2_has_what_the_files_have() {
    if !is_v2() {
        eprintln!("SKIPPED: needs cgroup version 2 alone");
        return;
    }
    let Some(mut lab) = Lab::new("v2", &some_limits()) else { return };
    lab.work();
    let metrics: v2::Metrics = lab.encoded("io.containerd.cgroups.v2.Metrics");
    let cpu = metrics.cpu();
    let stat = |key| lab.line("cpu", "cpu.stat", key);
    assert_eq!(cpu.usage_usec(), stat("usage_usec"));
    assert!(cpu.usage_usec() > 1_000, "{cpu:?}");
    assert_eq!((cpu.user_usec(), cpu.system_usec()), (stat("user_usec"), stat("system_usec")));
    assert_eq!(cpu.nr_periods(), stat("nr_periods"));
    assert!(cpu.nr_periods() > 0);
    let memory = metrics.memory();
    let stat = |key| lab.line("memory", "memory.stat", key);
    assert_eq!(memory.usage(), lab.number("memory", "memory.current"));
    assert_eq!(memory.usage_limit(), 64 << 20);
    assert_eq!(memory.max_usage(), lab.number("memory", "memory.peak"));
    assert_eq!((memory.anon(), memory.inactive_file()), (stat("anon"), stat("inactive_file")));
    assert!(memory.anon() > 0);
    assert_eq!((memory.pgfault(), memory.slab()), (stat("pgfault"), stat("slab")));
    if lab.cgroup.stats().unwrap().memory.unwrap().swap_usage.is_some() {
        assert_eq!(memory.swap_limit(), u64::MAX);
    }
    assert_eq!(metrics.memory_events().oom_kill(), 0);
    assert_eq!((metrics.pids().current(), metrics.pids().limit()), (1, 7));
    assert!(metrics.has_io(), "{metrics:?}");
}

#[test]
fn no_limit_is_written_as_clients_of_each_version_expect() {
    let Some(mut lab) = Lab::new("unlimited", &LinuxResources::default()) else { return };
    lab.work();
    if is_v2() {
        let metrics: v2::Metrics = lab.encoded("io.containerd.cgroups.v2.Metrics");
        assert_eq!(metrics.memory().usage_limit(), u64::MAX);
        assert_eq!(metrics.pids().limit(), u64::MAX);
    } else {
        let metrics: v1::Metrics = lab.encoded("io.containerd.cgroups.v1.Metrics");
        let kernels = lab.number("memory", "memory.limit_in_bytes");
        assert_eq!(metrics.memory().usage().limit(), kernels);
        assert!(kernels > 1 << 62);
        assert_eq!(metrics.pids().limit(), 0);
    }
}

#[test]
fn a_cgroup_that_is_gone_has_an_empty_message_of_the_hosts_version() {
    let any = encode(&of(sys::cgroup::Stats::default())).unwrap();
    if is_v2() {
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert!(metrics.has_cpu() && metrics.has_memory() && metrics.has_io());
    } else {
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert!(metrics.cpu().has_usage() && !metrics.has_memory());
    }
}
