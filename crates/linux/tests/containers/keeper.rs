//! Calls the crate in worker processes, as the keeper does, and reaps.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use linux::Made;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sys::error::chain;
use sys::process::{Fork, SingleThreaded, exit_now};
use sys::seqpacket::Seqpacket;

/// Runs `call` in a worker and returns what it answers, or its error with all causes.
pub(crate) fn in_worker<E: std::error::Error>(
    call: impl FnOnce() -> Result<i32, E>,
) -> Result<i32, String> {
    let made = || call().map(|number| Made { pid: Pid::from_raw(number), console: None });
    make(made).map(|made| made.pid.as_raw())
}

/// Runs a `call` that makes a process in a worker.
pub(crate) fn make<E: std::error::Error>(
    call: impl FnOnce() -> Result<Made, E>,
) -> Result<Made, String> {
    let (link, tell) = Seqpacket::pair().unwrap();
    match SingleThreaded::prove().unwrap().fork(CloneFlags::empty()).unwrap() {
        Fork::Child => {
            drop(link);
            let (text, console) = match call() {
                Ok(Made { pid, console }) => (format!("+{pid}"), console),
                Err(error) => (format!("-{}", chain(&error)), None),
            };
            let console = console.as_ref().map(AsFd::as_fd);
            tell.send(text.as_bytes(), console.as_slice()).unwrap();
            exit_now(0)
        }
        Fork::Parent { pid, .. } => {
            drop(tell);
            let said = link.recv().unwrap();
            waitpid(pid, None).unwrap();
            let mut said = said.expect("the worker died without an answer");
            let text = String::from_utf8(said.body).unwrap();
            match text.split_at_checked(1) {
                Some(("+", number)) => {
                    let pid = Pid::from_raw(number.parse().unwrap());
                    Ok(Made { pid, console: said.fds.pop() })
                }
                Some((_, error)) => Err(error.to_owned()),
                None => panic!("an empty answer"),
            }
        }
    }
}

/// Forks a worker that nobody asks for an answer.
pub(crate) fn fork<E>(call: impl FnOnce() -> Result<(), E>) -> Pid {
    match SingleThreaded::prove().unwrap().fork(CloneFlags::empty()).unwrap() {
        Fork::Child => exit_now(i32::from(call().is_err())),
        Fork::Parent { pid, .. } => pid,
    }
}

/// Waits for all children: they must end by themselves.
pub(crate) fn reap_all() {
    let deadline = Instant::now() + Duration::from_secs(5);
    while children_alive() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a child and returns its exit code, 128 + n for signal n.
pub(crate) fn wait(pid: Pid) -> i32 {
    code_of(waitpid(pid, None).unwrap())
}

/// Reaps children until `pid` is among them, and returns their exit codes. The first
/// process of a pid namespace does not end before all others in it are reaped.
pub(crate) fn reap_until(pid: Pid) -> HashMap<Pid, i32> {
    let mut ended = HashMap::new();
    while !ended.contains_key(&pid) {
        let status = waitpid(None, None).unwrap();
        ended.insert(status.pid().unwrap(), code_of(status));
    }
    ended
}

fn code_of(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("unexpected {other:?}"),
    }
}

/// Reaps everything that has ended and says how many children are still alive.
pub(crate) fn children_alive() -> usize {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => break,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return 0,
            Err(error) => panic!("{error}"),
        }
    }
    let me = std::process::id();
    let children = format!("/proc/self/task/{me}/children");
    std::fs::read_to_string(children).unwrap().split_whitespace().count()
}

pub(crate) fn is_my_child(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.contains(&format!("\nPPid:\t{}\n", std::process::id()))
}

pub(crate) fn read_all(from: OwnedFd) -> String {
    let mut text = String::new();
    File::from(from).read_to_string(&mut text).unwrap();
    text
}
