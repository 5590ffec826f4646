//! The states of a container.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a container stands, as the OCI runtime spec ("State") and containerd's
/// task API name it. A deleted one has no state: it is gone from the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Made, and waiting for its start.
    Created,
    /// Running the user's program.
    Running,
    /// Frozen by its cgroup.
    Paused,
    /// Its first process has exited.
    Stopped,
}

impl State {
    /// All states, for tables.
    pub const ALL: [Self; 4] = [Self::Created, Self::Running, Self::Paused, Self::Stopped];

    /// Returns the word of the OCI runtime spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
