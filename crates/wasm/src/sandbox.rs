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
//!
//! A further process of the container is made by [`join`]: cloned into the same
//! cgroup, it enters the namespaces of the init, finds there the root and the
//! grants that the init has attached, and goes on as an init does from stdio
//! downwards.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

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
use sys::terminal::Size;
use sys::title::TitleMap;

use crate::command::Preopen;
use crate::gauge::Recorder;
use crate::grants::Grant;

mod init;
mod join;
mod plan;
mod root;
mod sysctl;

use init::Place;

pub use join::{Joined, join};
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
    /// Whether its standard streams are a terminal's slave, which controls it: Ctrl-C at the
    /// master is then its SIGINT, and the master's end its SIGHUP. Both end it, as process 1 too.
    #[serde(default)]
    pub terminal: bool,
    /// How large that terminal is at first.
    #[serde(default)]
    pub terminal_size: Option<Size>,
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
    #[error("cannot clone the container's process")]
    Clone(#[from] io::Error),
    /// The PID namespace that it belongs in could not be joined.
    #[error("cannot clone the container's process into PID namespace {namespace}: {reason}")]
    PidNamespace {
        /// The namespace's file, or whose it is.
        namespace: String,
        /// What the helper that tried said.
        reason: String,
    },
    /// There is no sandbox to join any more.
    #[error("the container's init has ended, and its sandbox with it")]
    Gone,
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
    gauge: &Recorder,
    guest: impl FnOnce(&[Preopen]) -> i32,
) -> Result<Launched, LaunchError> {
    let cgroup = Cgroup::at(Hierarchies::of_host()?, &plan.cgroup);
    cgroup.create(plan.resources.as_ref().unwrap_or(&LinuxResources::default()))?;
    let launched = cgroup.door().map_err(LaunchError::from).and_then(|door| {
        let to_join = door.is_none().then_some(&cgroup);
        let parts = init::Parts { kit, plan, cgroup: to_join, keep, gauge, place: Place::New };
        let way = Way {
            flags: plan.clone_flags(),
            door: door.as_ref().map(AsFd::as_fd),
            pid_namespace: plan.joined(Kind::Pid).map(PidNamespace::At),
        };
        clone(kit.single, way, |link| init::run(parts, stdio, link, guest))
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

/// Where a clone is made.
struct Way<'a> {
    /// The namespaces that are new with it.
    flags: CloneFlags,
    /// The cgroup of version 2 that it is in from the start.
    door: Option<BorrowedFd<'a>>,
    /// The PID namespace that it is in, unless that is the caller's or new.
    pid_namespace: Option<PidNamespace<'a>>,
}

#[derive(Clone, Copy)]
enum PidNamespace<'a> {
    At(&'a Path),
    Of(&'a PidFd),
}

impl PidNamespace<'_> {
    /// Makes it that of the children made from now on.
    fn enter(self) -> io::Result<()> {
        match self {
            Self::At(path) => sys::namespace::enter(Kind::Pid, path),
            Self::Of(process) => sys::namespace::enter_all_of(process, Kind::Pid.flag()),
        }
    }

    fn name(self) -> String {
        match self {
            Self::At(path) => path.display().to_string(),
            Self::Of(_) => "of the container's init".to_owned(),
        }
    }
}

/// Makes a process that goes on as `process`, which returns its exit code.
fn clone(
    single: &SingleThreaded,
    way: Way<'_>,
    process: impl FnOnce(Seqpacket) -> i32,
) -> Result<Launched, LaunchError> {
    let (link, process_link) = Seqpacket::pair()?;
    if let Some(namespace) = way.pid_namespace {
        return clone_by_helper(single, way, namespace, (link, process_link), process);
    }
    match single.fork_into(way.flags, way.door)? {
        Fork::Child => {
            drop(link);
            exit_now(process(process_link))
        }
        Fork::Parent { pid, pidfd } => Ok(Launched { pid, pidfd, link }),
    }
}

/// A process cannot move itself into a PID namespace, only its children: a
/// helper enters and clones the process as its sibling, so as our child.
fn clone_by_helper(
    single: &SingleThreaded,
    Way { flags, door, .. }: Way<'_>,
    namespace: PidNamespace<'_>,
    (link, process_link): (Seqpacket, Seqpacket),
    process: impl FnOnce(Seqpacket) -> i32,
) -> Result<Launched, LaunchError> {
    let failed = |reason| LaunchError::PidNamespace { namespace: namespace.name(), reason };
    let (ours, helpers) = Seqpacket::pair()?;
    match single.fork(CloneFlags::empty())? {
        Fork::Child => {
            drop((link, ours));
            let forked = namespace
                .enter()
                .and_then(|()| single.fork_into(flags | CloneFlags::CLONE_PARENT, door));
            let told = match forked {
                Ok(Fork::Child) => {
                    drop(helpers);
                    exit_now(process(process_link))
                }
                Ok(Fork::Parent { pid, pidfd }) => {
                    helpers.send(pid.to_string().as_bytes(), &[pidfd.as_fd()])
                }
                Err(error) => helpers.send(error.to_string().as_bytes(), &[]),
            };
            exit_now(i32::from(told.is_err()))
        }
        Fork::Parent { pidfd: helper, .. } => {
            drop((helpers, process_link));
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
