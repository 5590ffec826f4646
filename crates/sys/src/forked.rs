//! For tests only: runs a test's body in a forked child, where it may prove that it is
//! single-threaded and change its signals, descriptors and privileges for good.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Runs `body` in a child and panics unless it returned normally.
#[track_caller]
pub(crate) fn in_child(body: impl FnOnce()) {
    let status = waitpid(spawn(body), None).expect("wait for the test's child");
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "the test's child ended with {status:?}");
}

/// Starts `body` in a child, which exits with 0 when it returns and 101 when it panics.
pub(crate) fn spawn(body: impl FnOnce()) -> Pid {
    // SAFETY: the child has only this thread. The test runner's other threads could hold the C
    // library's locks, which its fork() takes and releases for us, and the test runner's own
    // locks, which the body never takes: output of a test goes to a buffer of that test.
    match unsafe { fork() }.expect("fork the test's child") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(()) => 0,
                Err(panic) => {
                    report(panic.as_ref());
                    101
                }
            };
            crate::process::exit_now(code)
        }
    }
}

/// Says on the real standard error why the child failed; the captured one dies with the child.
fn report(panic: &(dyn std::any::Any + Send)) {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic without a message");
    let line = format!("test child: {text}\n");
    // A child that has no standard error left is still seen by its exit code.
    let _written = nix::unistd::write(std::io::stderr().as_fd(), line.as_bytes());
}
