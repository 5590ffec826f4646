//! The new process on its way into the container and to its program.
//!
//! A scout goes first, which no process of the container can see: it enters no pid
//! namespace itself. What only the host shows is done there (cgroup, labels, limits),
//! then all descriptors go but those of the process, then it enters the namespaces.
//! Only then it forks the process, which from its first instant has no root, no
//! descriptor and no cgroup but the container's: a container that may trace its
//! processes reads and writes what they can reach.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use libcontainer::config::PersonalityDomain;
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, chdir, fchown, setgroups, setresgid, setresuid, setsid};
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, Process,
};
use serde::{Deserialize, Serialize};
use sys::cgroup::Cgroup;
use sys::error::chain;
use sys::privileges;
use sys::process::{Fork, SingleThreaded};
use sys::seccomp::Filter;
use sys::seqpacket::Seqpacket;
use sys::stdio::Stdio;
use sys::terminal::{self, Size, Terminal};

use super::init::Init;
use crate::command::{Command, plain};
use crate::confinement::Confinement;
use crate::image_tree;
use crate::plan::with_home;

/// What scout and process say to the worker before the program runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The master of the process's terminal comes with this.
    Console,
    /// The process is there: its pidfd comes with this. It waits for [`GO`].
    Born,
    /// The container has no such program or directory.
    NotRunnable(String),
    /// A step has failed.
    Failed(String),
}

/// What the worker says to a process that it knows of. One that it does not know of
/// never hears it, and ends.
pub(super) const GO: &[u8] = b"go";

/// What the process is to be.
pub(super) struct Inside<'a> {
    pub(super) process: Process,
    pub(super) confinement: &'a Confinement,
    pub(super) filter: Option<Filter>,
    pub(super) cgroup: &'a Cgroup,
}

/// Where it goes: the container's first process, and the kinds of namespaces that it
/// enters.
type Destination<'a> = (&'a Init, CloneFlags);

impl Inside<'_> {
    /// Is the scout, and in its child the process, which becomes the program. Returns
    /// an exit code, of either.
    pub(super) fn run(
        self,
        single: &SingleThreaded,
        destination: Destination<'_>,
        is_in_cgroup: bool,
        stdio: Stdio,
        link: &Seqpacket,
    ) -> i32 {
        // The log is written to a descriptor that is about to be closed, and whose
        // number may come back as something else's.
        log::set_max_level(log::LevelFilter::Off);
        let joins = if is_in_cgroup { None } else { Some(single) };
        let forked = self
            .enter(joins, destination, stdio, link)
            .and_then(|()| step("fork", single.fork(CloneFlags::CLONE_PARENT)));
        let said = match forked {
            Ok(Fork::Parent { pidfd, .. }) => {
                return i32::from(say(link, &Said::Born, &[pidfd.as_fd()]).is_err());
            }
            Ok(Fork::Child) => match link.recv() {
                Ok(Some(_go)) => {
                    let Err(said) = self.become_program();
                    said
                }
                // The worker has ended, or the scout before it could say a word.
                _ => return 2,
            },
            Err(said) => said,
        };
        if say(link, &said, &[]).is_ok() { 1 } else { 2 }
    }

    /// What the scout does, in its own place and in the container's.
    fn enter(
        &self,
        joins: Option<&SingleThreaded>,
        (init, kinds): Destination<'_>,
        stdio: Stdio,
        link: &Seqpacket,
    ) -> Result<(), Said> {
        if let Some(single) = joins {
            step("join the cgroup", self.cgroup.join_beside(single))?;
        }
        self.leave_host(stdio, link, init)?;
        let entered = sys::namespace::enter_all_of(&init.pidfd, kinds);
        step("enter the container's namespaces", entered)?;
        if kinds.contains(CloneFlags::CLONE_NEWUSER) {
            // Before anything is opened: what the host's root makes belongs to nobody here.
            step("become root of the user namespace", become_root())?;
            step("hide from other processes", privileges::set_dumpable(false))?;
        }
        if self.process.terminal() == Some(true) {
            self.make_terminal(link)?;
        }
        step("close descriptors", sys::stdio::close_all_except(&[link.as_raw_fd()]))
    }

    fn become_program(mut self) -> Result<Infallible, Said> {
        match self.process.terminal() {
            Some(true) => {
                step("take the terminal", terminal::make_controlling(io::stdin().as_fd()))?;
            }
            _ => drop(step("become a session's leader", setsid())?),
        }
        let (env, uid) = (self.process.env().clone(), self.process.user().uid());
        let home = || image_tree::home_of(Path::new("/"), uid);
        self.process.set_env(Some(with_home(env.unwrap_or_default(), home)));
        self.confine()?;
        self.become_user()?;
        let command = Command::find(&self.process).map_err(Said::NotRunnable)?;
        Err(Said::NotRunnable(command.run(self.late_filter())))
    }

    /// Does what needs the host's files and rights, and keeps no descriptor of it:
    /// with them goes the mark that it is joining.
    fn leave_host(&self, stdio: Stdio, link: &Seqpacket, init: &Init) -> Result<(), Said> {
        if let Some(score) = self.process.oom_score_adj().or(self.confinement.oom_score_adj) {
            let written = write("/proc/self/oom_score_adj", &score.to_string());
            step("set the OOM score", written)?;
        }
        if let Some(profile) =
            self.process.apparmor_profile().as_deref().filter(|it| !it.is_empty())
        {
            step("apply the AppArmor profile", label(profile))?;
        }
        if let Some(priority) = self.process.io_priority() {
            step("set the I/O priority", set_io_priority(priority))?;
        }
        if let Some(rlimits) = self.process.rlimits() {
            step("raise limits", privileges::raise_rlimits(rlimits))?;
        }
        step("drop supplementary groups", setgroups(&[]))?;
        step("hide from other processes", privileges::set_dumpable(false))?;
        if let Stdio::Streams(streams) = stdio {
            step("install standard streams", sys::stdio::install(streams))?;
        }
        let kept = [link.as_raw_fd(), init.pidfd.as_raw_fd()];
        step("close descriptors", sys::stdio::close_all_except(&kept))
    }

    fn make_terminal(&self, link: &Seqpacket) -> Result<(), Said> {
        let root = step("open the root", sys::path::open_directory(Path::new("/")))?;
        let Terminal { master, slave } = step("make a terminal", terminal::open_in(root.as_fd()))?;
        let owner = Some(Uid::from_raw(self.process.user().uid()));
        // Its group stays, which is the one that the mount's options name.
        step("hand over the terminal", fchown(&slave, owner, None))?;
        if let Some(size) = Size::asked_by(&self.process) {
            step("resize the terminal", terminal::resize(slave.as_fd(), size))?;
        }
        step("hand out the terminal", say(link, &Said::Console, &[master.as_fd()]))?;
        let copy = || slave.try_clone();
        let ends = copy().and_then(|stdin| Ok([stdin, copy()?, copy()?]));
        let ends = step("copy the terminal", ends)?;
        step("install standard streams", sys::stdio::install(ends))
    }

    fn confine(&self) -> Result<(), Said> {
        let promised = self.process.no_new_privileges() == Some(true);
        if promised {
            step("renounce new privileges", privileges::no_new_privs())?;
        }
        if let Some(personality) = &self.confinement.personality {
            step("set the personality", set_personality(personality))?;
        }
        if let Some(rlimits) = self.process.rlimits() {
            step("set limits", privileges::set_rlimits(rlimits))?;
        }
        let mask = self.process.user().umask().unwrap_or(0o022);
        umask(Mode::from_bits_truncate(mask));
        match &self.filter {
            // Without the promise this takes a capability that is about to go.
            Some(filter) if !promised => step("install the seccomp profile", filter.install()),
            _ => Ok(()),
        }
    }

    /// With the promise the filter comes last of all, when nothing of the runtime's
    /// own is left to be allowed by it.
    fn late_filter(&self) -> Option<&Filter> {
        let promised = self.process.no_new_privileges() == Some(true);
        self.filter.as_ref().filter(|_| promised)
    }

    fn become_user(&self) -> Result<(), Said> {
        let user = self.process.user();
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        // As root first: the user may not be allowed to go there by itself. But a root
        // that is denied, by a network filesystem, leaves it to the user.
        let went = match chdir(self.process.cwd()) {
            Err(error) if io::Error::from(error).kind() == io::ErrorKind::PermissionDenied => false,
            went => self.went(went).map(|()| true)?,
        };
        step("keep capabilities", privileges::keep_capabilities(true))?;
        let taken = privileges::take_identity(user.uid(), user.gid(), groups);
        step("become the user", taken)?;
        // A change of identity can make a process open to others again.
        step("hide from other processes", privileges::set_dumpable(false))?;
        if !went {
            self.went(chdir(self.process.cwd()))?;
        }
        match sys::namespace::is_inside_root() {
            Ok(true) => {}
            Ok(false) => return Err(Said::NotRunnable(OUTSIDE.to_owned())),
            Err(error) => {
                let why = format!("failed to verify if current working directory is safe: {error}");
                return Err(Said::NotRunnable(why));
            }
        }
        step("keep no more capabilities", privileges::keep_capabilities(false))?;
        let capabilities = self.process.capabilities().as_ref();
        step("set capabilities", privileges::set_capabilities(capabilities))
    }

    fn went(&self, went: nix::Result<()>) -> Result<(), Said> {
        went.map_err(|error| {
            let (cwd, why) = (self.process.cwd(), plain(&error.into()));
            Said::NotRunnable(format!("chdir to cwd ({cwd:?}) set in config.json failed: {why}"))
        })
    }
}

/// What runc says of a working directory like `/proc/self/fd/7`.
const OUTSIDE: &str = "current working directory is outside of container mount namespace root \
                       -- possible container breakout detected";

fn step<T, E: std::error::Error>(attempt: &str, done: Result<T, E>) -> Result<T, Said> {
    done.map_err(|error| Said::Failed(format!("{attempt}: {}", chain(&error))))
}

fn become_root() -> nix::Result<()> {
    let (root, group) = (Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(root, root, root)
}

fn say(link: &Seqpacket, said: &Said, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    link.send(&serde_json::to_vec(said)?, with)
}

fn write(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Has the kernel change to the profile when the program is executed.
fn label(profile: &str) -> io::Result<()> {
    if !libcontainer::apparmor::is_enabled().unwrap_or(false) {
        return Err(io::Error::other("AppArmor is not enabled on this host"));
    }
    let text = format!("exec {profile}");
    // The module's own folder is there since Linux 5.8; the other file may be
    // another module's.
    match write("/proc/self/attr/apparmor/exec", &text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write("/proc/self/attr/exec", &text)
        }
        written => written,
    }
}

fn set_io_priority(asked: &LinuxIOPriority) -> io::Result<()> {
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    create_syscall().set_io_priority(class, asked.priority()).map_err(io::Error::other)
}

fn set_personality(asked: &LinuxPersonality) -> io::Result<()> {
    let domain = match asked.domain() {
        LinuxPersonalityDomain::PerLinux => PersonalityDomain::Linux,
        LinuxPersonalityDomain::PerLinux32 => PersonalityDomain::Linux32,
    };
    create_syscall().personality(domain).map_err(io::Error::other)
}
