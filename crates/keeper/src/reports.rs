//! What children say and how they end, and what follows from it.

use std::io;
use std::os::fd::AsFd;

use nix::unistd::Pid;
use sys::cgroup::Location;
use sys::pidfd::{ExitStatus, PidFd};
use sys::seqpacket::Seqpacket;
use wasm::sandbox::READY;

use crate::child::{Child, Then};
use crate::message::{Failure, Reply, Report};
use crate::process::Keeper;
use crate::worker::{self, Holder, Keeps, Outcome};

/// What is said of an init that ended and left no word.
const SILENT_END: &str = "the container's process ended while it built its sandbox";

impl Keeper {
    /// Reads what a worker or a preparing init has to say.
    pub(crate) fn hear(&mut self, pid: Pid) -> io::Result<()> {
        let Some(child) = self.children.remove(&pid) else {
            return Ok(());
        };
        let next = match child {
            Child::Worker { seq, link: Some(link), then } => match worker::outcome(&link) {
                Some(outcome) => {
                    self.children.insert(pid, Child::Spent);
                    return self.worker_done(seq, outcome, then, Some(link));
                }
                None => Child::Worker { seq, link: None, then },
            },
            Child::Preparing { seq, link, pidfd, cgroup, holder } => match link.recv() {
                Ok(Some(said)) if said.body == READY => {
                    // First, so that nobody finds it among the container's processes.
                    drop(holder);
                    let created = Reply::Created { pid: pid.as_raw() };
                    self.reply(seq, Ok(created), Some(pidfd.as_fd()))?;
                    Child::Waiting { link }
                }
                Ok(Some(said)) => {
                    let why = String::from_utf8_lossy(&said.body).into_owned();
                    Child::Doomed { seq, cgroup, why }
                }
                Ok(None) | Err(_) => Child::Doomed { seq, cgroup, why: SILENT_END.to_owned() },
            },
            other => other,
        };
        self.children.insert(pid, next);
        Ok(())
    }

    fn is_creating_linux(&self) -> bool {
        self.children
            .values()
            .any(|child| matches!(child, Child::Worker { then: Then::TellCreated, .. }))
    }

    fn worker_done(
        &mut self,
        seq: u64,
        outcome: Outcome,
        then: Then,
        link: Option<Seqpacket>,
    ) -> io::Result<()> {
        match (outcome, then) {
            (outcome, Then::TellCreated) => {
                match outcome {
                    Ok(Reply::Created { pid }) => self.linux_created(seq, Pid::from_raw(pid))?,
                    outcome => self.reply(seq, outcome, None)?,
                }
                if !self.is_creating_linux() {
                    self.early_exits.clear();
                }
                Ok(())
            }
            (outcome, Then::Answer) => self.reply(seq, outcome, None),
            (Ok(_), Then::Fail { why }) => self.reply(seq, Err(Failure::Failed(why)), None),
            (Err(left), Then::Fail { why }) => {
                self.reply(seq, Err(Failure::Lost(format!("{why}; and then: {left}"))), None)
            }
            (Ok(_), Then::Launch { create, stdio }) => {
                let side = self.wasm.as_mut().expect("the compilation was its");
                let launched = side
                    .prepare(&create.module)
                    .and_then(|prepared| self.launch(seq, create, &prepared, stdio));
                match launched {
                    Ok(()) => Ok(()),
                    Err(failure) => self.reply(seq, Err(failure), None),
                }
            }
            (Ok(_), Then::Enter { create, stdio }) => {
                let holder = link.map(Holder::new);
                let side = self.wasm.as_mut().expect("its module is prepared");
                let cloned = side
                    .prepare(&create.module)
                    .and_then(|prepared| self.clone_init(seq, &create, &prepared, stdio, holder));
                match cloned {
                    Ok(()) => Ok(()),
                    // Its scope stood, and goes now that nothing holds it open.
                    Err(failure) => {
                        self.not_created(seq, &create.sandbox.cgroup, failure.to_string())
                    }
                }
            }
            (Err(failure), Then::Launch { .. } | Then::Enter { .. }) => {
                self.reply(seq, Err(failure), None)
            }
        }
    }

    fn linux_created(&mut self, seq: u64, pid: Pid) -> io::Result<()> {
        let created = Ok(Reply::Created { pid: pid.as_raw() });
        if let Some(status) = self.early_exits.remove(&pid) {
            self.reply(seq, created, None)?;
            return self.tell(&Report::Exited { pid: pid.as_raw(), status }, None);
        }
        // Not reaped yet, for only this loop reaps: the number is still this process's.
        self.children.insert(pid, Child::Running);
        match PidFd::open(pid) {
            Ok(pidfd) => self.reply(seq, created, Some(pidfd.as_fd())),
            Err(error) => {
                let why = format!("cannot open the container's process {pid}: {error}");
                self.reply(seq, Err(Failure::Lost(why)), None)
            }
        }
    }

    /// Acts on the end of a child.
    pub(crate) fn ended(&mut self, pid: Pid, status: ExitStatus) -> io::Result<()> {
        match self.children.remove(&pid) {
            Some(Child::Running | Child::Waiting { .. }) => {
                self.tell(&Report::Exited { pid: pid.as_raw(), status }, None)
            }
            Some(Child::Spent) => Ok(()),
            Some(Child::Worker { seq, link, then }) => {
                match link.as_ref().and_then(worker::outcome) {
                    Some(outcome) => self.worker_done(seq, outcome, then, link),
                    None => {
                        let why = format!("a worker process ended without a report ({status})");
                        self.worker_done(seq, Err(Failure::Lost(why)), then, None)
                    }
                }
            }
            Some(Child::Preparing { seq, link, cgroup, holder, .. }) => {
                drop(holder);
                let why = match link.recv() {
                    Ok(Some(said)) if said.body != READY => {
                        String::from_utf8_lossy(&said.body).into_owned()
                    }
                    _ => format!("{SILENT_END} ({status})"),
                };
                self.not_created(seq, &cgroup, why)
            }
            Some(Child::Doomed { seq, cgroup, why }) => self.not_created(seq, &cgroup, why),
            None => {
                // A bare id means nothing once it can belong to a later process.
                if self.is_creating_linux() {
                    self.early_exits.insert(pid, status);
                }
                Ok(())
            }
        }
    }

    /// Answers a wasm create whose init ended before its sandbox stood, once its
    /// cgroup is gone, which may take a while.
    fn not_created(&mut self, seq: u64, cgroup: &Location, why: String) -> io::Result<()> {
        let job = || {
            sys::cgroup::remove(cgroup)
                .map(|()| Reply::Done)
                .map_err(|error| Failure::Failed(sys::error::chain(&error)))
        };
        let then = Then::Fail { why: why.clone() };
        match self.start_worker(seq, then, Keeps::All, job) {
            Ok(()) => Ok(()),
            Err(left) => {
                self.reply(seq, Err(Failure::Lost(format!("{why}; and then: {left}"))), None)
            }
        }
    }
}
