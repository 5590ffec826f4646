//! What containers leave behind, however they end: nothing.
//!
//! Each test has a containerd of its own, so that the census before and after sees this test's things alone.

use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::bundle::Bundle;
use end_to_end::events::Events;
use end_to_end::host;
use end_to_end::kind::Kind;
use end_to_end::lab::PATIENCE;
use testkit::command::Output;
use testkit::containerd::{Daemon, Release};
use testkit::image::Archive;
use testkit::leftovers::Census;
use testkit::terminal::Terminal;
use testkit::{catalogue, guest};

const CYCLES: u32 = 100;
/// The first cycles fill caches and pools.
const WARM_UP: u32 = 20;

/// Starts a daemon and imports these images; none where no daemon can run.
fn daemon(release: Release, images: &[Archive]) -> Result<Option<Daemon>> {
    if !testkit::ready() {
        return Ok(None);
    }
    let daemon = Daemon::start(release)?;
    for image in images {
        daemon.import(image)?;
    }
    Ok(Some(daemon))
}

fn settles(daemon: &Daemon, before: &Census, what: &str) -> Result<()> {
    before.settles(|| Census::of(daemon), PATIENCE).with_context(|| what.to_owned())
}

#[test]
fn a_finished_container_of_each_kind_leaves_nothing() -> Result<()> {
    let images = [
        catalogue::hello_wasm()?,
        catalogue::hello_mixed()?,
        catalogue::hello_file()?,
        catalogue::busybox()?,
    ];
    for release in [Release::V1_7, Release::V2_1] {
        let Some(daemon) = daemon(release, &images)? else { return Ok(()) };
        let before = Census::of(&daemon)?;
        for image in &images {
            let id = daemon.unique("finished");
            let mut run = daemon.run(image, &id);
            if image.name.contains("busybox") {
                run = run.args(["echo", "hello"]);
            }
            run.output()?.ok()?;
            settles(&daemon, &before, &image.name)?;
        }
    }
    Ok(())
}

#[test]
fn a_running_container_is_seen_and_a_killed_one_leaves_nothing() -> Result<()> {
    let images = [catalogue::guest_image("sleeper")?, catalogue::busybox()?];
    let Some(daemon) = daemon(Release::V1_7, &images)? else { return Ok(()) };
    let before = Census::of(&daemon)?;
    for image in &images {
        let id = daemon.unique("killed");
        let pid = detached(&daemon, image, &id)?;
        let during = before.difference(&Census::of(&daemon)?).join("\n");
        for kind in ["process", "mount", "cgroup", "socket", "state"] {
            assert!(during.contains(&format!("+ {kind} ")), "no {kind} is seen in:\n{during}");
        }
        host::end(&daemon, &id)?;
        assert!(!host::alive(pid));
        daemon.ctr(["containers", "rm", &id])?.ok()?;
        settles(&daemon, &before, &image.name)?;
    }
    Ok(())
}

/// Starts a container without streams and returns its process.
fn detached(daemon: &Daemon, image: &Archive, id: &str) -> Result<i32> {
    let mut run = daemon.run(image, id).detach().flags(["--null-io"]);
    if image.name.contains("busybox") {
        run = run.args(["sleep", "1000"]);
    }
    run.output()?.ok()?;
    daemon.task_pid(id)
}

#[test]
fn a_create_that_fails_leaves_nothing_and_frees_the_id() -> Result<()> {
    let garbage = catalogue::keep(catalogue::module_image("garbage", *b"\0asm this is no module"))?;
    let images = [
        catalogue::hello_wasm()?,
        catalogue::busybox()?,
        catalogue::guest_image("no-start")?,
        catalogue::guest_image("unknown-import")?,
        garbage,
    ];
    let Some(daemon) = daemon(Release::V2_1, &images)? else { return Ok(()) };
    let [hello, busybox, no_start, unknown_import, garbage] = &images;
    let before = Census::of(&daemon)?;
    let id = daemon.unique("reused");
    let fails = |what: &str, output: Output| {
        assert!(!output.success() && output.stdout.is_empty(), "{what}: {}", output.report());
        // Without --rm's help: the task is gone by itself, the container by this.
        daemon.ctr(["containers", "rm", &id])?;
        settles(&daemon, &before, what)
    };
    for image in [no_start, unknown_import, garbage] {
        fails(&image.name, daemon.run(image, &id).output()?)?;
    }
    let missing = daemon.run(busybox, &id).args(["/no/such/program"]);
    fails("a missing program", missing.output()?)?;
    let mount = "type=bind,src=/no/such/folder,dst=/data,options=rbind:ro";
    for image in [hello, busybox] {
        let run = daemon.run(image, &id).flags(["--mount", mount]);
        fails("a missing mount source", run.output()?)?;
    }
    daemon.run(hello, &id).output()?.ok()?;
    settles(&daemon, &before, "the control")
}

#[test]
fn a_create_that_its_hook_forbids_leaves_nothing() -> Result<()> {
    let Some(daemon) = daemon(Release::V1_7, &[])? else { return Ok(()) };
    let before = Census::of(&daemon)?;
    let wasm = || Bundle::wasm(&daemon, "hooked", &guest::wat("hello")?, [""; 0]);
    let linux = || Bundle::linux(&daemon, "hooked", ["echo", "hello"]);
    for point in ["prestart", "createRuntime"] {
        for bundle in [wasm()?, linux()?] {
            let bundle = bundle.hook(point, "exit 1");
            let output = bundle.run()?;
            assert!(!output.success() && output.stdout.is_empty(), "{point}: {}", output.report());
            daemon.ctr(["containers", "rm", bundle.id()])?;
            settles(&daemon, &before, point)?;
        }
        for bundle in [wasm()?, linux()?] {
            bundle.hook(point, "exit 0").run()?.ok()?;
            settles(&daemon, &before, "the control")?;
        }
    }
    Ok(())
}

#[test]
fn what_a_killed_shim_leaves_is_removed_and_its_containers_end_is_told() -> Result<()> {
    let images = [catalogue::guest_image("sleeper")?, catalogue::busybox()?];
    for release in [Release::V1_7, Release::V2_1] {
        let Some(daemon) = daemon(release, &images)? else { return Ok(()) };
        let before = Census::of(&daemon)?;
        for image in &images {
            let id = daemon.unique("orphan");
            let pid = detached(&daemon, image, &id)?;
            let shim = host::shim_of(&daemon, pid)?;
            let events = Events::listen(&daemon)?;
            host::kill_hard(shim.server)?;
            assert_eq!(events.exit_of(&id)?, 137, "{release} {}", image.name);
            drop(events);
            for (what, pid) in [("the container", pid), ("the keeper", shim.keeper)] {
                let what = format!("{what} ends with the shim's server");
                host::eventually(&what, PATIENCE, || Ok(!host::alive(pid)))?;
            }
            daemon.ctr(["containers", "rm", &id])?.ok()?;

            // The id can be used again at once.
            let again = detached(&daemon, image, &id)?;
            assert!(host::alive(again));
            host::end(&daemon, &id)?;
            daemon.ctr(["containers", "rm", &id])?.ok()?;
            settles(&daemon, &before, &format!("{release} {}", image.name))?;
        }
    }
    Ok(())
}

#[test]
fn what_the_killed_shim_of_a_group_leaves_is_removed() -> Result<()> {
    let images = [catalogue::guest_image("sleeper")?, catalogue::busybox()?];
    let Some(daemon) = daemon(Release::V1_7, &images)? else { return Ok(()) };
    let before = Census::of(&daemon)?;
    let group = daemon.unique("group");
    let events = Events::listen(&daemon)?;
    let mut containers = Vec::new();
    for image in &images {
        let id = daemon.unique("member");
        let run = daemon.run(image, &id).detach().flags(["--null-io"]);
        let run = run.annotation("io.containerd.runc.v2.group", &group);
        let run = if image.name.contains("busybox") { run.args(["sleep", "1000"]) } else { run };
        run.output()?.ok()?;
        containers.push((daemon.task_pid(&id)?, id));
    }
    let servers = host::servers(&daemon);
    let [server] = servers.as_slice() else {
        panic!("one group is served by {servers:?}");
    };
    host::kill_hard(*server)?;
    for (pid, id) in &containers {
        assert_eq!(events.exit_of(id)?, 137);
        host::eventually("the container ends", PATIENCE, || Ok(!host::alive(*pid)))?;
        daemon.ctr(["containers", "rm", id])?.ok()?;
    }
    drop(events);
    settles(&daemon, &before, "a group")
}

#[test]
fn a_shim_killed_at_any_moment_of_a_start_leaves_nothing() -> Result<()> {
    const MOMENTS: u32 = 16;
    const STEP: Duration = Duration::from_millis(4);
    let images = [catalogue::guest_image("sleeper")?, catalogue::busybox()?];
    let Some(daemon) = daemon(Release::V2_1, &images)? else { return Ok(()) };
    let before = Census::of(&daemon)?;
    for moment in 0..MOMENTS {
        for image in &images {
            let what = format!("{} {:?} after its shim's start", image.name, STEP * moment);
            let id = daemon.unique("moment");
            let run = daemon.run(image, &id).flags(["--null-io"]);
            let run =
                if image.name.contains("busybox") { run.args(["sleep", "1000"]) } else { run };
            let running = run.spawn()?;
            // Until containerd is connected it would ask nobody to clean up.
            let connected = daemon.bundle(&id).join("bootstrap.json");
            host::eventually("containerd is connected", PATIENCE, || Ok(connected.exists()))?;
            let server = host::servers(&daemon).first().copied();
            std::thread::sleep(STEP * moment);
            host::kill_hard(server.context("no server")?)?;
            let output = running.wait(PATIENCE)?;
            assert!(!output.timed_out && !output.success(), "{what}: {}", output.report());
            // Depending on the moment, ctr has removed its container or has not.
            daemon.ctr(["tasks", "delete", "--force", &id])?;
            daemon.ctr(["containers", "rm", &id])?;
            settles(&daemon, &before, &what)?;
        }
    }
    Ok(())
}

/// Starts a container of each kind that sleeps, with all programs of its kind in it.
fn sleeping(daemon: &Daemon, kind: Kind, name: &str) -> Result<(String, i32)> {
    let id = daemon.unique(name);
    let run = daemon.run(&kind.programs()?, &id).detach().flags(["--null-io"]);
    run.args(kind.sleeper()).output()?.ok()?;
    let pid = daemon.task_pid(&id)?;
    Ok((id, pid))
}

#[test]
fn what_was_executed_leaves_nothing_whatever_its_streams_were() -> Result<()> {
    let images = [Kind::Linux.programs()?, Kind::Wasm.programs()?];
    let Some(daemon) = daemon(Release::V2_1, &images)? else { return Ok(()) };
    for kind in Kind::all() {
        let (id, _) = sleeping(&daemon, *kind, "executes")?;
        // What is set up with the first process that is executed may stay.
        daemon.exec(&id, kind.exit(0))?.ok()?;
        let before = Census::of(&daemon)?;
        let file = format!("file://{}", daemon.scratch()?.join("output.log").display());
        for round in 0..3 {
            daemon.exec(&id, kind.exit(0))?.ok()?;
            let exec = format!("e{round}");
            let logged = ["tasks", "exec", "--exec-id", &exec, "--log-uri", &file, &id];
            daemon.ctr_command().args(logged).args(kind.exit(0)).run()?.ok()?;
            let client = daemon.exec_command(&id, ["--tty"]).args(kind.sleeper());
            let terminal = Terminal::run(&client)?;
            host::eventually("it runs in its terminal", PATIENCE, || {
                let during = before.difference(&Census::of(&daemon)?).join("\n");
                Ok(during.contains("descriptors of terminals"))
            })?;
            terminal.passes_keys_on(PATIENCE)?;
            std::thread::sleep(Duration::from_millis(200));
            terminal.press("C-c")?;
            assert_eq!(terminal.code(PATIENCE)?, 130, "{kind:?}");
            let missing = daemon.exec(&id, ["/no/such/program.wasm"])?;
            assert!(!missing.success(), "{}", missing.report());
        }
        settles(&daemon, &before, &format!("{kind:?}"))?;
        host::end(&daemon, &id)?;
    }
    Ok(())
}

#[test]
fn a_shim_killed_at_any_moment_of_an_exec_leaves_nothing() -> Result<()> {
    const MOMENTS: u32 = 12;
    const STEP: Duration = Duration::from_millis(4);
    let images = [Kind::Linux.programs()?, Kind::Wasm.programs()?];
    let Some(daemon) = daemon(Release::V2_1, &images)? else { return Ok(()) };
    let before = Census::of(&daemon)?;
    for moment in 0..MOMENTS {
        for kind in Kind::all() {
            // What ctr itself needs before it asks.
            let after = Duration::from_millis(12) + STEP * moment;
            let what = format!("{kind:?} {after:?} after the start of an exec");
            let (id, pid) = sleeping(&daemon, *kind, "moment")?;
            let server = host::servers(&daemon).first().copied().context("no server")?;
            let flags: &[&str] = if moment.is_multiple_of(2) { &[] } else { &["--detach"] };
            let client = daemon.exec_command(&id, flags).args(kind.sleeper()).spawn()?;
            std::thread::sleep(after);
            host::kill_hard(server)?;
            let output = client.wait(PATIENCE)?;
            assert!(!output.timed_out, "{what}: {}", output.report());
            // Those are ctr's own to remove, and it need not have come to that.
            let fifos = daemon.state().with_file_name("fifo");
            if fifos.exists() {
                std::fs::remove_dir_all(fifos)?;
            }
            host::eventually(&format!("{what}: it ends"), PATIENCE, || Ok(!host::alive(pid)))?;
            daemon.ctr(["tasks", "delete", "--force", &id])?;
            daemon.ctr(["containers", "rm", &id])?;
            settles(&daemon, &before, &what)?;
        }
    }
    Ok(())
}

/// What the shim's server holds.
#[derive(Debug, Clone, Copy)]
struct Weight {
    descriptors: usize,
    resident_kib: u64,
}

fn weight(pid: i32) -> Result<Weight> {
    let resident = host::status(pid, "VmRSS")?;
    let resident = resident.split_whitespace().next().unwrap_or_default();
    Ok(Weight {
        descriptors: host::descriptors(pid)?.len(),
        resident_kib: resident.parse().with_context(|| format!("reading {resident:?}"))?,
    })
}

#[test]
fn a_hundred_containers_in_one_group_leave_its_shim_as_it_was() -> Result<()> {
    let images =
        [catalogue::guest_image("sleeper")?, catalogue::hello_wasm()?, catalogue::busybox()?];
    let Some(daemon) = daemon(Release::V1_7, &images)? else { return Ok(()) };
    let [sleeper, hello, busybox] = &images;
    let group = daemon.unique("group");
    let group = ("io.containerd.runc.v2.group", group.as_str());
    let holder = daemon.unique("holder");
    let holds = daemon.run(sleeper, &holder).detach().flags(["--null-io"]);
    holds.annotation(group.0, group.1).output()?.ok()?;
    let shim = host::shim_of(&daemon, daemon.task_pid(&holder)?)?;
    let run = |image: &Archive| -> Result<()> {
        let run = daemon.run(image, &daemon.unique("cycle")).annotation(group.0, group.1);
        let run = if image.name == busybox.name { run.args(["true"]) } else { run };
        run.output()?.ok()?;
        Ok(())
    };
    let both = || anyhow::Ok([weight(shim.server)?, weight(shim.keeper)?]);
    let before = Census::of(&daemon)?;
    let mut warm = both()?;
    for cycle in 0..CYCLES {
        if cycle == WARM_UP {
            warm = both()?;
        }
        run(if cycle % 4 == 3 { busybox } else { hello })?;
    }
    assert_eq!(host::servers(&daemon), [shim.server], "the group has one shim");
    settles(&daemon, &before, "a hundred containers")?;
    let flat = || {
        let now = both()?;
        Ok(warm.iter().zip(now).all(|(warm, now)| {
            now.descriptors <= warm.descriptors && now.resident_kib <= warm.resident_kib + 2048
        }))
    };
    host::eventually("server and keeper are as before", Duration::from_secs(5), flat)
        .with_context(|| format!("before {warm:?}, after {:?}", both().ok()))
}

#[test]
fn a_hundred_executed_processes_leave_the_shim_as_it_was() -> Result<()> {
    let images = [Kind::Linux.programs()?, Kind::Wasm.programs()?];
    let Some(daemon) = daemon(Release::V1_7, &images)? else { return Ok(()) };
    for kind in Kind::all() {
        let (id, pid) = sleeping(&daemon, *kind, "many")?;
        let shim = host::shim_of(&daemon, pid)?;
        let both = || anyhow::Ok([weight(shim.server)?, weight(shim.keeper)?]);
        let before = Census::of(&daemon)?;
        let mut warm = both()?;
        for cycle in 0..CYCLES {
            if cycle == WARM_UP {
                warm = both()?;
            }
            daemon.exec(&id, kind.exit(0))?.ok()?;
        }
        settles(&daemon, &before, &format!("{kind:?}"))?;
        let flat = || {
            let now = both()?;
            Ok(warm.iter().zip(now).all(|(warm, now)| {
                now.descriptors <= warm.descriptors && now.resident_kib <= warm.resident_kib + 2048
            }))
        };
        host::eventually("server and keeper are as before", Duration::from_secs(5), flat)
            .with_context(|| format!("{kind:?}: before {warm:?}, after {:?}", both().ok()))?;
        host::end(&daemon, &id)?;
    }
    Ok(())
}
