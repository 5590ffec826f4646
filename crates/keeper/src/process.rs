//! The keeper's loop: waits for requests ([`crate::calls`]), for what children say
//! and for their ends ([`crate::reports`]).
//!
//! A wasm process goes through `Preparing`, `Waiting` and `Running`; a Linux one is
//! made by a worker and known from that worker's report on. The server always hears
//! of a process before its exit.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use sys::pidfd::ExitStatus;
use sys::process::SingleThreaded;
use sys::seqpacket::Seqpacket;
use sys::title::TitleMap;

use crate::Place;
use crate::child::Child;
use crate::message::Report;
use crate::wasm_side::WasmSide;
use crate::worker::Outcome;

/// Serves the server at the other end of `socket` until it goes.
pub(crate) fn serve(socket: Seqpacket, single: SingleThreaded, place: Place) -> ! {
    let code = match Keeper::new(socket, single, place).and_then(|mut keeper| keeper.run()) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("the keeper stops: {error}");
            1
        }
    };
    sys::process::exit_now(code)
}

/// What one round of waiting found readable.
struct Ready {
    socket: bool,
    signals: bool,
    children: Vec<Pid>,
}

pub(crate) struct Keeper {
    pub(crate) socket: Seqpacket,
    pub(crate) single: SingleThreaded,
    pub(crate) title: TitleMap,
    pub(crate) signals: SignalFd,
    pub(crate) children: HashMap<Pid, Child>,
    /// Ends of processes nobody knows, while a worker makes a Linux process: that
    /// can end before the worker's report is read.
    pub(crate) early_exits: HashMap<Pid, ExitStatus>,
    pub(crate) place: Place,
    pub(crate) wasm: Option<WasmSide>,
}

impl Keeper {
    fn new(socket: Seqpacket, single: SingleThreaded, place: Place) -> io::Result<Self> {
        sys::process::set_name("hybrid-keeper")?;
        sys::process::become_subreaper()?;
        Ok(Self {
            socket,
            single,
            title: sys::title::remember()?,
            signals: sys::signal::signalfd(&[Signal::SIGCHLD])?,
            children: HashMap::new(),
            early_exits: HashMap::new(),
            place,
            wasm: None,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            // Reports are read before exits are reaped, so that a child's last
            // words are heard before its end is told.
            for pid in ready.children {
                self.hear(pid)?;
            }
            if ready.signals {
                while self.signals.read_signal()?.is_some() {}
                while let Some((pid, status)) = sys::pidfd::reap_any()? {
                    self.ended(pid, status)?;
                }
            }
            if ready.socket {
                match self.socket.recv() {
                    Ok(Some(message)) => self.serve_call(message)?,
                    Ok(None) => return self.abandon(),
                    // One message that can't be taken is no reason to leave all
                    // other containers alone.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        log::error!("a request of the server is lost: {error}");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let links: Vec<(Pid, BorrowedFd<'_>)> = self
            .children
            .iter()
            .filter_map(|(pid, child)| child.link().map(|link| (*pid, link.as_fd())))
            .collect();
        let mut polled = vec![
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        polled.extend(links.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)));
        while let Err(errno) = nix::poll::poll(&mut polled, PollTimeout::NONE) {
            if errno != nix::errno::Errno::EINTR {
                return Err(errno.into());
            }
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(Ready {
            socket: is_ready(&polled[0]),
            signals: is_ready(&polled[1]),
            children: links
                .iter()
                .zip(&polled[2..])
                .filter(|(_, fd)| is_ready(fd))
                .map(|((pid, _), _)| *pid)
                .collect(),
        })
    }

    /// Ends what is being made: with the server gone nobody would start it.
    /// Containers that run go on; whoever deletes them finds them by their cgroup.
    fn abandon(&mut self) -> io::Result<()> {
        for (pid, child) in &self.children {
            match child {
                Child::Running => {}
                Child::Worker { .. }
                | Child::Spent
                | Child::Preparing(_)
                | Child::Doomed { .. }
                | Child::Waiting { .. } => nix::sys::signal::kill(*pid, Signal::SIGKILL)?,
            }
        }
        self.children.retain(|_, child| !matches!(child, Child::Running));
        // Not before they are gone may anyone believe that nothing is made any more.
        for pid in self.children.keys() {
            nix::sys::wait::waitpid(*pid, None)?;
        }
        Ok(())
    }

    pub(crate) fn reply(
        &self,
        seq: u64,
        outcome: Outcome,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.tell(&Report::Reply { seq, outcome }, fds)
    }

    pub(crate) fn tell(&self, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket.send(&serde_json::to_vec(report)?, fds)
    }
}
