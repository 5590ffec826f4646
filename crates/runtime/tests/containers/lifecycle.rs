//! From create to delete, and nothing left; how a container is made to end.

use std::time::{Duration, Instant, SystemTime};

use lifecycle::State::{Created, Running, Stopped};
use runtime::handle::Scope;
use runtime::process::ExitStatus::{Exited, Signalled};
use serde_json::json;

use crate::guests::{spinner, tool};
use crate::lab::{Lab, Layers};
use crate::running::eventually;
use crate::world::World;

crate::cases![
    a_container_of_either_kind_runs_from_create_to_delete_and_leaves_nothing,
    a_module_may_be_a_layer_and_is_asked_for_once,
    a_container_that_cannot_be_created_leaves_nothing,
    a_container_that_never_started_can_be_deleted,
    a_running_container_can_be_deleted,
    neither_keeper_nor_server_holds_anything_of_a_container_that_is_gone,
    stop_ends_a_wasm_loop_at_once,
    stop_kills_a_shell_that_ignores_it_when_the_time_is_over,
    processes_are_listed_and_a_signal_can_be_for_all_of_them,
    the_kernels_kills_for_memory_are_counted_when_wait_returns,
];

async fn a_container_of_either_kind_runs_from_create_to_delete_and_leaves_nothing(world: &World) {
    let shell = Lab::linux("echo hello; echo oops >&2; exit 2");
    let guest = Lab::wasm(&tool("")).arguments(&["/app.wasm", "argument"]);
    for lab in [shell, guest] {
        let mut container = lab.create(&world.first).await;
        assert_eq!(container.state().await, Created);
        assert!(!crate::lab::cgroups().is_empty(), "or the search for what is left is blind");
        assert!(lab.bundle_files().contains(&"hybrid.json".to_owned()));
        let before = SystemTime::now();
        container.start().await;
        let again = container.runtime.start(&container.handle).await;
        again.expect_err("a container is started once");
        assert_eq!(container.wait().await, Exited(2));
        let status = container.runtime.status(&container.handle).await.unwrap();
        assert_eq!((status.state, status.exit), (Stopped, Some(Exited(2))));
        let (started, finished) = (status.started_at.unwrap(), status.finished_at.unwrap());
        assert!(before <= started && finished <= SystemTime::now());
        assert_eq!(container.ends().rest().await, ["hello\n", "oops\n"]);
        container.delete().await;
        assert_eq!(lab.bundle_files(), ["config.json", "rootfs"]);
        world.expect_nothing_left().await;
    }
}

async fn a_module_may_be_a_layer_and_is_asked_for_once(world: &World) {
    let image = Layers::new(&[("app.wasm", tool("layer"))]);
    for _ in 0..2 {
        let lab = Lab::layered(&image).arguments(&["/app.wasm", "1", "2"]);
        let container = lab.run(&world.first).await;
        assert_eq!(container.wait().await, Exited(3));
        container.delete().await;
        assert_eq!(image.asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

async fn a_container_that_cannot_be_created_leaves_nothing(world: &World) {
    let no_program = Lab::linux("").arguments(&["/bin/absent"]);
    let nonsense = Lab::wasm(b"\0asm\x01\0\0\0 and then nonsense");
    let no_command = Lab::wasm(b"\0asm\x01\0\0\0");
    for (lab, says) in
        [(no_program, "/bin/absent"), (nonsense, "module"), (no_command, "no `_start` function")]
    {
        let Err(refused) = lab.try_create(&world.first).await else { panic!("{says}") };
        assert!(refused.to_string().contains(says), "{says} in {refused}");
        assert_eq!(lab.bundle_files(), ["config.json", "rootfs"], "{says}");
        world.expect_nothing_left().await;
    }
}

async fn a_container_that_never_started_can_be_deleted(world: &World) {
    for lab in [Lab::linux("exit 2"), Lab::wasm(&tool(""))] {
        let container = lab.create(&world.first).await;
        container.delete().await;
        assert_eq!(container.wait().await, Signalled(9));
        assert_eq!(lab.bundle_files(), ["config.json", "rootfs"]);
    }
}

async fn a_running_container_can_be_deleted(world: &World) {
    for lab in [Lab::linux("sleep 1000 & sleep 1000"), Lab::wasm(&spinner())] {
        let container = lab.run(&world.first).await;
        assert_eq!(container.state().await, Running);
        container.delete().await;
        assert_eq!(container.wait().await, Signalled(9));
        world.expect_nothing_left().await;
    }
}

async fn neither_keeper_nor_server_holds_anything_of_a_container_that_is_gone(world: &World) {
    let labs = || [Lab::linux("read line; exit 2").logged(), Lab::wasm(&tool("")).logged()];
    let round = async || {
        for lab in labs() {
            let mut container = lab.run(&world.first).await;
            let args: &[&str] = &["/app.wasm", "argument"];
            let args = if lab.rootfs().join("app.wasm").exists() { args } else { &["/bin/tty"] };
            container.exec(lab.process(args)).await.unwrap().end().await;
            let (process, console) = container.exec_on_terminal(lab.process(args)).await;
            process.wait().await;
            drop(console);
            container.ends().close_stdin();
            container.wait().await;
            container.delete().await;
        }
    };
    let held = || (world.first.descriptors(), std::fs::read_dir("/proc/self/fd").unwrap().count());
    // What is made once, at the first use, stays.
    round().await;
    world.expect_nothing_left().await;
    let before = held();
    for _ in 0..3 {
        round().await;
    }
    eventually(&format!("as few descriptors as {before:?}"), async || held() <= before).await;
}

async fn stop_ends_a_wasm_loop_at_once(world: &World) {
    let container = Lab::wasm(&spinner()).run(&world.first).await;
    eventually("instantiated", async || container.guest().await.instances == 1).await;
    let begun = Instant::now();
    let status = container.runtime.stop(&container.handle, Duration::from_secs(10)).await;
    assert_eq!(status.unwrap(), Exited(128 + 15), "as a program that handles the signal");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    container.delete().await;
}

async fn stop_kills_a_shell_that_ignores_it_when_the_time_is_over(world: &World) {
    let timeout = Duration::from_millis(300);
    for (trap, expected) in [("exit 9", Exited(9)), ("", Signalled(9))] {
        let script = format!("trap '{trap}' TERM; echo ready; while :; do sleep 0.02; done");
        let mut container = Lab::linux(&script).run(&world.first).await;
        assert_eq!(container.ends().line().await, "ready");
        let begun = Instant::now();
        let status = container.runtime.stop(&container.handle, timeout).await.unwrap();
        assert_eq!(status, expected);
        assert_eq!(begun.elapsed() >= timeout, trap.is_empty(), "{:?}", begun.elapsed());
        container.delete().await;
    }
}

async fn processes_are_listed_and_a_signal_can_be_for_all_of_them(world: &World) {
    let lab = Lab::linux("sleep 1000 & echo ready; wait; read line; exit 3");
    let mut container = lab.run(&world.first).await;
    assert_eq!(container.ends().line().await, "ready");
    let added = container.exec(lab.process(&["sleep", "1000"])).await.unwrap();
    let runtime = container.runtime;
    let mut pids = runtime.processes(&container.handle).await.unwrap();
    assert_eq!(pids.len(), 3, "{pids:?}");
    pids.retain(|pid| ![container.handle.pid(), added.process.pid()].contains(pid));
    assert_eq!(pids.len(), 1, "{pids:?}");
    // Not the init: as process 1 it is spared what it does not listen to.
    runtime.signal(&container.handle, 15, Scope::All).await.unwrap();
    assert_eq!(added.end().await.0, Signalled(15));
    container.ends().close_stdin();
    assert_eq!(container.wait().await, Exited(3), "its child has ended, and so its wait");
    let late = runtime.signal(&container.handle, 15, Scope::Init).await.expect_err("it ended");
    assert!(matches!(late, runtime::Error::NotFound(_)), "{late}");
    container.delete().await;
}

async fn the_kernels_kills_for_memory_are_counted_when_wait_returns(world: &World) {
    let greedy = "exec dd if=/dev/zero of=/dev/null bs=200M count=1";
    let limited = json!({ "memory": { "limit": 32 << 20 } });
    let run = async |lab: Lab| {
        let container = lab.run(&world.first).await;
        let status = container.wait().await;
        let kills = container.runtime.memory_kills(&container.handle).borrow().count;
        container.delete().await;
        (status, kills)
    };
    let (status, kills) = run(Lab::linux(greedy).limited(limited.clone())).await;
    assert_eq!(status, Signalled(9));
    assert!(kills >= 1);
    assert_eq!(run(Lab::linux(greedy)).await, (Exited(0), 0));
    assert_eq!(run(Lab::linux("exit 2").limited(limited)).await, (Exited(2), 0));
}
