//! Running a further process in a container that stands.
//!
//! libcontainer's own way leaves out the seccomp profile and keeps capabilities that
//! were not asked for, so none of it is used here.
//!
//! ```text
//! worker                              the process (a sibling of the worker)
//! ------                              -------------------------------------
//! the init's identity, by pidfd
//! profile and limits as they were
//! when the container was made
//! enter the pid namespace
//! fork into the cgroup          -->   join the cgroup of version 1
//!                                     close all but its streams
//!                                     enter the namespaces, take the terminal
//!                                     become the user, find the program
//!                               <--   (an error, or the terminal's master)
//! the link ends: it runs              execve
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, Hierarchies};
use sys::namespace::{differing, enter_all_of};
use sys::pidfd::PidFd;
use sys::process::{Fork, SingleThreaded, exit_now};
use sys::seccomp::Filter;
use sys::seqpacket::Seqpacket;
use sys::stdio::Stdio;

use crate::Made;
use crate::home::Home;
use crate::plan::{agree, plan_exec};
use crate::stdio;

mod error;
mod init;
mod inside;

pub use error::ExecError;

use init::Init;
use inside::{Inside, Said};

/// How long a process that could not be made is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a further process of a container is made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container's id.
    pub id: String,
    /// The folder below which each container has its state.
    pub state_root: PathBuf,
    /// What to run, and as whom.
    pub process: Box<Process>,
}

/// Runs a process in a container, created or started.
///
/// It becomes a child of the caller's parent and runs its program when this returns.
/// `stdio` become its descriptors 0, 1 and 2 and its user's; it has no others.
///
/// # Errors
/// [`ExecError`]; then no process is left.
pub fn exec(request: &ExecRequest, stdio: Stdio) -> Result<Made, ExecError> {
    agree(Some(&request.process), &stdio)?;
    let home = Home::at(&request.state_root, &request.id)?;
    let record = home
        .load_record()
        .map_err(ExecError::State)?
        .ok_or_else(|| ExecError::NotFound(request.id.clone()))?;
    let confinement = home.load_confinement().map_err(ExecError::State)?;
    let process = plan_exec(Process::clone(&request.process), confinement.may_mknod)?;
    let filter = confinement.seccomp.as_ref().map(Filter::from_spec).transpose()?.flatten();
    let hierarchies = Hierarchies::of_host()?;
    let cgroup = Cgroup::at(hierarchies, &record.cgroup);
    let init = Init::find(record.init.ok_or(ExecError::Stopped)?)?;
    if cgroup.is_frozen()? {
        return Err(ExecError::Paused);
    }
    let stdio = settle(stdio, &init, process.user().uid())?;
    // Inherited by the process, which closes it once it is in the cgroup: a delete
    // waits for it. Not held for longer, for a process may hang on its way in.
    let joining = home.mark_joining().map_err(ExecError::State)?;
    let inside = Inside { process, confinement: &confinement, filter, cgroup: &cgroup };
    launch(inside, &init, stdio, joining)
}

/// Does what only the host's root can: gives the streams to the container's user.
fn settle(stdio: Stdio, init: &Init, uid: u32) -> Result<Stdio, ExecError> {
    let prepare = |attempt| move |source| ExecError::Prepare { attempt, source };
    sys::privileges::leave_session_keyring().map_err(prepare("leave the session keyring"))?;
    let Stdio::Streams(streams) = stdio else {
        return Ok(stdio);
    };
    let streams = stdio::above_standard(streams).map_err(prepare("duplicate standard streams"))?;
    if let Some(owner) = init.host_uid(uid).map_err(prepare("look up the user's id"))? {
        stdio::give_to(&streams, owner).map_err(prepare("hand over standard streams"))?;
    }
    Ok(Stdio::Streams(streams))
}

fn launch(inside: Inside<'_>, init: &Init, stdio: Stdio, joining: File) -> Result<Made, ExecError> {
    let prepare = |attempt| move |source| ExecError::Prepare { attempt, source };
    let single = SingleThreaded::prove().map_err(prepare("count threads"))?;
    let (link, other_end) = Seqpacket::pair().map_err(prepare("make a socket"))?;
    let kinds =
        differing(init.pid).map_err(|error| init.explain("look at its namespaces", error))?;
    if !kinds.contains(CloneFlags::CLONE_NEWNS) {
        // Its root would be the host's.
        return Err(ExecError::NoRootOfItsOwn);
    }
    if kinds.contains(CloneFlags::CLONE_NEWPID) {
        enter_all_of(&init.pidfd, CloneFlags::CLONE_NEWPID)
            .map_err(|error| init.explain("enter its pid namespace", error))?;
    }
    let kinds = kinds - CloneFlags::CLONE_NEWPID;
    match fork(&single, inside.cgroup, init)? {
        (Fork::Child, is_in_cgroup) => {
            drop(link);
            exit_now(inside.run(&single, (init, kinds), is_in_cgroup, stdio, &other_end))
        }
        (Fork::Parent { pid, pidfd }, _) => {
            drop((other_end, stdio, joining));
            hear(&link, pid, &pidfd)
        }
    }
}

/// Forks the process, into the cgroup where that is of version 2; says whether it is.
fn fork(single: &SingleThreaded, cgroup: &Cgroup, init: &Init) -> Result<(Fork, bool), ExecError> {
    let into = |door: Option<OwnedFd>| {
        let forked = single.fork_into(CloneFlags::CLONE_PARENT, door.as_ref().map(AsFd::as_fd));
        forked.map(|fork| (fork, door.is_some()))
    };
    let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno as i32);
    let forked = match into(cgroup.door()?) {
        // It hands controllers down to cgroups of its own, so that no process can be
        // in it: systemd in a container does this. Then where the init is by now.
        Err(error) if is(&error, Errno::EBUSY) => into(cgroup.door_beside(init.pid)?),
        forked => forked,
    };
    forked.map_err(|error| match is(&error, Errno::ENOMEM) {
        // What a pid namespace says whose first process has ended.
        true => init.explain("fork", error),
        false => ExecError::Prepare { attempt: "fork", source: error },
    })
}

/// Listens until the process runs or has said why it cannot.
fn hear(link: &Seqpacket, pid: Pid, pidfd: &PidFd) -> Result<Made, ExecError> {
    let mut console = None;
    let listen = |source| ExecError::Prepare { attempt: "listen to the new process", source };
    loop {
        let Some(mut message) = link.recv().map_err(listen)? else {
            return Ok(Made { pid, console });
        };
        let failure = match serde_json::from_slice(&message.body) {
            Ok(Said::Console) => {
                console = message.fds.pop();
                continue;
            }
            Ok(Said::NotRunnable(why)) => ExecError::NotRunnable(why),
            Ok(Said::Failed(why)) => ExecError::Process(why),
            Err(error) => listen(error.into()),
        };
        // It has nothing left to do but to end.
        match pidfd.ends_within(PATIENCE) {
            Ok(true) => {}
            Ok(false) => log::warn!("process {pid}, which could not be made, has not ended yet"),
            Err(error) => log::warn!("wait for the end of process {pid}: {error}"),
        }
        return Err(failure);
    }
}
