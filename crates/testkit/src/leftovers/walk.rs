//! Lists folders without following links; what vanishes meanwhile is left out.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub(super) fn fifos(folder: &Path) -> Vec<PathBuf> {
    descendants(folder, 8)
        .into_iter()
        .filter(|path| {
            fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
        })
        .collect()
}

/// Returns every folder below `top`, parents first. Links are not followed.
pub(super) fn folders_below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in children(top) {
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            let below = folders_below(&path);
            found.push(path);
            found.extend(below);
        }
    }
    found
}

/// Returns all below `top` down to a depth, but nothing below containers' root file systems.
pub(super) fn descendants(top: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in children(top) {
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        found.push(path.clone());
        if is_folder && depth > 1 && path.file_name().is_none_or(|name| name != "rootfs") {
            found.extend(descendants(&path, depth - 1));
        }
    }
    found
}

pub(super) fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
