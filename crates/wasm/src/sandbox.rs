//! The sandbox of a wasm container: made by us, for a guest that needs no
//! devices, no procfs and no program to execute.
//!
//! ```text
//! keeper                         init (the clone)
//! ------                         ----------------
//! make the cgroup, limits        (systemd's: limits alone)
//! clone into new namespaces -->  join cgroup of version 1, given namespaces
//! and a version 2 cgroup
//!                                open every granted tree on the host
//!                                enter an empty mount namespace, attach, pivot
//!                                stdio, close the rest, limits, identity
//!                                no privileges, landlock, the spec's seccomp
//!              <-- "ready" (or an error text, and exit 1)
//!              --> "start" (or the link's end: exit)
//!                                the engine's seccomp filter; run the guest; exit
//! ```
//!
//! The keeper does what only it can do; all else happens in the clone, where a
//! failure ends one process and leaves nothing but the cgroup to remove.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, LinuxSeccomp, PosixRlimit};
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, CgroupError, Hierarchies, Location};
use sys::namespace::{Kind, Template};
use sys::pidfd::PidFd;
use sys::process::{Fork, SingleThreaded, exit_now};
use sys::seccomp::Filter;
use sys::seqpacket::Seqpacket;
use sys::title::TitleMap;

use crate::command::Preopen;
use crate::grants::Grant;

mod init;
mod plan;
mod root;
mod sysctl;

pub use plan::PlanError;

/// What the init says over its link once its sandbox stands; anything else it
/// says is the text of an error.
pub const READY: &[u8] = b"ready";

/// What the init is told over its link to run the guest.
pub const START: &[u8] = b"start";

/// All that a sandbox is made from: decided, nothing done yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The container's id.
    pub id: String,
    /// Namespaces of its own (`None`) or of another process (the path). Kinds
    /// that are not listed stay the host's. Mounts are always its own.
    pub namespaces: Vec<(Kind, Option<PathBuf>)>,
    /// Host name; set only in a UTS namespace of its own.
    pub hostname: Option<String>,
    /// NIS domain name; set only in a UTS namespace of its own.
    pub domainname: Option<String>,
    /// Where its cgroup is.
    pub cgroup: Location,
    /// The limits of that cgroup.
    pub resources: Option<LinuxResources>,
    /// What it sees of files, the root first.
    pub grants: Vec<Grant>,
    /// Who it is to the kernel.
    pub user: User,
    /// Resource limits of its process.
    pub rlimits: Vec<PosixRlimit>,
    /// The spec's own seccomp profile; the engine's filter comes on top.
    pub seccomp: Option<LinuxSeccomp>,
    /// How likely the kernel picks it when memory is short, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Kernel parameters of its namespaces, as `/proc/sys` names and values.
    pub sysctls: Vec<(String, String)>,
    /// The arguments that `/proc/PID/cmdline` shows.
    pub args: Vec<String>,
    /// The variables that `/proc/PID/environ` shows.
    pub env: Vec<String>,
}

/// Who the init is to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// Permission bits that new files do not get; 0022 when the spec is silent.
    pub umask: Option<u32>,
}

/// An init that is building its sandbox, or waits in it to be started.
#[derive(Debug)]
pub struct Launched {
    /// Its id here; in a PID namespace of its own it is 1 to itself.
    pub pid: Pid,
    /// A handle that no reuse of the id can mislead.
    pub pidfd: PidFd,
    /// From it comes [`READY`] or an error text; to it goes [`START`]. The end
    /// of the link before that ends the init.
    pub link: Seqpacket,
}

/// What every sandbox of a keeper is made with.
#[derive(Clone, Copy, Debug)]
pub struct Kit<'a> {
    /// The proof that the keeper may clone.
    pub single: &'a SingleThreaded,
    /// The empty mount namespace that each sandbox's own is copied from.
    pub template: &'a Template,
    /// How to show the guest's command and environment.
    pub title: &'a TitleMap,
    /// The engine's system call filter.
    pub filter: &'a Filter,
}

/// Why there is no init.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The cgroup could not be made or limited; nothing of it is left.
    #[error("cannot make the container's cgroup")]
    Cgroup(#[from] CgroupError),
    /// The kernel did not clone the process.
    #[error("cannot clone the container's init")]
    Clone(#[from] io::Error),
    /// The PID namespace of the spec could not be joined.
    #[error("cannot clone the container's init into PID namespace {}: {reason}", .path.display())]
    PidNamespace {
        /// The namespace's file.
        path: PathBuf,
        /// What the helper that tried said.
        reason: String,
    },
}

/// Makes the cgroup and clones the container's init, a child of the caller,
/// which builds its sandbox by itself and reports over its link.
///
/// A cgroup that is systemd's must stand already ([`sys::cgroup::start_scope`])
/// and be held open by a process in it until the init has reported.
///
/// The descriptors in `keep` stay open in the init, for the guest to run on; all
/// others but the standard streams and the link are closed.
///
/// When the init reports an error the caller reaps it and removes the cgroup
/// ([`sys::cgroup::remove`]).
///
/// # Errors
/// When the cgroup or the clone fails; then nothing is left.
pub fn launch(
    kit: Kit<'_>,
    plan: &SandboxPlan,
    stdio: [OwnedFd; 3],
    keep: &[RawFd],
    guest: impl FnOnce(&[Preopen]) -> i32,
) -> Result<Launched, LaunchError> {
    let cgroup = Cgroup::at(Hierarchies::of_host()?, &plan.cgroup);
    cgroup.create(plan.resources.as_ref().unwrap_or(&LinuxResources::default()))?;
    let launched = cgroup.door().map_err(LaunchError::from).and_then(|door| {
        let to_join = door.is_none().then_some(&cgroup);
        let parts = init::Parts { kit, plan, cgroup: to_join, keep };
        let door = door.as_ref().map(AsFd::as_fd);
        clone_init(kit.single, plan, door, |link| init::run(parts, stdio, link, guest))
    });
    // A scope goes by itself, with the process that holds it open.
    if launched.is_err()
        && !sys::cgroup::needs_scope(&plan.cgroup)?
        && let Err(error) = cgroup.remove()
    {
        log::warn!("remove the cgroup of a container that was not launched: {error}");
    }
    launched
}

/// Clones the init, into the cgroup behind `door` if there is one; `init` runs
/// in it and returns its exit code.
fn clone_init(
    single: &SingleThreaded,
    plan: &SandboxPlan,
    door: Option<BorrowedFd<'_>>,
    init: impl FnOnce(Seqpacket) -> i32,
) -> Result<Launched, LaunchError> {
    let (link, init_link) = Seqpacket::pair()?;
    let flags = plan.clone_flags();
    if let Some(path) = plan.joined(Kind::Pid) {
        return clone_into_pid_namespace(single, path, (flags, door), (link, init_link), init);
    }
    match single.fork_into(flags, door)? {
        Fork::Child => {
            drop(link);
            exit_now(init(init_link))
        }
        Fork::Parent { pid, pidfd } => Ok(Launched { pid, pidfd, link }),
    }
}

/// A process cannot move itself into a PID namespace, only its children: a
/// helper enters and clones the init as its sibling, so as our child.
fn clone_into_pid_namespace(
    single: &SingleThreaded,
    path: &std::path::Path,
    (flags, door): (CloneFlags, Option<BorrowedFd<'_>>),
    (link, init_link): (Seqpacket, Seqpacket),
    init: impl FnOnce(Seqpacket) -> i32,
) -> Result<Launched, LaunchError> {
    let failed = |reason: String| LaunchError::PidNamespace { path: path.to_owned(), reason };
    let (ours, helpers) = Seqpacket::pair()?;
    match single.fork(CloneFlags::empty())? {
        Fork::Child => {
            drop((link, ours));
            let forked = sys::namespace::enter(Kind::Pid, path)
                .and_then(|()| single.fork_into(flags | CloneFlags::CLONE_PARENT, door));
            let told = match forked {
                Ok(Fork::Child) => {
                    drop(helpers);
                    exit_now(init(init_link))
                }
                Ok(Fork::Parent { pid, pidfd }) => {
                    helpers.send(pid.to_string().as_bytes(), &[pidfd.as_fd()])
                }
                Err(error) => helpers.send(error.to_string().as_bytes(), &[]),
            };
            exit_now(i32::from(told.is_err()))
        }
        Fork::Parent { pidfd: helper, .. } => {
            drop((helpers, init_link));
            let said = ours.recv()?;
            helper.wait()?;
            let mut said = said.ok_or_else(|| failed("the helper ended".to_owned()))?;
            let text = String::from_utf8_lossy(&said.body).into_owned();
            match (said.fds.pop(), text.parse()) {
                (Some(pidfd), Ok(pid)) => {
                    Ok(Launched { pid: Pid::from_raw(pid), pidfd: PidFd::from(pidfd), link })
                }
                _ => Err(failed(text)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
