//! Letting a further process into a container's cgroup, beside those that it has.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::unistd::Pid;

use super::Cgroup;
use super::error::{CgroupError, Result, failed};
use super::folder::Folder;
use crate::process::SingleThreaded;

impl Cgroup {
    /// As [`Cgroup::join_self`], for a cgroup of a container that runs: whoever made
    /// it may have left out a hierarchy, and its processes are nowhere in that one.
    ///
    /// # Errors
    /// Those of writing `tasks` or `cgroup.procs`; when it is in no hierarchy.
    pub fn join_beside(&self, single: &SingleThreaded) -> Result<()> {
        let there = self.folders.iter().filter(|folder| folder.is_there());
        let folders: Vec<Folder> = there.cloned().collect();
        if folders.is_empty() {
            let path = self.location.relative();
            return Err(failed("find", path, io::ErrorKind::NotFound.into()));
        }
        Self { location: self.location.clone(), folders }.join_self(single)
    }

    /// As [`Cgroup::door`], of the cgroup below this one that `process`, which is
    /// held by its pidfd, is in by now. A container may have moved its processes to
    /// cgroups of its own, and then no process can be in this one.
    ///
    /// # Errors
    /// Those of reading /proc/PID/cgroup and opening the folder; when that process is
    /// somewhere else.
    pub fn door_beside(&self, process: Pid) -> Result<Option<OwnedFd>> {
        let table = PathBuf::from(format!("/proc/{process}/cgroup"));
        let text = fs::read_to_string(&table).map_err(|error| failed("read", &table, error))?;
        let rest = rest_below(&text, self.location.relative());
        let Some(rest) = rest else {
            return Err(CgroupError::Unreadable {
                path: table,
                text: text.chars().take(200).collect(),
            });
        };
        let below = |folder: &Folder| {
            let mut folder = folder.clone();
            folder.path.push(&rest);
            folder
        };
        let folders = self.folders.iter().map(below).collect();
        Self { location: self.location.clone(), folders }.door()
    }
}

/// What follows the cgroup's own path in a process's path of version 2.
fn rest_below(table: &str, cgroup: &Path) -> Option<PathBuf> {
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let rest = Path::new(path).strip_prefix(cgroup).ok()?;
    // Seen from a cgroup namespace, a path outside begins with dots.
    let is_plain = rest.components().all(|it| matches!(it, Component::Normal(_)));
    is_plain.then(|| rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_containers_cgroup_counts() {
        let table = [
            ("0::/pod/web\n", Some("")),
            ("0::/pod/web/init.scope\n", Some("init.scope")),
            ("1:cpu:/pod/web/x\n0::/pod/web/a/b\n", Some("a/b")),
            ("0::/pod/web2\n", None),
            ("0::/pod\n", None),
            ("0::/../pod/web\n", None),
            ("0::/pod/web/../../other\n", None),
            ("1:cpu:/pod/web\n", None),
        ];
        for (text, expected) in table {
            let found = rest_below(text, Path::new("pod/web"));
            assert_eq!(found, expected.map(PathBuf::from), "{text}");
        }
    }
}
