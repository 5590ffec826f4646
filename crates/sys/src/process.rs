//! Forking, and what a process says about itself to the kernel.
//!
//! A process with threads must never be cloned: the copy would hold locks of threads that do not
//! exist in it. [`SingleThreaded`] is the proof, asked from the kernel, that there are none; the
//! kernel is asked again at every fork, so a thread started after the proof is an error, not a
//! corrupt child.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::pidfd::PidFd;

/// Proof that the calling process has exactly one thread.
///
/// It is neither `Send` nor `Sync`: it belongs to that one thread.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

/// The two returns of a fork.
#[derive(Debug)]
#[must_use = "both sides of a fork must be told apart"]
pub enum Fork {
    /// This is the new process.
    Child,
    /// This is the process that forked.
    Parent {
        /// The child's id in the caller's PID namespace.
        pid: Pid,
        /// A handle of the child that no reuse of its id can mislead.
        pidfd: PidFd,
    },
}

impl SingleThreaded {
    /// Proves that the process has one thread.
    ///
    /// # Errors
    /// When it has more; a thread that was joined a moment ago may still count.
    pub fn prove() -> io::Result<Self> {
        confirm()?;
        Ok(Self(PhantomData))
    }

    /// Forks, placing the child in the given new namespaces.
    ///
    /// `namespaces` may hold `CLONE_NEW*` flags and `CLONE_PARENT` (the child becomes a sibling).
    /// The child runs with a copy of the caller's memory and descriptors; nothing is flushed and
    /// no `atfork` handler runs. It may start threads.
    ///
    /// # Errors
    /// `InvalidInput` for any other flag, an error when the process has got threads since
    /// [`SingleThreaded::prove`], and what clone3(2) says.
    pub fn fork(&self, namespaces: CloneFlags) -> io::Result<Fork> {
        self.fork_into(namespaces, None)
    }

    /// As [`SingleThreaded::fork`]; the child is in `cgroup`, an open folder of version 2, from
    /// its first instant. To move it there later takes a lock against every fork and exit of the
    /// system.
    ///
    /// # Errors
    /// As [`SingleThreaded::fork`]; `EBUSY` for a cgroup that hands controllers down.
    pub fn fork_into(
        &self,
        namespaces: CloneFlags,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> io::Result<Fork> {
        confirm()?;
        if !ALLOWED.contains(namespaces) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot fork with the clone flags {:?}", namespaces - ALLOWED),
            ));
        }
        clone3(namespaces, cgroup)
    }
}

/// What a caller may ask of clone3: no flag that shares memory, files or handlers with the child.
const ALLOWED: CloneFlags = CloneFlags::CLONE_NEWCGROUP
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWUSER)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_PARENT);

/// Asks the kernel whether this is the only thread: unshare(2) of CLONE_THREAD changes nothing
/// and fails with EINVAL unless the caller is single-threaded. Unlike counting /proc/self/task it
/// needs no mounted /proc.
fn confirm() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_THREAD).map_err(|errno| match errno {
        Errno::EINVAL => io::Error::other("the process has more than one thread"),
        other => io::Error::from(other),
    })
}

/// `struct clone_args` in its third version (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The C library's constant has a type that it does not fit in.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

fn clone3(namespaces: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(namespaces.bits().cast_unsigned()) | flag(libc::CLONE_PIDFD),
        pidfd: (&raw mut pidfd).addr() as u64,
        // With CLONE_PARENT the kernel insists on 0: the child inherits the caller's own signal.
        exit_signal: if namespaces.contains(CloneFlags::CLONE_PARENT) {
            0
        } else {
            u64::from(libc::SIGCHLD.cast_unsigned())
        },
        ..CloneArgs::default()
    };
    if let Some(address) = tid_address() {
        // The C library caches the thread id; its own fork() renews the cache this way, and
        // mutexes and pthread_create of the child rely on it.
        args.flags |= flag(libc::CLONE_CHILD_SETTID) | flag(libc::CLONE_CHILD_CLEARTID);
        args.child_tid = address;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is a whole version-2 clone_args and outlives the call; `pidfd` is writable
    // for the kernel. No flag shares memory or a stack, so the child goes on from here in a
    // private copy, as after fork(2), and `confirm` found no other thread whose locks that copy
    // could have caught half way. `child_tid` is null, or the C library's own field for this
    // thread, which the kernel writes in the child's copy only.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match result {
        0 => Ok(Fork::Child),
        -1 => Err(io::Error::last_os_error()),
        pid => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            // SAFETY: clone3 succeeded with CLONE_PIDFD in the parent, so `pidfd` was filled with
            // a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Fork::Parent { pid: Pid::from_raw(pid), pidfd: PidFd::from(pidfd) })
        }
    }
}

fn flag(bits: libc::c_int) -> u64 {
    u64::from(bits.cast_unsigned())
}

/// Returns where the C library keeps this thread's id, or `None` where the kernel cannot say
/// (built without CHECKPOINT_RESTORE): the child's cached id is then stale, which only
/// error-checking and recursive pthread mutexes would notice.
fn tid_address() -> Option<u64> {
    let mut address: u64 = 0;
    // SAFETY: PR_GET_TID_ADDRESS stores one pointer-sized value at `address`, which has room.
    let result = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut address, 0, 0, 0) };
    (result == 0 && address != 0).then_some(address)
}

/// Ends the process at once, without running destructors or exit handlers.
///
/// A forked child must leave this way: the handlers it would run belong to its parent's copy.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes the caller the new parent of orphaned descendants.
///
/// # Errors
/// What prctl(2) says.
pub fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Asks for `signal` when the parent thread ends; `None` takes the request back.
///
/// A parent that ended before the call is not noticed: compare [`nix::unistd::getppid`] after it.
///
/// # Errors
/// What prctl(2) says.
pub fn set_parent_death_signal(signal: Option<Signal>) -> io::Result<()> {
    Ok(prctl::set_pdeathsig(signal)?)
}

/// Names the calling thread as ps(1) shows it: the first 15 bytes of `name`, up to a NUL.
///
/// # Errors
/// What prctl(2) says.
pub fn set_name(name: &str) -> io::Result<()> {
    let bytes: Vec<u8> = name.bytes().take_while(|byte| *byte != 0).take(15).collect();
    Ok(prctl::set_name(&CString::new(bytes)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;
    use crate::pidfd::ExitStatus;

    fn child(single: &SingleThreaded, flags: CloneFlags, body: impl FnOnce() -> i32) -> PidFd {
        match single.fork(flags).expect("fork") {
            Fork::Child => exit_now(body()),
            Fork::Parent { pidfd, .. } => pidfd,
        }
    }

    #[test]
    fn a_process_with_threads_has_no_proof() {
        // The test runner itself has a main thread beside this one.
        assert!(SingleThreaded::prove().is_err());
        in_child(|| assert!(SingleThreaded::prove().is_ok()));
    }

    #[test]
    fn a_thread_started_after_the_proof_stops_the_fork() {
        in_child(|| {
            let single = SingleThreaded::prove().expect("proof");
            let (release, gate) = std::sync::mpsc::channel::<()>();
            let thread = std::thread::spawn(move || gate.recv().is_ok());
            assert!(single.fork(CloneFlags::empty()).is_err());
            drop(release);
            assert!(!thread.join().expect("join"));
        });
    }

    #[test]
    fn flags_that_share_memory_are_refused() {
        in_child(|| {
            let single = SingleThreaded::prove().expect("proof");
            for shared in [CloneFlags::CLONE_VM, CloneFlags::CLONE_FILES, CloneFlags::CLONE_THREAD]
            {
                let error = single.fork(shared).expect_err("must be refused");
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        });
    }

    #[test]
    fn the_child_can_run_threads_and_locks() {
        in_child(|| {
            let single = SingleThreaded::prove().expect("proof");
            let pidfd = child(&single, CloneFlags::empty(), || {
                let total = std::sync::Arc::new(std::sync::Mutex::new(0));
                let threads: Vec<_> = (0..4)
                    .map(|n| {
                        let total = total.clone();
                        std::thread::spawn(move || *total.lock().expect("lock") += n)
                    })
                    .collect();
                threads.into_iter().for_each(|thread| thread.join().expect("join"));
                let sum = *total.lock().expect("lock");
                sum + 10
            });
            assert_eq!(pidfd.wait().expect("wait"), ExitStatus::Exited(16));
        });
    }

    #[test]
    fn the_c_library_knows_the_childs_own_thread_id() {
        in_child(|| {
            let single = SingleThreaded::prove().expect("proof");
            let before = tid_address();
            let pidfd = child(&single, CloneFlags::empty(), || {
                let Some(address) = before else { return 0 };
                let address = usize::try_from(address).expect("a pointer's size");
                let cached = std::ptr::with_exposed_provenance::<i32>(address);
                // SAFETY: the C library keeps an aligned integer there as long as the thread lives.
                let cached = unsafe { cached.read() };
                let is_own = cached == nix::unistd::gettid().as_raw();
                i32::from(!is_own || tid_address() != before)
            });
            assert_eq!(pidfd.wait().expect("wait"), ExitStatus::Exited(0));
            if before.is_none() {
                eprintln!("SKIPPED: needs a kernel with CHECKPOINT_RESTORE");
            }
        });
    }

    #[test]
    fn a_new_pid_namespace_makes_the_child_process_one() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make a PID namespace");
            return;
        }
        in_child(|| {
            let single = SingleThreaded::prove().expect("proof");
            let pidfd = child(&single, CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC, || {
                // Its own forks and threads must work there as well.
                let again = SingleThreaded::prove().expect("proof");
                let inner = child(&again, CloneFlags::empty(), || 7);
                let thread = std::thread::spawn(nix::unistd::getpid).join().expect("join");
                let code = inner.wait().expect("wait").code();
                if thread.as_raw() == 1 { code } else { 1 }
            });
            assert_eq!(pidfd.wait().expect("wait"), ExitStatus::Exited(7));
        });
    }

    #[test]
    fn clone_parent_makes_a_sibling() {
        in_child(|| {
            let single = SingleThreaded::prove().expect("proof");
            let me = nix::unistd::getpid();
            let middle = child(&single, CloneFlags::empty(), || {
                let again = SingleThreaded::prove().expect("proof");
                let sibling = child(&again, CloneFlags::CLONE_PARENT, move || {
                    i32::from(nix::unistd::getppid() == me) + 40
                });
                drop(sibling);
                0
            });
            assert_eq!(middle.wait().expect("wait"), ExitStatus::Exited(0));
            let adopted = nix::sys::wait::wait().expect("the sibling is ours to reap");
            assert!(matches!(adopted, nix::sys::wait::WaitStatus::Exited(_, 41)), "{adopted:?}");
        });
    }

    #[test]
    fn names_are_cut_to_what_the_kernel_keeps() {
        in_child(|| {
            set_name("a-name-of-more-than-fifteen-bytes").expect("set");
            assert_eq!(
                std::fs::read_to_string("/proc/self/comm").expect("comm"),
                "a-name-of-more-\n"
            );
        });
    }

    #[test]
    fn a_subreaper_inherits_orphans() {
        in_child(|| {
            become_subreaper().expect("subreaper");
            let me = nix::unistd::getpid();
            let single = SingleThreaded::prove().expect("proof");
            let middle = child(&single, CloneFlags::empty(), || {
                let again = SingleThreaded::prove().expect("proof");
                drop(child(&again, CloneFlags::empty(), move || {
                    while nix::unistd::getppid() != me {
                        std::thread::yield_now();
                    }
                    3
                }));
                0
            });
            assert_eq!(middle.wait().expect("wait"), ExitStatus::Exited(0));
            let adopted = nix::sys::wait::wait().expect("the orphan is ours to reap");
            assert!(matches!(adopted, nix::sys::wait::WaitStatus::Exited(_, 3)), "{adopted:?}");
        });
    }
}
