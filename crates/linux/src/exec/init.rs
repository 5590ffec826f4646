//! The container's first process, as the host sees it.

use std::fs;
use std::io;
use std::time::Duration;

use nix::unistd::Pid;
use sys::pidfd::{Identity, PidFd};

use super::ExecError;

/// A first process that was there when it was looked for: what is read about its id
/// counts as long as the pidfd says so.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: Pid,
    pub(super) pidfd: PidFd,
}

impl Init {
    /// Opens the process that the container was made with.
    pub(super) fn find(identity: Identity) -> Result<Self, ExecError> {
        let opened = identity.open();
        let pidfd = opened
            .map_err(|source| ExecError::Prepare { attempt: "open the first process", source })?;
        Ok(Self { pid: identity.pid(), pidfd: pidfd.ok_or(ExecError::Stopped)? })
    }

    /// Tells an error that only says that the process has ended meanwhile.
    pub(super) fn explain(&self, attempt: &'static str, source: io::Error) -> ExecError {
        match self.pidfd.ends_within(Duration::ZERO) {
            Ok(true) => ExecError::Stopped,
            _ => ExecError::Prepare { attempt, source },
        }
    }

    /// The host's number of a user of the container; none if it has none.
    pub(super) fn host_uid(&self, inside: u32) -> io::Result<Option<u32>> {
        let map = fs::read_to_string(format!("/proc/{}/uid_map", self.pid))?;
        Ok(map.lines().find_map(|line| translate(line, inside)))
    }
}

/// Finds a user in one line of a `uid_map`: the first id inside, the first on the
/// host, how many.
fn translate(line: &str, inside: u32) -> Option<u32> {
    let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
    let (first, host, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let offset = inside.checked_sub(first).filter(|offset| *offset < count)?;
    host.checked_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_translated_as_the_kernel_does() {
        let table = [
            ("         0          0 4294967295", 1000, Some(1000)),
            ("         0     100000      65536", 1000, Some(101_000)),
            ("         0     100000      65536", 65536, None),
            ("       500     100000          1", 499, None),
            ("nonsense", 0, None),
        ];
        for (line, inside, host) in table {
            assert_eq!(translate(line, inside), host, "{line}");
        }
    }
}
