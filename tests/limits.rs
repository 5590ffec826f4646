//! A running container's limits and usage: frozen and let go, given more or less, measured, and out of memory.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use containerd_shim::protos::cgroups::metrics::Metrics as OnV1;
use containerd_shim::protos::cgroups_v2::metrics::Metrics as OnV2;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use end_to_end::bundle::Bundle;
use end_to_end::events::Events;
use end_to_end::host;
use end_to_end::kind::{Kind, standing};
use end_to_end::lab::{LAYERED, Lab, PATIENCE, assert_ran, lab};
use end_to_end::shared::Shared;
use end_to_end::shim::{HandBundle, Peer, Server};
use end_to_end::streams::Streams;
use serde_json::{Value, json};
use testkit::containerd::{CRI_NAMESPACE, Daemon, Release, handler, runtime};
use testkit::cri::Pod;
use testkit::{catalogue, guest};

const MIB: u64 = 1 << 20;

static PODS: Shared = Shared::new(|| {
    let daemon = Daemon::options(Release::V2_1).cri().start()?;
    let mut images = vec![catalogue::busybox()?];
    for kind in Kind::all() {
        images.extend([kind.programs()?, kind.image_of_hog()?]);
    }
    for image in images {
        daemon.import(&image)?;
        daemon.import_in(CRI_NAMESPACE, &image)?;
    }
    Ok(daemon)
});

/// Starts a container of this kind that computes for ever, and returns its id and process.
fn burning(lab: &Lab, kind: Kind, name: &str) -> Result<(String, i32)> {
    let id = lab.unique(name);
    let run = lab.run(&lab.image(kind.programs()), &id).detach().flags(["--null-io"]);
    run.args(kind.burner()).output()?.ok()?;
    let pid = lab.task_pid(&id)?;
    Ok((id, pid))
}

/// Returns how long a process has computed, in the kernel's ticks.
fn ticks(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next().unwrap_or_default().parse::<u64>();
    Ok(next()? + next()?)
}

fn computes(pid: i32) -> Result<()> {
    let before = ticks(pid)?;
    host::eventually("the process computes", PATIENCE, || Ok(ticks(pid)? > before + 2))
}

fn stands_still(pid: i32) -> Result<()> {
    let before = ticks(pid)?;
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ticks(pid)?, before, "process {pid} computes though it is paused");
    Ok(())
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let events = Events::listen(&lab)?;
        for kind in Kind::all() {
            let (id, pid) = burning(&lab, *kind, "paused")?;
            computes(pid)?;
            lab.ctr(["tasks", "pause", &id])?.ok()?;
            assert_eq!(lab.task_status(&id)?.as_deref(), Some("PAUSED"), "{kind:?}");
            stands_still(pid)?;
            let again = lab.ctr(["tasks", "pause", &id])?;
            assert!(!again.success(), "{}", again.report());
            lab.ctr(["tasks", "resume", &id])?.ok()?;
            assert_eq!(lab.task_status(&id)?.as_deref(), Some("RUNNING"), "{kind:?}");
            computes(pid)?;
            host::end(&lab, &id)?;
            let story = events.story_until(&id, "delete")?;
            let expected = ["create", "start", "paused", "resumed", "exit 137", "delete"];
            assert_eq!(story, expected, "{release} {kind:?}");
        }
    }
    Ok(())
}

#[test]
fn a_paused_container_can_be_killed() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let id = standing(&lab, *kind, "frozen", &[]);
        lab.ctr(["tasks", "pause", &id])?.ok()?;
        host::end(&lab, &id)?;
    }
    Ok(())
}

#[test]
fn nerdctl_pauses_and_updates() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    for kind in Kind::all() {
        let name = daemon.unique("nerdctl");
        let run = daemon.nerdctl_command()?.args(["run", "-d", "--name", &name]);
        let run = run.args(["--network", "none", "--memory", "256m", "--runtime", &runtime()]);
        run.arg(kind.programs()?.name.as_str()).args(kind.burner()).run()?.ok()?;
        let pid = daemon.nerdctl(["inspect", "--format", "{{.State.Pid}}", &name])?.ok()?;
        let pid: i32 = pid.stdout.trim().parse()?;
        computes(pid)?;
        daemon.nerdctl(["pause", &name])?.ok()?;
        stands_still(pid)?;
        daemon.nerdctl(["unpause", &name])?.ok()?;
        computes(pid)?;
        assert_eq!(host::memory_limit(pid)?, 256 * MIB);
        daemon.nerdctl(["update", "--memory", "128m", "--memory-swap", "128m", &name])?.ok()?;
        assert_eq!(host::memory_limit(pid)?, 128 * MIB, "{kind:?}");
        let top = daemon.nerdctl(["top", &name])?.ok()?;
        assert!(top.stdout.contains(&pid.to_string()), "{}", top.report());
        daemon.nerdctl(["rm", "-f", &name])?.ok()?;
    }
    Ok(())
}

#[test]
fn crictl_updates_and_shows_usage() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    let pod = Pod::new(&daemon.unique("usage")).runtime(handler()).start(&daemon)?;
    for kind in Kind::all() {
        let container = pod.container(&format!("{kind:?}").to_lowercase(), kind.programs()?);
        let id = container.memory(256 * MIB).command(kind.burner()).start()?;
        let inspected = daemon.crictl(["inspect", &id])?.ok()?;
        let inspected: Value = serde_json::from_str(&inspected.stdout)?;
        let pid = i32::try_from(inspected["info"]["pid"].as_i64().context("no pid")?)?;
        computes(pid)?;
        let bytes = (128 * MIB).to_string();
        let limits = ["update", "--memory", &bytes, "--cpu-share", "512", "--cpu-quota", "50000"];
        daemon.crictl(limits.into_iter().chain(["--cpu-period", "100000", id.as_str()]))?.ok()?;
        assert_eq!(host::memory_limit(pid)?, 128 * MIB, "{kind:?}");
        let quota = host::control(pid, &["cpu.cfs_quota_us", "cpu.max"])?;
        assert!(quota.starts_with("50000"), "{kind:?}: {quota}");

        let stats = daemon.crictl(["stats", "--output", "json", &id])?.ok()?;
        let stats: Value = serde_json::from_str(&stats.stdout)?;
        let number = |path: &str| -> Result<u64> {
            let value = stats.pointer(path).and_then(|value| value["value"].as_str());
            value.with_context(|| format!("no {path} in {stats}"))?.parse().context("no number")
        };
        let cpu = number("/stats/0/cpu/usageCoreNanoSeconds")?;
        let ran = Duration::from_nanos(cpu);
        assert!(ran > Duration::from_millis(10) && ran < Duration::from_secs(60), "{ran:?}");
        let set = number("/stats/0/memory/workingSetBytes")?;
        assert!((16_384..128 * MIB).contains(&set), "{kind:?}: {set} bytes");
    }
    pod.remove()
}

#[test]
fn processes_are_listed_with_the_ids_of_what_was_executed() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let id = standing(&lab, *kind, "listed", &[]);
            let command = ["tasks", "exec", "--detach", "--exec-id", "e1", &id];
            lab.ctr_command().args(command).args(kind.sleeper()).run()?.ok()?;
            let listed = lab.ctr(["tasks", "ps", &id])?.ok()?;
            let lines: Vec<&str> = listed.lines().into_iter().skip(1).collect();
            assert_eq!(lines.len(), 2, "{kind:?}: {}", listed.report());
            let init = lab.task_pid(&id)?.to_string();
            let (inits, executed): (Vec<&str>, Vec<&str>) =
                lines.iter().partition(|line| line.split_whitespace().next() == Some(&init));
            assert_eq!((inits.len(), executed.len()), (1, 1), "{}", listed.report());
            assert!(executed[0].contains("e1") && !inits[0].contains("e1"), "{}", listed.report());
        }
    }
    Ok(())
}

/// Serves a bundle by hand and starts its container; returns the init's process as well.
fn served(bundle: &HandBundle) -> Result<(Server, i32)> {
    let server = bundle.serve()?;
    let pid = server.create().map_err(|denied| anyhow::anyhow!("{denied:?}"))?;
    server.start().map_err(|denied| anyhow::anyhow!("{denied:?}"))?;
    Ok((server, pid.cast_signed()))
}

/// Makes a bundle of a sleeper with a memory limit.
fn limited(lab: &std::sync::Arc<Lab>, kind: Kind, limit: u64) -> Result<HandBundle> {
    let bundle = match kind {
        Kind::Linux => HandBundle::linux(lab, &["/bin/sleep", "1000"])?,
        Kind::Wasm => HandBundle::wasm(lab, "sleeper", &[])?,
    };
    let bundle = bundle.by(Peer::under_test());
    bundle.configure(|spec| {
        spec["linux"]["resources"] =
            json!({"memory": {"limit": limit, "swap": limit}, "pids": {"limit": 100}});
    })
}

#[test]
fn limits_change_while_a_container_runs() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    for kind in Kind::all() {
        let (server, pid) = served(&limited(&lab, *kind, 256 * MIB)?)?;
        let init = server.init();
        assert_eq!(host::memory_limit(pid)?, 256 * MIB);
        let memory = |limit: u64| json!({"memory": {"limit": limit, "swap": limit}});
        for limit in [128 * MIB, 512 * MIB, 64 * MIB] {
            init.update(&memory(limit)).expect("updated");
            assert_eq!(host::memory_limit(pid)?, limit, "{kind:?}");
        }
        init.update(&json!({"cpu": {"quota": 50_000, "period": 100_000, "shares": 512}}))
            .expect("updated");
        if host::has_unified_cgroups() {
            assert_eq!(host::control(pid, &["cpu.max"])?, "50000 100000");
        } else {
            assert_eq!(host::control(pid, &["cpu.cfs_quota_us"])?, "50000");
            assert_eq!(host::control(pid, &["cpu.cfs_period_us"])?, "100000");
            assert_eq!(host::control(pid, &["cpu.shares"])?, "512");
        }
        init.update(&json!({"pids": {"limit": 23}})).expect("updated");
        assert_eq!(host::control(pid, &["pids.max"])?, "23", "{kind:?}");
        // What is not named stays.
        assert_eq!(host::memory_limit(pid)?, 64 * MIB, "{kind:?}");
        init.update(&json!({"cpu": {"cpus": "0"}})).expect("updated");
        assert_eq!(host::control(pid, &["cpuset.cpus"])?, "0", "{kind:?}");

        let nonsense = init.update(&json!({"cpu": {"cpus": "99999"}}));
        assert!(nonsense.is_err(), "{kind:?}: there is no such processor");
        let mut garbage = end_to_end::shim::spec_type("LinuxResources", &Value::Null);
        garbage.value = b"{".to_vec();
        assert!(init.update_by(garbage).is_err(), "{kind:?}: that is no JSON");
        assert_eq!(host::control(pid, &["cpuset.cpus"])?, "0", "{kind:?}");
    }
    Ok(())
}

/// A guest that grows when it is told to.
struct Growing {
    server: Server,
    stdin: File,
    stdout: File,
    _stderr: File,
}

impl Growing {
    fn start(lab: &std::sync::Arc<Lab>, limit: Option<u64>) -> Result<Self> {
        let bundle = HandBundle::wasm_module(lab, "grow", &guest::c("grow")?, &[])?;
        let bundle = bundle.configure(|spec| {
            if let Some(limit) = limit {
                spec["linux"]["resources"] = json!({"memory": {"limit": limit}});
            }
        })?;
        let server = bundle.serve()?;
        let streams = Streams::in_folder(bundle.folder(), "growing")?;
        let [stdin, stdout, stderr] = streams.open()?;
        server.create_by(&streams.of_init(server.request())).expect("created");
        server.start().expect("started");
        let mut growing = Self { server, stdin, stdout, _stderr: stderr };
        assert_eq!(growing.line()?, "ready");
        Ok(growing)
    }

    /// Asks for so many MiB more and returns the answer.
    fn by(&mut self, mebibytes: u32) -> Result<String> {
        writeln!(self.stdin, "{mebibytes}")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let mut byte = [0];
        let deadline = Instant::now() + PATIENCE;
        while !line.ends_with('\n') {
            // Both ends of the FIFO are open here, so a read would wait for ever.
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&self.stdout),
                nix::poll::PollFlags::POLLIN,
            )];
            if nix::poll::poll(&mut fds, 100_u16)? == 0 {
                if Instant::now() > deadline {
                    bail!("no line within {PATIENCE:?}: {:?}", self.server.init().state());
                }
                continue;
            }
            self.stdout.read_exact(&mut byte)?;
            line.push(char::from(byte[0]));
        }
        Ok(line.trim().to_owned())
    }
}

#[test]
fn a_guests_engine_limit_follows_the_containers() -> Result<()> {
    if !Kind::all().contains(&Kind::Wasm) {
        return Ok(());
    }
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let mut growing = Growing::start(&lab, Some(64 * MIB))?;
    assert_eq!(growing.by(40)?, "40 MiB");
    assert_eq!(growing.by(40)?, "refused at 40 MiB");
    let memory = |limit: u64| json!({"memory": {"limit": limit}});
    growing.server.init().update(&memory(256 * MIB)).expect("updated");
    assert_eq!(growing.by(40)?, "80 MiB");
    assert_eq!(growing.by(140)?, "220 MiB");
    assert_eq!(growing.by(40)?, "refused at 220 MiB");
    drop(growing);

    let mut growing = Growing::start(&lab, Some(256 * MIB))?;
    assert_eq!(growing.by(40)?, "40 MiB");
    growing.server.init().update(&memory(64 * MIB)).expect("updated");
    assert_eq!(growing.by(40)?, "refused at 40 MiB");
    assert_eq!(growing.by(10)?, "50 MiB");
    drop(growing);

    // Without a limit of the container's, the node's default holds.
    let mut growing = Growing::start(&lab, None)?;
    assert_eq!(growing.by(120)?, "120 MiB");
    assert_eq!(growing.by(10)?, "refused at 120 MiB");
    Ok(())
}

#[test]
fn a_guest_over_its_limit_is_refused_before_the_cgroup_kills() -> Result<()> {
    if !Kind::all().contains(&Kind::Wasm) {
        return Ok(());
    }
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let events = Events::listen(&lab)?;
        let hog = lab.image(catalogue::guest_image("memory-hog"));
        for (limit, reached) in [(64, "56 MiB\n"), (32, "24 MiB\n"), (8, "4 MiB\n")] {
            let id = lab.unique("hog");
            let bytes = (limit * MIB).to_string();
            let output = lab.run(&hog, &id).flags(["--memory-limit", &bytes]).output()?;
            assert_ran(&output, 0, reached);
            let story = events.story_until(&id, "delete")?;
            assert_eq!(story, ["create", "start", "exit 0", "delete"], "{release} {limit}");
        }
        // A module that declares more than it may have is told the limit.
        let large = "(module (memory (export \"memory\") 1600) (func (export \"_start\")))";
        let large = lab.build(catalogue::module_image("large", guest::text(large)?));
        let bytes = (64 * MIB).to_string();
        let refused = lab.start(&large, "large").flags(["--memory-limit", &bytes]).output()?;
        assert!(!refused.success(), "{}", refused.report());
        let told = refused.stderr.to_lowercase();
        assert!(
            told.contains("it needs 100mib") && told.contains("memory = 56mib"),
            "{}",
            refused.report()
        );
        lab.start(&large, "large").output()?.ok()?;
    }
    Ok(())
}

/// What is told of a container's usage, whichever version of cgroups it was measured with.
#[derive(Debug, PartialEq, Eq)]
struct Usage {
    cpu_microseconds: u64,
    memory: u64,
    memory_limit: u64,
    inactive_file: u64,
    processes: u64,
    processes_limit: u64,
    out_of_memory: u64,
}

impl Usage {
    fn told(stats: &Any) -> Result<Self> {
        match stats.type_url.as_str() {
            "io.containerd.cgroups.v1.Metrics" => {
                let told = OnV1::parse_from_bytes(&stats.value)?;
                assert!(!host::has_unified_cgroups(), "that is the other version's type");
                Ok(Self {
                    // Nanoseconds, on version 1.
                    cpu_microseconds: told.cpu.usage.total / 1000,
                    memory: told.memory.usage.usage,
                    memory_limit: told.memory.usage.limit,
                    inactive_file: told.memory.total_inactive_file,
                    processes: told.pids.current,
                    processes_limit: told.pids.limit,
                    out_of_memory: told.memory_oom_control.oom_kill,
                })
            }
            "io.containerd.cgroups.v2.Metrics" => {
                let told = OnV2::parse_from_bytes(&stats.value)?;
                assert!(host::has_unified_cgroups(), "that is the other version's type");
                Ok(Self {
                    cpu_microseconds: told.cpu.usage_usec,
                    memory: told.memory.usage,
                    memory_limit: told.memory.usage_limit,
                    inactive_file: told.memory.inactive_file,
                    processes: told.pids.current,
                    processes_limit: told.pids.limit,
                    out_of_memory: told.memory_events.oom_kill,
                })
            }
            other => bail!("no type of usage: {other:?}"),
        }
    }

    fn of(pid: i32) -> Result<Self> {
        let number = |names: &[&str]| -> Result<u64> {
            let text = host::control(pid, names)?;
            if text == "max" {
                return Ok(0);
            }
            text.parse().with_context(|| format!("reading {text:?}"))
        };
        let cpu_microseconds = match host::has_unified_cgroups() {
            true => host::counter(pid, &["cpu.stat"], "usage_usec")?,
            false => number(&["cpuacct.usage"])? / 1000,
        };
        let inactive = match host::has_unified_cgroups() {
            true => "inactive_file",
            false => "total_inactive_file",
        };
        Ok(Self {
            cpu_microseconds,
            memory: number(&["memory.usage_in_bytes", "memory.current"])?,
            memory_limit: host::memory_limit(pid)?,
            inactive_file: host::counter(pid, &["memory.stat"], inactive)?,
            processes: number(&["pids.current"])?,
            processes_limit: number(&["pids.max"])?,
            out_of_memory: host::counter(
                pid,
                &["memory.oom_control", "memory.events"],
                "oom_kill",
            )?,
        })
    }
}

#[test]
fn usage_is_what_the_cgroup_says() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let bundle = match kind {
                Kind::Linux => HandBundle::linux(&lab, &["/bin/sh", "-c", "while :; do :; done"])?,
                Kind::Wasm => HandBundle::wasm(&lab, "loop", &[])?,
            };
            let bundle = bundle.by(Peer::under_test()).configure(|spec| {
                spec["linux"]["resources"] =
                    json!({"memory": {"limit": 128 * MIB}, "pids": {"limit": 100}});
            })?;
            let (server, pid) = served(&bundle)?;
            computes(pid)?;
            // What stands still can be compared.
            server.init().pause().expect("paused");
            let before = Usage::of(pid)?;
            let told = Usage::told(&server.init().stats().expect("stats"))?;
            let after = Usage::of(pid)?;
            if before == after {
                assert_eq!(told, before, "{release} {kind:?}");
            }
            assert_eq!(told.memory_limit, 128 * MIB);
            assert_eq!((told.processes, told.processes_limit), (1, 100));
            assert!(told.cpu_microseconds > 10_000 && told.memory > 4096, "{told:?}");
            assert!(
                (before.cpu_microseconds..=after.cpu_microseconds).contains(&told.cpu_microseconds)
            );
            server.init().resume().expect("resumed");
        }
    }
    Ok(())
}

#[test]
fn ctr_shows_the_usage() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let (id, pid) = burning(&lab, *kind, "metrics")?;
            computes(pid)?;
            lab.ctr(["tasks", "pause", &id])?.ok()?;
            let shown = lab.ctr(["tasks", "metrics", "--format", "json", &id])?.ok()?;
            let shown: Value = serde_json::from_str(&shown.stdout)?;
            let (cpu, memory) = match host::has_unified_cgroups() {
                true => (&shown["cpu"]["usage_usec"], &shown["memory"]["usage"]),
                false => (&shown["cpu"]["usage"]["total"], &shown["memory"]["usage"]["usage"]),
            };
            let cgroups = Usage::of(pid)?;
            let cpu = cpu.as_u64().with_context(|| format!("no cpu in {shown}"))?;
            let microseconds = if host::has_unified_cgroups() { cpu } else { cpu / 1000 };
            assert_eq!(microseconds, cgroups.cpu_microseconds, "{release} {kind:?}: {shown}");
            assert!(memory.as_u64().is_some_and(|bytes| bytes > 4096), "{shown}");
            lab.ctr(["tasks", "metrics", &id])?.ok()?;
        }
    }
    Ok(())
}

/// Words of busybox that take more memory than there is.
const HOG: [&str; 4] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=256M"];

#[test]
fn a_linux_container_out_of_memory_is_killed_and_that_is_told() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let events = Events::listen(&lab)?;
        let busybox = lab.image(catalogue::busybox());
        let group = lab.unique("group");
        let neighbour = Bundle::linux(&lab, "neighbour", ["sleep", "1000"])?.group(&group);
        let beside = neighbour.start()?;
        let id = lab.unique("oom");
        let bytes = (32 * MIB).to_string();
        let run = lab.run(&busybox, &id).flags(["--memory-limit", &bytes]).args(HOG);
        let output = run.annotation("io.containerd.runc.v2.group", &group).output()?;
        assert_eq!(output.status, Some(137), "{}", output.report());
        let story = events.story_until(&id, "delete")?;
        let mut rest = story.clone();
        rest.retain(|told| told != "oom");
        assert_eq!(rest, ["create", "start", "exit 137", "delete"], "{release}: {story:?}");
        let oom = story.iter().position(|told| told == "oom");
        let oom = oom.with_context(|| format!("{release}: no oom in {story:?}"))?;
        let exit = story.iter().position(|told| told == "exit 137").context("no exit")?;
        assert!(oom < exit, "{release}: kubelet reads the reason at the exit: {story:?}");
        assert!(host::alive(beside), "its neighbour went too");
        assert!(!events.story(neighbour.id()).contains(&"oom".to_owned()));

        // A child that is killed, and not the init: told, and the container goes on.
        let id = lab.unique("oom");
        let line = format!("{}; echo code $?", HOG.join(" "));
        let run = lab.run(&busybox, &id).flags(["--memory-limit", &bytes]);
        let output = run.args(["sh", "-c", &line]).output()?;
        assert_ran(&output, 0, "code 137\n");
        let story = events.story_until(&id, "delete")?;
        assert!(story.contains(&"oom".to_owned()), "{release}: {story:?}");
    }
    Ok(())
}

#[test]
fn an_executed_process_out_of_memory_is_told_too() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let events = Events::listen(&lab)?;
    let bytes = (32 * MIB).to_string();
    let id = standing(&lab, Kind::Linux, "oom", &["--memory-limit", &bytes]);
    assert_ran(&lab.exec(&id, HOG)?, 137, "");
    assert_eq!(lab.task_status(&id)?.as_deref(), Some("RUNNING"));
    host::eventually("the oom is told", PATIENCE, || {
        Ok(events.story(&id).contains(&"oom".to_owned()))
    })
}

#[test]
fn kubelet_sees_why_a_container_ended() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    let pod = Pod::new(&daemon.unique("oom")).runtime(handler()).start(&daemon)?;
    let status = |id: &str| -> Result<Value> {
        let mut status = Value::Null;
        host::eventually("the container ends", PATIENCE, || {
            let answer = daemon.crictl(["inspect", id])?.ok()?;
            let answer: Value = serde_json::from_str(&answer.stdout)?;
            status = answer["status"].clone();
            Ok(status["state"] == "CONTAINER_EXITED")
        })?;
        Ok(status)
    };
    let over = pod.container("over", catalogue::busybox()?).memory(32 * MIB).command(HOG);
    let over = status(&over.start()?)?;
    assert_eq!((&over["reason"], &over["exitCode"]), (&json!("OOMKilled"), &json!(137)));
    let line = ["sh", "-c", "exit 137"];
    let control = pod.container("control", catalogue::busybox()?).memory(32 * MIB).command(line);
    let control = status(&control.start()?)?;
    assert_eq!((&control["reason"], &control["exitCode"]), (&json!("Error"), &json!(137)));
    if Kind::all().contains(&Kind::Wasm) {
        let wasm = pod.container("wasm", Kind::Wasm.image_of_hog()?).memory(64 * MIB);
        let wasm = status(&wasm.start()?)?;
        assert_eq!((&wasm["reason"], &wasm["exitCode"]), (&json!("Completed"), &json!(0)));
    }
    pod.remove()
}
