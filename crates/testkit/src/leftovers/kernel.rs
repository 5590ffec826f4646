//! What the kernel lists: mounts and cgroups.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::walk::{children, folders_below};

pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Returns every mount point of this mount namespace, in the order they were mounted.
pub fn mounts() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    table
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescaped(field))))
        .collect()
}

/// Undoes the kernel's `\ooo` for spaces and the like.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match tail.get(..3).and_then(octal) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Returns the cgroup folders of these names at the top of every hierarchy, and all below them; parents first.
pub fn cgroups(names: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(CGROUP_ROOT);
    let mut hierarchies = vec![root.to_path_buf()];
    hierarchies.extend(children(root).into_iter().filter(|path| path.is_dir()));
    let mut found = Vec::new();
    for hierarchy in hierarchies {
        for top in names.iter().map(|name| hierarchy.join(name)) {
            if top.is_dir() {
                found.push(top.clone());
                found.extend(folders_below(&top));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_escapes_are_undone() {
        assert_eq!(unescaped(br"/a\040b\134c"), br"/a b\c");
        assert!(mounts().contains(&PathBuf::from("/")));
    }
}
