//! Further processes in a running container.

use std::os::fd::OwnedFd;

use lifecycle::State;
use runtime::Error;
use runtime::process::ExitStatus::Exited;

use crate::guests::{spinner, tool};
use crate::lab::{Lab, Layers};
use crate::running::{Running, read_console, read_console_until};
use crate::world::World;

crate::cases![
    several_at_once_have_their_own_output_and_exit_codes,
    another_module_of_the_image_or_of_the_files_can_be_run,
    a_function_can_be_called,
    a_process_in_a_stopped_container_is_refused,
    a_process_in_a_container_that_has_not_started_runs,
    a_process_in_a_paused_container_is_refused,
    an_added_process_may_have_a_terminal,
    an_init_may_have_a_terminal,
    control_c_ends_a_wasm_guest,
];

async fn several_at_once_have_their_own_output_and_exit_codes(world: &World) {
    let script = "echo hello; echo oops >&2; exit $#";
    let shell: &[&str] = &["sh", "-c", script, "sh", "1"];
    for (lab, args) in
        [(Lab::linux("exec sleep 1000"), shell), (Lab::wasm(&tool("")), &["/app.wasm"])]
    {
        let container = lab.run(&world.first).await;
        let run = async |more: &[&str]| {
            let added = container.exec(lab.process(&[args, more].concat())).await.unwrap();
            added.end().await
        };
        let ended = tokio::join!(run(&["2"]), run(&["2", "3"]), run(&["2", "3", "4"]));
        let expected = |code| (Exited(code), "hello\n".to_owned(), "oops\n".to_owned());
        assert_eq!(ended, (expected(2), expected(3), expected(4)));
        assert!(container.handle.init().exit().is_none(), "the init goes on");
        container.delete().await;
    }
}

async fn another_module_of_the_image_or_of_the_files_can_be_run(world: &World) {
    let image = Layers::new(&[("app.wasm", tool("own")), ("other.wasm", tool("other layer"))]);
    let layered = Lab::layered(&image);
    let filed = Lab::wasm(&tool("own"));
    std::fs::write(filed.rootfs().join("other.wasm"), tool("other file")).unwrap();
    std::fs::write(filed.rootfs().join("text"), "no module").unwrap();
    for lab in [layered, filed] {
        let container = lab.run(&world.first).await;
        let added = container.exec(lab.process(&["/other.wasm", "1"])).await.unwrap();
        assert_eq!(added.end().await, (Exited(2), "hello\n".to_owned(), "oops\n".to_owned()));
        refused(&container, &lab, &["/absent.wasm"], "\"/absent.wasm\" is neither a file").await;
        if lab.rootfs().join("text").exists() {
            refused(&container, &lab, &["/text"], "can run wasm modules alone").await;
        }
        container.delete().await;
    }
}

async fn a_function_can_be_called(world: &World) {
    let lab = Lab::wasm(&tool(""));
    let container = lab.run(&world.first).await;
    let added = container.exec(lab.process(&["--invoke", "add", "2", "3"])).await.unwrap();
    assert_eq!(added.end().await, (Exited(0), "5\n".to_owned(), String::new()));
    for (args, says) in [
        (&["--invoke", "sub", "2", "3"][..], "no function `sub`"),
        (&["--invoke", "add", "2"], "takes 2 arguments, and 1 were given"),
        (&["--invoke", "add", "2", "x"], "`x`"),
        (&["--invoke"], "--invoke names no function"),
    ] {
        refused(&container, &lab, args, says).await;
    }
    container.delete().await;
}

async fn a_process_in_a_stopped_container_is_refused(world: &World) {
    for (lab, args) in either_kind() {
        let mut container = lab.run(&world.first).await;
        let added = container.exec(lab.process(args)).await.unwrap();
        assert_eq!(added.end().await.0, Exited(3));
        container.ends().close_stdin();
        container.wait().await;
        refused(&container, &lab, args, "cannot exec in a stopped container").await;
        container.delete().await;
    }
}

async fn a_process_in_a_container_that_has_not_started_runs(world: &World) {
    for (lab, args) in either_kind() {
        let container = lab.create(&world.first).await;
        let added = container.exec(lab.process(args)).await.unwrap();
        assert_eq!(added.end().await.0, Exited(3));
        assert_eq!(container.state().await, State::Created);
        container.delete().await;
    }
}

async fn a_process_in_a_paused_container_is_refused(world: &World) {
    for (lab, args) in either_kind() {
        let container = lab.run(&world.first).await;
        container.runtime.pause(&container.handle).await.unwrap();
        refused(&container, &lab, args, "cannot exec in a paused container").await;
        container.runtime.resume(&container.handle).await.unwrap();
        let added = container.exec(lab.process(args)).await.unwrap();
        assert_eq!(added.end().await.0, Exited(3));
        container.delete().await;
    }
}

/// A container of each kind that waits, and a command that ends there with 3.
fn either_kind() -> [(Lab, &'static [&'static str]); 2] {
    [
        (Lab::linux("read line"), &["sh", "-c", "exit 3"]),
        (Lab::wasm(&tool("")), &["/app.wasm", "1", "2"]),
    ]
}

async fn an_added_process_may_have_a_terminal(world: &World) {
    for (lab, args, first, last) in [
        (Lab::linux("exec sleep 1000"), TALKER, "/dev/pts/", "got word\r\n"),
        (Lab::wasm(&tool("")), &["/app.wasm"], "ready\r\n", "yes\r\n"),
    ] {
        let container = lab.run(&world.first).await;
        let (process, console) = container.exec_on_terminal(lab.process(args)).await;
        talk(console, first, last).await;
        assert_eq!(process.wait().await.status, Exited(0));
        container.delete().await;
    }
}

async fn an_init_may_have_a_terminal(world: &World) {
    for (lab, first, last) in [
        (Lab::linux("").arguments(TALKER), "/dev/pts/", "got word\r\n"),
        (Lab::wasm(&tool("")), "ready\r\n", "yes\r\n"),
    ] {
        let container = lab.on_terminal().run(&world.first).await;
        let console = container.handle.init().take_console().expect("a console");
        talk(console, first, last).await;
        assert_eq!(container.wait().await, Exited(0));
        container.delete().await;
    }
}

const TALKER: &[&str] = &["sh", "-c", "tty; read line; echo got $line; read line || exit 0"];

/// Talks with a process on a terminal, and ends its input. Nothing that it writes just
/// before its end is expected: with the first process of a session the kernel hangs up,
/// and drops what nobody has read.
async fn talk(console: OwnedFd, first: &'static str, last: &'static str) {
    read_console_until(&console, first).await;
    nix::unistd::write(&console, b"word\n").unwrap();
    read_console_until(&console, last).await;
    // Of a terminal this is the end of the input, where a line begins. A guest is still
    // answering, with a word for each byte.
    nix::unistd::write(&console, b"\x04").unwrap();
    read_console(console).await;
}

async fn control_c_ends_a_wasm_guest(world: &World) {
    let lab = Lab::wasm(&tool(""));
    std::fs::write(lab.rootfs().join("spinner.wasm"), spinner()).unwrap();
    let container = lab.run(&world.first).await;
    let (process, console) = container.exec_on_terminal(lab.process(&["/spinner.wasm"])).await;
    nix::unistd::write(&console, b"\x03").unwrap();
    assert_eq!(process.wait().await.status, Exited(128 + 2));
    assert!(container.handle.init().exit().is_none(), "the init goes on");
    container.delete().await;
}

async fn refused(container: &Running<'_>, lab: &Lab, args: &[&str], says: &str) {
    let Err(refused) = container.exec(lab.process(args)).await else { panic!("{args:?}") };
    assert!(matches!(refused, Error::InvalidSpec(_)), "{refused:?}");
    assert!(refused.to_string().contains(says), "{says} in {refused}");
}
