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
//!                                bind a server's socket
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
//! A further process of the container is made by [`join`]: a helper enters the
//! cgroup and the namespaces of the init, where it finds the root and the grants
//! that the init has attached, sees to stdio, closes the rest and clones the
//! process, which goes on as an init does from the limits downwards.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Where it listens, if its guest is a server. Bound while it has the power to, it listens once
    /// the guest says so.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

/// What a process finds in its sandbox.
#[derive(Debug)]
pub struct Inside {
    /// The granted folders.
    pub preopens: Vec<Preopen>,
    /// Bound to [`SandboxPlan::listen`].
    pub socket: Option<OwnedFd>,
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
        /// The namespace's file.
        namespace: String,
        /// What the helper that tried said.
        reason: String,
    },
    /// The sandbox could not be entered; the text is what the helper that tried said.
    #[error("cannot clone a process into the container's sandbox: {0}")]
    Join(String),
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
    guest: impl FnOnce(Inside) -> i32,
) -> Result<Launched, LaunchError> {
    let cgroup = Cgroup::at(Hierarchies::of_host()?, &plan.cgroup);
    cgroup.create(plan.resources.as_ref().unwrap_or(&LinuxResources::default()))?;
    let launched = cgroup.door().map_err(LaunchError::from).and_then(|door| {
        let to_join = door.is_none().then_some(&cgroup);
        let parts = init::Parts { kit, plan, cgroup: to_join, keep, gauge, place: Place::New };
        let way = Way { flags: plan.clone_flags(), door: door.as_ref().map(AsFd::as_fd) };
        let process = |link| init::run(parts, stdio, link, guest);
        match plan.joined(Kind::Pid) {
            Some(namespace) => clone_into(namespace, kit.single, way, process),
            None => clone(kit.single, way, process),
        }
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
}

/// Makes a process that goes on as `process`, which returns its exit code.
fn clone(
    single: &SingleThreaded,
    way: Way<'_>,
    process: impl FnOnce(Seqpacket) -> i32,
) -> Result<Launched, LaunchError> {
    let (link, process_link) = Seqpacket::pair()?;
    match single.fork_into(way.flags, way.door)? {
        Fork::Child => {
            drop(link);
            exit_now(process(process_link))
        }
        Fork::Parent { pid, pidfd } => Ok(Launched { pid, pidfd, link }),
    }
}

/// As [`clone`], into a PID namespace that is there.
fn clone_into(
    namespace: &Path,
    single: &SingleThreaded,
    way: Way<'_>,
    process: impl FnOnce(Seqpacket) -> i32,
) -> Result<Launched, LaunchError> {
    // The rest of the sandbox is not the helper's to build: the files of a grant may lie on a
    // server that does not answer, and the keeper waits for the helper.
    let enter = |_: &[RawFd]| Ok(sys::namespace::enter(Kind::Pid, namespace)?);
    clone_by_helper(single, way, enter, |link, ()| process(link)).map_err(|refusal| match refusal {
        Refusal::Clone(error) => error.into(),
        Refusal::Helper(reason) => {
            LaunchError::PidNamespace { namespace: namespace.display().to_string(), reason }
        }
    })
}

/// How long a helper may take. Only one that was frozen or starved together with
/// the container takes longer, and the keeper has others to serve.
const HELPERS_TIME: Duration = Duration::from_secs(1);

/// Why there is no process of a helper's.
enum Refusal {
    /// There was no helper.
    Clone(io::Error),
    /// It has said this.
    Helper(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Clone(error)
    }
}

/// A process cannot move itself into a PID namespace, only its children: a
/// helper enters it with `enter`, which keeps the descriptors that it is given,
/// and clones the process as its sibling, so as our child.
///
/// The helper alone is waited for: what it has cloned may have been stopped by
/// others by then.
fn clone_by_helper<Entered>(
    single: &SingleThreaded,
    Way { flags, door }: Way<'_>,
    enter: impl FnOnce(&[RawFd]) -> anyhow::Result<Entered>,
    process: impl FnOnce(Seqpacket, Entered) -> i32,
) -> Result<Launched, Refusal> {
    let (link, process_link) = Seqpacket::pair()?;
    let (ours, helpers) = Seqpacket::pair()?;
    let helper = match single.fork(CloneFlags::empty())? {
        Fork::Child => {
            drop((link, ours));
            let cloned =
                enter(&[process_link.as_raw_fd(), helpers.as_raw_fd()]).and_then(|entered| {
                    Ok((single.fork_into(flags | CloneFlags::CLONE_PARENT, door)?, entered))
                });
            let told = match cloned {
                Ok((Fork::Child, entered)) => {
                    drop(helpers);
                    exit_now(process(process_link, entered))
                }
                Ok((Fork::Parent { pid, pidfd }, _)) => {
                    helpers.send(pid.to_string().as_bytes(), &[pidfd.as_fd()])
                }
                Err(error) => helpers.send(format!("{error:#}").as_bytes(), &[]),
            };
            exit_now(i32::from(told.is_err()))
        }
        Fork::Parent { pidfd, .. } => pidfd,
    };
    drop((helpers, process_link));
    if !helper.ends_within(HELPERS_TIME)? {
        // Frozen it dies once it is thawed, before it can clone; whoever reaps the caller's
        // children reaps it then.
        helper.send_signal(libc::SIGKILL)?;
        return Err(Refusal::Helper("the helper was held up".to_owned()));
    }
    helper.wait()?;
    // A helper that was killed has perhaps said nothing, while its clone holds the link open.
    sys::waiting::set_nonblocking(&ours)?;
    let said = ours.recv().ok().flatten();
    let mut said = said.ok_or_else(|| Refusal::Helper("the helper ended".to_owned()))?;
    let text = String::from_utf8_lossy(&said.body).into_owned();
    match (said.fds.pop(), text.parse()) {
        (Some(pidfd), Ok(pid)) => {
            Ok(Launched { pid: Pid::from_raw(pid), pidfd: PidFd::from(pidfd), link })
        }
        _ => Err(Refusal::Helper(text)),
    }
}

#[cfg(test)]
mod tests;
