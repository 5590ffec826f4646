//! What binds every process of a container, whoever starts it.
//!
//! Kept when the container is made: config.json may say something else by the time
//! that a process joins it.

use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, LinuxPersonality, LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};

/// What a process that joins a container takes from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// It may have the capability to make device nodes, since something else keeps
    /// it from opening those it must not.
    pub(crate) may_mknod: bool,
    pub(crate) personality: Option<LinuxPersonality>,
    pub(crate) oom_score_adj: Option<i32>,
    /// The kinds of namespaces that it was made in. Others that its first process has
    /// gone to since are none of the runtime's: a user namespace would leave a process
    /// without the rights that it is to have.
    pub(crate) namespaces: Vec<LinuxNamespaceType>,
}

impl Confinement {
    /// Takes it from the spec that a container is made from.
    pub(crate) fn of(spec: &Spec, may_mknod: bool) -> Self {
        let linux = spec.linux().as_ref();
        Self {
            seccomp: linux.and_then(|linux| linux.seccomp().clone()),
            may_mknod,
            personality: linux.and_then(|linux| linux.personality().clone()),
            oom_score_adj: spec.process().as_ref().and_then(|process| process.oom_score_adj()),
            namespaces: linux
                .and_then(|linux| linux.namespaces().as_ref())
                .map(|namespaces| namespaces.iter().map(|it| it.typ()).collect())
                .unwrap_or_default(),
        }
    }

    /// The kinds of namespaces, as setns(2) knows them.
    pub(crate) fn kinds(&self) -> CloneFlags {
        self.namespaces.iter().map(|kind| flag(*kind)).collect()
    }
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME),
    }
}
