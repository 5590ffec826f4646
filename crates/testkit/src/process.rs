//! Reads processes from /proc: who they are, whose children, in which cgroups.

use std::collections::BTreeSet;
use std::fs;

/// One process, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The single letter of /proc/PID/stat: `R`, `S`, `Z`, ...
    pub state: char,
    /// The name of the kernel's `comm`, at most 15 characters.
    pub name: String,
    /// The command line; empty for a zombie.
    pub arguments: Vec<String>,
}

impl Process {
    /// Reads one process; none when it is gone.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may itself hold any character.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments =
            String::from_utf8_lossy(&line).split_terminator('\0').map(str::to_owned).collect();
        Some(Self { pid, parent, state, name: name.to_owned(), arguments })
    }

    /// Reads all processes.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }

    /// Returns the last part of the program's path, or the kernel's name for a process without a command line.
    pub fn program(&self) -> &str {
        self.arguments
            .first()
            .map_or(self.name.as_str(), |path| path.rsplit('/').next().unwrap_or(path))
    }

    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Returns the cgroup paths of a process, one for each hierarchy.
pub fn cgroups_of(pid: i32) -> Vec<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(str::to_owned)
        .collect()
}

/// Returns the processes that `seed` picks, all that descend from them, and all in the given cgroups or below.
pub fn family(seed: impl Fn(&Process) -> bool, groups: &[String]) -> Vec<Process> {
    let all = Process::all();
    let in_groups = |pid: i32| {
        !groups.is_empty()
            && cgroups_of(pid).iter().any(|path| {
                groups.iter().any(|group| {
                    path.strip_prefix(group.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
            })
    };
    let mut members: BTreeSet<i32> = all
        .iter()
        .filter(|process| seed(process) || in_groups(process.pid))
        .map(|process| process.pid)
        .collect();
    loop {
        let before = members.len();
        for process in &all {
            if members.contains(&process.parent) {
                members.insert(process.pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    all.into_iter().filter(|process| members.contains(&process.pid)).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_found_through_its_parent() {
        let me = std::process::id().cast_signed();
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let found = family(|process| process.pid == me, &[]);
        let pid = child.id().cast_signed();
        child.kill().unwrap();
        child.wait().unwrap();
        let sleeper = found.iter().find(|process| process.pid == pid).unwrap();
        assert_eq!((sleeper.parent, sleeper.program()), (me, "sleep"));
        assert!(found.iter().any(|process| process.pid == me));
    }
}
