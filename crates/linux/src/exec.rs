//! Running a further process in a container that stands.
//!
//! libcontainer's own way leaves out the seccomp profile and keeps capabilities that
//! were not asked for, so none of it is used here.
//!
//! ```text
//! worker                     scout                         the process
//! ------                     -----                         -----------
//! the init's identity
//! profile, limits, kinds
//! of namespaces as they
//! were at create
//! fork into the cgroup  -->  join a cgroup of version 1
//!                            close all but its streams
//!                            enter all namespaces
//!                       <--  (the terminal's master)
//!                            fork                     -->  (waits for its go)
//!                       <--  its pidfd
//! go                    --------------------------------->  session, user, program
//!                       <--------------------------------- (an error)
//! the link ends: it runs                                    execve
//! ```
//!
//! Both are siblings of the worker. The scout stays outside the container's pid
//! namespace, so that nothing in there sees a process whose root is still the host's;
//! and once a process is seen it is in the cgroup, by which a delete kills it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};
use sys::cgroup::{Cgroup, Hierarchies};
use sys::namespace::differing;
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
use inside::{GO, Inside, Said};

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
    // Inherited by the scout, which closes it once it is in the cgroup: a delete waits
    // for it. Not held for longer, for a process may hang on its way in.
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
    let kinds = kinds & inside.confinement.kinds();
    if !kinds.contains(CloneFlags::CLONE_NEWNS) {
        // Its root would be the host's.
        return Err(ExecError::NoRootOfItsOwn);
    }
    match fork(&single, inside.cgroup, init)? {
        (Fork::Child, is_in_cgroup) => {
            drop(link);
            exit_now(inside.run(&single, (init, kinds), is_in_cgroup, stdio, &other_end))
        }
        (Fork::Parent { pid, pidfd }, _) => {
            drop((other_end, stdio, joining));
            let made = Hearing::new(&link, &init.pidfd, getppid()).made();
            match &made {
                // It ends when it has said its word.
                Ok(_) => await_end(pid, pidfd.ends_within(PATIENCE)),
                Err(_) => end(pid, &pidfd),
            }
            made
        }
    }
}

/// Forks the scout, into the cgroup where that is of version 2; says whether it is.
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
    forked.map_err(|source| ExecError::Prepare { attempt: "fork", source })
}

/// Listens to scout and process.
struct Hearing<'a> {
    link: &'a Seqpacket,
    /// The container's first process.
    init: &'a PidFd,
    /// Whose child the process is to be.
    parent: Pid,
    console: Option<OwnedFd>,
    born: Option<(Pid, PidFd)>,
}

impl<'a> Hearing<'a> {
    fn new(link: &'a Seqpacket, init: &'a PidFd, parent: Pid) -> Self {
        Self { link, init, parent, console: None, born: None }
    }

    /// Returns the process once it runs; leaves none otherwise.
    fn made(mut self) -> Result<Made, ExecError> {
        let heard = self.hear();
        match (heard, self.born) {
            (Ok(()), Some((pid, _))) => Ok(Made { pid, console: self.console }),
            (Ok(()), None) => Err(unborn(self.init, "it was killed on its way".to_owned())),
            (Err(failure), Some((pid, pidfd))) => {
                end(pid, &pidfd);
                Err(failure)
            }
            // One that was made all the same waits for a word that does not come.
            (Err(failure), None) => Err(failure),
        }
    }

    /// Listens until the process runs or has said why it cannot.
    fn hear(&mut self) -> Result<(), ExecError> {
        let listen = |source| ExecError::Prepare { attempt: "listen to the new process", source };
        loop {
            if !self.is_said().map_err(listen)? {
                return Err(ExecError::Stopped);
            }
            let Some(mut message) = self.link.recv().map_err(listen)? else {
                return Ok(());
            };
            let said = serde_json::from_slice(&message.body);
            match (said.map_err(|error| listen(error.into()))?, &self.born) {
                (Said::Console, None) => self.console = message.fds.pop(),
                (Said::Born, None) => {
                    self.born = Some(self.meet(message.fds.pop()).map_err(listen)?);
                    match self.link.send(GO, &[]) {
                        // It has ended already, which its parent is told.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                        sent => sent.map_err(listen)?,
                    }
                }
                (Said::Console | Said::Born, Some(_)) => {
                    return Err(listen(io::Error::other("it says what is not its to say")));
                }
                (Said::NotRunnable(why), _) => return Err(ExecError::NotRunnable(why)),
                (Said::Failed(why), None) => return Err(unborn(self.init, why)),
                (Said::Failed(why), Some(_)) => return Err(ExecError::Process(why)),
            }
        }
    }

    /// Waits for a word or the link's end; false when the container's first process
    /// has ended before. A process that the container has stopped says none, and does
    /// not end with the first process where they share a pid namespace with others.
    fn is_said(&self) -> io::Result<bool> {
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut both = [watched(self.link.as_fd()), watched(self.init.as_fd())];
        loop {
            match poll(&mut both, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                polled => {
                    polled?;
                    return Ok(both[0].any().unwrap_or(true));
                }
            }
        }
    }

    /// Finds out who it is. The link was the process's too when this was said: the id
    /// is the kernel's word, and must be that of a sibling.
    fn meet(&self, pidfd: Option<OwnedFd>) -> io::Result<(Pid, PidFd)> {
        let pidfd = PidFd::from(pidfd.ok_or(io::ErrorKind::InvalidData)?);
        let facts = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let pid = number_in(&fs::read_to_string(facts)?, "Pid:")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        match number_in(&status, "PPid:")? == self.parent.as_raw() {
            true => Ok((Pid::from_raw(pid), pidfd)),
            false => Err(io::Error::other("it is no child of the worker's parent")),
        }
    }
}

/// Reads a line of a file of /proc.
fn number_in(text: &str, name: &str) -> io::Result<i32> {
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Why there is no process yet: mostly because there is no container any more.
fn unborn(init: &PidFd, why: String) -> ExecError {
    match init.ends_within(Duration::ZERO) {
        Ok(true) => ExecError::Stopped,
        _ => ExecError::Process(why),
    }
}

/// Ends a process that could not be made. One that was not understood may run its
/// program by now.
fn end(pid: Pid, pidfd: &PidFd) {
    let killed = match pidfd.send_signal(Signal::SIGKILL as i32) {
        // It has ended by itself, and was reaped.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        killed => killed,
    };
    await_end(pid, killed.and_then(|()| pidfd.ends_within(PATIENCE)));
}

/// The caller is told how it went, which is more than that a process is still there.
fn await_end(pid: Pid, ended: io::Result<bool>) {
    match ended {
        Ok(true) => {}
        Ok(false) => log::warn!("process {pid} of an exec has not ended yet"),
        Err(error) => log::warn!("end process {pid} of an exec: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Pid, PidFd) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid, PidFd::open(pid).unwrap())
    }

    const BORN: &[u8] = b"\0\"Born\"";

    fn made(link: &Seqpacket, init: &PidFd) -> Result<Made, ExecError> {
        Hearing::new(link, init, nix::unistd::getpid()).made()
    }

    /// An end of a link on which these packets were said, the first ones with the
    /// process.
    fn said(packets: &[&[u8]], pidfd: &PidFd) -> Seqpacket {
        let (link, other_end) = Seqpacket::pair().unwrap();
        for packet in packets {
            match *packet == BORN {
                true => other_end.send(&BORN[1..], &[pidfd.as_fd()]).unwrap(),
                false => drop(nix::unistd::write(&other_end, packet).unwrap()),
            }
        }
        link
    }

    /// What becomes of a process after these packets on its link.
    fn launched(packets: &[&[u8]]) -> (Child, Result<Made, ExecError>) {
        let (child, _, pidfd) = sleeper();
        let init = PidFd::open(nix::unistd::getpid()).unwrap();
        let made = made(&said(packets, &pidfd), &init);
        (child, made)
    }

    #[test]
    fn one_that_says_nothing_is_killed_when_the_container_ends() {
        let ((mut init, _, init_fd), (mut child, _, pidfd)) = (sleeper(), sleeper());
        let (link, other_end) = Seqpacket::pair().unwrap();
        other_end.send(&BORN[1..], &[pidfd.as_fd()]).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            init.kill().unwrap();
            init
        });
        assert!(matches!(made(&link, &init_fd), Err(ExecError::Stopped)));
        let status = child.try_wait().unwrap().expect("it was killed");
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        ends.join().unwrap().wait().unwrap();
        drop(other_end);
    }

    #[test]
    fn a_process_of_somebody_else_is_not_taken() {
        let me = PidFd::open(nix::unistd::getpid()).unwrap();
        let link = said(&[BORN], &me);
        assert!(matches!(made(&link, &me), Err(ExecError::Prepare { .. })));
    }

    #[test]
    fn none_that_was_never_told_of_is_made() {
        let (mut child, made) = launched(&[]);
        assert!(matches!(made, Err(ExecError::Process(_))));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_not_understood_is_killed() {
        let table: [(&str, &[u8]); 4] = [
            ("no word", b"\0nonsense"),
            ("no packet of ours", b"\x07"),
            ("a body that is missing", b"\x01\x01\0\0\0\0\0\0\0"),
            ("a failure", b"\0{\"Failed\":\"a step\"}"),
        ];
        for (name, packet) in table {
            let (mut child, made) = launched(&[BORN, packet]);
            assert!(made.is_err(), "{name}");
            // It is not waited for: it has ended.
            let status = child.try_wait().unwrap().expect(name);
            assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{name}");
        }
    }

    #[test]
    fn one_that_runs_its_program_is_left_alone() {
        let (mut child, made) = launched(&[b"\0\"Console\"", BORN]);
        assert_eq!(made.unwrap().pid.as_raw(), child.id().cast_signed());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
