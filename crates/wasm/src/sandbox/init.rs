//! What a process of a container does between its clone and the guest's first
//! instruction. The order is the point: each step needs what the next takes away.

use std::any::Any;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, anyhow};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use sys::cgroup::Cgroup;
use sys::landlock::{Access as Reach, restrict_to};
use sys::namespace::{Kind, Template};
use sys::pidfd::PidFd;
use sys::seccomp::Filter;
use sys::seqpacket::Seqpacket;
use sys::{path, privileges, signal, stdio, terminal};

use super::root::{self, Trees};
use super::{Inside, Kit, LaunchError, READY, START, SandboxPlan, sysctl};
use crate::command::{Access, Preopen};
use crate::gauge::Recorder;
use crate::http::cannot_listen;

/// The exit code of a process whose sandbox or guest could not be started.
const NOT_STARTED: i32 = 1;

/// The exit code of a process that failed in a way nobody foresaw, as after abort().
const PANICKED: i32 = 134;

/// What a process is made from, besides its descriptors.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) kit: Kit<'a>,
    pub(super) plan: &'a SandboxPlan,
    /// The cgroup to join; none for a process that was cloned into it.
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) keep: &'a [RawFd],
    pub(super) gauge: &'a Recorder,
    pub(super) place: Place<'a>,
}

/// The sandbox that a process comes to be in.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Its own: it is the container's init.
    New,
    /// That of this process, the container's init.
    Standing(&'a PidFd),
}

/// A process that is in its sandbox with nothing of the host's left to it but
/// its power.
pub(super) struct Entered {
    /// The spec's own.
    filter: Option<Filter>,
    /// What it has attached; none where the init has.
    attached: Option<Vec<Preopen>>,
}

/// Builds the sandbox, reports, waits for the start and runs the guest.
/// Returns the exit code of this process.
pub(super) fn run(
    parts: Parts<'_>,
    stdio: [OwnedFd; 3],
    link: Seqpacket,
    guest: impl FnOnce(Inside) -> i32,
) -> i32 {
    let kept = [link.as_fd().as_raw_fd()];
    let enter = || enter_unguarded(parts, stdio, &kept);
    run_guarded(parts, link, guest, enter)
}

/// As [`run`], for a process whose maker has entered the sandbox.
pub(super) fn run_entered(
    parts: Parts<'_>,
    entered: Entered,
    link: Seqpacket,
    guest: impl FnOnce(Inside) -> i32,
) -> i32 {
    // First of all: the maker's link to the keeper and the cgroup's door.
    let kept = [parts.keep, &[link.as_fd().as_raw_fd()]].concat();
    let enter = || {
        stdio::close_all_except(&kept).context("cannot close the descriptors of the maker")?;
        Ok(entered)
    };
    run_guarded(parts, link, guest, enter)
}

/// Takes this process to the sandbox, for it to clone a process there. Besides
/// what the guest keeps, the descriptors in `kept` stay open.
///
/// # Errors
/// [`LaunchError::Gone`] when the init has ended, and whatever else is in the way.
pub(super) fn enter(parts: Parts<'_>, stdio: [OwnedFd; 3], kept: &[RawFd]) -> Result<Entered> {
    catch_unwind(AssertUnwindSafe(|| enter_unguarded(parts, stdio, kept)))
        .unwrap_or_else(|panic| Err(anyhow!("internal error: {}", text_of(panic.as_ref()))))
}

fn run_guarded(
    parts: Parts<'_>,
    link: Seqpacket,
    guest: impl FnOnce(Inside) -> i32,
    enter: impl FnOnce() -> Result<Entered>,
) -> i32 {
    // A panic must not unwind into the copy of the keeper's loop below us.
    catch_unwind(AssertUnwindSafe(|| run_unguarded(parts, link, guest, enter))).unwrap_or_else(
        |panic| {
            complain(&format!("internal error: {}", text_of(panic.as_ref())));
            PANICKED
        },
    )
}

fn run_unguarded(
    parts: Parts<'_>,
    link: Seqpacket,
    guest: impl FnOnce(Inside) -> i32,
    enter: impl FnOnce() -> Result<Entered>,
) -> i32 {
    parts.gauge.cloned();
    let inside = match enter().and_then(|entered| finish(parts, entered)) {
        Ok(inside) => inside,
        Err(error) => {
            // With the keeper gone there is nobody to tell.
            let _unheard = link.send(format!("{error:#}").as_bytes(), &[]);
            return NOT_STARTED;
        }
    };
    parts.gauge.sandboxed();
    if !started(&link) {
        return NOT_STARTED;
    }
    parts.gauge.started();
    drop(link);
    if let Err(error) = parts.kit.filter.install() {
        complain(&format!("cannot install the engine's system call filter: {error}"));
        return NOT_STARTED;
    }
    guest(inside)
}

/// Reports that the sandbox stands and waits for the word; `false` when the
/// keeper is gone, or has said something else.
fn started(link: &Seqpacket) -> bool {
    link.send(READY, &[]).is_ok()
        && matches!(link.recv(), Ok(Some(message)) if message.body == START)
}

fn enter_unguarded(parts: Parts<'_>, stdio: [OwnedFd; 3], kept: &[RawFd]) -> Result<Entered> {
    let plan = parts.plan;
    // From the first moment: others in the PID namespace, a stranger's programs perhaps, could
    // trace this process while it still holds the keeper's descriptors and all its power.
    privileges::set_dumpable(false).context("cannot become undumpable")?;
    signal::reset_for_child().context("cannot reset signals")?;
    signal::exit_on_termination_signals().context("cannot install signal handlers")?;
    let filter = own_filter(plan)?;
    leave_the_host(parts)?;
    let attached = match parts.place {
        Place::New => {
            enter_namespaces(plan)?;
            let preopens = enter_root(plan, parts.kit.template)?;
            name_the_host(plan)?;
            Some(preopens)
        }
        Place::Standing(init) => {
            enter_sandbox_of(init, plan)?;
            None
        }
    };
    // The logger writes to a descriptor of the keeper. That is about to be closed, and its number may
    // come back as a file of the guest's: from here on an error goes over the link or nowhere.
    log::set_max_level(log::LevelFilter::Off);
    stdio::install(stdio).context("cannot install stdin, stdout and stderr")?;
    stdio::close_all_except(&[parts.keep, kept].concat())
        .context("cannot close the descriptors of the keeper")?;
    Ok(Entered { filter, attached })
}

fn finish(parts: Parts<'_>, Entered { filter, attached }: Entered) -> Result<Inside> {
    let plan = parts.plan;
    let preopens = attached.unwrap_or_else(|| root::attached(&plan.grants));
    if plan.terminal {
        terminal::make_controlling(std::io::stdin().as_fd())
            .context("cannot make the terminal the guest's own")?;
    }
    parts.kit.title.show(&plan.args, &plan.env).context("cannot show the guest's arguments")?;
    // Before the power is gone that a port below 1024 takes, and here, where an address that is
    // taken can still be told as the reason why there is no container.
    let socket = plan.listen.map(bind).transpose()?;
    drop_privileges(plan)?;
    confine_to(&preopens)?;
    // Last, for it may forbid any of the steps above. It has to let a message
    // out and in (sendmsg, recvmsg) and the engine's filter be added (seccomp).
    if let Some(filter) = filter {
        filter.install().context("cannot install linux.seccomp")?;
    }
    Ok(Inside { preopens, socket })
}

fn bind(address: SocketAddr) -> Result<OwnedFd> {
    sys::tcp::bind(address).with_context(|| cannot_listen(address))
}

/// Translates the spec's profile while libseccomp may still do as it likes.
fn own_filter(plan: &SandboxPlan) -> Result<Option<Filter>> {
    let spec = plan.seccomp.as_ref();
    let filter = spec.map(Filter::from_spec).transpose().context("cannot build linux.seccomp")?;
    Ok(filter.flatten())
}

/// Joins the cgroup: here the host's `/sys/fs/cgroup` and `/proc` are still in
/// reach.
fn leave_the_host(Parts { kit: Kit { single, .. }, plan, cgroup, .. }: Parts<'_>) -> Result<()> {
    if let Some(cgroup) = cgroup {
        cgroup.join_self(single).context("cannot join the container's cgroup")?;
    }
    if let Some(score) = plan.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .with_context(|| format!("cannot set process.oomScoreAdj to {score}"))?;
    }
    Ok(())
}

/// Joins the namespaces but for the mounts, while their files are in reach.
fn enter_namespaces(plan: &SandboxPlan) -> Result<()> {
    // Only from inside the cgroup: the new namespace's root is where its
    // maker is.
    if plan.has_own(Kind::Cgroup) {
        sys::namespace::unshare(CloneFlags::CLONE_NEWCGROUP)
            .context("cannot make a cgroup namespace")?;
    }
    for (kind, path) in &plan.namespaces {
        match path {
            Some(path) if *kind != Kind::Pid => {
                sys::namespace::enter(*kind, path).with_context(|| {
                    format!("cannot join {} namespace {}", kind.file(), path.display())
                })?
            }
            _ => {}
        }
    }
    for (name, value) in &plan.sysctls {
        std::fs::write(sysctl::file(name), value)
            .with_context(|| format!("cannot set sysctl {name} to {value:?}"))?;
    }
    Ok(())
}

/// Joins the namespaces of the container's init, the mounts among them: from
/// then on its root is this process's, with the grants attached in it. Of a PID
/// namespace it is the children's.
fn enter_sandbox_of(init: &PidFd, plan: &SandboxPlan) -> Result<()> {
    let flags = plan.namespaces.iter().map(|(kind, _)| kind.flag());
    let flags = flags.fold(Kind::Mount.flag(), |all, flag| all | flag);
    match sys::namespace::enter_all_of(init, flags) {
        // The handle is of a process that has given its namespaces back.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(LaunchError::Gone.into()),
        entered => entered.context("cannot join the namespaces of the container's init"),
    }
}

fn enter_root(plan: &SandboxPlan, template: &Template) -> Result<Vec<Preopen>> {
    let trees = Trees::open(&plan.grants)?;
    template.enter().context("cannot enter an empty mount namespace")?;
    trees.attach()
}

/// A namespace that belongs to the pod has its name already.
fn name_the_host(plan: &SandboxPlan) -> Result<()> {
    if !plan.has_own(Kind::Uts) {
        return Ok(());
    }
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name)
            .with_context(|| format!("cannot set the host name {name:?}"))?;
    }
    if let Some(name) = &plan.domainname {
        sys::namespace::set_domain_name(name)
            .with_context(|| format!("cannot set the domain name {name:?}"))?;
    }
    Ok(())
}

fn drop_privileges(plan: &SandboxPlan) -> Result<()> {
    let user = &plan.user;
    privileges::set_rlimits(&plan.rlimits).context("cannot set process.rlimits")?;
    nix::sys::stat::umask(Mode::from_bits_truncate(user.umask.unwrap_or(0o022)));
    privileges::become_user(user.uid, user.gid, &user.additional_gids)
        .with_context(|| format!("cannot become user {} of group {}", user.uid, user.gid))?;
    privileges::drop_all_capabilities().context("cannot drop capabilities")?;
    privileges::no_new_privs().context("cannot set no_new_privs")?;
    // Again, since the kernel sets it anew when the user changes: processes of the same user in
    // other containers cannot trace this one.
    privileges::set_dumpable(false).context("cannot become undumpable")
}

/// Where the kernel has Landlock, the grants are all that is left.
fn confine_to(preopens: &[Preopen]) -> Result<()> {
    let open = |preopen: &Preopen| {
        path::open_directory(&preopen.host)
            .with_context(|| format!("cannot open the grant of {}", preopen.guest))
    };
    let opened = preopens.iter().map(open).collect::<Result<Vec<_>>>()?;
    let reach = |access: Access| match access {
        Access::ReadOnly => Reach::Read,
        Access::ReadWrite => Reach::ReadWrite,
    };
    let rules: Vec<(BorrowedFd<'_>, Reach)> = opened
        .iter()
        .zip(preopens)
        .map(|(fd, preopen)| (fd.as_fd(), reach(preopen.access)))
        .collect();
    // An error if this is less than the kernel has. What an older kernel or one without Landlock
    // leaves open is known beforehand, by `sys::landlock::abi`: here nobody could be told.
    restrict_to(&rules)?;
    Ok(())
}

/// Says on the guest's standard error why it never ran.
fn complain(text: &str) {
    use std::io::Write;

    // Nothing is left to do when that cannot be written.
    let _unwritten = writeln!(std::io::stderr(), "{text}");
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}
