//! A further process in a sandbox that stands.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, Hierarchies};
use sys::namespace::Kind;
use sys::pidfd::Identity;

use super::init::{self, Parts, Place};
use super::{Kit, LaunchError, Launched, PidNamespace, SandboxPlan, Way, clone};
use crate::command::Preopen;
use crate::gauge::Recorder;

/// The sandbox that a further process joins, and who it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// The process the sandbox was made with.
    pub init: Identity,
    /// The plan it was made from, with what is this process's own in the place
    /// of the init's ([`SandboxPlan::for_process`]).
    pub plan: SandboxPlan,
}

/// Clones a process, a child of the caller, which enters the sandbox by itself
/// and reports over its link, as an init that [`super::launch`] has made does.
///
/// Its namespaces are those of the process that `joined.init` names, reached
/// through a handle of that very process: whoever else gets its id meanwhile is
/// not joined. That it still lives is seen when its namespaces are entered, after
/// the cgroup is joined, so that the cgroup is the container's as well.
///
/// When the process reports an error the caller reaps it; nothing else is left.
///
/// # Errors
/// [`LaunchError::Gone`] when the init has ended; when the clone fails.
pub fn join(
    kit: Kit<'_>,
    joined: &Joined,
    stdio: [OwnedFd; 3],
    keep: &[RawFd],
    gauge: &Recorder,
    guest: impl FnOnce(&[Preopen]) -> i32,
) -> Result<Launched, LaunchError> {
    let plan = &joined.plan;
    let init = joined.init.open()?.ok_or(LaunchError::Gone)?;
    if init.ends_within(Duration::ZERO)? {
        return Err(LaunchError::Gone);
    }
    let cgroup = Cgroup::at(Hierarchies::of_host()?, &plan.cgroup);
    let door = cgroup.door()?;
    let has_pids = plan.has_own(Kind::Pid) || plan.joined(Kind::Pid).is_some();
    let way = Way {
        flags: nix::sched::CloneFlags::empty(),
        door: door.as_ref().map(AsFd::as_fd),
        pid_namespace: has_pids.then_some(PidNamespace::Of(&init)),
    };
    let to_join = door.is_none().then_some(&cgroup);
    let parts = Parts { kit, plan, cgroup: to_join, keep, gauge, place: Place::Standing(&init) };
    let launched = clone(kit.single, way, |link| init::run(parts, stdio, link, guest));
    match launched {
        // A PID namespace whose process 1 ends lets nobody in, for want of memory as it says.
        Err(_) if init.ends_within(Duration::ZERO)? => Err(LaunchError::Gone),
        launched => launched,
    }
}
