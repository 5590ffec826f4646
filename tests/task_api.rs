//! The state table: every call of the task API, about a container or an executed process in each of its states, asked of
//! runc's shim and of this one, for Linux and for wasm, side by side under the same containerd.
//!
//! Nothing here says what the right answer is: runc's shim says it. Where this shim answers otherwise by decision, the
//! cell is listed in [`deviation`] with the reason.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim::protos::ttrpc::Code;
use containerd_shim::protos::types::task::Status;
use end_to_end::lab::{Lab, PATIENCE, lab, must};
use end_to_end::shim::{Answer, HandBundle, Peer, Process, Server};
use serde_json::{Value, json};
use testkit::containerd::Release;

/// How long something that waits for the end of a process is given to answer at once.
const AT_ONCE: Duration = Duration::from_millis(150);
const SIGKILL: i32 = 9;

/// Who is asked, about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Runc,
    Linux,
    Wasm,
}

impl Column {
    fn bundle(self, lab: &Arc<Lab>) -> HandBundle {
        let linux = || must(HandBundle::linux(lab, &["/bin/sleep", "1000"]));
        match self {
            Self::Runc => linux().by(Peer::Runc),
            Self::Linux => linux(),
            Self::Wasm => must(HandBundle::wasm(lab, "sleeper", &[])),
        }
    }

    /// Returns a process to execute that runs until it is killed.
    fn sleeper(self) -> Value {
        let words: &[&str] = match self {
            Self::Runc | Self::Linux => &["/bin/sleep", "1000"],
            Self::Wasm => &["/app.wasm"],
        };
        json!({
            "args": words,
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        })
    }
}

/// What a process is when it is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Created,
    Running,
    Paused,
    Stopped,
    ExecUnknown,
    ExecCreated,
    ExecRunning,
    ExecStopped,
    ExecCreatedInPaused,
    ExecCreatedInStopped,
    ExecRunningInPaused,
}

impl State {
    const OF_INIT: [Self; 5] =
        [Self::Unknown, Self::Created, Self::Running, Self::Paused, Self::Stopped];
    const OF_EXEC: [Self; 7] = [
        Self::ExecUnknown,
        Self::ExecCreated,
        Self::ExecRunning,
        Self::ExecStopped,
        Self::ExecCreatedInPaused,
        Self::ExecCreatedInStopped,
        Self::ExecRunningInPaused,
    ];

    /// Brings a new container, or a process executed in one, into this state.
    fn reach<'server>(self, init: &Process<'server>, sleeper: &Value) -> Answer<Process<'server>> {
        match self {
            Self::Unknown | Self::Created => {}
            Self::Running => drop(init.start()?),
            Self::Paused => {
                init.start()?;
                init.pause()?;
            }
            Self::Stopped => {
                init.start()?;
                end(init)?;
            }
            _ => return self.reach_exec(init, sleeper),
        }
        Ok(init.clone())
    }

    fn reach_exec<'server>(
        self,
        init: &Process<'server>,
        sleeper: &Value,
    ) -> Answer<Process<'server>> {
        init.start()?;
        if self == Self::ExecUnknown {
            return Ok(init.executed("unknown"));
        }
        let executed = init.exec("e1", sleeper)?;
        match self {
            Self::ExecRunning => drop(executed.start()?),
            Self::ExecStopped => {
                executed.start()?;
                end(&executed)?;
            }
            Self::ExecCreatedInPaused => init.pause()?,
            Self::ExecCreatedInStopped => end(init)?,
            Self::ExecRunningInPaused => {
                executed.start()?;
                init.pause()?;
            }
            _ => {}
        }
        Ok(executed)
    }
}

fn end(process: &Process<'_>) -> Answer<()> {
    process.kill(SIGKILL)?;
    process.wait()?;
    Ok(())
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Done, with what of the answer must be the same whoever gives it.
    Done(String),
    /// No answer as long as nothing happens.
    Waits,
    Denied(Code, String),
    ShimDies,
}

impl Outcome {
    fn of(answer: Answer<String>) -> Self {
        match answer {
            Ok(told) => Self::Done(told),
            Err(denied) => match denied.code {
                Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED => Self::Waits,
                code => Self::Denied(code, denied.message),
            },
        }
    }

    /// Says whether a client would take one for the other: the code counts, and those words that clients look for.
    fn means(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Denied(code, words), Self::Denied(others, other_words)) => {
                let looked_for = words.starts_with("cannot ") || words.contains("already finished");
                code == others && (!looked_for || essence(words) == essence(other_words))
            }
            _ => self == other,
        }
    }
}

/// Returns a message without the code's name, which Go's shims put behind it.
fn essence(words: &str) -> &str {
    words.strip_suffix(": not found").unwrap_or(words)
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(told) if told.is_empty() => out.write_str("done"),
            Self::Done(told) => write!(out, "done: {told}"),
            Self::Waits => out.write_str("waits"),
            Self::ShimDies => out.write_str("the shim dies"),
            Self::Denied(code, words) => write!(out, "{code:?}: {words}"),
        }
    }
}

/// Makes one call and returns what of the answer counts.
type Call = fn(&Process<'_>, &Value) -> Answer<String>;

fn nothing(_: ()) -> String {
    String::new()
}

fn some(pid: u32) -> &'static str {
    if pid == 0 { "no pid" } else { "a pid" }
}

const OF_BOTH: [(&str, Call); 9] = [
    ("state", |it, _| {
        let state = it.state()?;
        let status = state.status.enum_value_or_default();
        let ended =
            if state.exited_at.is_some() && status == Status::STOPPED { "ended" } else { "" };
        Ok(format!("{status:?} {} exit {} {ended}", some(state.pid), state.exit_status))
    }),
    ("start", |it, _| it.start().map(|pid| some(pid).to_owned())),
    ("kill 9", |it, _| it.kill(SIGKILL).map(nothing)),
    ("kill 0", |it, _| it.kill(0).map(nothing)),
    ("kill 9, then wait", |it, _| {
        it.kill(SIGKILL)?;
        it.wait_within(Duration::from_secs(2)).map(|status| status.to_string())
    }),
    ("delete", |it, _| {
        let deleted = it.delete()?;
        Ok(format!("{} exit {}", some(deleted.pid), deleted.exit_status))
    }),
    ("wait", |it, _| it.wait_within(AT_ONCE).map(|status| status.to_string())),
    ("resize_pty", |it, _| it.resize(80, 25).map(nothing)),
    ("close_io", |it, _| it.close_input().map(nothing)),
];

const OF_INIT: [(&str, Call); 14] = [
    ("kill 9 of all", |it, _| it.kill_all(SIGKILL).map(nothing)),
    ("exec", |it, sleeper| it.exec("e2", sleeper).map(|_| String::new())),
    ("exec twice of one id", |it, sleeper| {
        it.exec("e2", sleeper)?;
        it.exec("e2", sleeper).map(|_| String::new())
    }),
    ("exec without an id", |it, sleeper| it.exec("", sleeper).map(|_| String::new())),
    ("exec, then start", |it, sleeper| {
        it.exec("e2", sleeper)?.start().map(|pid| some(pid).to_owned())
    }),
    ("exec of nothing, then start", |it, sleeper| {
        let mut missing = sleeper.clone();
        missing["args"] = json!(["/no/such/program"]);
        it.exec("e2", &missing)?.start().map(|pid| some(pid).to_owned())
    }),
    ("pause", |it, _| it.pause().map(nothing)),
    ("resume", |it, _| it.resume().map(nothing)),
    ("update", |it, _| it.update(&json!({"memory": {"limit": 134_217_728}})).map(nothing)),
    ("update with null", |it, _| it.update(&Value::Null).map(nothing)),
    ("checkpoint", |it, _| it.checkpoint("/nonexistent/checkpoint").map(nothing)),
    ("pids", |it, _| it.pids().map(|pids| format!("{} of them", pids.len()))),
    ("stats", |it, _| it.stats().map(|stats| stats.type_url)),
    ("connect", |it, _| {
        let answer = it.connect()?;
        Ok(format!("shim {}, task {}", some(answer.shim_pid), some(answer.task_pid)))
    }),
];

/// What this shim answers by decision where runc's shim answers otherwise.
enum Instead {
    Denied(Code),
    Done(&'static str),
}

/// The cells in which this shim answers otherwise by decision: what it answers instead, and why.
fn deviation(state: State, call: &str) -> Option<(Instead, &'static str)> {
    use Instead::{Denied, Done};
    match (state, call) {
        (State::Stopped, "pids") => Some((
            Done("1 of them"),
            "a restarted containerd deletes a shim that has none, unasked",
        )),
        (State::Running | State::Paused, "checkpoint") => {
            Some((Denied(Code::UNIMPLEMENTED), "never supported"))
        }
        (State::Created | State::Running, "exec without an id") => Some((
            Denied(Code::INVALID_ARGUMENT),
            "its requests would be taken for the container's own",
        )),
        (State::ExecRunning | State::ExecRunningInPaused, "start") => {
            Some((Denied(Code::UNKNOWN), "runc's shim panics, and with it the whole pod's ends"))
        }
        (State::ExecUnknown, "close_io") => Some((
            Denied(Code::NOT_FOUND),
            "as every other call about a process that does not exist",
        )),
        _ => None,
    }
}

/// Asks one shim every call in every state, each time about a new container.
fn ask_all(lab: &Arc<Lab>, column: Column) -> Vec<(State, &'static str, Outcome)> {
    let mut server = Served::new(lab, column);
    let mut answers = Vec::new();
    for (states, calls) in [
        (&State::OF_INIT[..], [&OF_BOTH[..], &OF_INIT].concat()),
        (&State::OF_EXEC, OF_BOTH.to_vec()),
    ] {
        for state in states {
            for (name, call) in &calls {
                let outcome = server.ask(*state, *call);
                answers.push((*state, *name, outcome));
            }
        }
    }
    answers
}

/// A shim that holds one container for as long as it lives, beside those that are asked about.
struct Served<'lab> {
    lab: &'lab Arc<Lab>,
    column: Column,
    holder: HandBundle,
    server: Server,
}

impl<'lab> Served<'lab> {
    fn new(lab: &'lab Arc<Lab>, column: Column) -> Self {
        let holder = column.bundle(lab);
        let server = must(holder.serve());
        server.create().expect("the first container");
        Self { lab, column, holder, server }
    }

    /// Makes a container, brings it into the state, asks, and removes it.
    fn ask(&mut self, state: State, call: Call) -> Outcome {
        let bundle = self.column.bundle(self.lab);
        let outcome = self.outcome(&bundle, state, call);
        if self.holder.servers().is_empty() {
            *self = Self::new(self.lab, self.column);
            return Outcome::ShimDies;
        }
        outcome
    }

    fn outcome(&self, bundle: &HandBundle, state: State, call: Call) -> Outcome {
        let sleeper = self.column.sleeper();
        let init = self.server.process(bundle.id(), "");
        if state != State::Unknown
            && let Err(denied) = self.server.create_also(bundle)
        {
            return Outcome::Denied(denied.code, format!("no create: {}", denied.message));
        }
        let outcome = match state.reach(&init, &sleeper) {
            Ok(process) => Outcome::of(call(&process, &sleeper)),
            Err(denied) => {
                Outcome::Denied(denied.code, format!("{state:?} not reached: {}", denied.message))
            }
        };
        clear(&init);
        outcome
    }
}

/// Removes a container in whatever state it is.
fn clear(init: &Process<'_>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whatever does not fit the state is denied.
        let _resumed = init.resume();
        let _killed = init.kill(SIGKILL);
        match init.delete() {
            Err(denied) if !matches!(denied.code, Code::NOT_FOUND | Code::UNAVAILABLE) => {
                assert!(Instant::now() < deadline, "not deleted: {denied:?}");
                thread::sleep(Duration::from_millis(2));
            }
            _ => return,
        }
    }
}

/// Says whether ours may stand where runc's shim gives the other.
fn agrees(state: State, call: &str, theirs: &Outcome, ours: &Outcome) -> bool {
    match deviation(state, call) {
        Some((Instead::Denied(code), _)) => {
            matches!(ours, Outcome::Denied(given, _) if *given == code)
        }
        Some((Instead::Done(with), _)) => matches!(ours, Outcome::Done(given) if given == with),
        None => theirs.means(ours),
    }
}

fn side_by_side(release: Release) {
    let Some(lab) = lab(release) else { return };
    let [theirs, linux, wasm] = thread::scope(|scope| {
        let columns = [Column::Runc, Column::Linux, Column::Wasm];
        let asked = columns.map(|column| {
            scope.spawn({
                let lab = &lab;
                move || ask_all(lab, column)
            })
        });
        asked.map(|column| column.join().expect("a column"))
    });
    let mut table = String::new();
    let mut wrong = 0;
    for (((state, call, theirs), (.., linux)), (.., wasm)) in theirs.iter().zip(&linux).zip(&wasm) {
        writeln!(table, "{state:?}, {call}\n        runc's: {theirs}").expect("written");
        for (kind, ours) in [("linux", linux), ("wasm", wasm)] {
            let verdict = if agrees(*state, call, theirs, ours) { "" } else { "WRONG" };
            wrong += usize::from(!verdict.is_empty());
            writeln!(table, "{verdict:>6} {kind:>6}: {ours}").expect("written");
        }
    }
    let cells = 2 * theirs.len();
    assert_eq!(wrong, 0, "of {cells} cells, on containerd {release}:\n{table}");
}

#[test]
fn every_call_in_every_state_is_answered_as_by_runcs_shim_on_containerd_1_7() {
    side_by_side(Release::V1_7);
}

#[test]
fn every_call_in_every_state_is_answered_as_by_runcs_shim_on_containerd_2_1() {
    side_by_side(Release::V2_1);
}
