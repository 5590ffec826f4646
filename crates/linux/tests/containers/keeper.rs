//! Calls the crate in worker processes, as the keeper does, and reaps.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe};
use sys::error::chain;
use sys::process::{Fork, SingleThreaded, exit_now};

/// Runs `call` in a worker and returns what it answers, or its error with all causes.
pub(crate) fn in_worker<E: std::error::Error>(
    call: impl FnOnce() -> Result<i32, E>,
) -> Result<i32, String> {
    let (answer, tell) = pipe().unwrap();
    match SingleThreaded::prove().unwrap().fork(CloneFlags::empty()).unwrap() {
        Fork::Child => {
            let text = match call() {
                Ok(number) => format!("+{number}"),
                Err(error) => format!("-{}", chain(&error)),
            };
            File::from(tell).write_all(text.as_bytes()).unwrap();
            exit_now(0)
        }
        Fork::Parent { pid, .. } => {
            drop(tell);
            let mut text = String::new();
            waitpid(pid, None).unwrap();
            File::from(answer).read_to_string(&mut text).unwrap();
            match text.split_at_checked(1) {
                Some(("+", number)) => Ok(number.parse().unwrap()),
                Some((_, error)) => Err(error.to_owned()),
                None => panic!("the worker died without an answer"),
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
    match waitpid(pid, None).unwrap() {
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
