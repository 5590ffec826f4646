//! From create to delete: exit codes, signals, events, standard streams, and requests at the wrong moment.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::thread;
use std::time::{Duration, Instant};

use containerd_shim::protos::ttrpc::Code;
use containerd_shim::protos::types::task::Status;
use end_to_end::lab::{LAYERED, Lab, PATIENCE, assert_ran, lab, must, on_each};
use end_to_end::shim::HandBundle;
use testkit::catalogue;
use testkit::command::{Invocation, Output, Running};
use testkit::containerd::Release;
use testkit::image::Archive;
use testkit::place;

#[test]
fn a_guest_ends_with_the_code_it_gives() {
    on_each(&LAYERED, |lab| {
        let wasm = lab.image(catalogue::guest_image("exit"));
        let linux = lab.image(catalogue::busybox());
        for code in [0, 1, 7, 42, 127, 255] {
            let number = code.to_string();
            let output = must(lab.start(&wasm, "exit").args(["/exit.wasm", &number]).output());
            assert_ran(&output, code, "");
            let line = format!("exit {number}");
            let output = must(lab.start(&linux, "exit").args(["sh", "-c", &line]).output());
            assert_ran(&output, code, "");
        }
    });
}

#[test]
fn a_trap_ends_with_134_and_says_where() {
    on_each(&LAYERED, |lab| {
        for (guest, cause, function) in
            [("trap", "unreachable", "!inner"), ("recursion", "call stack exhausted", "!deeper")]
        {
            let image = lab.image(catalogue::guest_image(guest));
            let output = must(lab.start(&image, guest).output());
            assert_ran(&output, 134, "");
            for word in [cause, "wasm backtrace", function] {
                assert!(output.stderr.contains(word), "no {word:?}: {}", output.report());
            }
        }
        lab.still_runs();
    });
}

/// Starts a container in the foreground and waits until its task runs.
fn running(lab: &Lab, image: &Archive, id: &str, args: &[&str]) -> Running {
    let running = must(lab.run(image, id).args(args.iter().copied()).spawn());
    must(lab.wait_for_status(id, "RUNNING", PATIENCE));
    running
}

fn kill(lab: &Lab, id: &str, signal: &str) -> Output {
    must(lab.ctr(["tasks", "kill", "--signal", signal, id]))
}

#[test]
fn sigterm_and_sigkill_end_a_guest_that_computes_or_sleeps() {
    on_each(&LAYERED, |lab| {
        for guest in ["loop", "sleeper"] {
            let image = lab.image(catalogue::guest_image(guest));
            for (signal, code) in [("SIGTERM", 143), ("SIGKILL", 137), ("SIGINT", 130)] {
                let id = lab.unique(guest);
                let guest = running(lab, &image, &id, &[]);
                let sent = Instant::now();
                must(kill(lab, &id, signal).ok());
                let output = must(guest.finish());
                assert_ran(&output, code, "");
                let took = sent.elapsed();
                assert!(took < Duration::from_secs(3), "{signal} took {took:?}");
            }
        }
    });
}

#[test]
fn a_linux_container_handles_its_signals_itself() {
    on_each(&LAYERED, |lab| {
        let image = lab.image(catalogue::busybox());
        let line = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let id = lab.unique("trap");
        let mut guest = running(lab, &image, &id, &["sh", "-c", line]);
        must(guest.wait_for_stdout("ready\n", PATIENCE));
        must(kill(lab, &id, "SIGTERM").ok());
        assert_ran(&must(guest.finish()), 9, "ready\ncaught\n");

        let id = lab.unique("killed");
        let guest = running(lab, &image, &id, &["sleep", "1000"]);
        must(kill(lab, &id, "SIGKILL").ok());
        assert_ran(&must(guest.finish()), 137, "");
    });
}

#[test]
fn a_signal_for_all_reaches_every_process() {
    on_each(&LAYERED, |lab| {
        let image = lab.image(catalogue::busybox());
        // Process 1 outlives the signal and tells how its child ended.
        let line = "trap '' TERM; (trap - TERM; exec sleep 1000) & wait $!; echo child $?";
        for (flags, told) in [(&["--all"][..], "child 143\n"), (&[][..], "")] {
            let id = lab.unique("all");
            let running = must(lab.run(&image, &id).args(["sh", "-c", line]).spawn());
            must(lab.wait_for_status(&id, "RUNNING", PATIENCE));
            thread::sleep(Duration::from_millis(200));
            let command = ["tasks", "kill", "--signal", "SIGTERM"];
            let command = lab.ctr_command().args(command).args(flags).arg(&id);
            must(command.run().and_then(Output::ok));
            if flags.is_empty() {
                thread::sleep(Duration::from_millis(200));
                must(kill(lab, &id, "SIGKILL").ok());
            }
            assert_eq!(must(running.finish()).stdout, told, "{flags:?}");
        }
    });
}

/// A sleeping container of each kind, driven by hand.
fn sleepers(lab: &std::sync::Arc<Lab>) -> [HandBundle; 2] {
    [
        must(HandBundle::wasm(lab, "sleeper", &[])),
        must(HandBundle::linux(lab, &["/bin/sleep", "1000"])),
    ]
}

#[test]
fn a_container_that_never_started_can_be_killed() {
    let Some(lab) = lab(Release::V1_7) else { return };
    for bundle in sleepers(&lab) {
        let shim = must(bundle.serve());
        shim.create().expect("created");
        assert_eq!(shim.state(), Ok(Status::CREATED));
        shim.kill(9).expect("killed");
        assert_eq!(shim.wait(), Ok(137), "{}", bundle.id());
        assert_eq!(shim.state(), Ok(Status::STOPPED));
        assert_eq!(shim.delete().expect("deleted").exit_status, 137);
        must(shim.shutdown());
    }
    let bundle = must(HandBundle::wasm(&lab, "sleeper", &[]));
    let shim = must(bundle.serve());
    shim.create().expect("created");
    shim.kill(15).expect("killed");
    assert_eq!(shim.wait(), Ok(143));
}

#[test]
fn requests_at_the_wrong_moment_are_denied_as_runc_denies_them() {
    let Some(lab) = lab(Release::V2_1) else { return };
    for bundle in sleepers(&lab) {
        let shim = must(bundle.serve());
        let missing = shim.start().expect_err("there is nothing to start");
        assert_eq!(missing.code, Code::NOT_FOUND, "{missing:?}");
        shim.create().expect("created");
        let again = shim.create().expect_err("created twice");
        assert_eq!(again.code, Code::ALREADY_EXISTS, "{again:?}");
        shim.start().expect("started");
        assert_eq!(shim.state(), Ok(Status::RUNNING));
        let again = shim.start().expect_err("started twice");
        assert!(again.message.contains("cannot start a running process"), "{again:?}");
        let early = shim.delete().expect_err("deleted while it runs");
        assert!(early.message.contains("cannot delete a running process"), "{early:?}");
        assert_eq!(shim.state(), Ok(Status::RUNNING), "a denied request changed something");

        shim.kill(9).expect("killed");
        assert_eq!(shim.wait(), Ok(137));
        // Whoever asks later hears the same.
        assert_eq!(shim.wait(), Ok(137));
        let late = shim.kill(9).expect_err("killed after its end");
        assert_eq!(late.code, Code::NOT_FOUND, "{late:?}");
        assert!(late.message.contains("process already finished"), "{late:?}");
        shim.delete().expect("deleted");
        let gone = shim.delete().expect_err("deleted twice");
        assert_eq!(gone.code, Code::NOT_FOUND, "{gone:?}");
        must(shim.shutdown());
    }
}

#[test]
fn a_kill_after_the_end_says_already_finished_to_ctr() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let image = lab.image(catalogue::hello_wasm());
    let id = lab.unique("finished");
    must(must(lab.run(&image, &id).detach().output()).ok());
    must(lab.wait_for_status(&id, "STOPPED", PATIENCE));
    let late = kill(&lab, &id, "SIGTERM");
    assert_eq!(late.status, Some(1), "{}", late.report());
    assert!(late.stderr.contains("already finished"), "{}", late.report());
    must(must(lab.ctr(["tasks", "rm", &id])).ok());
    must(must(lab.ctr(["containers", "rm", &id])).ok());
}

#[test]
fn of_many_creates_of_one_id_one_wins_and_nothing_is_torn_down() {
    let Some(lab) = lab(Release::V1_7) else { return };
    for bundle in sleepers(&lab) {
        let shim = must(bundle.serve());
        let answers: Vec<_> = thread::scope(|scope| {
            let rivals: Vec<_> = (0..32).map(|_| scope.spawn(|| shim.create())).collect();
            rivals.into_iter().map(|rival| rival.join().expect("no panic")).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{}", bundle.id());
        for denied in lost.into_iter().filter_map(Result::err) {
            assert_eq!(denied.code, Code::ALREADY_EXISTS, "{denied:?}");
        }
        shim.start().expect("the winner starts");
        assert_eq!(shim.state(), Ok(Status::RUNNING));
        shim.kill(9).expect("killed");
        assert_eq!(shim.wait(), Ok(137));
        shim.delete().expect("deleted");
    }
}

/// Starts `ctr events` and waits until it hears something.
fn listen(lab: &Lab) -> Running {
    let events = must(lab.ctr_command().args(["events"]).spawn());
    let deadline = Instant::now() + PATIENCE;
    while events.stdout_so_far().is_empty() {
        assert!(Instant::now() < deadline, "no events: {}", events.stderr_so_far());
        must(must(lab.ctr(["namespaces", "label", lab.namespace(), "heard=yes"])).ok());
        thread::sleep(Duration::from_millis(20));
    }
    events
}

/// Returns the task events of one container, in the order they were heard.
fn task_events(heard: &str, id: &str) -> Vec<String> {
    let quoted = format!("\"{id}\"");
    heard
        .lines()
        .filter(|line| line.contains(&quoted))
        .filter_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("/tasks/")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn events_come_in_order_and_each_once() {
    on_each(&LAYERED, |lab| {
        let wasm = lab.image(catalogue::hello_wasm());
        let linux = lab.image(catalogue::busybox());
        let events = listen(lab);
        let mut ids = Vec::new();
        for round in 0..5 {
            for (image, args) in [(&wasm, vec![]), (&linux, vec!["true"])] {
                let id = lab.unique(&format!("event{round}"));
                must(must(lab.run(image, &id).args(args).output()).ok());
                ids.push(id);
            }
        }
        let last = ids.last().expect("there were runs");
        let deadline = Instant::now() + PATIENCE;
        while !task_events(&events.stdout_so_far(), last).iter().any(|event| event == "delete")
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(20));
        }
        // One too many would come late.
        thread::sleep(Duration::from_millis(200));
        for id in ids {
            let heard = task_events(&events.stdout_so_far(), &id);
            assert_eq!(heard, ["create", "start", "exit", "delete"], "{id}");
        }
    });
}

#[test]
fn tasks_are_listed_with_their_pid_and_state() {
    on_each(&LAYERED, |lab| {
        let wasm = (lab.image(catalogue::guest_image("sleeper")), vec![]);
        let linux = (lab.image(catalogue::busybox()), vec!["sleep", "1000"]);
        for (image, args) in [wasm, linux] {
            let id = lab.unique("listed");
            must(must(lab.run(&image, &id).detach().args(args).output()).ok());
            must(lab.wait_for_status(&id, "RUNNING", PATIENCE));
            let pid = must(lab.task_pid(&id)).to_string();
            let listed = must(must(lab.ctr(["tasks", "ps", &id])).ok());
            let mut pids = listed.lines().into_iter().skip(1);
            let found = pids.any(|line| line.split_whitespace().next() == Some(pid.as_str()));
            assert!(found, "no {pid}: {}", listed.report());
            must(kill(lab, &id, "SIGKILL").ok());
            must(lab.wait_for_status(&id, "STOPPED", PATIENCE));
            must(must(lab.ctr(["tasks", "rm", &id])).ok());
            assert_eq!(must(lab.task_status(&id)), None);
            must(must(lab.ctr(["containers", "rm", &id])).ok());
        }
    });
}

#[test]
fn input_reaches_a_guest_and_so_does_its_end() {
    on_each(&LAYERED, |lab| {
        let wasm = (lab.image(catalogue::guest_image("cat")), vec![]);
        let linux = (lab.image(catalogue::busybox()), vec!["cat"]);
        for (image, args) in [wasm, linux] {
            let text = "typed\n".repeat(20_000);
            let output = must(lab.start(&image, "cat").args(args).stdin(text.clone()).output());
            assert_eq!(output.status, Some(0), "{}", output.report());
            assert!(output.stdout == text, "{} of {} bytes", output.stdout.len(), text.len());
        }
    });
}

/// Runs `ctr`'s output into a reader that pauses, and returns the checksum of what came.
fn slowly_read(command: &Invocation) -> String {
    let reader =
        "for i in 1 2 3 4; do sleep 0.3; dd bs=1M count=3 iflag=fullblock 2>/dev/null; done; cat";
    checksum(&format!("{} | ({reader})", command.line()))
}

fn checksum(line: &str) -> String {
    let line = format!("{line} | sha256sum");
    let output = must(Invocation::new("/bin/sh").args(["-c", &line]).run().and_then(Output::ok));
    assert_eq!(output.stderr, "", "{}", output.report());
    output.stdout
}

#[test]
fn a_slow_reader_loses_nothing() {
    on_each(&LAYERED, |lab| {
        let wasm = lab.image(catalogue::guest_image("flood"));
        let flood = lab.start(&wasm, "flood").command();
        let expected = checksum("head -c 67108864 /dev/zero | tr '\\0' x");
        assert_eq!(slowly_read(&flood), expected);

        let linux = lab.image(catalogue::busybox());
        let numbers = lab.start(&linux, "seq").args(["seq", "1", "3000000"]).command();
        assert_eq!(slowly_read(&numbers), checksum("seq 1 3000000"));
    });
}

#[test]
fn an_id_can_be_used_again_at_once() {
    on_each(&LAYERED, |lab| {
        let wasm = lab.image(catalogue::hello_wasm());
        let linux = lab.image(catalogue::busybox());
        let id = lab.unique("again");
        for _ in 0..5 {
            assert_ran(&must(lab.run(&wasm, &id).output()), 0, "hello from wasm\n");
            assert_ran(&must(lab.run(&linux, &id).args(["echo", "hi"]).output()), 0, "hi\n");
        }
    });
}

#[test]
fn the_binary_describes_itself() {
    let shim = || Invocation::new(place::shim());
    let version = must(shim().arg("-v").run().and_then(Output::ok));
    assert!(version.stdout.contains("io.containerd.hybrid.v1"), "{}", version.report());
    assert!(version.stdout.contains("Version: "), "{}", version.report());
    let info = must(shim().arg("-info").stdin("").run().and_then(Output::ok));
    assert!(info.stdout.contains("io.containerd.hybrid.v1"), "{}", info.report());
    let unknown = must(shim().arg("frobnicate").run());
    assert!(!unknown.success() && unknown.stderr.contains("frobnicate"), "{}", unknown.report());
}
