//! Where a path of the container leads on the host, before anything is mounted.
//!
//! Follows symlinks as the container would see them, and goes through the bind
//! mounts that precede; what does not exist yet is taken as written. This only
//! *predicts*: it serves to refuse hostile bundles early, and every use of a
//! result opens the path again in a way that cannot leave the root.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As the kernel's own limit (`MAXSYMLINKS`).
const MAX_SYMLINKS: u32 = 40;

/// The container's tree as far as the mounts seen so far shape it.
#[derive(Debug)]
pub(crate) struct View {
    mounts: Vec<Mounted>,
}

#[derive(Debug)]
struct Mounted {
    /// In the container, with symlinks resolved.
    target: PathBuf,
    /// On the host; none for a filesystem that is still empty or virtual.
    source: Option<PathBuf>,
}

/// A path whose symlinks go round in circles.
#[derive(Debug, thiserror::Error)]
#[error("too many symlinks in {}", .0.display())]
pub(crate) struct TooManySymlinks(PathBuf);

impl View {
    /// Starts with the root filesystem alone.
    pub(crate) fn of_root(rootfs: &Path) -> Self {
        let root = Mounted { target: PathBuf::from("/"), source: Some(rootfs.to_owned()) };
        Self { mounts: vec![root] }
    }

    /// Adds a mount that lies over what is at `target` (already resolved).
    pub(crate) fn mount(&mut self, target: PathBuf, source: Option<PathBuf>) {
        self.mounts.push(Mounted { target, source });
    }

    /// Resolves `path` as the container sees it: absolute, without symlinks
    /// and dots.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, TooManySymlinks> {
        let mut resolved = PathBuf::from("/");
        let mut left = names(path);
        let mut links = 0;
        while let Some(step) = left.pop_front() {
            match step {
                Step::Up => {
                    resolved.pop();
                }
                Step::Into(name) => {
                    let next = resolved.join(&name);
                    match self.link_at(&next) {
                        None => resolved = next,
                        Some(_) if links == MAX_SYMLINKS => {
                            return Err(TooManySymlinks(path.to_owned()));
                        }
                        Some(link) => {
                            links += 1;
                            if link.is_absolute() {
                                resolved = PathBuf::from("/");
                            }
                            let mut front = names(&link);
                            front.append(&mut left);
                            left = front;
                        }
                    }
                }
            }
        }
        Ok(resolved)
    }

    /// The host's path and directory tree behind a resolved path: the root of
    /// the mount it lies in, and the rest below that.
    pub(crate) fn on_host(&self, resolved: &Path) -> Option<(&Path, PathBuf)> {
        // The last mount whose target holds the path is the one on top.
        let mounted = self.mounts.iter().rev().find(|it| resolved.starts_with(&it.target))?;
        let rest = resolved.strip_prefix(&mounted.target).ok()?;
        Some((mounted.source.as_deref()?, rest.to_owned()))
    }

    fn link_at(&self, resolved: &Path) -> Option<PathBuf> {
        let (tree, rest) = self.on_host(resolved)?;
        if rest.as_os_str().is_empty() {
            return None;
        }
        // Whatever is no symlink, or is not there, is taken as it is written.
        fs::read_link(tree.join(rest)).ok()
    }
}

enum Step {
    Up,
    Into(OsString),
}

fn names(path: &Path) -> VecDeque<Step> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Step::Into(name.to_owned())),
            Component::ParentDir => Some(Step::Up),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn symlinks_resolve_inside_the_root_and_through_bind_mounts() {
        let scratch = tempfile::tempdir().unwrap();
        let rootfs = scratch.path().join("rootfs");
        let volume = scratch.path().join("volume");
        fs::create_dir_all(rootfs.join("real/deep")).unwrap();
        fs::create_dir_all(&volume).unwrap();
        symlink("/real", rootfs.join("absolute")).unwrap();
        symlink("../../../real/deep", rootfs.join("real/upward")).unwrap();
        symlink("/proc/sys", rootfs.join("trap")).unwrap();
        symlink("loop", rootfs.join("loop")).unwrap();
        symlink("/proc/self", volume.join("inner")).unwrap();
        let mut view = View::of_root(&rootfs);
        view.mount(PathBuf::from("/mnt"), Some(volume.clone()));
        view.mount(PathBuf::from("/mnt/tmpfs"), None);

        let table = [
            ("/plain/missing", "/plain/missing"),
            ("/absolute/deep", "/real/deep"),
            ("/real/upward/x", "/real/deep/x"),
            ("/../../etc", "/etc"),
            ("/trap/kernel", "/proc/sys/kernel"),
            ("/mnt/inner/attr", "/proc/self/attr"),
            ("/mnt/tmpfs/inner", "/mnt/tmpfs/inner"),
            ("real/./deep/..", "/real"),
        ];
        for (given, expected) in table {
            assert_eq!(view.resolve(Path::new(given)).unwrap(), Path::new(expected), "{given}");
        }
        assert!(view.resolve(Path::new("/loop")).is_err());
        let (tree, rest) = view.on_host(Path::new("/mnt/a/b")).unwrap();
        assert_eq!((tree, rest.as_path()), (volume.as_path(), Path::new("a/b")));
        assert!(view.on_host(Path::new("/mnt/tmpfs/a")).is_none());
    }
}
