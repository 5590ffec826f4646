//! The spec that libcontainer is given, made from the spec of the bundle.
//!
//! A pure function: it puts in what runc takes as default and libcontainer does
//! not, words things the way libcontainer understands them, and refuses what
//! libcontainer would drop in silence.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceType,
    LinuxSeccomp, LinuxSeccompAction, LinuxSyscall, Mount, Process, Spec,
};
use serde::{Deserialize, Serialize};
use sys::cgroup::{Driver, InvalidLocation, Location};
use sys::seccomp::{Filter, FilterError};
use sys::stdio::Stdio;

use crate::check::is_bind;
use crate::confinement::Confinement;

mod cgroups;

/// What a container is made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The container's id: letters, digits and `_+-.`, at most 255 of them.
    pub id: String,
    /// The folder that relative paths of the spec start from, and that hooks are told of.
    pub bundle: PathBuf,
    /// What its config.json said when the container was decided upon: this is what
    /// is run, whatever the file says by now.
    pub spec: Box<Spec>,
    /// The folder below which each container has its state.
    pub state_root: PathBuf,
}

/// What the spec asks for and cannot have, or does not say.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// A section is missing.
    #[error("config.json has no {0}")]
    Missing(&'static str),
    /// A feature that would be ignored or done wrong.
    #[error("{0} is not supported")]
    Feature(String),
    /// Streams came for a process that wants a terminal, or the other way round.
    #[error("process.terminal is {terminal}, but its streams are {streams}")]
    Terminal {
        /// What the spec says.
        terminal: bool,
        /// What came with the call.
        streams: &'static str,
    },
    /// A path that would depend on where the runtime happens to be.
    #[error("working directory {0:?} is not an absolute path")]
    WorkingDirectory(PathBuf),
    /// An id that setuid(2) takes for "leave it as it is".
    #[error("{0} 4294967295 is not a valid id")]
    InvalidId(&'static str),
    /// A text with a zero byte.
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
    /// The cgroup has no place.
    #[error(transparent)]
    Cgroup(#[from] InvalidLocation),
    /// The seccomp profile cannot be made into a filter.
    #[error(transparent)]
    Seccomp(#[from] FilterError),
}

/// What the plan depends on beside the spec.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) id: &'a str,
    /// Absolute and without symlinks.
    pub(crate) rootfs: &'a Path,
    /// The user's home as the image says.
    pub(crate) home: Option<&'a str>,
    /// The host has cgroup version 2 alone.
    pub(crate) unified: bool,
    /// Where the host's cgroup hierarchies are mounted.
    pub(crate) hierarchies: Vec<&'a Path>,
}

/// A spec that libcontainer runs as runc would run the original.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spec: Spec,
    pub(crate) cgroup: Location,
    /// Folders of cgroups that are to be made first.
    pub(crate) cgroup_folders: Vec<PathBuf>,
    /// libcontainer is to ask systemd for the cgroup.
    pub(crate) systemd: bool,
    /// The seccomp profile, where the spec no longer has it.
    pub(crate) filter: Option<Filter>,
    /// What processes that join the container later are bound by.
    pub(crate) confinement: Confinement,
}

/// Makes the plan.
pub(crate) fn plan(mut spec: Spec, facts: &Facts<'_>) -> Result<Plan, Unsupported> {
    refuse_unsupported(&spec)?;
    let cgroup = locate(&spec, facts)?;
    let systemd = facts.unified && cgroup.driver() == Driver::Systemd;
    let propagation = propagation(&spec)?;
    let cgroup_folders = cgroups::settle(&mut spec, &cgroup, systemd, facts);

    spec.root_mut().as_mut().ok_or(Unsupported::Missing("root"))?.set_path(facts.rootfs.to_owned());
    let may_mknod = !facts.unified || allows_all_devices(&spec);
    let confinement = Confinement::of(&spec, may_mknod);
    let process = spec.process_mut().as_mut().ok_or(Unsupported::Missing("process"))?;
    settle_process(process, may_mknod);
    let env = process.env().clone().unwrap_or_default();
    process.set_env(Some(with_home(env, || facts.home.map(str::to_owned))));
    let promised = process.no_new_privileges() == Some(true);
    let linux = spec.linux_mut().as_mut().ok_or(Unsupported::Missing("linux section"))?;
    linux.set_rootfs_propagation(propagation);
    let filter = take_filter(linux, promised)?;
    if !systemd {
        // Absolute, so that it is taken from each hierarchy's mount. Version 1
        // has no systemd driver in libcontainer: it would take the slice's
        // name with its colons for a folder.
        linux.set_cgroups_path(Some(Path::new("/").join(cgroup.relative())));
    }
    Ok(Plan { spec, cgroup, cgroup_folders, systemd, filter, confinement })
}

fn refuse_unsupported(spec: &Spec) -> Result<(), Unsupported> {
    refuse_unsupported_process(spec.process().as_ref().ok_or(Unsupported::Missing("process"))?)?;
    let linux = spec.linux().as_ref().ok_or(Unsupported::Missing("linux section"))?;
    let feature = |text: &str| Err(Unsupported::Feature(text.to_owned()));
    if is_label(linux.mount_label()) {
        return feature(LABEL);
    }
    if linux.intel_rdt().is_some() {
        return feature("linux.intelRdt");
    }
    for mount in spec.mounts().iter().flatten() {
        if options(mount).any(|option| option == "tmpcopyup") {
            return feature(&format!("tmpcopyup, of mount {},", mount.destination().display()));
        }
    }
    Ok(())
}

const LABEL: &str = "an SELinux label";

fn is_label(label: &Option<String>) -> bool {
    label.as_deref().is_some_and(|it| !it.is_empty())
}

fn refuse_unsupported_process(process: &Process) -> Result<(), Unsupported> {
    match process.args().as_deref() {
        None | Some([]) => return Err(Unsupported::Missing("process.args")),
        Some(args) => refuse_zero_bytes("process.args", args)?,
    }
    refuse_zero_bytes("process.env", process.env().as_deref().unwrap_or_default())?;
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().copied();
    if user.uid() == u32::MAX {
        return Err(Unsupported::InvalidId("user"));
    }
    if std::iter::once(user.gid()).chain(groups).any(|gid| gid == u32::MAX) {
        return Err(Unsupported::InvalidId("group"));
    }
    // Accepted and then ignored, it would leave the container less confined than
    // its owner believes.
    match is_label(process.selinux_label()) {
        true => Err(Unsupported::Feature(LABEL.to_owned())),
        false => Ok(()),
    }
}

/// Checks that what a process is to have as its standard streams is what it asks for.
pub(crate) fn agree(process: Option<&Process>, stdio: &Stdio) -> Result<(), Unsupported> {
    let terminal = process.is_some_and(|process| process.terminal() == Some(true));
    let streams = match stdio {
        Stdio::Streams(_) => "given",
        Stdio::Terminal => "not given",
    };
    match terminal == matches!(stdio, Stdio::Terminal) {
        true => Ok(()),
        false => Err(Unsupported::Terminal { terminal, streams }),
    }
}

fn refuse_zero_bytes(what: &'static str, texts: &[String]) -> Result<(), Unsupported> {
    match texts.iter().any(|text| text.contains('\0')) {
        true => Err(Unsupported::ZeroByte(what)),
        false => Ok(()),
    }
}

fn locate(spec: &Spec, facts: &Facts<'_>) -> Result<Location, InvalidLocation> {
    let given = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    Location::parse(given.and_then(|path| path.to_str()).filter(|path| !path.is_empty()), facts.id)
}

/// Makes of an exec's process one that is run as runc would run the original.
pub(crate) fn plan_exec(mut process: Process, may_mknod: bool) -> Result<Process, Unsupported> {
    refuse_unsupported_process(&process)?;
    if process.scheduler().is_some() {
        return Err(Unsupported::Feature("a scheduler for an exec (process.scheduler)".to_owned()));
    }
    if process.exec_cpu_affinity().is_some() {
        return Err(Unsupported::Feature("process.execCPUAffinity".to_owned()));
    }
    if !process.cwd().is_absolute() {
        return Err(Unsupported::WorkingDirectory(process.cwd().clone()));
    }
    settle_process(&mut process, may_mknod);
    Ok(process)
}

fn settle_process(process: &mut Process, may_mknod: bool) {
    // "false" and "absent" mean the same; libcontainer takes the former for a
    // promise of no_new_privs and installs seccomp when it no longer may.
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    if process.user().umask().is_none() {
        process.user_mut().set_umask(Some(0o022));
    }
    let capabilities = complete(process.capabilities().as_ref());
    process.set_capabilities(Some(match may_mknod {
        true => capabilities,
        false => without_mknod(capabilities),
    }));
}

/// A set that is not given is empty; libcontainer would leave the worker's own.
fn complete(given: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let none = Capabilities::new;
    let mut all = given.cloned().unwrap_or_default();
    let Some(given) = given else {
        all.set_bounding(Some(none()));
        all.set_effective(Some(none()));
        all.set_inheritable(Some(none()));
        all.set_permitted(Some(none()));
        all.set_ambient(Some(none()));
        return all;
    };
    let or_none = |set: &Option<Capabilities>| Some(set.clone().unwrap_or_default());
    all.set_bounding(or_none(given.bounding()));
    all.set_effective(or_none(given.effective()));
    all.set_inheritable(or_none(given.inheritable()));
    all.set_permitted(or_none(given.permitted()));
    all.set_ambient(or_none(given.ambient()));
    all
}

/// libcontainer does not enforce device rules on cgroup version 2. A container
/// that could make device nodes could then open every disk of the host.
fn without_mknod(mut all: LinuxCapabilities) -> LinuxCapabilities {
    let without = |set: &Option<Capabilities>| {
        let mut set = set.clone();
        set.iter_mut().for_each(|it| {
            it.remove(&Capability::Mknod);
        });
        set
    };
    all.set_bounding(without(all.bounding()));
    all.set_effective(without(all.effective()));
    all.set_inheritable(without(all.inheritable()));
    all.set_permitted(without(all.permitted()));
    all.set_ambient(without(all.ambient()));
    all
}

/// Says whether the spec wants no device rules: a privileged container.
fn allows_all_devices(spec: &Spec) -> bool {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let Some(rules) = resources.and_then(|it| it.devices().as_deref()) else {
        return false;
    };
    // Rules apply in order; the last that speaks of all devices decides.
    let of_all = |rule: &&LinuxDeviceCgroup| {
        let any_kind = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        any_kind && [rule.major(), rule.minor()].iter().all(|it| it.is_none_or(|n| n < 0))
    };
    rules.iter().rfind(of_all).is_some_and(LinuxDeviceCgroup::allow)
}

/// Takes the seccomp profile out of the spec, to be installed right before the
/// program runs, when nothing of the runtime's own is left to be allowed by it.
/// That needs no_new_privs, since the capabilities are gone by then; without it,
/// or where the profile names a listener, libcontainer installs it earlier.
fn take_filter(linux: &mut Linux, promised: bool) -> Result<Option<Filter>, Unsupported> {
    let notifies = |profile: &LinuxSeccomp| {
        let rules = profile.syscalls().iter().flatten().map(LinuxSyscall::action);
        profile.listener_path().is_some()
            || rules
                .chain([profile.default_action()])
                .any(|it| it == LinuxSeccompAction::ScmpActNotify)
    };
    match linux.seccomp() {
        Some(profile) if promised && !notifies(profile) => {
            let filter = Filter::from_spec(profile)?;
            linux.set_seccomp(None);
            Ok(filter)
        }
        _ => Ok(None),
    }
}

/// Sets HOME if it is absent or empty. It must never be left open: libcontainer
/// would then ask the C library, which loads name service modules from the
/// image, into a process that still holds the worker's memory and descriptors.
pub(crate) fn with_home(
    mut env: Vec<String>,
    home: impl FnOnce() -> Option<String>,
) -> Vec<String> {
    let is_set = |entry: &String| entry.strip_prefix("HOME=").is_some_and(|it| !it.is_empty());
    // Of several the last counts, as for libcontainer.
    if env.iter().rfind(|entry| entry.starts_with("HOME=")).is_some_and(is_set) {
        return env;
    }
    env.retain(|entry| !entry.starts_with("HOME="));
    let home = home().filter(|it| !it.is_empty());
    env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
    env
}

/// The propagation of the root, in libcontainer's words. It has none per mount:
/// every mount is as the root was. So when a mount is to be private and none is
/// to follow the host, the root is private.
fn propagation(spec: &Spec) -> Result<Option<String>, Unsupported> {
    let linux = spec.linux().as_ref().ok_or(Unsupported::Missing("linux section"))?;
    let given = linux.rootfs_propagation().as_deref().filter(|it| !it.is_empty());
    let settled = match given {
        Some("shared" | "rshared") => Some("shared"),
        Some("slave" | "rslave") => Some("slave"),
        Some("private" | "rprivate") => Some("private"),
        Some("unbindable" | "runbindable") => Some("unbindable"),
        Some(other) => return Err(Unsupported::Feature(format!("rootfsPropagation {other:?}"))),
        None => {
            let asked: HashSet<&str> = spec
                .mounts()
                .iter()
                .flatten()
                .filter(|mount| is_bind(mount))
                .flat_map(options)
                .collect();
            let any = |names: [&str; 2]| names.iter().any(|name| asked.contains(name));
            let follows = any(["slave", "rslave"]) || any(["shared", "rshared"]);
            (any(["private", "rprivate"]) && !follows).then_some("private")
        }
    };
    Ok(settled.map(str::to_owned))
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

#[cfg(test)]
mod tests;
