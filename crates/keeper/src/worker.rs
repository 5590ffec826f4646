//! Workers: children of the keeper that make one call, report and end.
//!
//! A call that hangs (a hook, a stuck mount) hangs its worker alone. One kind
//! stays after its report: it holds open what it has made until it is let go.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use serde::{Deserialize, Serialize};
use sys::process::{Fork, SingleThreaded};
use sys::seqpacket::Seqpacket;
use wasm::compile::{Native, Origin};
use wasm::engine::EngineSettings;

use crate::message::{Failure, Reply};

/// The exit code of a worker that panicked.
const PANICKED: i32 = 101;

/// How a request went.
pub(crate) type Outcome = Result<Reply, Failure>;

/// What a worker says once its call is made.
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    pub(crate) brought: Brought,
}

/// What comes with a worker's report.
pub(crate) enum Brought {
    Nothing,
    /// The master of the terminal that a process it made got.
    Console(OwnedFd),
    /// Native code that it has compiled or found.
    Native(Native),
}

/// A report on its way, but for the descriptor.
#[derive(Serialize, Deserialize)]
struct Written {
    outcome: Outcome,
    /// What the descriptor is, if it is native code.
    native: Option<(EngineSettings, Origin)>,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, brought: Brought::Nothing }
    }
}

/// Which descriptors a worker keeps of the keeper's, beside the standard ones.
pub(crate) enum Keeps<'a> {
    /// All: it makes no container that could inherit one.
    All,
    /// These: it makes a container, whose init must not get the keeper's sockets.
    Only(&'a [RawFd]),
}

/// Forks a worker that runs `job` and reports its outcome over the returned link.
pub(crate) fn spawn(
    single: &SingleThreaded,
    keeps: Keeps<'_>,
    job: impl FnOnce() -> Done,
) -> io::Result<(Pid, Seqpacket)> {
    fork(single, |link, keeper| report(link, keeper, keeps, job))
}

/// As [`spawn`], for a worker that lives on after its success until its link is
/// made a [`Holder`] and that is dropped.
pub(crate) fn spawn_holder(
    single: &SingleThreaded,
    job: impl FnOnce() -> Outcome,
) -> io::Result<(Pid, Seqpacket)> {
    fork(single, |link, keeper| {
        let mut holds = false;
        let code = report(link, keeper, Keeps::All, || {
            let outcome = job();
            holds = outcome.is_ok();
            outcome.into()
        });
        if holds {
            // Whatever comes, or the link's end, lets it go.
            let _released = link.recv();
        }
        code
    })
}

/// Forks a child that runs `work` with its end of a new link and the keeper's
/// process id, and ends with the exit code that `work` returns.
fn fork(
    single: &SingleThreaded,
    work: impl FnOnce(&Seqpacket, Pid) -> i32,
) -> io::Result<(Pid, Seqpacket)> {
    let (keeper_end, worker_end) = Seqpacket::pair()?;
    let keeper = getpid();
    match single.fork(CloneFlags::empty())? {
        Fork::Parent { pid, .. } => Ok((pid, keeper_end)),
        Fork::Child => {
            drop(keeper_end);
            // A panic must not unwind into the copy of the keeper that this process is: that would
            // let go what the keeper holds.
            let code = catch_unwind(AssertUnwindSafe(|| work(&worker_end, keeper)));
            sys::process::exit_now(code.unwrap_or(PANICKED))
        }
    }
}

/// A worker that has done its job and stays for the sake of it. Dropping this
/// lets it go.
#[derive(Debug)]
pub(crate) struct Holder(Seqpacket);

impl Holder {
    /// Takes the link of a worker that [`spawn_holder`] forked and that has
    /// reported.
    pub(crate) fn new(link: Seqpacket) -> Self {
        Self(link)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A word and not the link's end alone: a worker that was forked
        // meanwhile has a copy of it. One that is gone needs no word.
        let _gone = self.0.send(b"go", &[]);
    }
}

/// Runs the job and sends its outcome; returns the worker's exit code.
fn report(link: &Seqpacket, keeper: Pid, keeps: Keeps<'_>, job: impl FnOnce() -> Done) -> i32 {
    let Done { outcome, brought } = match prepare(link, keeper, keeps) {
        Ok(()) => job(),
        Err(error) => {
            Err(Failure::Failed(format!("cannot prepare a worker process: {error}"))).into()
        }
    };
    let (native, descriptor) = match brought {
        Brought::Nothing => (None, None),
        Brought::Console(console) => (None, Some(console)),
        Brought::Native(native) => {
            let (file, settings, origin) = native.into_parts();
            (Some((settings, origin)), Some(file))
        }
    };
    let descriptor = descriptor.as_ref().map(AsFd::as_fd);
    let sent = serde_json::to_vec(&Written { outcome, native })
        .map_err(io::Error::other)
        .and_then(|body| link.send(&body, descriptor.as_slice()));
    i32::from(sent.is_err())
}

fn prepare(link: &Seqpacket, keeper: Pid, keeps: Keeps<'_>) -> io::Result<()> {
    // What a worker makes without a keeper nobody would know of.
    sys::process::set_parent_death_signal(Some(Signal::SIGKILL))?;
    if getppid() != keeper {
        return Err(io::Error::other("the keeper has ended"));
    }
    sys::signal::reset_for_child()?;
    // A hook need not read what it is told.
    sys::signal::ignore_broken_pipes()?;
    match keeps {
        Keeps::All => Ok(()),
        Keeps::Only(kept) => {
            // The log's descriptor is about to be closed, and its number may come back
            // as something else: from here on an error is in the outcome or nowhere.
            log::set_max_level(log::LevelFilter::Off);
            let mut open = vec![0, 1, 2, link.as_fd().as_raw_fd()];
            open.extend_from_slice(kept);
            sys::stdio::close_all_except(&open)
        }
    }
}

/// Reads a worker's report; `None` while it has not come or when it never will.
pub(crate) fn done(link: &Seqpacket) -> Option<Done> {
    let mut message = link.recv().ok().flatten()?;
    let unreadable = |why: &dyn std::fmt::Display| {
        Failure::Failed(format!("a worker's report is unreadable: {why}"))
    };
    Some(match (serde_json::from_slice(&message.body), message.fds.pop()) {
        (Ok(Written { outcome, native: None }), None) => outcome.into(),
        (Ok(Written { outcome, native: None }), Some(console)) => {
            Done { outcome, brought: Brought::Console(console) }
        }
        (Ok(Written { outcome, native: Some((settings, origin)) }), Some(file)) => {
            let native = Native::from_own_compiler(file, settings, origin);
            Done { outcome, brought: Brought::Native(native) }
        }
        (Ok(Written { native: Some(_), .. }), None) => Err(unreadable(&"it lacks its file")).into(),
        (Err(error), _) => Err(unreadable(&error)).into(),
    })
}
