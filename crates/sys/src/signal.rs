//! Signals of the keeper, its workers and a guest's init process.

use std::io;

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocks the signals and returns a nonblocking, close-on-exec descriptor that delivers them.
///
/// # Errors
/// What sigprocmask(2) and signalfd(2) say.
pub fn signalfd(signals: &[Signal]) -> io::Result<SignalFd> {
    block(signals)?;
    Ok(SignalFd::with_flags(&set(signals), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Blocks the signals for the calling thread and for the threads it starts.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set(signals)), None)?)
}

/// Has a program begin with no signal blocked, whatever this process blocks. The standard library
/// lets it inherit that, so that SIGTERM would not reach it.
pub fn unblocked_in(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let unblock = || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?);
    // SAFETY: sigprocmask(2) and sigemptyset(3) are async-signal-safe, and neither they nor the
    // conversion of an errno allocate or lock.
    unsafe { command.pre_exec(unblock) };
}

fn set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// The signals by which the engine learns that a guest has trapped; their handlers are its own.
const TRAPS: [libc::c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// Gives a freshly forked child the signals of a new program: every handler is the default one
/// again and nothing is blocked. The handlers of SIGSEGV, SIGBUS, SIGILL and SIGFPE stay, because
/// the engine, if the parent has one, needs them in the child too.
///
/// # Errors
/// What sigaction(2) and sigprocmask(2) say.
pub fn reset_for_child() -> io::Result<()> {
    for number in (1..=libc::SIGRTMAX()).filter(|number| !TRAPS.contains(number)) {
        match number {
            libc::SIGKILL | libc::SIGSTOP => {}
            // Two numbers below SIGRTMIN belong to the C library, which refuses to hand them out.
            reserved if reserved > libc::SIGSYS && reserved < libc::SIGRTMIN() => {}
            _ => install(number, libc::SIG_DFL)?,
        }
    }
    // First the handlers, then the mask: a signal that is already pending must not meet a handler
    // of the parent's.
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Ignores SIGPIPE, so that a write to a pipe nobody reads is an error and not the end.
///
/// # Errors
/// What sigaction(2) says.
pub fn ignore_broken_pipes() -> io::Result<()> {
    install(libc::SIGPIPE, libc::SIG_IGN)
}

/// Every signal of the standard ones that ends a process by default and that nobody here handles.
const TERMINATING: [libc::c_int; 16] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSYS,
];

/// Makes every signal that ends an ordinary process end this one, with code 128 + signal.
///
/// The first process of a PID namespace ignores a signal it has no handler for, so a guest would
/// outlive its SIGTERM. SIGPIPE and SIGXFSZ are ignored instead: a write to a closed pipe or past
/// the file size limit is an error the guest is told about, and not its end.
///
/// # Errors
/// What sigaction(2) says.
pub fn exit_on_termination_signals() -> io::Result<()> {
    let handler = exit_with_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for number in TERMINATING.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
        install(number, handler)?;
    }
    for ignored in [Signal::SIGPIPE, Signal::SIGXFSZ] {
        let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { sigaction(ignored, &action) }?;
    }
    Ok(())
}

extern "C" fn exit_with_signal(signal: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and does not return, so it does not matter what the
    // signal has interrupted.
    unsafe { libc::_exit(128 + signal) }
}

/// Sets the disposition of one signal by number: nix knows no real-time signals.
fn install(number: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid: SIG_DFL, an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // On its own stack where the thread has one: the guest's may be nearly used up.
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `handler` is SIG_DFL or `exit_with_signal`, an extern "C" function of one integer
    // that does only what is async-signal-safe; the old action may be a null pointer.
    let result = unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;
    use crate::pidfd::{ExitStatus, PidFd};
    use crate::process::{Fork, SingleThreaded, exit_now};
    use nix::sched::CloneFlags;
    use nix::sys::signal::raise;

    /// Runs `body` as the first process of a PID namespace, signals it once it is ready, and
    /// tells how it ended; a process that a signal did not end exits with 99.
    fn init_that_gets(signal: i32, body: fn() -> io::Result<()>) -> ExitStatus {
        let (ours, theirs) = crate::seqpacket::Seqpacket::pair().expect("pair");
        let single = SingleThreaded::prove().expect("proof");
        let pidfd: PidFd = match single.fork(CloneFlags::CLONE_NEWPID).expect("fork") {
            Fork::Child => {
                drop(ours);
                if body().is_err() || theirs.send(b"ready", &[]).is_err() {
                    exit_now(98);
                }
                // The parent closes its end when the signal is sent.
                let _end = theirs.recv();
                exit_now(99)
            }
            Fork::Parent { pidfd, .. } => pidfd,
        };
        drop(theirs);
        assert_eq!(ours.recv().expect("receive").expect("ready").body, b"ready");
        pidfd.send_signal(signal).expect("signal");
        drop(ours);
        pidfd.wait().expect("wait")
    }

    fn needs_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("SKIPPED: needs root to make a PID namespace");
        }
        root
    }

    #[test]
    fn the_first_process_of_a_namespace_ends_on_every_terminating_signal() {
        if !needs_root() {
            return;
        }
        in_child(|| {
            for signal in TERMINATING.into_iter().chain([libc::SIGRTMIN(), libc::SIGRTMAX()]) {
                let status = init_that_gets(signal, exit_on_termination_signals);
                assert_eq!(status, ExitStatus::Exited(128 + signal));
            }
        });
    }

    #[test]
    fn without_the_handlers_it_would_live_on() {
        if !needs_root() {
            return;
        }
        in_child(|| {
            let status = init_that_gets(libc::SIGTERM, reset_for_child);
            assert_eq!(status, ExitStatus::Exited(99));
        });
    }

    #[test]
    fn a_closed_pipe_is_an_error_and_not_the_end() {
        in_child(|| {
            reset_for_child().expect("reset");
            exit_on_termination_signals().expect("install");
            let (reader, writer) = nix::unistd::pipe().expect("pipe");
            drop(reader);
            assert_eq!(nix::unistd::write(writer, b"x"), Err(nix::errno::Errno::EPIPE));
        });
    }

    #[test]
    fn a_child_starts_with_default_handlers_and_nothing_blocked() {
        in_child(|| {
            let read = signalfd(&[Signal::SIGUSR1, Signal::SIGTERM]).expect("signalfd");
            exit_on_termination_signals().expect("install");
            assert_ne!(masks("SigBlk"), 0);
            reset_for_child().expect("reset");
            assert_eq!(masks("SigBlk"), 0);
            assert_eq!(masks("SigCgt") & !untouched(), 0);
            assert_eq!(masks("SigIgn") & !untouched(), 0);
            drop(read);
        });
    }

    #[test]
    fn signals_arrive_by_descriptor() {
        in_child(|| {
            let read = signalfd(&[Signal::SIGUSR1]).expect("signalfd");
            assert!(read.read_signal().expect("read").is_none());
            raise(Signal::SIGUSR1).expect("raise");
            let info = read.read_signal().expect("read").expect("a signal");
            assert_eq!(info.ssi_signo, libc::SIGUSR1.cast_unsigned());
        });
    }

    /// The engine's signals, and the two that belong to the C library.
    fn untouched() -> u64 {
        TRAPS.into_iter().chain([32, 33]).map(|number| 1 << (number - 1)).sum()
    }

    fn masks(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("field");
        u64::from_str_radix(line.split_whitespace().nth(1).expect("mask"), 16).expect("hex")
    }

    #[test]
    fn a_program_begins_with_nothing_blocked_only_when_that_is_asked_for() {
        in_child(|| {
            block(&[Signal::SIGTERM]).expect("blocked");
            let blocked = |change: fn(&mut std::process::Command)| {
                let mut grep = std::process::Command::new("grep");
                grep.args(["SigBlk", "/proc/self/status"]);
                change(&mut grep);
                String::from_utf8(grep.output().expect("run").stdout).expect("text")
            };
            assert!(blocked(|_| {}).ends_with("4000\n"), "{}", blocked(|_| {}));
            assert_eq!(blocked(unblocked_in), "SigBlk:\t0000000000000000\n");
        });
    }
}
