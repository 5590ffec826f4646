//! The system calls that the engine needs to run a guest in a finished sandbox, and no others.
//!
//! The filter is the last wall: should a guest ever take over its process, it still cannot execute
//! a program, make memory executable, open a socket, trace, mount or load anything. It is made once,
//! in the keeper, and installed in each container's init just before the guest starts. A call
//! outside the list fails with EPERM instead of killing the guest, so that an unforeseen path in a
//! library shows as an error with a cause.

use sys::seccomp::{Filter, FilterError, Rule};

/// Calls that are allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    // Memory; mmap and mprotect follow below.
    "brk", "munmap", "mremap", "madvise", "membarrier",
    // Time, waiting, randomness.
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    "futex", "sched_yield", "sched_getaffinity", "getrandom", "restart_syscall",
    // The async runtime.
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2",
    "timerfd_create", "timerfd_settime", "poll", "ppoll",
    // Descriptors.
    "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev",
    "pwritev2", "lseek", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fsync",
    "fdatasync", "ftruncate", "fallocate", "fadvise64",
    // Paths, from a directory that the sandbox left within reach.
    "openat", "openat2", "statx", "stat", "lstat", "fstat", "newfstatat", "fstatfs", "readlink",
    "readlinkat", "getdents64", "mkdirat", "unlinkat", "renameat", "renameat2", "linkat",
    "symlinkat", "utimensat", "faccessat", "faccessat2", "getcwd",
    // Signals and the process's own identity. The handlers for traps are installed already.
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "getpid", "getppid", "gettid",
    "tgkill", "getuid", "geteuid", "getgid", "getegid", "getrlimit", "prlimit64", "getrusage",
    "uname", "sysinfo", "set_tid_address", "set_robust_list", "rseq",
    // The end.
    "exit", "exit_group",
];

/// What a server does with the one socket that it was given, and with the clients that come in by
/// it. None of these makes a socket or reaches out by one: there is no socket(2), connect(2) or
/// bind(2), and no sendmsg(2), whose address no filter can see.
const SERVING: &[&str] = &["listen", "accept4", "getsockname", "recvfrom", "shutdown", "signalfd4"];

/// Builds the filter of a guest that is no server.
///
/// # Errors
/// When libseccomp cannot translate it for this machine.
pub fn engine_filter() -> Result<Filter, FilterError> {
    Filter::allow_only(&rules())
}

/// Builds the filter of a server: as the other's, and what serving takes.
///
/// # Errors
/// As [`engine_filter`].
pub fn server_filter() -> Result<Filter, FilterError> {
    let mut rules = rules();
    rules.extend(SERVING.iter().copied().map(Rule::Allow));
    rules.extend([
        // Without an address: with one and the right flag, a socket that is not connected would be.
        Rule::AllowMaskedArg { name: "sendto", arg: 4, mask: u64::MAX, value: 0 },
        // What a connection and the end of the server need, whatever level they are asked of.
        exactly("setsockopt", 2, number(libc::TCP_NODELAY)),
        exactly("setsockopt", 2, number(libc::IP_MINTTL)),
        exactly("setsockopt", 2, number(libc::IPV6_MINHOPCOUNT)),
    ]);
    Filter::allow_only(&rules)
}

fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = ALLOWED.iter().copied().map(Rule::Allow).collect();
    rules.extend(conditional());
    rules
}

fn number(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// An argument that is an int: what the upper half of the register holds means nothing.
fn exactly(name: &'static str, arg: u32, value: u64) -> Rule {
    Rule::AllowMaskedArg { name, arg, mask: u64::from(u32::MAX), value }
}

/// Calls that are allowed with some arguments only.
fn conditional() -> Vec<Rule> {
    let masked = |name, arg, mask: i32, value: i32| Rule::AllowMaskedArg {
        name,
        arg,
        mask: number(mask),
        value: number(value),
    };
    vec![
        // All native code is mapped before the guest starts: nothing becomes executable any more.
        masked("mmap", 2, libc::PROT_EXEC, 0),
        masked("mprotect", 2, libc::PROT_EXEC, 0),
        // A thread, never a process. clone3 hides its flags in memory, where no filter can look;
        // libc falls back to clone.
        masked("clone", 0, libc::CLONE_THREAD, libc::CLONE_THREAD),
        Rule::Errno("clone3", libc::ENOSYS),
        // The runtime's signal driver opens a pair; it leads nowhere but to itself.
        exactly("socketpair", 0, number(libc::AF_UNIX)),
        exactly("ioctl", 1, libc::FIONREAD),
        exactly("ioctl", 1, libc::TCGETS),
        exactly("ioctl", 1, libc::TIOCGWINSZ),
        exactly("prctl", 0, number(libc::PR_SET_NAME)),
        exactly("prctl", 0, number(libc::PR_SET_VMA)),
    ]
}
