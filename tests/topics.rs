//! What is told of containers: every topic, in its order, each once, also when a thousand come and go.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use containerd_shim::protos::api::CreateTaskRequest;
use end_to_end::events::{self, Events};
use end_to_end::host;
use end_to_end::kind::{Kind, standing};
use end_to_end::lab::{LAYERED, Lab, PATIENCE, lab};
use end_to_end::shim::{Answer, HandBundle, Peer, Server};
use serde_json::{Value, json};
use testkit::containerd::{HYBRID, Release, runtime};

#[test]
fn every_topic_of_a_task_is_told() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let events = Events::listen(&lab)?;
        for kind in Kind::all() {
            let id = standing(&lab, *kind, "told", &[]);
            let exec = ["tasks", "exec", "--exec-id", "e1", &id];
            let executed = lab.ctr_command().args(exec).args(kind.exit(7)).run()?;
            assert_eq!(executed.status, Some(7), "{}", executed.report());
            for verb in ["pause", "resume"] {
                lab.ctr(["tasks", verb, &id])?.ok()?;
            }
            let checkpoint = lab.ctr(["tasks", "checkpoint", &id])?;
            assert!(!checkpoint.success(), "{}", checkpoint.report());
            host::end(&lab, &id)?;
            let story = events.story_until(&id, "delete")?;
            let expected = [
                "create",
                "start",
                "exec-added e1",
                "exec-started e1",
                "exit e1 7",
                "paused",
                "resumed",
                // containerd freezes what is to be checkpointed, and hears that it is not.
                "paused",
                "resumed",
                "exit 137",
                "delete",
            ];
            let told: Vec<&str> = story.iter().map(String::as_str).collect();
            assert_eq!(told, expected, "{release} {kind:?}");
        }
    }
    Ok(())
}

#[test]
fn an_event_says_what_it_is_about() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let events = Events::listen(&lab)?;
    for kind in Kind::all() {
        let id = standing(&lab, *kind, "told", &[]);
        let pid = lab.task_pid(&id)?;
        host::end(&lab, &id)?;
        events.story_until(&id, "delete")?;
        let about = |topic: &str| {
            let all = events.tasks().into_iter();
            let mut ours = all.filter(|(told, event)| told == topic && event["container_id"] == id);
            ours.next().map(|(_, event)| event).with_context(|| format!("no {topic}"))
        };
        let create = about("create")?;
        assert_eq!(create["pid"], pid);
        assert_eq!(create["bundle"], lab.bundle(&id).display().to_string());
        assert!(create["rootfs"].is_array(), "{create}");
        assert_eq!(about("start")?["pid"], pid);
        let exit = about("exit")?;
        assert_eq!(
            (&exit["pid"], &exit["id"], &exit["exit_status"]),
            (&json!(pid), &json!(id), &json!(137))
        );
        assert!(exit["exited_at"].is_object() || exit["exited_at"].is_string(), "{exit}");
        let delete = about("delete")?;
        assert_eq!((&delete["pid"], &delete["exit_status"]), (&json!(pid), &json!(137)));
    }
    Ok(())
}

/// A container that ends at once, run again and again under new ids.
struct Short {
    kind: Kind,
    bundle: HandBundle,
}

impl Short {
    const CODE: u32 = 7;

    fn new(lab: &std::sync::Arc<Lab>, kind: Kind) -> Result<Self> {
        let bundle = match kind {
            Kind::Linux => HandBundle::linux(lab, &["/bin/sh", "-c", "exit 7"])?,
            Kind::Wasm => HandBundle::wasm(lab, "exit", &["7"])?,
        };
        Ok(Self { kind, bundle: bundle.by(Peer::under_test()) })
    }

    /// Runs one from create to delete.
    fn run(&self, server: &Server, id: &str) -> Answer<()> {
        server.create_by(&CreateTaskRequest { id: id.to_owned(), ..self.bundle.request() })?;
        let init = server.process(id, "");
        init.start()?;
        assert_eq!(init.wait()?, Self::CODE, "{:?}", self.kind);
        assert_eq!(init.delete()?.exit_status, Self::CODE, "{:?}", self.kind);
        Ok(())
    }

    /// Runs one whose init sleeps, with a process executed in it that ends by itself and one that the init's end ends.
    fn run_with_execs(&self, server: &Server, sleeper: &HandBundle, id: &str) -> Answer<()> {
        server.create_by(&CreateTaskRequest { id: id.to_owned(), ..sleeper.request() })?;
        let init = server.process(id, "");
        init.start()?;
        let short = init.exec("short", &self.process(&self.bundle))?;
        short.start()?;
        let long = init.exec("long", &self.process(sleeper))?;
        long.start()?;
        assert_eq!(short.wait()?, Self::CODE, "{:?}", self.kind);
        init.kill(9)?;
        assert_eq!(init.wait()?, 137, "{:?}", self.kind);
        assert_eq!(long.wait()?, 137, "{:?}", self.kind);
        init.delete().map(drop)
    }

    fn process(&self, bundle: &HandBundle) -> Value {
        let mut process = bundle.spec()["process"].clone();
        if self.kind == Kind::Wasm && bundle.id() == self.bundle.id() {
            // The sleeper's bundle has this module beside its own.
            process["args"] = json!(["/exit.wasm", "7"]);
        }
        process
    }
}

/// Makes the bundle of a sleeper, with the short one's module beside its own.
fn sleeper(lab: &std::sync::Arc<Lab>, kind: Kind) -> Result<HandBundle> {
    let bundle = match kind {
        Kind::Linux => HandBundle::linux(lab, &["/bin/sleep", "1000"])?,
        Kind::Wasm => {
            let bundle = HandBundle::wasm(lab, "sleeper", &[])?;
            std::fs::write(bundle.rootfs().join("exit.wasm"), testkit::guest::wat("exit")?)?;
            bundle
        }
    };
    Ok(bundle.by(Peer::under_test()))
}

#[test]
fn a_thousand_short_runs_are_told_in_order_and_each_event_once() -> Result<()> {
    const WORKERS: usize = 2;
    /// One of so many runs executes something.
    const EXECUTES: usize = 10;
    let runs = if runtime() == HYBRID { 250 } else { 25 };
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let events = Events::listen(&lab)?;
    let holder = sleeper(&lab, Kind::Linux)?;
    let server = holder.serve()?;
    server.create().expect("created");
    let mut ids = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let mut workers = Vec::new();
        for kind in Kind::all() {
            for _ in 0..WORKERS {
                let (short, sleeper) = (Short::new(&lab, *kind)?, sleeper(&lab, *kind)?);
                let (lab, server) = (&lab, &server);
                workers.push(scope.spawn(move || {
                    let one = |run: usize| {
                        let id = lab.unique("short");
                        let executes = run.is_multiple_of(EXECUTES);
                        let answer = match executes {
                            true => short.run_with_execs(server, &sleeper, &id),
                            false => short.run(server, &id),
                        };
                        answer.unwrap_or_else(|denied| panic!("{:?} {id}: {denied:?}", short.kind));
                        (id, executes)
                    };
                    (0..runs).map(one).collect::<Vec<_>>()
                }));
            }
        }
        ids.extend(workers.into_iter().flat_map(|worker| worker.join().expect("a worker")));
        Ok(())
    })?;

    let stories = all_told(&events, ids.len())?;
    for (id, executes) in &ids {
        let story = stories.get(id).with_context(|| format!("nothing is told of {id}"))?;
        if !executes {
            assert_eq!(story, &["create", "start", "exit 7", "delete"], "{id}");
            continue;
        }
        let mut sorted = story.clone();
        sorted.sort();
        let expected = [
            "create",
            "delete",
            "exec-added long",
            "exec-added short",
            "exec-started long",
            "exec-started short",
            "exit 137",
            "exit long 137",
            "exit short 7",
            "start",
        ];
        assert_eq!(sorted, expected, "{id}");
        let at = |told: &str| story.iter().position(|one| one == told);
        let orders = [
            [
                "create",
                "start",
                "exec-added short",
                "exec-started short",
                "exit short 7",
                "exit 137",
                "delete",
            ],
            [
                "create",
                "start",
                "exec-added long",
                "exec-started long",
                "exit long 137",
                "exit 137",
                "delete",
            ],
        ];
        for order in orders {
            assert!(order.windows(2).all(|two| at(two[0]) < at(two[1])), "{id}: {story:?}");
        }
    }
    Ok(())
}

/// Waits until so many deletes were told, and a moment for what should not come, and returns all by container.
fn all_told(events: &Events, deletes: usize) -> Result<BTreeMap<String, Vec<String>>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = events.tasks().iter().filter(|(topic, _)| topic == "delete").count();
        if told >= deletes || Instant::now() > deadline {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_millis(200));
    let mut stories: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (topic, event) in events.tasks() {
        let id = event["container_id"].as_str().unwrap_or_default().to_owned();
        // runc's shim takes the end of a cgroup for a lack of memory.
        if topic == "oom" && runtime() != HYBRID {
            continue;
        }
        let line = events::line(&id, &topic, &event);
        stories.entry(id).or_default().push(line);
    }
    Ok(stories)
}
