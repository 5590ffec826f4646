//! Processes executed in a standing container: what they are given, what they give back, and how they end.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::bundle::Bundle;
use end_to_end::events::Events;
use end_to_end::host;
use end_to_end::kind::{Kind, standing};
use end_to_end::lab::{LAYERED, Lab, PATIENCE, assert_ran, lab, must, on_each};
use end_to_end::shared::Shared;
use end_to_end::shim::HandBundle;
use serde_json::{Value, json};
use testkit::catalogue;
use testkit::command::{Output, Running};
use testkit::containerd::{CRI_NAMESPACE, Daemon, Release, handler, runtime};
use testkit::cri::Pod;
use testkit::image::{Image, Layer};
use testkit::{guest, process};

static PODS: Shared = Shared::new(|| {
    let daemon = Daemon::options(Release::V2_1).cri().start()?;
    for kind in Kind::all() {
        let programs = kind.programs()?;
        daemon.import(&programs)?;
        daemon.import_in(CRI_NAMESPACE, &programs)?;
    }
    Ok(daemon)
});

/// Runs words in a container and returns what came out.
#[track_caller]
fn exec(lab: &Lab, id: &str, words: &[&str]) -> Output {
    must(lab.exec(id, words))
}

#[test]
fn an_executed_process_has_its_own_words_output_and_code() {
    on_each(&LAYERED, |lab| {
        for kind in Kind::all() {
            let id = standing(lab, *kind, "words", &[]);
            for code in [0, 7, 255] {
                assert_ran(&must(lab.exec(&id, kind.exit(code))), code, "");
            }
            match kind {
                Kind::Linux => {
                    assert_ran(
                        &exec(lab, &id, &["echo", "two words", "one"]),
                        0,
                        "two words one\n",
                    );
                    let both = exec(lab, &id, &["sh", "-c", "echo out; echo err >&2; kill -9 $$"]);
                    assert_ran(&both, 137, "out\n");
                    assert_eq!(both.stderr, "err\n");
                }
                Kind::Wasm => {
                    let hello = exec(lab, &id, &["/hello.wasm", "two words", "one"]);
                    assert_ran(
                        &hello,
                        0,
                        "hello from wasm\narg /hello.wasm\narg two words\narg one\n",
                    );
                    let trap = exec(lab, &id, &["/trap.wasm"]);
                    assert_ran(&trap, 134, "");
                    assert!(trap.stderr.contains("unreachable"), "{}", trap.report());
                }
            }
            assert_eq!(must(lab.task_status(&id)).as_deref(), Some("RUNNING"));
        }
    });
}

#[test]
fn a_program_that_is_not_there_is_named() {
    on_each(&LAYERED, |lab| {
        for kind in Kind::all() {
            let id = standing(lab, *kind, "missing", &[]);
            let missing = exec(lab, &id, &["/no/such/program.wasm"]);
            assert!(!missing.success() && missing.stdout.is_empty(), "{}", missing.report());
            assert!(missing.stderr.contains("/no/such/program.wasm"), "{}", missing.report());
            if *kind == Kind::Linux {
                let missing = exec(lab, &id, &["nosuchprogram"]);
                assert!(
                    missing.stderr.contains("executable file not found in $PATH"),
                    "{}",
                    missing.report()
                );
            }
            assert_ran(&must(lab.exec(&id, kind.exit(7))), 7, "");
        }
    });
}

#[test]
fn ctr_sets_user_and_folder() {
    on_each(&LAYERED, |lab| {
        let id = standing(lab, Kind::Linux, "user", &["--env", "GIVEN=by the container"]);
        let run = |flags: &[&str], line: &str| {
            let command = lab.exec_command(&id, flags).args(["sh", "-c", line]);
            must(command.run().and_then(Output::ok)).stdout
        };
        assert_eq!(run(&[], "id -u; pwd; echo $GIVEN"), "0\n/\nby the container\n");
        assert_eq!(run(&["--cwd", "/tmp"], "pwd"), "/tmp\n");
        assert_eq!(run(&["--user", "1000"], "id -u; id -g"), "1000\n1000\n");
        assert_eq!(run(&["--user", "user"], "id -un"), "user\n");
        assert_eq!(run(&["--user", "1000:2000"], "id -u; id -g"), "1000\n2000\n");
        let lost = lab.exec_command(&id, ["--cwd", "/nowhere"]).args(["pwd"]);
        let lost = must(lost.run());
        assert!(!lost.success() && lost.stderr.contains("/nowhere"), "{}", lost.report());
    });
}

#[test]
fn nerdctl_executes_with_user_folder_environment_and_input() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    for kind in Kind::all() {
        let name = daemon.unique("nerdctl");
        let image = kind.programs()?;
        let run =
            daemon.nerdctl_command()?.args(["run", "-d", "--name", &name, "--network", "none"]);
        let run = run.args(["--runtime", &runtime()]).arg(image.name.as_str());
        run.args(kind.sleeper()).run()?.ok()?;
        let exec = |flags: &[&str], words: &[String], input: &str| {
            let command = daemon.nerdctl_command()?.arg("exec").args(flags).arg(&name).args(words);
            command.stdin(input).timeout(PATIENCE).run()
        };
        let echoed = exec(&["-i"], &kind.cat(), "typed\n")?.ok()?;
        assert_eq!(echoed.stdout, "typed\n", "{kind:?}");
        // nerdctl 2.0 tells the code, and ends with 1 itself.
        let failed = exec(&[], &kind.exit(7), "")?;
        assert!(failed.stderr.contains("exit code 7"), "{kind:?}: {}", failed.report());
        if *kind == Kind::Linux {
            let line = ["sh", "-c", "echo $A; pwd; id -u"].map(str::to_owned);
            let told = exec(&["-e", "A=b", "-w", "/tmp", "-u", "1000"], &line, "")?.ok()?;
            assert_eq!(told.stdout, "b\n/tmp\n1000\n");
            let privileges = ["grep", "CapEff", "/proc/self/status"].map(str::to_owned);
            let plain = exec(&[], &privileges, "")?.ok()?.stdout;
            let all = exec(&["--privileged"], &privileges, "")?.ok()?.stdout;
            assert_ne!(plain, all, "--privileged gives capabilities");
        }
        daemon.nerdctl(["rm", "-f", &name])?.ok()?;
    }
    Ok(())
}

#[test]
fn crictl_executes_in_either_way() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    let pod = Pod::new(&daemon.unique("executes")).runtime(handler()).start(&daemon)?;
    for kind in Kind::all() {
        let container = pod.container(&format!("{kind:?}").to_lowercase(), kind.programs()?);
        let id = container.command(kind.sleeper()).start()?;
        for way in [&["--sync"][..], &[]] {
            let exec = |words: Vec<String>, input: &str| {
                let command = daemon.crictl_command()?.arg("exec").args(way);
                let command = if input.is_empty() { command } else { command.arg("-i") };
                command.arg(&id).args(words).stdin(input).timeout(PATIENCE).run()
            };
            let failed = exec(kind.exit(7), "")?;
            assert!(failed.stderr.contains("7"), "{kind:?} {way:?}: {}", failed.report());
            assert!(!failed.success(), "{kind:?} {way:?}: {}", failed.report());
            exec(kind.exit(0), "")?.ok()?;
            if way.is_empty() {
                let echoed = exec(kind.cat(), "typed\n")?.ok()?;
                assert_eq!(echoed.stdout, "typed\n", "{kind:?}");
            }
        }
        // A probe's deadline ends what it started.
        let slow = ["exec", "--sync", "--timeout", "1", &id].map(str::to_owned);
        let slow = daemon.crictl(slow.into_iter().chain(kind.sleeper()))?;
        assert!(!slow.success() && !slow.timed_out, "{kind:?}: {}", slow.report());
        assert!(slow.took < Duration::from_secs(8), "{kind:?}: {}", slow.report());
    }
    pod.remove()
}

#[test]
fn many_execute_at_once() {
    on_each(&LAYERED, |lab| {
        for kind in Kind::all() {
            let id = standing(lab, *kind, "many", &[]);
            thread::scope(|scope| {
                let runs: Vec<_> = (1..=8)
                    .map(|code| {
                        (
                            code,
                            scope.spawn({
                                let id = &id;
                                move || must(lab.exec(id, kind.exit(code)))
                            }),
                        )
                    })
                    .collect();
                for (code, run) in runs {
                    assert_ran(&run.join().expect("no panic"), code, "");
                }
            });
        }
    });
}

/// Returns a field of a process's own /proc/self/status.
fn own_status(output: &Output, field: &str) -> String {
    let line = output.lines().into_iter().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field}: {}", output.report())).trim().to_owned()
}

#[test]
fn an_executed_process_is_confined_like_the_containers_init() {
    on_each(&LAYERED, |lab| {
        let id = standing(lab, Kind::Linux, "confined", &["--seccomp"]);
        let pid = must(lab.task_pid(&id));
        let own = must(lab.exec(&id, ["cat", "/proc/self/status"]).and_then(Output::ok));
        for field in ["Seccomp", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(own_status(&own, field), must(host::status(pid, field)), "{field}");
        }
        assert_eq!(own_status(&own, "Seccomp"), "2");
        assert_eq!(own_status(&own, "CapInh"), "0000000000000000");
        // The control: without a profile there is none.
        let id = standing(lab, Kind::Linux, "open", &[]);
        let own = must(lab.exec(&id, ["cat", "/proc/self/status"]).and_then(Output::ok));
        assert_eq!(own_status(&own, "Seccomp"), "0");
    });
}

#[test]
fn the_specs_seccomp_profile_is_in_force_in_an_executed_process() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for profile in [false, true] {
        let mut bundle = Bundle::linux(&lab, "filtered", ["sleep", "1000"])?;
        if profile {
            bundle.spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 19},
                ],
            });
        }
        bundle.start()?;
        let output = lab.exec(bundle.id(), ["mkdir", "/tmp/folder"])?;
        assert_eq!(output.success(), !profile, "{}", output.report());
        assert_eq!(output.stderr.contains("No such device"), profile, "{}", output.report());
    }
    Ok(())
}

/// Starts words in a container and waits until their process is there; returns the client and the process.
fn executing(lab: &Lab, id: &str, words: &[String]) -> Result<(Running, i32)> {
    let before = pids(lab, id)?;
    let running = lab.exec_command(id, [""; 0]).args(words).spawn()?;
    let mut pid = None;
    host::eventually("the process runs", PATIENCE, || {
        pid = pids(lab, id)?.into_iter().find(|pid| !before.contains(pid));
        // A Linux process is not yet what it will be while it is being made.
        let last = words.first().context("no words")?;
        let last = last.trim_start_matches('/');
        let ready = |pid| {
            host::command_line(pid).is_ok_and(|line| line.iter().any(|word| word.ends_with(last)))
        };
        Ok(pid.is_some_and(ready))
    })?;
    Ok((running, pid.context("no process")?))
}

fn pids(lab: &Lab, id: &str) -> Result<Vec<i32>> {
    let listed = lab.ctr(["tasks", "ps", id])?.ok()?;
    let words =
        listed.lines().into_iter().skip(1).filter_map(|line| line.split_whitespace().next());
    words.map(|pid| pid.parse().with_context(|| listed.report())).collect()
}

#[test]
fn an_executed_process_is_where_the_containers_init_is() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    for kind in Kind::all() {
        let id = standing(&lab, *kind, "joined", &["--env", "A=b"]);
        let init = lab.task_pid(&id)?;
        let (_client, pid) = executing(&lab, &id, &kind.sleeper())?;
        for namespace in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
            let inits = host::namespace(init, namespace)?;
            assert_eq!(host::namespace(pid, namespace)?, inits, "{kind:?}: {namespace}");
        }
        assert_eq!(host::cgroup_folders(pid), host::cgroup_folders(init), "{kind:?}");
        let root = |pid: i32| std::fs::read_link(format!("/proc/{pid}/root"));
        assert_eq!(root(pid)?, root(init)?, "{kind:?}");
        for field in ["Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
            let inits = host::status(init, field)?;
            assert_eq!(host::status(pid, field)?, inits, "{kind:?}: {field}");
        }
        assert_eq!(host::environment(pid)?, host::environment(init)?, "{kind:?}");
        let held = host::descriptors(pid)?;
        match kind {
            Kind::Linux => {
                assert_eq!(held.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{held:?}");
            }
            // The engine's own, what is granted, and the native code.
            Kind::Wasm => {
                let known = ["anon_inode:", "socket:", "/g/", "/var/lib/hybrid/cache/"];
                let rest = held.range(3..).map(|(_, target)| target);
                let strange: Vec<&String> =
                    rest.filter(|target| !known.iter().any(|it| target.starts_with(it))).collect();
                assert!(strange.is_empty(), "{strange:?} of {held:?}");
            }
        }
        let parent = process::Process::read(pid).context("gone")?.parent;
        let inits = process::Process::read(init).context("gone")?.parent;
        if runtime() == testkit::containerd::HYBRID {
            assert_eq!(parent, inits, "{kind:?}: both are the keeper's children");
        }
    }
    Ok(())
}

#[test]
fn a_wasm_process_sees_what_another_of_its_container_wrote() {
    if !Kind::all().contains(&Kind::Wasm) {
        return;
    }
    on_each(&LAYERED, |lab| {
        let id = standing(lab, Kind::Wasm, "shares", &[]);
        let other = standing(lab, Kind::Wasm, "apart", &[]);
        // read-file sees paths from the image's root; /tmp is a preopened folder of its own.
        assert_ran(&exec(lab, &id, &["/write-file.wasm", "/tmp/note"]), 0, "");
        let written = |id: &str| {
            let pid = must(lab.task_pid(id));
            let mounts = must(host::mounts(pid));
            mounts.into_iter().any(|mount| {
                let path = format!("/proc/{pid}/root{}/note", mount.point);
                std::fs::read_to_string(path).is_ok_and(|text| text.starts_with("written by wasm"))
            })
        };
        assert!(written(&id), "the init's /tmp does not hold what the executed process wrote");
        assert!(!written(&other), "another container's /tmp is the same");
        let denied = exec(lab, &id, &["/write-file.wasm", "/etc"]);
        assert!(!denied.success(), "the image's own files were changed: {}", denied.report());
    });
}

#[test]
fn a_function_of_a_module_is_called_with_arguments() {
    if !Kind::all().contains(&Kind::Wasm) {
        return;
    }
    on_each(&LAYERED, |lab| {
        let add = lab.image(catalogue::guest_image("add-and-sleep"));
        let id = lab.unique("invoke");
        must(lab.run(&add, &id).detach().flags(["--null-io"]).output().and_then(Output::ok));
        assert_ran(&exec(lab, &id, &["--invoke", "add", "2", "40"]), 0, "42\n");
        assert_ran(&exec(lab, &id, &["--invoke", "add", "-2", "-3"]), 0, "-5\n");
        assert_ran(&exec(lab, &id, &["--invoke", "quit"]), 9, "");
        assert_ran(&exec(lab, &id, &["--invoke", "fail"]), 134, "");
        // Each call is made in a fresh instance.
        for _ in 0..2 {
            assert_ran(&exec(lab, &id, &["--invoke", "next"]), 0, "1\n");
        }
        for (words, told) in [
            (&["--invoke", "subtract", "1"][..], &["subtract", "add"][..]),
            (&["--invoke", "add", "1"], &["add", "2", "1"]),
            (&["--invoke", "add", "1", "x"], &["add", "x", "i32"]),
            (&["--invoke", "add", "1", "4294967296000"], &["add", "4294967296000"]),
            (&["--invoke"], &["--invoke"]),
        ] {
            let refused = exec(lab, &id, words);
            assert!(!refused.success() && refused.stdout.is_empty(), "{}", refused.report());
            for word in told {
                assert!(refused.stderr.contains(word), "no {word:?}: {}", refused.report());
            }
        }
        assert_eq!(must(lab.task_status(&id)).as_deref(), Some("RUNNING"));
    });
}

#[test]
fn a_module_of_another_layer_is_found_by_its_title() {
    if !Kind::all().contains(&Kind::Wasm) {
        return;
    }
    const TITLE: &str = "org.opencontainers.image.title";
    on_each(&LAYERED, |lab| {
        let module = |name: &str| {
            Layer::wasm(must(guest::wat(name))).annotation(TITLE, &format!("{name}.wasm"))
        };
        let image = Image::new("docker.io/hybrid/titled:1")
            .platform(catalogue::WASM_PLATFORM)
            .layer(module("sleeper"))
            .layer(module("exit"))
            .entrypoint(["/sleeper.wasm"]);
        let image = lab.build(image);
        let id = lab.unique("titled");
        must(lab.run(&image, &id).detach().flags(["--null-io"]).output().and_then(Output::ok));
        assert_ran(&exec(lab, &id, &["exit.wasm", "7"]), 7, "");
        assert_ran(&exec(lab, &id, &["/exit.wasm", "8"]), 8, "");
        let missing = exec(lab, &id, &["other.wasm"]);
        assert!(!missing.success(), "{}", missing.report());
        assert!(missing.stderr.contains("other.wasm"), "{}", missing.report());
    });
}

#[test]
fn input_reaches_an_executed_process_and_so_does_its_end() {
    on_each(&LAYERED, |lab| {
        for kind in Kind::all() {
            let id = standing(lab, *kind, "input", &[]);
            let text = "typed\n".repeat(20_000);
            let command = lab.exec_command(&id, [""; 0]).args(kind.cat());
            let output = must(command.stdin_after(Duration::from_secs(1), text.clone()).run());
            assert_eq!(output.status, Some(0), "{}", output.report());
            assert!(output.stdout == text, "{} of {} bytes", output.stdout.len(), text.len());
        }
    });
}

#[test]
fn a_detached_process_outlives_its_client_and_is_killed_alone() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let events = Events::listen(&lab)?;
        for kind in Kind::all() {
            let id = standing(&lab, *kind, "detached", &[]);
            let detached = |exec: &str| -> Result<()> {
                let command = ["tasks", "exec", "--detach", "--exec-id", exec, &id];
                lab.ctr_command().args(command).args(kind.sleeper()).run()?.ok()?;
                Ok(())
            };
            detached("e1")?;
            detached("e2")?;
            assert_eq!(pids(&lab, &id)?.len(), 3, "{kind:?}");
            let taken = detached("e1").expect_err("the id is taken");
            assert!(format!("{taken:#}").contains("already exists"), "{taken:#}");
            let kill = |exec: &str, signal: &str| {
                lab.ctr(["tasks", "kill", "--exec-id", exec, "--signal", signal, &id])?.ok()
            };
            kill("e1", "SIGKILL")?;
            host::eventually("the killed process is gone", PATIENCE, || {
                Ok(pids(&lab, &id)?.len() == 2)
            })?;
            assert_eq!(lab.task_status(&id)?.as_deref(), Some("RUNNING"));
            let late = kill("e1", "SIGKILL").expect_err("it has ended");
            assert!(format!("{late:#}").contains("already finished"), "{late:#}");
            lab.ctr(["tasks", "delete", "--exec-id", "e1", &id])?;
            host::end(&lab, &id)?;
            let story = events.story_until(&id, "delete")?;
            assert_eq!(
                story,
                [
                    "create",
                    "start",
                    "exec-added e1",
                    "exec-started e1",
                    "exec-added e2",
                    "exec-started e2",
                    "exit e1 137",
                    "exit e2 137",
                    "exit 137",
                    "delete",
                ],
                "{release} {kind:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn inits_end_is_told_after_the_end_of_what_was_executed_though_they_share_the_hosts_processes()
-> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let events = Events::listen(&lab)?;
        for kind in Kind::all() {
            let bundle = match kind {
                Kind::Linux => Bundle::linux(&lab, "shares", ["sleep", "1000"])?,
                Kind::Wasm => Bundle::wasm(&lab, "shares", &guest::wat("sleeper")?, [""; 0])?,
            };
            let bundle = bundle.host_processes()?;
            let words = bundle.spec["process"]["args"].as_array().cloned().unwrap_or_default();
            let words: Vec<String> =
                words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let init = bundle.start()?;
            let id = bundle.id();
            let own = host::namespace(std::process::id().cast_signed(), "pid")?;
            assert_eq!(host::namespace(init, "pid")?, own);
            for exec in ["e1", "e2"] {
                let command = ["tasks", "exec", "--detach", "--exec-id", exec, id];
                lab.ctr_command().args(command).args(&words).run()?.ok()?;
            }
            let all = pids(&lab, id)?;
            assert_eq!(all.len(), 3);
            host::end(&lab, id)?;
            let mut story = events.story_until(id, "delete")?;
            assert!(all.iter().all(|pid| !host::alive(*pid)), "{kind:?}: some live on");
            // Both were killed by the init's end; which one first is nobody's business.
            story[6..8].sort();
            assert_eq!(
                story[6..],
                ["exit e1 137", "exit e2 137", "exit 137", "delete"],
                "{release} {kind:?}: {story:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_end_of_a_container_ends_what_is_executed_in_it() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let id = standing(&lab, *kind, "ends", &[]);
        let (client, pid) = executing(&lab, &id, &kind.sleeper())?;
        host::end(&lab, &id)?;
        let output = client.wait(PATIENCE)?;
        assert_eq!(output.status, Some(137), "{kind:?}: {}", output.report());
        assert!(!host::alive(pid));
    }
    Ok(())
}

#[test]
fn nothing_is_executed_in_a_container_that_is_unknown_paused_or_stopped() {
    on_each(&LAYERED, |lab| {
        for kind in Kind::all() {
            let id = standing(lab, *kind, "wrong", &[]);
            let refused = |words: &str| {
                let refused = must(lab.exec(&id, kind.exit(0)));
                assert!(!refused.success(), "{}", refused.report());
                assert!(refused.stderr.contains(words), "no {words:?}: {}", refused.report());
            };
            assert_ran(&must(lab.exec(&id, kind.exit(7))), 7, "");
            must(lab.ctr(["tasks", "pause", &id]).and_then(Output::ok));
            refused("cannot exec in a paused state");
            must(lab.ctr(["tasks", "resume", &id]).and_then(Output::ok));
            assert_ran(&must(lab.exec(&id, kind.exit(7))), 7, "");
            must(lab.ctr(["tasks", "kill", "--signal", "SIGKILL", &id]).and_then(Output::ok));
            must(lab.wait_for_status(&id, "STOPPED", PATIENCE));
            refused("cannot exec in a stopped state");
            must(lab.ctr(["tasks", "delete", &id]).and_then(Output::ok));
            refused("not found");
        }
    });
}

/// What a spec may hold and an executed process must not be given, or must be.
fn capabilities(lists: &[(&str, &[&str])]) -> Value {
    let mut process = json!({
        "args": ["/bin/sh", "-c", "while read line; do echo \"$line\"; done < /proc/self/status"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [2000]},
        "noNewPrivileges": true,
    });
    for (kind, names) in lists {
        process["capabilities"][kind] = json!(names);
    }
    process
}

#[test]
fn an_executed_process_inherits_no_capability_and_is_the_user_it_was_given() -> Result<()> {
    if runtime() != testkit::containerd::HYBRID {
        // runc 1.1 passes inheritable capabilities on; later ones do not.
        return Ok(());
    }
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let bundle = HandBundle::linux(&lab, &["/bin/sleep", "1000"])?;
    let server = bundle.serve()?;
    server.create().expect("created");
    server.start().expect("started");
    let kill = &["CAP_KILL"][..];
    let lists =
        [("bounding", kill), ("permitted", kill), ("effective", kill), ("inheritable", kill)];
    let status = run_by_hand(&lab, &server, "e1", &capabilities(&lists))?;
    assert_eq!(field(&status, "CapInh")?, "0000000000000000");
    assert_eq!(field(&status, "CapBnd")?, "0000000000000020");
    assert_eq!(field(&status, "CapAmb")?, "0000000000000000");
    assert_eq!(field(&status, "Uid")?, "1000\t1000\t1000\t1000");
    assert_eq!(field(&status, "Groups")?, "2000");
    assert_eq!(field(&status, "NoNewPrivs")?, "1");
    Ok(())
}

/// Executes a process with a file as its output and returns what it wrote.
fn run_by_hand(
    lab: &Arc<Lab>,
    server: &end_to_end::shim::Server,
    exec: &str,
    process: &Value,
) -> Result<String> {
    let output = lab.folder(&lab.unique(exec))?.join("output");
    let mut request = server.init().exec_request(exec, process);
    request.stdout = format!("file://{}", output.display());
    let executed = server.init().exec_by(&request).expect("registered");
    executed.start().expect("started");
    assert_eq!(executed.wait(), Ok(0));
    executed.delete().expect("deleted");
    std::fs::read_to_string(&output).context("reading an output")
}

fn field(status: &str, name: &str) -> Result<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {status}"))?.trim().to_owned())
}

#[test]
fn whoever_waits_for_what_never_ran_is_answered_when_it_is_deleted() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let bundle = HandBundle::linux(&lab, &["/bin/sleep", "1000"])?;
    let server = bundle.serve()?;
    server.create().expect("created");
    server.start().expect("started");
    let missing = json!({"args": ["/no/such"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let executed = server.init().exec("never", &missing).expect("registered");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.init().executed("never").wait());
        executed.start().expect_err("started");
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!waiting.is_finished(), "it could still be started");
        executed.delete().expect("deleted");
        assert!(waiting.join().expect("joined").is_err(), "it never ran");
    });
    Ok(())
}
