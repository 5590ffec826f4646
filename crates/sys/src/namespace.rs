//! Entering, leaving and preparing Linux namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstatat;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::mount::{Tree, pivot_into_fd};
use crate::pidfd::PidFd;
use crate::process::{Fork, SingleThreaded, exit_now};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Process ids.
    Pid,
    /// Network devices, addresses and ports.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// Mounts.
    Mount,
    /// The view of the cgroup hierarchies.
    Cgroup,
    /// User and group ids, capabilities.
    User,
}

impl Kind {
    /// The flag of clone(2), setns(2) and unshare(2).
    #[must_use]
    pub fn flag(self) -> CloneFlags {
        match self {
            Self::Pid => CloneFlags::CLONE_NEWPID,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::Mount => CloneFlags::CLONE_NEWNS,
            Self::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            Self::User => CloneFlags::CLONE_NEWUSER,
        }
    }

    /// The name of its file in `/proc/PID/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
            Self::User => "user",
        }
    }
}

/// Joins the namespace that `path` holds. For [`Kind::Pid`] it is the children
/// made from now on that are in it, not this process.
///
/// # Errors
/// Those of open(2) and setns(2): `EINVAL` when the file is no namespace of
/// this kind.
pub fn enter(kind: Kind, path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, kind.flag())?)
}

/// Every kind that setns(2) knows, with its file in `/proc/PID/ns`.
const ALL: [(CloneFlags, &str); 8] = [
    (CloneFlags::CLONE_NEWUSER, "user"),
    (CloneFlags::CLONE_NEWNS, "mnt"),
    (CloneFlags::CLONE_NEWPID, "pid"),
    (CloneFlags::CLONE_NEWNET, "net"),
    (CloneFlags::CLONE_NEWIPC, "ipc"),
    (CloneFlags::CLONE_NEWUTS, "uts"),
    (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    (CloneFlags::from_bits_retain(libc::CLONE_NEWTIME), "time"),
];

/// Says in which kinds of namespaces a process is not where the caller is. A kind
/// that the kernel was built without is none.
///
/// # Errors
/// `NotFound` when there is no such process, and those of looking at another
/// process, which takes the right to trace it.
pub fn differing(process: Pid) -> io::Result<CloneFlags> {
    let theirs = File::open(format!("/proc/{process}/ns"))?;
    let ours = File::open("/proc/self/ns")?;
    let mut kinds = CloneFlags::empty();
    for (kind, file) in ALL {
        let identity = |folder: &File| {
            fstatat(folder, file, AtFlags::empty()).map(|found| (found.st_dev, found.st_ino))
        };
        match (identity(&theirs), identity(&ours)) {
            (_, Err(Errno::ENOENT)) => {}
            (theirs, ours) if theirs? == ours? => {}
            _ => kinds |= kind,
        }
    }
    Ok(kinds)
}

/// Joins the namespaces of these kinds that another process is in, all or none. For
/// [`Kind::Pid`] it is the children made from now on that are in it.
///
/// A user namespace counts first: the caller has every capability in it, and none
/// any more outside. With mounts the caller's root and current directory are the
/// root of that process's mount namespace.
///
/// # Errors
/// `ESRCH` when the process has ended, `EINVAL` for the caller's own user
/// namespace, and those of setns(2).
pub fn enter_all_of(process: &PidFd, kinds: CloneFlags) -> io::Result<()> {
    Ok(setns(process.as_fd(), kinds)?)
}

/// Says whether the current directory lies below the caller's root. One that was
/// opened before the root was changed does not.
///
/// # Errors
/// `NotFound` when it was removed, and those of getcwd(2).
pub fn is_inside_root() -> io::Result<bool> {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // The system call itself: the C library looks for a way round its answer.
    // SAFETY: the kernel writes at most as many bytes as the buffer is said to have.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    match length {
        -1 => Err(io::Error::last_os_error()),
        // Outside, the kernel puts "(unreachable)" in front.
        _ => Ok(path[0] == b'/'),
    }
}

/// Moves this process into new namespaces of the given kinds.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(kinds: CloneFlags) -> io::Result<()> {
    Ok(nix::sched::unshare(kinds)?)
}

/// Sets the NIS domain name of this process's UTS namespace.
///
/// # Errors
/// Those of setdomainname(2).
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are those of one live string, which the
    // kernel only reads.
    let done = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A mount namespace that holds nothing but one empty tmpfs.
///
/// A new mount namespace starts as a copy of its maker's, mount by mount: on
/// a host with a thousand mounts that is most of what a sandbox costs. A copy
/// of this one costs the same on every host.
#[derive(Debug)]
pub struct Template(OwnedFd);

impl Template {
    /// Makes the template with the help of a child that lives for the length
    /// of this call.
    ///
    /// # Errors
    /// Those of clone(2), unshare(2), mount(2) and pivot_root(2).
    pub fn new(single: &SingleThreaded) -> io::Result<Self> {
        // The child holds the namespace while the parent opens it: two pipes
        // say "made" and, by being closed, "opened".
        let (made, tell_made) = io::pipe()?;
        let (wait_opened, opened) = io::pipe()?;
        match single.fork(CloneFlags::empty())? {
            Fork::Child => {
                drop((made, opened));
                exit_now(hold_empty_namespace(tell_made, wait_opened))
            }
            Fork::Parent { pid, pidfd } => {
                drop((tell_made, wait_opened));
                let namespace = receive(made, pid.as_raw());
                drop(opened);
                pidfd.wait()?;
                namespace.map(Self)
            }
        }
    }

    /// Moves this process into a copy of the template of its own; its root
    /// and current directory are the copy's empty root.
    ///
    /// # Errors
    /// Those of setns(2) and unshare(2).
    pub fn enter(&self) -> io::Result<()> {
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNS)?;
        unshare(CloneFlags::CLONE_NEWNS)
    }
}

/// What the child says once its namespace is ready; anything else is an errno.
const MADE: i32 = 0;

fn hold_empty_namespace(mut tell: io::PipeWriter, mut wait: io::PipeReader) -> i32 {
    use std::io::{Read, Write};

    let made = empty_namespace();
    let word =
        made.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| MADE);
    if tell.write_all(&word.to_ne_bytes()).is_err() || made.is_err() {
        return 1;
    }
    // The end of the pipe is the answer; there is nothing to read.
    i32::from(wait.read(&mut [0]).is_err())
}

fn empty_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Shared propagation would carry the pivot back to the host.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let root = Tree::tmpfs(Some(4096), 0o755, Some(4))?;
    let inside = root.as_fd().try_clone_to_owned()?;
    let here = crate::path::open_directory(Path::new("/"))?;
    nix::sys::stat::mkdirat(&inside, "new", nix::sys::stat::Mode::from_bits_truncate(0o755))?;
    root.restrict(crate::mount::MountFlags::GUEST.with(crate::mount::MountFlags::RDONLY))?;
    root.attach_on(here.as_fd())?;
    pivot_into_fd(inside.as_fd())
}

/// The directory in the template on which a new root can be attached.
pub const NEW_ROOT: &str = "/new";

fn receive(mut made: io::PipeReader, pid: i32) -> io::Result<OwnedFd> {
    use std::io::Read;

    let mut word = [0; 4];
    made.read_exact(&mut word)?;
    match i32::from_ne_bytes(word) {
        MADE => Ok(File::open(format!("/proc/{pid}/ns/mnt"))?.into()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;

    fn inode(file: &str) -> std::path::PathBuf {
        std::fs::read_link(format!("/proc/self/ns/{file}")).unwrap()
    }

    #[test]
    fn the_template_is_empty_and_every_entry_is_a_namespace_of_its_own() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make mount namespaces");
            return;
        }
        in_child(|| {
            let single = SingleThreaded::prove().unwrap();
            let template = Template::new(&single).unwrap();
            // The host's procfs, to look at mounts from a place that has none.
            let proc = crate::path::open_directory(Path::new("/proc")).unwrap();
            let open = |path: &str| {
                nix::fcntl::openat(
                    &proc,
                    path,
                    nix::fcntl::OFlag::O_RDONLY,
                    nix::sys::stat::Mode::empty(),
                )
            };
            template.enter().unwrap();
            let mounts = std::io::read_to_string(File::from(open("self/mountinfo").unwrap()));
            assert_eq!(mounts.unwrap().lines().count(), 1);
            let names: Vec<_> =
                std::fs::read_dir("/").unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["new"]);
            assert!(std::fs::write("/file", "x").is_err());
            let first = File::from(open("self/ns/mnt").unwrap());
            template.enter().unwrap();
            let second = File::from(open("self/ns/mnt").unwrap());
            use std::os::unix::fs::MetadataExt;
            assert_ne!(first.metadata().unwrap().ino(), second.metadata().unwrap().ino());
        });
    }

    #[test]
    fn a_namespace_is_entered_by_its_path() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make namespaces");
            return;
        }
        in_child(|| {
            let before = File::open("/proc/self/ns/uts").unwrap();
            let old = inode("uts");
            unshare(CloneFlags::CLONE_NEWUTS).unwrap();
            assert_ne!(inode("uts"), old);
            let path = crate::path::path_of(&before).unwrap();
            assert_eq!(path, old);
            let by_number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&before));
            assert!(enter(Kind::Ipc, Path::new(&by_number)).is_err());
            enter(Kind::Uts, Path::new(&by_number)).unwrap();
            assert_eq!(inode("uts"), old);
        });
    }

    #[test]
    fn the_namespaces_of_another_process_are_found_and_entered() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make namespaces");
            return;
        }
        let kinds = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID;
        for kinds in [CloneFlags::empty(), kinds, kinds | CloneFlags::CLONE_NEWUSER] {
            in_child(|| {
                let single = SingleThreaded::prove().unwrap();
                let (wait, hold) = std::io::pipe().unwrap();
                let (pid, pidfd) = match single.fork(kinds).unwrap() {
                    Fork::Child => {
                        drop(hold);
                        exit_now(std::io::read_to_string(wait).map_or(1, |_| 0))
                    }
                    Fork::Parent { pid, pidfd } => (pid, pidfd),
                };
                assert_eq!(differing(pid).unwrap(), kinds);
                if !kinds.is_empty() {
                    enter_all_of(&pidfd, kinds).unwrap();
                }
                for (kind, file) in ALL {
                    // Of a pid namespace only children are in.
                    let ours =
                        if kind == CloneFlags::CLONE_NEWPID { "pid_for_children" } else { file };
                    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
                    assert_eq!(inode(ours), theirs);
                }
                drop(hold);
                assert_eq!(pidfd.wait().unwrap().code(), 0);
                let error = enter_all_of(&pidfd, CloneFlags::CLONE_NEWUTS).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
            });
        }
    }

    #[test]
    fn a_directory_of_another_root_is_outside() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make mount namespaces");
            return;
        }
        in_child(|| {
            assert!(is_inside_root().unwrap());
            let single = SingleThreaded::prove().unwrap();
            let template = Template::new(&single).unwrap();
            let outside = crate::path::open_directory(Path::new("/usr")).unwrap();
            template.enter().unwrap();
            assert!(is_inside_root().unwrap());
            nix::unistd::fchdir(outside).unwrap();
            assert!(!is_inside_root().unwrap());
        });
    }
}
