//! Linux containers against hostile images and careless specs: what runc refuses is refused, and what the program gets
//! is what the spec says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use end_to_end::bundle::Bundle;
use end_to_end::host;
use end_to_end::lab::{PATIENCE, lab};
use serde_json::{Value, json};
use testkit::catalogue;
use testkit::containerd::Release;
use testkit::place;

#[test]
fn a_root_whose_dev_proc_or_sys_leads_elsewhere_is_refused() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    for name in ["dev", "proc", "sys"] {
        let bundle = Bundle::linux(&daemon, "link", ["echo", "hello"])?;
        assert_eq!(bundle.run()?.ok()?.stdout, "hello\n", "a real /{name}");

        let bundle = Bundle::linux(&daemon, "link", ["echo", "hello"])?;
        let victim = bundle.folder().join("victim");
        fs::create_dir(&victim)?;
        fs::write(victim.join("null"), "precious\n")?;
        let inside = bundle.rootfs().join(name);
        fs::remove_dir(&inside)?;
        symlink(&victim, &inside)?;
        let output = bundle.run()?;
        assert!(!output.success() && output.stdout.is_empty(), "/{name}: {}", output.report());
        assert!(output.stderr.contains(&format!("/{name}")), "{}", output.report());
        assert_eq!(fs::read_to_string(victim.join("null"))?, "precious\n");
        assert_eq!(fs::read_dir(&victim)?.count(), 1, "something was made on the host");
    }
    Ok(())
}

#[test]
fn only_harmless_files_of_proc_can_be_mounted_over() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    let run = |target: &str, name: &str, words: [&str; 2]| {
        let bundle = Bundle::linux(&daemon, "over", words)?;
        let folder = bundle.folder().join("fake");
        fs::create_dir(&folder)?;
        fs::write(folder.join("cpuinfo"), "a fake\n")?;
        bundle.bind(&folder.join(name), target, "ro")?.run()
    };
    let cpuinfo = run("/proc/cpuinfo", "cpuinfo", ["cat", "/proc/cpuinfo"])?.ok()?;
    assert_eq!(cpuinfo.stdout, "a fake\n");
    let elsewhere = run("/mnt/cpuinfo", "cpuinfo", ["cat", "/mnt/cpuinfo"])?.ok()?;
    assert_eq!(elsewhere.stdout, "a fake\n");
    for (target, name) in [
        ("/proc/sys", ""),
        ("/proc/self/attr", ""),
        ("/proc/sys/kernel", ""),
        ("/proc/../proc/sys", ""),
        ("/proc/version", "cpuinfo"),
    ] {
        let output = run(target, name, ["echo", "hello"])?;
        assert!(!output.success() && output.stdout.is_empty(), "{target}: {}", output.report());
        assert!(output.stderr.contains("/proc"), "no word of /proc: {}", output.report());
    }
    Ok(())
}

/// A process of the host, ended with the test.
struct Bystander(Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_privileged_container_cannot_reach_the_shims_binary() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    let shim_before = fs::read(place::shim())?;
    let neighbour = Bundle::linux(&daemon, "neighbour", ["sleep", "1000"])?;
    let shim = host::shim_of(&daemon, neighbour.start()?)?;
    let guest = Bundle::wasm(&daemon, "guest", &testkit::guest::wat("sleeper")?, [""; 0])?;
    let guest = guest.start()?;
    let program = neighbour.folder().join("sleep");
    fs::copy("/usr/bin/busybox", &program)?;
    let bystander = Bystander(Command::new(&program).arg("1000").spawn()?);

    let mut attacker = Bundle::linux(&daemon, "attacker", [""; 0])?.host_processes()?;
    let all = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_DAC_READ_SEARCH",
        "CAP_FOWNER",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_SYS_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_KILL",
        "CAP_MKNOD",
    ]);
    for set in ["bounding", "effective", "permitted"] {
        attacker.spec["process"]["capabilities"][set] = all.clone();
    }
    let mut attack = |pid: u32| {
        let script = format!("sleep 0; : >> /proc/{pid}/exe");
        attacker.spec["process"]["args"] = json!(["sh", "-c", script]);
        attacker.run()
    };
    // An ordinary program is only protected for as long as it runs: the attack reaches it.
    let control = attack(bystander.0.id())?;
    assert!(control.stderr.contains("Text file busy"), "{}", control.report());
    for pid in [shim.server, shim.keeper, guest] {
        let output = attack(u32::try_from(pid)?)?;
        assert!(!output.success(), "{}", output.report());
        let sealed = ["Read-only file system", "Operation not permitted"]
            .iter()
            .any(|reason| output.stderr.contains(reason));
        let copy = fs::read_link(format!("/proc/{pid}/exe"))?.display().to_string();
        assert!(sealed || copy.contains("memfd:"), "{copy}: {}", output.report());
    }
    assert!(fs::read(place::shim())? == shim_before, "the shim's binary was changed");
    Ok(())
}

#[test]
fn a_container_whose_program_is_the_runtime_itself_changes_nothing() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    let before = fs::read(place::shim())?;
    for program in ["/proc/self/exe", "/bin/link"] {
        let bundle = Bundle::linux(&daemon, "self", [program])?;
        symlink("/proc/self/exe", bundle.rootfs().join("bin/link"))?;
        let output = bundle.run()?;
        assert!(!output.success(), "{}", output.report());
    }
    assert!(fs::read(place::shim())? == before, "the shim's binary was changed");
    Ok(())
}

#[test]
fn a_program_gets_its_streams_its_environment_and_nothing_else() -> Result<()> {
    let Some(daemon) = lab(Release::V2_1) else { return Ok(()) };
    let mut bundle = Bundle::linux(&daemon, "plain", ["sleep", "1000"])?;
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "A=1", "WORDS=two words", "HOME=/tmp"]);
    let pid = bundle.start()?;
    host::eventually("the program runs", PATIENCE, || {
        Ok(host::command_line(pid)? == ["sleep", "1000"])
    })?;
    let held = host::descriptors(pid)?;
    assert_eq!(held.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{held:?}");
    assert_eq!(host::environment(pid)?, ["PATH=/bin", "A=1", "WORDS=two words", "HOME=/tmp"]);
    Ok(())
}

#[test]
fn a_program_finds_a_home_as_runc_would_set_it() -> Result<()> {
    let Some(daemon) = lab(Release::V2_1) else { return Ok(()) };
    let mut bundle = Bundle::linux(&daemon, "home", ["sh", "-c", "echo $HOME"])?;
    assert_eq!(bundle.run()?.ok()?.stdout, "/\n");
    fs::write(bundle.rootfs().join("etc/passwd"), "root:x:0:0:root:/home/of/root:/bin/sh\n")?;
    assert_eq!(bundle.run()?.ok()?.stdout, "/home/of/root\n");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/given"]);
    assert_eq!(bundle.run()?.ok()?.stdout, "/given\n");
    Ok(())
}

#[test]
fn a_seccomp_profile_is_applied() -> Result<()> {
    let Some(daemon) = lab(Release::V2_1) else { return Ok(()) };
    let mut bundle = Bundle::linux(&daemon, "filtered", ["mkdir", "/tmp/folder"])?;
    bundle.run()?.ok()?;
    bundle.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 19}],
    });
    fs::remove_dir(bundle.rootfs().join("tmp/folder"))?;
    let output = bundle.run()?;
    assert_eq!(output.status, Some(1), "{}", output.report());
    assert!(output.stderr.contains("No such device"), "errno 19: {}", output.report());
    assert!(!bundle.rootfs().join("tmp/folder").exists());
    Ok(())
}

#[test]
fn containerds_default_profile_and_capabilities_are_applied() -> Result<()> {
    let Some(daemon) = lab(Release::V2_1) else { return Ok(()) };
    let busybox = daemon.image(catalogue::busybox());
    let run = |flags: &[&str]| {
        let run = daemon.run(&busybox, &daemon.unique("status")).flags(flags.iter().copied());
        let output = run.args(["cat", "/proc/self/status"]).output()?.ok()?;
        let field = |name: &str| -> Result<String> {
            let line = output.lines().into_iter().find_map(|it| it.strip_prefix(name));
            Ok(line.with_context(|| output.report())?.trim().to_owned())
        };
        anyhow::Ok((field("Seccomp:")?, field("NoNewPrivs:")?, field("CapEff:")?))
    };
    let (seccomp, new_privileges, _) = run(&["--seccomp"])?;
    assert_eq!((seccomp.as_str(), new_privileges.as_str()), ("2", "1"));
    let (seccomp, new_privileges, before) = run(&["--allow-new-privs"])?;
    assert_eq!((seccomp.as_str(), new_privileges.as_str()), ("0", "0"));
    let (_, _, after) = run(&["--cap-drop", "CAP_KILL"])?;
    let bits = |text: &str| u64::from_str_radix(text, 16);
    assert_eq!(bits(&before)? & !bits(&after)?, 1 << 5, "CAP_KILL is the difference");
    Ok(())
}

#[test]
fn hooks_are_told_the_containers_state() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    let bundle = Bundle::linux(&daemon, "hooked", ["sleep", "1000"])?;
    let told = |point: &str| bundle.folder().join(format!("{point}.json"));
    let (created, stopped) = (told("create"), told("stop"));
    let script = |path: &Path| format!("cat > {}", path.display());
    let (create, stop) = (script(&created), script(&stopped));
    let bundle = bundle.hook("createRuntime", &create).hook("poststop", &stop);
    let pid = bundle.start()?;
    let read = |path: &Path| -> Result<Value> {
        let text = fs::read(path).with_context(|| format!("no hook wrote {}", path.display()))?;
        serde_json::from_slice(&text).context("reading a state")
    };
    let state = read(&created)?;
    assert_eq!((&state["id"], &state["pid"]), (&json!(bundle.id()), &json!(pid)));
    assert_eq!(state["bundle"], daemon.bundle(bundle.id()).display().to_string());
    assert!(!stopped.exists(), "poststop came before the stop");
    host::end(&daemon, bundle.id())?;
    assert_eq!(read(&stopped)?["status"], "stopped");
    Ok(())
}

#[test]
fn a_hook_need_not_read_the_state_it_is_told() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    for point in ["prestart", "createRuntime", "poststart", "poststop"] {
        let mut bundle = Bundle::linux(&daemon, "unread", ["echo", "hello"])?.hook(point, "exit 0");
        // More than fits into a pipe, so that whoever writes it sees the reader go.
        bundle.spec["annotations"]["org.example.long"] = "x".repeat(1 << 17).into();
        let output = bundle.run()?.ok().with_context(|| point)?;
        assert_eq!(output.stdout, "hello\n", "{point}: {}", output.report());
    }
    Ok(())
}

#[test]
fn memory_and_process_limits_are_in_the_cgroup() -> Result<()> {
    let Some(daemon) = lab(Release::V1_7) else { return Ok(()) };
    let mut bundle = Bundle::linux(&daemon, "limited", ["sleep", "1000"])?;
    bundle.spec["linux"]["resources"]["memory"] = json!({"limit": 67_108_864});
    bundle.spec["linux"]["resources"]["pids"] = json!({"limit": 23});
    let pid = bundle.start()?;
    assert_eq!(host::memory_limit(pid)?, 67_108_864);
    let folders = host::cgroup_folders(pid);
    let pids = folders.iter().find_map(|it| fs::read_to_string(it.join("pids.max")).ok());
    assert_eq!(pids.context("no pids cgroup")?.trim(), "23");
    assert!(
        !folders.is_empty() && folders.iter().all(|it| it.ends_with(bundle.id())),
        "{folders:?}"
    );
    host::end(&daemon, bundle.id())
}
