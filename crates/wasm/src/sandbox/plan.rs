//! From a runtime spec to a [`SandboxPlan`]: what a wasm sandbox cannot honour
//! is refused here, in a sentence, before anything is made.

use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};
use sys::cgroup::{InvalidLocation, Location};
use sys::namespace::Kind;
use sys::terminal::Size;

use super::{SandboxPlan, User, sysctl};
use crate::grants::{self, GrantError};

/// Why a spec cannot become a sandbox.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The spec has no `process`.
    #[error("config.json has no process")]
    NoProcess,
    /// The spec asks for something that wasm containers do not have.
    #[error("config.json asks for {0}, which wasm containers do not have")]
    Unsupported(String),
    /// A kernel parameter that would not be the container's own.
    #[error("sysctl {name} is refused: {reason}")]
    Sysctl {
        /// The parameter.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The current directory of a further process.
    #[error("process.cwd must be an absolute path, not {}", .0.display())]
    RelativeCwd(PathBuf),
    /// The `cgroupsPath` names no place.
    #[error("linux.cgroupsPath cannot be used")]
    Cgroup(#[from] InvalidLocation),
    /// A mount is refused.
    #[error("the container's files cannot be granted")]
    Grant(#[from] GrantError),
}

impl SandboxPlan {
    /// Decides the sandbox of the container `id`, whose bundle is `bundle`.
    ///
    /// What serves Linux programs alone is left out: capabilities (a guest gets
    /// none), devices, masked and read-only paths, AppArmor and SELinux labels,
    /// which take effect at an exec that never comes.
    ///
    /// # Errors
    /// What the spec asks for and cannot be honoured.
    pub fn from_spec(spec: &Spec, id: &str, bundle: &Path) -> Result<Self, PlanError> {
        let process = spec.process().as_ref().ok_or(PlanError::NoProcess)?;
        let linux = spec.linux().clone().unwrap_or_default();
        refuse_unsupported(&linux)?;
        refuse_unsupported_of(process)?;
        let namespaces = namespaces(&linux)?;
        let cgroups_path = linux.cgroups_path().as_ref().map(|path| path.to_string_lossy());
        Ok(Self {
            id: id.to_owned(),
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            cgroup: Location::parse(cgroups_path.as_deref(), id)?,
            resources: linux.resources().clone(),
            grants: grants::from_spec(spec, bundle)?,
            user: user(process),
            rlimits: process.rlimits().clone().unwrap_or_default(),
            seccomp: linux.seccomp().clone(),
            oom_score_adj: process.oom_score_adj(),
            sysctls: sysctl::checked(linux.sysctl().as_ref(), &namespaces)?,
            namespaces,
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            terminal: process.terminal().unwrap_or_default(),
            terminal_size: Size::asked_by(process),
            listen: None,
        })
    }

    /// Decides how a further process is in this sandbox: the container's limits
    /// and score hold where `process` names none of its own.
    ///
    /// # Errors
    /// What the process asks for and cannot be honoured.
    pub fn for_process(&self, process: &Process) -> Result<Self, PlanError> {
        refuse_unsupported_of(process)?;
        // As Linux does. No guest has a current directory, so an absolute one changes nothing.
        let cwd = process.cwd();
        if cwd.is_relative() && !cwd.as_os_str().is_empty() {
            return Err(PlanError::RelativeCwd(cwd.clone()));
        }
        let rlimits = process.rlimits().clone().filter(|list| !list.is_empty());
        Ok(Self {
            user: user(process),
            rlimits: rlimits.unwrap_or_else(|| self.rlimits.clone()),
            oom_score_adj: process.oom_score_adj().or(self.oom_score_adj),
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            terminal: process.terminal().unwrap_or_default(),
            terminal_size: Size::asked_by(process),
            listen: None,
            ..self.clone()
        })
    }

    /// The namespaces that the clone itself makes. Mounts and cgroup come
    /// later, from inside.
    pub(super) fn clone_flags(&self) -> CloneFlags {
        let made_by_clone = [Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts];
        made_by_clone
            .into_iter()
            .filter(|kind| self.has_own(*kind))
            .fold(CloneFlags::empty(), |flags, kind| flags | kind.flag())
    }

    /// Says whether the sandbox gets a new namespace of this kind.
    pub(super) fn has_own(&self, kind: Kind) -> bool {
        self.namespaces.contains(&(kind, None))
    }

    /// The namespace of this kind that the sandbox joins.
    pub(super) fn joined(&self, kind: Kind) -> Option<&Path> {
        let mut listed = self.namespaces.iter();
        listed.find_map(|(each, path)| path.as_deref().filter(|_| *each == kind))
    }
}

fn refuse_unsupported(linux: &Linux) -> Result<(), PlanError> {
    let not_empty = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    refuse_first(&[
        (not_empty(linux.uid_mappings()) || not_empty(linux.gid_mappings()), "user id mappings"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.memory_policy().is_some(), "linux.memoryPolicy"),
        (linux.net_devices().as_ref().is_some_and(|list| !list.is_empty()), "linux.netDevices"),
        (linux.time_offsets().as_ref().is_some_and(|list| !list.is_empty()), "linux.timeOffsets"),
    ])
}

fn refuse_unsupported_of(process: &Process) -> Result<(), PlanError> {
    refuse_first(&[
        (process.scheduler().is_some(), "process.scheduler"),
        (process.io_priority().is_some(), "process.ioPriority"),
        (process.exec_cpu_affinity().is_some(), "process.execCPUAffinity"),
    ])
}

fn refuse_first(asked: &[(bool, &str)]) -> Result<(), PlanError> {
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => unsupported(what),
        None => Ok(()),
    }
}

fn namespaces(linux: &Linux) -> Result<Vec<(Kind, Option<PathBuf>)>, PlanError> {
    let mut found: Vec<(Kind, Option<PathBuf>)> = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
        let kind = match namespace.typ() {
            LinuxNamespaceType::Pid => Kind::Pid,
            LinuxNamespaceType::Network => Kind::Network,
            LinuxNamespaceType::Ipc => Kind::Ipc,
            LinuxNamespaceType::Uts => Kind::Uts,
            LinuxNamespaceType::Cgroup => Kind::Cgroup,
            LinuxNamespaceType::Mount if path.is_none() => Kind::Mount,
            LinuxNamespaceType::Mount => return unsupported("another process's mount namespace"),
            LinuxNamespaceType::User => return unsupported("a user namespace"),
            LinuxNamespaceType::Time => return unsupported("a time namespace"),
        };
        if found.iter().any(|(other, _)| *other == kind) {
            return unsupported(&format!("two {} namespaces", kind.file()));
        }
        found.push((kind, path));
    }
    Ok(found)
}

fn unsupported<T>(what: &str) -> Result<T, PlanError> {
    Err(PlanError::Unsupported(what.to_owned()))
}

fn user(process: &Process) -> User {
    let user = process.user();
    User {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut text = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": { "uid": 7, "gid": 8, "additionalGids": [9], "umask": 63 },
                "args": ["/app.wasm", "x"], "env": ["A=1"], "cwd": "/",
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 20 }],
            },
            "root": { "path": "rootfs" },
            "hostname": "box",
            "linux": {
                "cgroupsPath": "/pods/web",
                "namespaces": [
                    { "type": "pid" }, { "type": "mount" }, { "type": "uts" },
                    { "type": "network", "path": "/run/netns/pod" }, { "type": "ipc", "path": "" },
                ],
            },
        });
        change(&mut text);
        serde_json::from_value(text).unwrap()
    }

    fn plan(change: impl FnOnce(&mut serde_json::Value)) -> Result<SandboxPlan, PlanError> {
        SandboxPlan::from_spec(&spec(change), "web", Path::new("/bundle"))
    }

    #[test]
    fn a_plan_says_what_the_spec_says() {
        let plan = plan(|_| {}).unwrap();
        assert_eq!(plan.cgroup.relative(), Path::new("pods/web"));
        assert_eq!(plan.hostname.as_deref(), Some("box"));
        assert_eq!(plan.user.umask, Some(0o77));
        assert_eq!((plan.user.uid, plan.user.gid), (7, 8));
        assert_eq!(plan.args, ["/app.wasm", "x"]);
        assert_eq!(plan.joined(Kind::Network), Some(Path::new("/run/netns/pod")));
        let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
        assert_eq!(plan.clone_flags(), own);
    }

    #[test]
    fn a_further_process_is_somebody_of_its_own_in_the_same_sandbox() {
        let init = plan(|spec| spec["process"]["oomScoreAdj"] = serde_json::json!(5)).unwrap();
        let process = |text: serde_json::Value| serde_json::from_value::<Process>(text).unwrap();
        let plain = process(serde_json::json!({
            "user": { "uid": 1, "gid": 2 }, "args": ["/tool.wasm"], "cwd": "/", "terminal": true,
        }));
        let joined = init.for_process(&plain).unwrap();
        assert_eq!((joined.user.uid, joined.user.gid, joined.terminal), (1, 2, true));
        assert_eq!(joined.user.additional_gids, Vec::<u32>::new());
        assert_eq!((joined.args.as_slice(), joined.env.len()), (&["/tool.wasm".to_owned()][..], 0));
        assert_eq!((&joined.rlimits, joined.oom_score_adj), (&init.rlimits, Some(5)));
        assert_eq!((&joined.grants, &joined.cgroup), (&init.grants, &init.cgroup));
        let own = process(serde_json::json!({
            "user": { "uid": 1, "gid": 2 }, "cwd": "/", "oomScoreAdj": 7,
            "rlimits": [{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
        }));
        let joined = init.for_process(&own).unwrap();
        assert_ne!(joined.rlimits, init.rlimits);
        assert_eq!((joined.rlimits.len(), joined.oom_score_adj), (1, Some(7)));
        assert!(!joined.terminal && !init.terminal);
        let odd = process(serde_json::json!({
            "user": { "uid": 1, "gid": 2 }, "cwd": "/", "ioPriority": { "class": "IOPRIO_CLASS_BE" },
        }));
        assert!(init.for_process(&odd).unwrap_err().to_string().contains("process.ioPriority"));
        let at = |cwd: &str| {
            let user = serde_json::json!({ "uid": 1, "gid": 2 });
            init.for_process(&process(serde_json::json!({ "user": user, "cwd": cwd })))
        };
        assert_eq!(at("tmp/x").unwrap_err(), PlanError::RelativeCwd("tmp/x".into()));
        assert!(at("").is_ok() && at("/tmp").is_ok());
    }

    #[test]
    fn a_plan_survives_the_way_to_the_keeper() {
        let plan = plan(|_| {}).unwrap();
        let text = serde_json::to_vec(&plan).unwrap();
        assert_eq!(serde_json::from_slice::<SandboxPlan>(&text).unwrap(), plan);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        let namespace = |kind: &'static str, path: Option<&'static str>| {
            move |spec: &mut serde_json::Value| {
                spec["linux"]["namespaces"] = serde_json::json!([{ "type": kind, "path": path }]);
            }
        };
        let table: [(PlanError, &str); 5] = [
            (plan(namespace("user", None)).unwrap_err(), "a user namespace"),
            (plan(namespace("time", None)).unwrap_err(), "a time namespace"),
            (plan(namespace("mount", Some("/proc/1/ns/mnt"))).unwrap_err(), "mount namespace"),
            (
                plan(|spec| {
                    spec["linux"]["uidMappings"] =
                        serde_json::json!([{ "containerID": 0, "hostID": 0, "size": 1 }])
                })
                .unwrap_err(),
                "user id mappings",
            ),
            (plan(|spec| spec["process"] = serde_json::Value::Null).unwrap_err(), "no process"),
        ];
        for (error, words) in table {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(plan(namespace("mount", None)).is_ok());
    }
}
