//! How a process ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of a process as `waitid` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called exit with this code, 0 to 255.
    Exited(i32),
    /// A signal of this number ended it.
    Signalled(i32),
}

impl ExitStatus {
    /// What is reported of a process whose end nobody could observe, for
    /// example after a crash of the shim: 137, as containerd expects.
    pub const UNOBSERVED: Self = Self::Signalled(9);

    /// Returns the code a shell and containerd would show: the exit code, or
    /// 128 and the signal's number.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_a_shell_shows() {
        let table = [
            (ExitStatus::Exited(0), 0),
            (ExitStatus::Exited(7), 7),
            (ExitStatus::Exited(255), 255),
            (ExitStatus::Signalled(9), 137),
            (ExitStatus::Signalled(15), 143),
            (ExitStatus::Signalled(64), 192),
            (ExitStatus::UNOBSERVED, 137),
        ];
        for (status, code) in table {
            assert_eq!(status.code(), code, "{status}");
        }
    }
}
