//! What binds every process of a container, whoever starts it.
//!
//! Kept when the container is made: config.json may say something else by the time
//! that a process joins it.

use oci_spec::runtime::{LinuxPersonality, LinuxSeccomp, Spec};
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
        }
    }
}
