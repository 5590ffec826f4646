//! A further process in a sandbox that stands.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, Hierarchies};
use sys::mount::{MountFlags, Tree};
use sys::namespace::Kind;
use sys::pidfd::Identity;

use super::init::{self, Parts, Place};
use super::{
    Inside, Kit, LaunchError, Launched, Refusal, SandboxPlan, Way, clone, clone_by_helper,
};
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

/// Clones a process into the sandbox, a child of the caller, which reports over
/// its link, as an init that [`super::launch`] has made does.
///
/// Others in the sandbox's PID namespace, a stranger's programs perhaps, see the
/// process from its first instant, and with the right to trace it they reach all
/// that it has. So it is a helper, seen by none of them, that does what takes the
/// host and enters every namespace; what it clones has the sandbox's root, its
/// cgroup and no descriptor of the host's.
///
/// Its namespaces are those of the process that `joined.init` names, reached
/// through a handle of that very process: whoever else gets its id meanwhile is
/// not joined. That it still lives is seen when its namespaces are entered.
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
    let guest = |inside: Inside| guest(&inside.preopens);
    let plan = &joined.plan;
    let init = joined.init.open()?.ok_or(LaunchError::Gone)?;
    if init.ends_within(Duration::ZERO)? {
        return Err(LaunchError::Gone);
    }
    let cgroup = Cgroup::at(Hierarchies::of_host()?, &plan.cgroup);
    let door = cgroup.door()?;
    let to_join = door.is_none().then_some(&cgroup);
    let parts = Parts { kit, plan, cgroup: to_join, keep, gauge, place: Place::Standing(&init) };
    let has_pids = plan.has_own(Kind::Pid) || plan.joined(Kind::Pid).is_some();
    let launched = if has_pids {
        let door = door.map(|door| harmless(door.as_fd())).transpose()?;
        let door = door.as_ref().map(AsFd::as_fd);
        let enter = |links: &[RawFd]| {
            let door = door.map(|door| door.as_raw_fd());
            init::enter(parts, stdio, &[links, door.as_slice()].concat())
        };
        let way = Way { flags: CloneFlags::empty(), door };
        clone_by_helper(kit.single, way, enter, |link, entered| {
            init::run_entered(parts, entered, link, guest)
        })
        .map_err(|refusal| match refusal {
            Refusal::Clone(error) => error.into(),
            Refusal::Helper(reason) if reason == LaunchError::Gone.to_string() => LaunchError::Gone,
            Refusal::Helper(reason) => LaunchError::Join(reason),
        })
    } else {
        // Who shares the host's processes sees the keeper as well: there is nothing to hide.
        let way = Way { flags: CloneFlags::empty(), door: door.as_ref().map(AsFd::as_fd) };
        clone(kit.single, way, |link| init::run(parts, stdio, link, guest))
    };
    match launched {
        // A PID namespace whose process 1 ends lets nobody in, for want of memory as it says.
        Err(_) if init.ends_within(Duration::ZERO)? => Err(LaunchError::Gone),
        launched => launched,
    }
}

/// The cgroup's folder with nothing above it, and nothing to be written: the
/// process has it when it is first seen, and a neighbour could take it.
pub(super) fn harmless(door: BorrowedFd<'_>) -> io::Result<Tree> {
    let tree = Tree::clone_of_fd(door)?;
    tree.restrict(MountFlags::GUEST.with(MountFlags::RDONLY))?;
    Ok(tree)
}
