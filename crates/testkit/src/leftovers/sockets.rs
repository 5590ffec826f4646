//! The sockets of shims, and who listens on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::walk::children;
use crate::process::Process;

pub(super) const SHIM_SOCKETS: &str = "/run/containerd/s";

/// Returns the sockets in the shims' folder, each with the inodes that are bound to it.
pub(super) fn listeners() -> Result<BTreeMap<PathBuf, Vec<String>>> {
    let paths = children(Path::new(SHIM_SOCKETS));
    let table = fs::read_to_string("/proc/net/unix").context("reading /proc/net/unix")?;
    let bound: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((*words.get(6)?, *words.get(7)?))
        })
        .collect();
    let inodes_of = |path: &PathBuf| {
        bound
            .iter()
            .filter(|(_, name)| same_socket(Path::new(name), path))
            .map(|(inode, _)| (*inode).to_owned())
            .collect()
    };
    let found = paths.iter().map(|path| (path.clone(), inodes_of(path)));
    Ok(found.collect())
}

/// Returns the sockets that nobody listens on, now and a moment later: every shim that ends closes its socket a moment
/// before it removes the file.
pub(super) fn abandoned(bound: &BTreeMap<PathBuf, Vec<String>>) -> Result<Vec<PathBuf>> {
    let silent = |map: &BTreeMap<PathBuf, Vec<String>>| -> Vec<PathBuf> {
        map.iter().filter(|(_, inodes)| inodes.is_empty()).map(|(path, _)| path.clone()).collect()
    };
    let mut found = silent(bound);
    if !found.is_empty() {
        thread::sleep(Duration::from_millis(300));
        let later = silent(&listeners()?);
        found.retain(|path| later.contains(path));
    }
    Ok(found)
}

/// `/var/run` is `/run`, and a shim may have bound either.
fn same_socket(bound: &Path, path: &Path) -> bool {
    let short = |path: &Path| {
        path.strip_prefix("/var").map_or(path.to_path_buf(), |rest| Path::new("/").join(rest))
    };
    short(bound) == short(path)
}

/// Returns the inodes of the sockets a process has open.
pub(super) fn held_by(process: &Process) -> Vec<String> {
    children(&PathBuf::from(format!("/proc/{}/fd", process.pid)))
        .iter()
        .filter_map(|fd| fs::read_link(fd).ok())
        .filter_map(|target| {
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}
