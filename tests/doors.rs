//! The doors users come through: ctr, nerdctl, and crictl as a kubelet would. Each runs both kinds of images.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::host;
use end_to_end::shared::Shared;
use serde_json::Value;
use testkit::catalogue;
use testkit::containerd::{CRI_NAMESPACE, Daemon, HYBRID, Release};
use testkit::cri::{Pod, RunningPod};
use testkit::leftovers::Census;
use testkit::process::Process;
use toml::Table;

const PATIENCE: Duration = Duration::from_secs(10);

static OLDER: Shared = Shared::new(|| start(Release::V1_7));
static NEWER: Shared = Shared::new(|| start(Release::V2_1));

fn start(release: Release) -> Result<Daemon> {
    let daemon = Daemon::options(release).cri().start()?;
    for archive in [
        catalogue::hello_wasm()?,
        catalogue::guest_image("exit")?,
        catalogue::guest_image("sleeper")?,
        catalogue::busybox()?,
    ] {
        daemon.import(&archive)?;
        daemon.import_in(CRI_NAMESPACE, &archive)?;
    }
    Ok(daemon)
}

#[test]
fn ctr_runs_a_wasm_and_a_linux_image() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let wasm = daemon.run(&catalogue::hello_wasm()?, &daemon.unique("wasm")).output()?.ok()?;
        assert!(wasm.stdout.starts_with("hello from wasm\narg /hello.wasm\n"), "{}", wasm.stdout);
        let linux = daemon.run(&catalogue::busybox()?, &daemon.unique("linux"));
        let linux = linux.args(["echo", "hello from linux"]).output()?.ok()?;
        assert_eq!(linux.stdout, "hello from linux\n");
    }
    Ok(())
}

#[test]
fn ctr_reports_the_exit_code_of_both_kinds() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let wasm = daemon.run(&catalogue::guest_image("exit")?, &daemon.unique("wasm"));
        let wasm = wasm.args(["/exit.wasm", "42"]).output()?;
        assert_eq!(wasm.status, Some(42), "{}", wasm.report());
        let linux = daemon.run(&catalogue::busybox()?, &daemon.unique("linux"));
        let linux = linux.args(["sh", "-c", "exit 42"]).output()?;
        assert_eq!(linux.status, Some(42), "{}", linux.report());
    }
    Ok(())
}

#[test]
fn nerdctl_runs_a_linux_image_with_a_network() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let busybox = catalogue::busybox()?;
        let command = daemon.nerdctl_command()?.args(["run", "--rm", "--runtime", HYBRID]);
        let output = command.args([busybox.as_ref(), "sh", "-c", "ip -4 addr; echo by nerdctl"]);
        let output = output.run()?.ok()?;
        assert!(output.stdout.ends_with("by nerdctl\n"), "{}", output.report());
        assert!(output.stdout.contains("inet 10.88."), "no address: {}", output.stdout);
    }
    Ok(())
}

#[test]
fn nerdctl_runs_a_wasm_image() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let hello = catalogue::hello_wasm()?;
        let command = daemon.nerdctl_command()?.args(["run", "--rm", "--runtime", HYBRID]);
        let command = command.args(["--platform", "wasip1/wasm", "--network", "none"]);
        let output = command.args(["--env", "A=b", hello.as_ref()]).run()?.ok()?;
        assert!(output.stdout.starts_with("hello from wasm\n"), "{}", output.report());
        assert!(output.lines().contains(&"env A=b"), "{}", output.stdout);
    }
    Ok(())
}

#[test]
fn one_pod_runs_linux_and_wasm_side_by_side_in_one_shim() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let name = daemon.unique("mixed");
        let pod = Pod::new(&name).runtime("hybrid").start(&daemon)?;
        let linux = pod.container("linux", catalogue::busybox()?).configure(own_processes);
        let linux =
            linux.command(["sh", "-c", "echo hello from linux; exec sleep 1000"]).start()?;
        let wasm = pod.container("wasm", catalogue::guest_image("sleeper")?);
        let wasm = wasm.configure(own_processes).start()?;

        let pods = Sandbox::of(&daemon, &pod, &[&linux, &wasm])?;
        pods.is_held_by_a_linux_pause()?;
        pods.is_served_by_one_shim(&daemon)?;
        pods.shares_the_pauses(&["net", "ipc", "uts"])?;
        pods.has_of_its_own(&["pid", "mnt"])?;
        runs_and_talks(&daemon, &linux, "hello from linux\n")?;
        runs_and_talks(&daemon, &wasm, "sleeping\n")?;

        // The wasm guest ends by SIGTERM; the Linux one is process 1 without a handler, and is killed.
        assert_eq!(stopped(&daemon, &wasm, "5")?, 128 + 15);
        assert_eq!(stopped(&daemon, &linux, "0")?, 128 + 9);
        for id in [&linux, &wasm] {
            daemon.crictl(["rm", id])?.ok()?;
        }
        let left = daemon.crictl(["ps", "--all", "--quiet", "--pod", pod.id()])?.ok()?;
        assert_eq!(left.stdout.trim(), "", "containers are left in the pod");
        let server = pods.shim(&daemon)?;
        pod.remove()?;
        host::eventually("the pod's shim ends", PATIENCE, || Ok(!host::alive(server)))?;
    }
    Ok(())
}

/// Sets an option of the hybrid runtime as an operator would, in containerd's configuration.
fn set_option(config: &mut Table, release: Release, key: &str, value: bool) {
    let plugin = match release {
        Release::V1_6 | Release::V1_7 => "io.containerd.grpc.v1.cri",
        Release::V2_1 => "io.containerd.cri.v1.runtime",
    };
    let mut table = config;
    for step in ["plugins", plugin, "containerd", "runtimes", "hybrid", "options"] {
        table = table.get_mut(step).and_then(toml::Value::as_table_mut).expect(step);
    }
    table.insert(key.to_owned(), value.into());
}

#[test]
fn the_options_of_containerds_configuration_reach_the_shim() -> Result<()> {
    for release in [Release::V1_7, Release::V2_1] {
        if !testkit::ready() {
            return Ok(());
        }
        let set = move |config: &mut Table| set_option(config, release, "auto_detect", false);
        let daemon = Daemon::options(release).cri().configure(set).start()?;
        let hello = catalogue::hello_wasm()?;
        daemon.import_in(CRI_NAMESPACE, &hello)?;
        let pod = Pod::new(&daemon.unique("strict")).runtime("hybrid").start(&daemon)?;
        let refused = pod.container("undetected", &hello).start();
        let refusal = format!("{:#}", refused.expect_err("detection is off"));
        assert!(refusal.contains("auto_detect"), "{refusal}");
        let hinted = pod.container("hinted", &hello).annotation("com.wasm.runtime.hint", "wasm");
        let (code, log) = hinted.run(PATIENCE)?;
        assert_eq!((code, log.contains("hello from wasm")), (0, true), "{log}");
        pod.remove()?;
    }
    Ok(())
}

#[test]
fn a_pod_may_share_its_processes() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let pod = Pod::new(&daemon.unique("shares")).runtime("hybrid").start(&daemon)?;
        let wasm = pod.container("wasm", catalogue::guest_image("sleeper")?).start()?;
        let linux = pod.container("linux", catalogue::busybox()?);
        let linux = linux.command(["sleep", "1000"]).start()?;
        let pods = Sandbox::of(&daemon, &pod, &[&linux, &wasm])?;
        pods.shares_the_pauses(&["pid", "net", "ipc", "uts"])?;
        pods.has_of_its_own(&["mnt"])?;
        // Without being process 1 to itself, a guest still ends by SIGTERM.
        assert_eq!(stopped(&daemon, &wasm, "5")?, 128 + 15);
        pod.remove()?;
    }
    Ok(())
}

#[test]
fn a_containers_end_is_seen_by_crictl() -> Result<()> {
    for shared in [&OLDER, &NEWER] {
        let Some(daemon) = shared.daemon()? else { return Ok(()) };
        let pod = Pod::new(&daemon.unique("ends")).runtime("hybrid").start(&daemon)?;
        let exit = pod.container("exit", catalogue::guest_image("exit")?);
        let (code, log) = exit.command(["/exit.wasm"]).args(["7"]).run(PATIENCE)?;
        assert_eq!((code, log.as_str()), (7, ""));
        let hello = pod.container("hello", catalogue::hello_wasm()?).env("A", "b");
        let (code, log) = hello.run(PATIENCE)?;
        assert_eq!(code, 0, "{log}");
        assert!(log.starts_with("hello from wasm\n") && log.contains("env A=b\n"), "{log}");
        let linux = pod.container("linux", catalogue::busybox()?);
        let (code, log) = linux.command(["sh", "-c", "echo bye; exit 9"]).run(PATIENCE)?;
        assert_eq!((code, log.as_str()), (9, "bye\n"));
        pod.remove()?;
    }
    Ok(())
}

#[test]
fn a_removed_pod_leaves_nothing() -> Result<()> {
    if !testkit::ready() {
        return Ok(());
    }
    for release in [Release::V1_7, Release::V2_1] {
        // A daemon of its own: what other tests do meanwhile must not count.
        let daemon = start(release)?;
        let before = Census::of(&daemon)?;
        let pod = Pod::new("short").runtime("hybrid").start(&daemon)?;
        pod.container("wasm", catalogue::guest_image("sleeper")?).start()?;
        let linux = pod.container("linux", catalogue::busybox()?);
        linux.command(["sleep", "1000"]).start()?;
        let during = Census::of(&daemon)?;
        assert!(!before.difference(&during).is_empty(), "the census sees nothing of a running pod");
        pod.remove()?;
        before.settles(|| Census::of(&daemon), PATIENCE).with_context(|| release.to_string())?;
    }
    Ok(())
}

/// The processes of a pod and its containers.
#[derive(Debug)]
struct Sandbox {
    pause: i32,
    containers: Vec<i32>,
}

impl Sandbox {
    fn of(daemon: &Daemon, pod: &RunningPod<'_>, containers: &[&String]) -> Result<Self> {
        let pid = |kind: &str, id: &str| -> Result<i32> {
            let answer = daemon.crictl([kind, id])?.ok()?;
            let answer: Value = serde_json::from_str(&answer.stdout).context("reading crictl")?;
            let pid = answer["info"]["pid"].as_i64().context("crictl tells no pid")?;
            i32::try_from(pid).context("a pid too large")
        };
        let containers: Result<_> = containers.iter().map(|id| pid("inspect", id)).collect();
        Ok(Self { pause: pid("inspectp", pod.id())?, containers: containers? })
    }

    fn shim(&self, daemon: &Daemon) -> Result<i32> {
        Ok(host::shim_of(daemon, self.pause)?.server)
    }

    fn is_held_by_a_linux_pause(&self) -> Result<()> {
        let pause = Process::read(self.pause).context("the pause process is gone")?;
        assert_eq!(pause.arguments, ["/pause"]);
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pause))?;
        assert!(program.ends_with("pause"), "the pause process executes {}", program.display());
        Ok(())
    }

    fn is_served_by_one_shim(&self, daemon: &Daemon) -> Result<()> {
        let shims: BTreeSet<i32> = self
            .containers
            .iter()
            .chain([&self.pause])
            .map(|pid| Ok(host::shim_of(daemon, *pid)?.server))
            .collect::<Result<_>>()?;
        assert_eq!(shims.len(), 1, "shim servers {shims:?} serve one pod");
        assert!(host::servers(daemon).contains(&self.shim(daemon)?));
        Ok(())
    }

    fn shares_the_pauses(&self, kinds: &[&str]) -> Result<()> {
        for kind in kinds {
            let pauses = host::namespace(self.pause, kind)?;
            assert_ne!(pauses, host::namespace(us()?, kind)?, "{kind} is the host's");
            for pid in &self.containers {
                assert_eq!(host::namespace(*pid, kind)?, pauses, "{kind} of process {pid}");
            }
        }
        Ok(())
    }

    fn has_of_its_own(&self, kinds: &[&str]) -> Result<()> {
        for kind in kinds {
            for pid in &self.containers {
                let own = host::namespace(*pid, kind)?;
                assert_ne!(own, host::namespace(self.pause, kind)?, "{kind} of process {pid}");
                assert_ne!(own, host::namespace(us()?, kind)?, "{kind} is the host's");
            }
        }
        Ok(())
    }
}

fn us() -> Result<i32> {
    Ok(i32::try_from(std::process::id())?)
}

/// Gives a container a process namespace of its own, as a kubelet does unless the pod says otherwise.
fn own_processes(config: &mut Value) {
    const CONTAINER: u32 = 1;
    config["linux"]["security_context"]["namespace_options"]["pid"] = CONTAINER.into();
}

fn runs_and_talks(daemon: &Daemon, id: &str, said: &str) -> Result<()> {
    let listed = daemon.crictl(["ps", "--quiet", "--no-trunc", "--state", "running"])?.ok()?;
    assert!(listed.lines().contains(&id), "{id} is not among:\n{}", listed.stdout);
    host::eventually("the log holds what the guest says", PATIENCE, || {
        Ok(daemon.crictl(["logs", id])?.ok()?.stdout == said)
    })
}

/// Stops a container and returns its exit code.
fn stopped(daemon: &Daemon, id: &str, seconds: &str) -> Result<i64> {
    daemon.crictl(["stop", "--timeout", seconds, id])?.ok()?;
    let answer = daemon.crictl(["inspect", id])?.ok()?;
    let answer: Value = serde_json::from_str(&answer.stdout).context("reading crictl")?;
    assert_eq!(answer["status"]["state"], "CONTAINER_EXITED");
    answer["status"]["exitCode"].as_i64().context("crictl tells no exit code")
}
