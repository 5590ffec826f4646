//! What children say and how they end, and what follows from it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sys::cgroup::Location;
use sys::pidfd::{ExitStatus, PidFd};
use sys::seqpacket::Seqpacket;
use wasm::sandbox::READY;

use crate::child::{Child, Preparing, Then};
use crate::message::{Failure, Reply, Report};
use crate::process::Keeper;
use crate::wasm_side;
use crate::worker::{self, Brought, Done, Holder, Keeps};

/// What is said of a wasm process that ended and left no word.
const SILENT_END: &str = "the process ended before it stood in its sandbox";

impl Keeper {
    /// Reads what a worker or a preparing init has to say.
    pub(crate) fn hear(&mut self, pid: Pid) -> io::Result<()> {
        let Some(child) = self.children.remove(&pid) else {
            return Ok(());
        };
        let next = match child {
            Child::Worker { seq, link: Some(link), then } => match worker::done(&link) {
                Some(done) => {
                    self.children.insert(pid, Child::Spent);
                    return self.worker_done(seq, done, then, Some(link));
                }
                None => Child::Worker { seq, link: None, then },
            },
            Child::Preparing(preparing) => self.hear_wasm(pid, preparing)?,
            other => other,
        };
        self.children.insert(pid, next);
        Ok(())
    }

    /// Reads what a wasm process says once it stands in its sandbox, or why it
    /// does not.
    fn hear_wasm(&self, pid: Pid, preparing: Preparing) -> io::Result<Child> {
        let Preparing { seq, link, pidfd, console, cgroup, holder } = preparing;
        Ok(match link.recv() {
            Ok(Some(said)) if said.body == READY => {
                // First, so that nobody finds it among the container's processes.
                drop(holder);
                let created = Reply::Created { pid: pid.as_raw(), terminal: console.is_some() };
                let fds: Vec<BorrowedFd<'_>> =
                    [pidfd.as_fd()].into_iter().chain(console.as_ref().map(AsFd::as_fd)).collect();
                self.reply(seq, Ok(created), &fds)?;
                Child::Waiting { link }
            }
            Ok(Some(said)) => {
                let why = String::from_utf8_lossy(&said.body).into_owned();
                Child::Doomed { seq, cgroup, why }
            }
            Ok(None) | Err(_) => Child::Doomed { seq, cgroup, why: SILENT_END.to_owned() },
        })
    }

    fn is_making_linux(&self) -> bool {
        self.children
            .values()
            .any(|child| matches!(child, Child::Worker { then: Then::TellCreated, .. }))
    }

    fn worker_done(
        &mut self,
        seq: u64,
        Done { outcome, brought }: Done,
        then: Then,
        link: Option<Seqpacket>,
    ) -> io::Result<()> {
        match (outcome, then) {
            (outcome, Then::TellCreated) => {
                let console = match brought {
                    Brought::Console(console) => Some(console),
                    Brought::Nothing | Brought::Native(_) => None,
                };
                match outcome {
                    Ok(Reply::Created { pid, .. }) => {
                        self.linux_made(seq, Pid::from_raw(pid), console)?;
                    }
                    outcome => self.reply(seq, outcome, &[])?,
                }
                if !self.is_making_linux() {
                    self.early_exits.clear();
                }
                Ok(())
            }
            (outcome, Then::Answer) => self.reply(seq, outcome, &[]),
            (Ok(_), Then::Fail { why }) => self.reply(seq, Err(Failure::Failed(why)), &[]),
            (Err(left), Then::Fail { why }) => {
                self.reply(seq, Err(Failure::Lost(format!("{why}; and then: {left}"))), &[])
            }
            (Ok(_), Then::Launch(order)) => {
                let side = self.wasm.as_mut().expect("the compilation was its");
                let launched = side
                    .adopt(brought, &order)
                    .and_then(|prepared| self.launch(seq, order, &prepared));
                match launched {
                    Ok(()) => Ok(()),
                    Err(failure) => self.reply(seq, Err(failure), &[]),
                }
            }
            (Ok(_), Then::Enter(order)) => {
                let holder = link.map(Holder::new);
                let side = self.wasm.as_mut().expect("its module is prepared");
                let cgroup = order.own_cgroup().cloned();
                let cloned = side
                    .prepare(&order)
                    .and_then(|prepared| self.clone_wasm(seq, order, &prepared, holder));
                match cloned {
                    Ok(()) => Ok(()),
                    // Its scope stood, and goes now that nothing holds it open.
                    Err(failure) => self.not_made(seq, cgroup, failure.to_string()),
                }
            }
            (Err(failure), Then::Launch(_) | Then::Enter(_)) => self.reply(seq, Err(failure), &[]),
        }
    }

    fn linux_made(&mut self, seq: u64, pid: Pid, console: Option<OwnedFd>) -> io::Result<()> {
        let created = Ok(Reply::Created { pid: pid.as_raw(), terminal: console.is_some() });
        let console = console.as_ref().map(AsFd::as_fd);
        if let Some(status) = self.early_exits.remove(&pid) {
            self.reply(seq, created, console.as_slice())?;
            return self.tell(&Report::Exited { pid: pid.as_raw(), status }, &[]);
        }
        // Not reaped yet, for only this loop reaps: the number is still this process's.
        self.children.insert(pid, Child::Running);
        match PidFd::open(pid) {
            Ok(pidfd) => {
                let fds: Vec<BorrowedFd<'_>> = [pidfd.as_fd()].into_iter().chain(console).collect();
                self.reply(seq, created, &fds)
            }
            Err(error) => {
                // Nobody could ever address it. It is not reaped, so it is still this one.
                nix::sys::signal::kill(pid, Signal::SIGKILL)?;
                let why = format!("cannot open the container's process {pid}: {error}");
                self.reply(seq, Err(Failure::Lost(why)), &[])
            }
        }
    }

    /// Acts on the end of a child.
    pub(crate) fn ended(&mut self, pid: Pid, status: ExitStatus) -> io::Result<()> {
        match self.children.remove(&pid) {
            Some(Child::Running | Child::Waiting { .. }) => {
                self.tell(&Report::Exited { pid: pid.as_raw(), status }, &[])
            }
            Some(Child::Spent) => Ok(()),
            Some(Child::Worker { seq, link, then }) => match link.as_ref().and_then(worker::done) {
                Some(done) => self.worker_done(seq, done, then, link),
                None => {
                    let failure = silent(&then, status);
                    self.worker_done(seq, Err(failure).into(), then, None)
                }
            },
            Some(Child::Preparing(Preparing { seq, link, cgroup, holder, .. })) => {
                drop(holder);
                let why = match link.recv() {
                    Ok(Some(said)) if said.body != READY => {
                        String::from_utf8_lossy(&said.body).into_owned()
                    }
                    _ => format!("{SILENT_END} ({status})"),
                };
                self.not_made(seq, cgroup, why)
            }
            Some(Child::Doomed { seq, cgroup, why }) => self.not_made(seq, cgroup, why),
            None => {
                // A bare id means nothing once it can belong to a later process.
                if self.is_making_linux() {
                    self.early_exits.insert(pid, status);
                }
                Ok(())
            }
        }
    }

    /// Answers for a wasm process that ended before it stood in its sandbox; for an
    /// init once its cgroup is gone, which may take a while.
    fn not_made(&mut self, seq: u64, cgroup: Option<Location>, why: String) -> io::Result<()> {
        let Some(cgroup) = cgroup else {
            return self.reply(seq, Err(Failure::Failed(why)), &[]);
        };
        let job = || {
            sys::cgroup::remove(&cgroup)
                .map(|()| Reply::Done)
                .map_err(|error| Failure::Failed(sys::error::chain(&error)))
                .into()
        };
        let then = Then::Fail { why: why.clone() };
        match self.start_worker(seq, then, Keeps::All, job) {
            Ok(()) => Ok(()),
            Err(left) => {
                self.reply(seq, Err(Failure::Lost(format!("{why}; and then: {left}"))), &[])
            }
        }
    }
}

/// Says what it means that a worker ended without a report.
fn silent(then: &Then, status: ExitStatus) -> Failure {
    let exceeded = match then {
        // It makes nothing but native code, which nobody has when it is not handed over.
        Then::Launch(_) => wasm_side::compile_bounds().exceeded(status),
        Then::Answer | Then::Fail { .. } | Then::TellCreated | Then::Enter(_) => None,
    };
    exceeded.map_or_else(
        || Failure::Lost(format!("a worker process ended without a report ({status})")),
        Failure::Failed,
    )
}
