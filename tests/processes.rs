//! The shim's two processes: the server that speaks with containerd, and the keeper whose children the containers are.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use end_to_end::bundle::Bundle;
use end_to_end::events::Events;
use end_to_end::host;
use end_to_end::lab::{Lab, PATIENCE, lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::containerd::{Daemon, Release};
use testkit::process::Process;
use testkit::{guest, place};

/// How long a kill may take beside a container that hangs.
const PROMPT: Duration = Duration::from_secs(15);

fn sleeping(daemon: &Daemon, group: &str) -> Result<(i32, i32)> {
    let linux = Bundle::linux(daemon, "linux", ["sleep", "1000"])?.group(group);
    let wasm = Bundle::wasm(daemon, "wasm", &guest::wat("sleeper")?, [""; 0])?.group(group);
    Ok((linux.start()?, wasm.start()?))
}

#[test]
fn server_and_keeper_execute_a_copy_nobody_can_write() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let (linux, _) = sleeping(&lab, &lab.unique("sealed"))?;
    let shim = host::shim_of(&lab, linux)?;
    let disk = fs::metadata(place::shim())?;
    for pid in [shim.server, shim.keeper] {
        let path = format!("/proc/{pid}/exe");
        let running = fs::metadata(&path)?;
        assert_ne!(
            (running.dev(), running.ino()),
            (disk.dev(), disk.ino()),
            "process {pid} executes the file on disk"
        );
        assert_eq!(running.len(), disk.len(), "process {pid} executes something else");
        let refused = fs::OpenOptions::new().write(true).open(&path).map(|_| "opened");
        let kind = refused.expect_err("a sealed binary is not opened for writing").kind();
        let in_memory = fs::read_link(&path)?.display().to_string().contains("memfd:");
        let sealed = matches!(kind, ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied);
        // A sealed file in memory is busy while it is executed, and refuses writes for ever.
        assert!(sealed || in_memory, "process {pid}: {kind:?}");
    }
    Ok(())
}

#[test]
fn the_keeper_has_one_thread_and_is_the_servers_child() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let (linux, wasm) = sleeping(&lab, &lab.unique("threads"))?;
    let shim = host::shim_of(&lab, linux)?;
    assert_eq!(host::shim_of(&lab, wasm)?, shim, "one shim serves the group");
    assert_eq!(host::status(shim.keeper, "Threads")?, "1");
    // A guest is one thread too: no pids limit counts helpers of the engine.
    assert_eq!(host::status(wasm, "Threads")?, "1");
    for pid in [linux, wasm] {
        let parent = Process::read(pid).context("a container's process is gone")?.parent;
        assert_eq!(parent, shim.keeper, "process {pid} is the keeper's child");
    }
    Ok(())
}

/// Returns the sockets in the shims' folder that a process holds, by inode.
fn doors(pid: i32) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/net/unix").context("reading /proc/net/unix")?;
    let held = host::descriptors(pid)?;
    let inodes = table.lines().filter(|line| line.contains("/containerd/s/"));
    let inodes = inodes.filter_map(|line| line.split_whitespace().nth(6));
    let mine = |inode: &&str| held.values().any(|it| *it == format!("socket:[{inode}]"));
    Ok(inodes.filter(mine).map(str::to_owned).collect())
}

#[test]
fn the_keeper_holds_nothing_of_the_servers_door() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let (linux, wasm) = sleeping(&lab, &lab.unique("door"))?;
    let shim = host::shim_of(&lab, linux)?;
    assert!(!doors(shim.server)?.is_empty(), "the server listens");
    // With the keeper holding it, a dead server's socket would still seem to be served.
    for pid in [shim.keeper, linux, wasm] {
        assert_eq!(doors(pid)?, [""; 0], "process {pid}: {:?}", host::descriptors(pid)?);
    }
    Ok(())
}

#[test]
fn containers_outlive_the_keeper_and_their_ends_are_told() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let group = lab.unique("orphans");
    let script = "while ! test -e /gate; do sleep 0.05; done; exit 7";
    let linux = Bundle::linux(&lab, "linux", ["sh", "-c", script])?.group(&group);
    let wasm = Bundle::wasm(&lab, "wasm", &guest::wat("sleeper")?, [""; 0])?.group(&group);
    let (linux_pid, wasm_pid) = (linux.start()?, wasm.start()?);
    let shim = host::shim_of(&lab, wasm_pid)?;
    let events = Events::listen(&lab)?;

    host::kill_hard(shim.keeper)?;
    host::eventually("the keeper is gone", PATIENCE, || Ok(!host::alive(shim.keeper)))?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(host::alive(shim.server), "the server went with the keeper");
    for (id, pid) in [(linux.id(), linux_pid), (wasm.id(), wasm_pid)] {
        assert!(host::alive(pid), "{id} went with the keeper");
        assert_eq!(lab.task_status(id)?.as_deref(), Some("RUNNING"));
        assert_eq!(events.exits(id)?, [0; 0], "{id} is said to have ended");
    }

    fs::write(linux.rootfs().join("gate"), "")?;
    assert_eq!(events.exit_of(linux.id())?, 7);
    kill(Pid::from_raw(wasm_pid), Signal::SIGTERM)?;
    assert_eq!(events.exit_of(wasm.id())?, 128 + 15);
    for id in [linux.id(), wasm.id()] {
        assert_eq!(events.exits(id)?.len(), 1, "the end of {id} is told once");
        lab.wait_for_status(id, "STOPPED", PATIENCE)?;
    }
    Ok(())
}

#[test]
fn containers_can_be_removed_after_the_keepers_death() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let group = lab.unique("remains");
    let linux = Bundle::linux(&lab, "linux", ["sleep", "1000"])?.group(&group);
    let wasm = Bundle::wasm(&lab, "wasm", &guest::wat("sleeper")?, [""; 0])?.group(&group);
    let (linux_pid, wasm_pid) = (linux.start()?, wasm.start()?);
    let shim = host::shim_of(&lab, wasm_pid)?;
    host::kill_hard(shim.keeper)?;
    host::eventually("the keeper is gone", PATIENCE, || Ok(!host::alive(shim.keeper)))?;
    for (bundle, pid) in [(&linux, linux_pid), (&wasm, wasm_pid)] {
        let folders = host::cgroup_folders(pid);
        assert!(!folders.is_empty(), "{} has no cgroup", bundle.id());
        host::end(&lab, bundle.id())?;
        let left: Vec<_> = folders.iter().filter(|folder| folder.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

/// Says at which point of which kind of container a hook hangs.
#[derive(Debug, Clone, Copy)]
enum Hanging {
    Wasm(&'static str),
    Linux(&'static str),
}

fn with_hook<'lab>(lab: &'lab Lab, hanging: Hanging, script: &str) -> Result<Bundle<'lab>> {
    match hanging {
        Hanging::Wasm(point) => {
            let bundle = Bundle::wasm(lab, "hangs", &guest::wat("hello")?, [""; 0])?;
            Ok(bundle.hook(point, script))
        }
        Hanging::Linux(point) => {
            let words = ["echo", "hello from linux"];
            Ok(Bundle::linux(lab, "hangs", words)?.hook(point, script))
        }
    }
}

fn a_hang_delays_nobody(hanging: Hanging) -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let group = lab.unique("hang");
    let victim = Bundle::wasm(&lab, "victim", &guest::wat("sleeper")?, [""; 0])?.group(&group);
    let other = Bundle::linux(&lab, "other", ["sleep", "1000"])?.group(&group);
    let pids = [victim.start()?, other.start()?];
    let folder = lab.folder(&lab.unique("gates"))?;
    let (begun, gate) = (folder.join("begun"), folder.join("gate"));
    let script = waits_for(&begun, &gate);
    let hung = with_hook(&lab, hanging, &script)?.group(&group);
    let running = hung.command(["--rm"])?.spawn()?;
    host::eventually("the hook runs", PATIENCE, || Ok(begun.exists()))?;

    let before = Instant::now();
    for (bundle, pid) in [&victim, &other].into_iter().zip(pids) {
        lab.ctr(["tasks", "kill", "--signal", "SIGKILL", bundle.id()])?.ok()?;
        host::eventually("the killed container ends", PROMPT, || Ok(!host::alive(pid)))?;
        lab.wait_for_status(bundle.id(), "STOPPED", PROMPT)?;
    }
    let newcomer = Bundle::wasm(&lab, "new", &guest::wat("exit")?, ["5"])?.group(&group);
    let newcomer = newcomer.command(["--rm"])?.timeout(PROMPT).run()?;
    assert_eq!(newcomer.status, Some(5), "{hanging:?}: {}", newcomer.report());
    assert!(before.elapsed() < 3 * PROMPT, "{hanging:?}: {:?}", before.elapsed());

    fs::write(&gate, "")?;
    let output = running.wait(PATIENCE)?.ok().with_context(|| format!("{hanging:?}"))?;
    assert!(output.stdout.starts_with("hello from "), "{hanging:?}: {}", output.report());
    Ok(())
}

fn waits_for(begun: &Path, gate: &Path) -> String {
    format!("touch {}; while ! test -e {}; do sleep 0.05; done", begun.display(), gate.display())
}

#[test]
fn a_hook_that_hangs_while_a_wasm_container_is_created_delays_nobody() -> Result<()> {
    a_hang_delays_nobody(Hanging::Wasm("createRuntime"))
}

#[test]
fn a_hook_that_hangs_after_a_wasm_containers_start_delays_nobody() -> Result<()> {
    a_hang_delays_nobody(Hanging::Wasm("poststart"))
}

#[test]
fn a_hook_that_hangs_while_a_linux_container_is_created_delays_nobody() -> Result<()> {
    a_hang_delays_nobody(Hanging::Linux("createRuntime"))
}

#[test]
fn a_hook_that_hangs_after_a_linux_containers_start_delays_nobody() -> Result<()> {
    a_hang_delays_nobody(Hanging::Linux("poststart"))
}
