//! containerd goes and comes back: containers run on, and what happened meanwhile is told truly. Or a shim goes, in the
//! middle of something: containerd cleans up after it, and nothing is left.
//!
//! Each test has a containerd of its own. What is expected of this shim is what runc's does in the same place, and the
//! tests ask that one as well.

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use end_to_end::host;
use end_to_end::lab::PATIENCE;
use serde_json::Value;
use testkit::command::Invocation;
use testkit::containerd::{CRI_NAMESPACE, Daemon, HYBRID, RUNC, Release};
use testkit::cri::Pod;
use testkit::image::Archive;
use testkit::leftovers::Census;
use testkit::{catalogue, guest};

/// How containerd ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    Stop,
}

impl End {
    fn of(self, daemon: &mut Daemon) -> Result<()> {
        match self {
            Self::Kill => daemon.kill(),
            Self::Stop => daemon.stop(),
        }
    }
}

/// Who runs what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wasm,
    Linux,
    Runc,
}

const KINDS: [Kind; 2] = [Kind::Linux, Kind::Wasm];

/// What a ticker that comes to its end ends with.
const CODE: i32 = 7;
const FOREVER: u32 = 999_999;

/// Prints `tick NNNNNN` fifty times a second, and ends with code 7 after so many.
fn ticker(ticks: u32) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 32) "tick 000000\n")
  (func (export "_start") (local $tick i32) (local $at i32) (local $rest i32)
    (i32.store (i32.const 0) (i32.const 32))
    (i32.store (i32.const 4) (i32.const 12))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 20000000))
    (loop $next
      (if (i32.eq (local.get $tick) (i32.const {ticks})) (then (call $proc_exit (i32.const {CODE}))))
      (local.set $rest (local.get $tick))
      (local.set $at (i32.const 42))
      (loop $digit
        (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $rest) (i32.const 10))))
        (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (br_if $digit (i32.gt_u (local.get $at) (i32.const 36))))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $tick (i32.add (local.get $tick) (i32.const 1)))
      (drop (call $poll_oneoff (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 8)))
      (br $next))))"#
    )
}

/// Ticks enough to outlive what containerd is done to meanwhile.
fn brief() -> u32 {
    40 * host::slowness()
}

/// The same as a shell's words.
fn script(ticks: u32) -> [String; 3] {
    let script = format!(
        "i=0; while [ $i -lt {ticks} ]; do printf 'tick %06d\\n' $i; i=$((i+1)); sleep 0.02; done; exit {CODE}"
    );
    ["sh".to_owned(), "-c".to_owned(), script]
}

/// The images with which a ticker is run, by kind.
fn image(kind: Kind, ticks: u32) -> Result<Archive> {
    match kind {
        Kind::Wasm => {
            let module = guest::text(&ticker(ticks))?;
            catalogue::keep(catalogue::module_image(&format!("ticker-{ticks}"), module))
        }
        Kind::Linux | Kind::Runc => catalogue::busybox(),
    }
}

/// Starts a ticker in the background and returns its id.
fn start(daemon: &Daemon, kind: Kind, ticks: u32) -> Result<String> {
    let image = image(kind, ticks)?;
    daemon.import(&image)?;
    let id = daemon.unique("ticker");
    let run = daemon.run(&image, &id).detach();
    let run = match kind {
        Kind::Wasm => run.runtime(HYBRID),
        Kind::Linux => run.runtime(HYBRID).args(script(ticks)),
        Kind::Runc => run.runtime(RUNC).args(script(ticks)),
    };
    run.output()?.ok()?;
    Ok(id)
}

/// The numbers a text ticks through, which must follow each other.
fn ticks(text: &str) -> Result<Vec<u32>> {
    // The last line may still be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let numbers: Vec<u32> = whole
        .lines()
        .map(|line| {
            let number =
                line.strip_prefix("tick ").with_context(|| format!("{line:?} is no tick"))?;
            number.parse().with_context(|| format!("{line:?} is no tick"))
        })
        .collect::<Result<_>>()?;
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(gap.is_none(), "output is lost or comes twice: {gap:?}");
    Ok(numbers)
}

fn on_each(check: impl Fn(Daemon, End) -> Result<()>) -> Result<()> {
    for release in [Release::V1_7, Release::V2_1] {
        for end in [End::Kill, End::Stop] {
            if !testkit::ready() {
                return Ok(());
            }
            check(Daemon::options(release).start()?, end)
                .with_context(|| format!("{release} {end:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn containers_run_on_and_all_that_they_print_arrives() -> Result<()> {
    on_each(|mut daemon, end| {
        for kind in KINDS {
            let id = start(&daemon, kind, FOREVER)?;
            let pid = daemon.task_pid(&id)?;
            end.of(&mut daemon)?;
            thread::sleep(Duration::from_millis(600));
            ensure!(host::alive(pid), "{kind:?} went with containerd");
            daemon.restart()?;
            ensure!(daemon.task_status(&id)?.as_deref() == Some("RUNNING"), "{kind:?}");
            ensure!(daemon.task_pid(&id)? == pid, "{kind:?} has another process");

            let client = daemon.ctr_command().args(["tasks", "attach", &id]).spawn()?;
            let arrived =
                || Ok(ticks(&client.stdout_so_far())?.last().is_some_and(|last| *last > 80));
            host::eventually("its output goes on", PATIENCE, arrived)
                .with_context(|| format!("{kind:?}: {}", client.stdout_so_far()))?;
            let first = *ticks(&client.stdout_so_far())?.first().context("ticks")?;
            ensure!(first < 30, "{kind:?}: what it printed meanwhile is lost up to {first}");

            daemon.ctr(["tasks", "kill", "--signal", "SIGKILL", &id])?.ok()?;
            // ctr's attach also removes the task once that has ended.
            let output = client.finish()?;
            ensure!(output.status == Some(137), "{kind:?}: {}", output.report());
            host::eventually("its task is gone", PATIENCE, || {
                Ok(daemon.task_status(&id)?.is_none())
            })?;
            daemon.ctr(["containers", "rm", &id])?.ok()?;
        }
        Ok(())
    })
}

#[test]
fn a_container_that_was_found_again_can_be_asked_all() -> Result<()> {
    on_each(|mut daemon, end| {
        for kind in [Kind::Runc, Kind::Linux] {
            let id = start(&daemon, kind, FOREVER)?;
            end.of(&mut daemon)?;
            daemon.restart()?;
            let exec = |words: &[&str]| {
                daemon.ctr(["tasks", "exec", "--exec-id", "e", &id].iter().chain(words))
            };
            let output = exec(&["echo", "still here"])?;
            ensure!(output.stdout == "still here\n", "{kind:?}: {}", output.report());
            ensure!(exec(&["sh", "-c", "exit 5"])?.status == Some(5), "{kind:?}");
            daemon.ctr(["tasks", "pause", &id])?.ok()?;
            ensure!(daemon.task_status(&id)?.as_deref() == Some("PAUSED"), "{kind:?}");
            daemon.ctr(["tasks", "resume", &id])?.ok()?;
            let metrics = daemon.ctr(["tasks", "metrics", &id])?.ok()?;
            ensure!(metrics.stdout.contains("memory"), "{kind:?}: {}", metrics.report());
            let waiting = daemon.ctr_command().args(["tasks", "attach", &id]).spawn()?;
            daemon.ctr(["tasks", "kill", "--signal", "SIGKILL", &id])?.ok()?;
            ensure!(waiting.finish()?.status == Some(137), "{kind:?}");
            daemon.ctr(["containers", "rm", &id])?.ok()?;
        }
        Ok(())
    })
}

#[test]
fn an_end_that_nobody_saw_is_told_afterwards() -> Result<()> {
    on_each(|mut daemon, end| {
        for kind in KINDS {
            let id = start(&daemon, kind, brief())?;
            let pid = daemon.task_pid(&id)?;
            end.of(&mut daemon)?;
            ensure!(host::alive(pid), "{kind:?} has ended too early for this test");
            host::eventually("it ends", PATIENCE, || Ok(!host::alive(pid)))?;
            daemon.restart()?;
            daemon.wait_for_status(&id, "STOPPED", PATIENCE)?;
            let listed = daemon.ctr(["tasks", "ls"])?.ok()?;
            ensure!(daemon.task_pid(&id)? == pid, "{kind:?}: {}", listed.report());
            let again = daemon.ctr(["tasks", "kill", "--signal", "SIGKILL", &id])?;
            ensure!(
                again.stderr.contains("not found") || again.stderr.contains("finished"),
                "{kind:?}: {}",
                again.report()
            );

            // What it printed with nobody there arrives as well, and then its task is gone.
            let output = daemon.ctr(["tasks", "attach", &id])?;
            ensure!(output.status == Some(CODE), "{kind:?}: {}", output.report());
            ensure!(ticks(&output.stdout)?.last() == Some(&39), "{kind:?}: {}", output.report());
            daemon.ctr(["containers", "rm", &id])?.ok()?;
        }
        Ok(())
    })
}

/// The topics of the events that containerd has taken from shims, in order.
fn forwarded(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("event forwarded"));
    let topics = lines.filter_map(|line| line.split("topic=").nth(1));
    topics
        .filter_map(|rest| rest.split_whitespace().next())
        .map(|topic| topic.trim_matches('"').to_owned())
        .collect()
}

#[test]
fn events_wait_for_containerd_and_come_in_order() -> Result<()> {
    for release in [Release::V1_7, Release::V2_1] {
        if !testkit::ready() {
            return Ok(());
        }
        let mut daemon = Daemon::options(release)
            .configure(|table| {
                table.insert(
                    "debug".to_owned(),
                    toml::Table::from_iter([("level".to_owned(), "trace".into())]).into(),
                );
            })
            .start()?;
        let ids = [start(&daemon, Kind::Linux, brief())?, start(&daemon, Kind::Wasm, brief())?];
        let pids = [daemon.task_pid(&ids[0])?, daemon.task_pid(&ids[1])?];
        let before = forwarded(&daemon).len();
        daemon.kill()?;
        host::eventually("both end", PATIENCE, || Ok(!pids.iter().any(|pid| host::alive(*pid))))?;
        thread::sleep(Duration::from_secs(3));
        ensure!(forwarded(&daemon).len() == before, "somebody took events");
        daemon.restart()?;
        // Each shim asks again at most two seconds later.
        host::eventually("both ends are told", PATIENCE, || {
            Ok(forwarded(&daemon).len() >= before + 2)
        })?;
        thread::sleep(Duration::from_millis(300));
        ensure!(
            forwarded(&daemon)[before..] == ["/tasks/exit", "/tasks/exit"],
            "{:?}",
            forwarded(&daemon)
        );
        for id in &ids {
            daemon.ctr(["tasks", "rm", id])?;
        }
        host::eventually("both are deleted", PATIENCE, || {
            Ok(forwarded(&daemon).len() >= before + 4)
        })?;
        ensure!(
            forwarded(&daemon)[before + 2..] == ["/tasks/delete", "/tasks/delete"],
            "{:?}",
            forwarded(&daemon)
        );
    }
    Ok(())
}

/// What crictl says of a container.
#[derive(Debug)]
struct Seen {
    state: String,
    code: i64,
    finished: String,
    pid: i64,
}

fn seen(daemon: &Daemon, id: &str) -> Result<Seen> {
    let output = daemon.crictl(["inspect", id])?.ok()?;
    let answer: Value = serde_json::from_str(&output.stdout).context("reading crictl")?;
    let status = &answer["status"];
    Ok(Seen {
        state: status["state"].as_str().unwrap_or_default().to_owned(),
        code: status["exitCode"].as_i64().unwrap_or_default(),
        finished: status["finishedAt"].as_str().unwrap_or_default().to_owned(),
        pid: answer["info"]["pid"].as_i64().unwrap_or_default(),
    })
}

/// Seconds since 1970 of a time as crictl prints it.
fn seconds(time: &str) -> Result<f64> {
    let output = Invocation::new("/bin/date").args(["+%s.%N", "-d", time]).run()?.ok()?;
    output.stdout.trim().parse().with_context(|| format!("{time:?} is no time"))
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}

fn cri_follows(release: Release, end: End) -> Result<()> {
    let mut daemon = Daemon::options(release).cri().start()?;
    for kind in [Kind::Wasm, Kind::Linux] {
        for ticks in [brief(), FOREVER] {
            daemon.import_in(CRI_NAMESPACE, &image(kind, ticks)?)?;
        }
    }
    for kind in KINDS {
        let handler = if kind == Kind::Runc { "runc" } else { "hybrid" };
        let pod = Pod::new("restarted").runtime(handler).start(&daemon)?;
        let container = |name: &str, ticks: u32| -> Result<String> {
            let image = image(kind, ticks)?;
            // A pid namespace of its own, as kubelet gives each container.
            let container = pod.container(name, &image.name).configure(|config| {
                config["linux"]["security_context"]["namespace_options"]["pid"] = 1.into();
            });
            match kind {
                Kind::Wasm => container.start(),
                Kind::Linux | Kind::Runc => container.command(script(ticks)).start(),
            }
        };
        let (lives, ends) = (container("lives", FOREVER)?, container("ends", brief())?);
        let pod_id = pod.id().to_owned();
        std::mem::forget(pod);
        let [living, ending] = [&lives, &ends].map(|id| seen(&daemon, id));
        let (living, ending) = (living?, ending?);
        let pid = i32::try_from(ending.pid)?;
        end.of(&mut daemon)?;
        ensure!(host::alive(pid), "{kind:?} has ended too early for this test");
        let before = now()?;
        host::eventually("it ends", PATIENCE, || Ok(!host::alive(pid)))?;
        let after = now()?;
        thread::sleep(Duration::from_millis(1200));
        daemon.restart()?;

        let ended = seen(&daemon, &ends)?;
        ensure!(
            ended.state == "CONTAINER_EXITED" && ended.code == i64::from(CODE),
            "{kind:?} {ended:?}"
        );
        let finished = seconds(&ended.finished)?;
        ensure!(
            (before - 0.1..after + 0.1).contains(&finished),
            "{kind:?} {ended:?}: {before}..{after}"
        );
        let log = daemon.crictl(["logs", &ends])?.ok()?.stdout;
        ensure!(ticks(&log)?.last() == Some(&39), "{kind:?}: what it printed last is lost: {log}");
        let still = seen(&daemon, &lives)?;
        ensure!(
            still.state == "CONTAINER_RUNNING" && still.pid == living.pid,
            "{kind:?} {still:?}"
        );
        let last =
            || anyhow::Ok(ticks(&daemon.crictl(["logs", &lives])?.ok()?.stdout)?.last().copied());
        let now = last()?.unwrap_or_default();
        host::eventually("its log goes on", PATIENCE, || {
            Ok(last()?.is_some_and(|last| last > now + 20))
        })
        .with_context(|| format!("{kind:?}"))?;
        let all = daemon.crictl(["logs", &lives])?.ok()?.stdout;
        ensure!(ticks(&all)?.first() == Some(&0), "{kind:?}: the log's start is gone");

        daemon.crictl(["stop", "--timeout", "1", &lives])?.ok()?;
        let stopped = seen(&daemon, &lives)?;
        ensure!(
            stopped.state == "CONTAINER_EXITED" && [137, 143].contains(&stopped.code),
            "{kind:?} {stopped:?}"
        );
        daemon.crictl(["rm", &lives, &ends])?.ok()?;
        daemon.crictl(["stopp", &pod_id])?.ok()?;
        daemon.crictl(["rmp", &pod_id])?.ok()?;
    }
    Ok(())
}

#[test]
fn cri_follows_what_it_finds_after_a_kill_of_the_older() -> Result<()> {
    if testkit::ready() { cri_follows(Release::V1_7, End::Kill) } else { Ok(()) }
}

#[test]
fn cri_follows_what_it_finds_after_a_kill_of_the_newer() -> Result<()> {
    if testkit::ready() { cri_follows(Release::V2_1, End::Kill) } else { Ok(()) }
}

#[test]
fn cri_follows_what_it_finds_after_a_stop_of_the_older() -> Result<()> {
    if testkit::ready() { cri_follows(Release::V1_7, End::Stop) } else { Ok(()) }
}

#[test]
fn cri_follows_what_it_finds_after_a_stop_of_the_newer() -> Result<()> {
    if testkit::ready() { cri_follows(Release::V2_1, End::Stop) } else { Ok(()) }
}

/// What goes on when a shim is killed.
#[derive(Debug, Clone, Copy)]
enum Work {
    Exec,
    Delete,
}

/// Kills the shim's server at many moments of one kind of work: the container ends with it, whoever waits is told, and
/// with the container's removal nothing is left, so that its id is free.
fn killed_at_any_moment(work: Work) -> Result<()> {
    const MOMENTS: u32 = 12;
    const STEP: Duration = Duration::from_millis(2);
    if !testkit::ready() {
        return Ok(());
    }
    let daemon = Daemon::options(Release::V2_1).start()?;
    let images =
        [(catalogue::guest_image("sleeper")?, None), (catalogue::busybox()?, Some("1000"))];
    for (image, _) in &images {
        daemon.import(image)?;
    }
    let before = Census::of(&daemon)?;
    for (image, seconds) in &images {
        let id = daemon.unique("moment");
        for moment in 0..MOMENTS {
            let what = format!("{} killed {:?} into {work:?}", image.name, STEP * moment);
            let run = daemon.run(image, &id).detach().flags(["--null-io"]);
            let run = if let Some(seconds) = seconds { run.args(["sleep", *seconds]) } else { run };
            run.output()?.ok().with_context(|| what.clone())?;
            let pid = daemon.task_pid(&id)?;
            let shim = host::shim_of(&daemon, pid)?;
            let command = daemon.ctr_command().arg("tasks");
            let command = match work {
                Work::Exec => command.args(["exec", "--exec-id", "e", &id, "/bin/sleep", "1000"]),
                Work::Delete => {
                    daemon.ctr(["tasks", "kill", "--signal", "SIGKILL", &id])?.ok()?;
                    daemon.wait_for_status(&id, "STOPPED", PATIENCE)?;
                    command.args(["rm", &id])
                }
            };
            let client = command.spawn()?;
            // ctr itself takes some milliseconds until it asks.
            thread::sleep(Duration::from_millis(8) + STEP * moment);
            if host::alive(shim.server) {
                host::kill_hard(shim.server)?;
            }
            let told = client.wait(PATIENCE)?;
            ensure!(!told.timed_out, "{what}: {}", told.report());
            host::eventually("the container is gone", PATIENCE, || Ok(!host::alive(pid)))
                .with_context(|| what.clone())?;
            // Depending on the moment, the task is gone already.
            daemon.ctr(["tasks", "rm", "--force", &id])?;
            daemon.ctr(["containers", "rm", &id])?.ok().with_context(|| what.clone())?;
            before.settles(|| Census::of(&daemon), PATIENCE).with_context(|| what.clone())?;
        }
    }
    Ok(())
}

#[test]
fn a_shim_killed_at_any_moment_of_an_exec_leaves_nothing() -> Result<()> {
    killed_at_any_moment(Work::Exec)
}

#[test]
fn a_shim_killed_at_any_moment_of_a_delete_leaves_nothing() -> Result<()> {
    killed_at_any_moment(Work::Delete)
}
