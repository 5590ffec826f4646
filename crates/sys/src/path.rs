//! Opening paths so that they cannot lead out of a given directory.
//!
//! A container's root is written by a stranger: an absolute symlink or a `..`
//! in it must resolve inside it, as it would after a chroot. The kernel does
//! that itself (openat2, `RESOLVE_IN_ROOT`), so there is no moment between a
//! check and a use in which a component could be swapped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// How often an openat2 that met a rename in flight is repeated.
const RACE_ATTEMPTS: u32 = 64;

/// Opens `path` as a process sees it whose root is `root`. `O_CLOEXEC` is
/// always added; `O_CREAT` makes the file with mode 0600.
///
/// # Errors
/// Those of openat2(2): `ELOOP` for a magic link of procfs, `ENOENT` where a
/// component is missing.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let mut how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    if flags.contains(OFlag::O_CREAT) {
        how = how.mode(Mode::from_bits_truncate(0o600));
    }
    let mut attempts = 0;
    loop {
        match openat2(root, path, how) {
            // The kernel gives EAGAIN when a rename or mount elsewhere raced
            // with a `..`; the next try is as safe as the first.
            Err(nix::Error::EAGAIN) if attempts < RACE_ATTEMPTS => attempts += 1,
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Opens a directory as a mere reference (`O_PATH`), following symlinks.
///
/// # Errors
/// `ENOTDIR` when it is something else, and those of open(2).
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// Opens anything as a mere reference (`O_PATH`), following symlinks but no
/// magic link of procfs.
///
/// # Errors
/// Those of openat2(2).
pub fn open_reference(path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(nix::fcntl::AT_FDCWD, path, how)?)
}

/// Returns the path the kernel knows for an open file: seen from this
/// process's root, or from the root of a detached tree it lies in. Needs a
/// mounted `/proc`.
///
/// # Errors
/// Those of readlink(2).
pub fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sys-path-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("root/etc")).unwrap();
            std::fs::write(path.join("secret"), "outside").unwrap();
            std::fs::write(path.join("root/etc/motd"), "inside").unwrap();
            Self(path)
        }

        fn read(&self, inside: &str) -> io::Result<String> {
            let root = open_directory(&self.0.join("root"))?;
            let fd = open_in_root(root.as_fd(), Path::new(inside), OFlag::O_RDONLY)?;
            io::read_to_string(std::fs::File::from(fd))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn absolute_links_and_dots_resolve_inside_the_root() {
        let scratch = Scratch::new("inside");
        symlink("/etc/motd", scratch.0.join("root/absolute")).unwrap();
        symlink("../../../etc/motd", scratch.0.join("root/dots")).unwrap();
        assert_eq!(scratch.read("etc/motd").unwrap(), "inside");
        assert_eq!(scratch.read("/absolute").unwrap(), "inside");
        assert_eq!(scratch.read("dots").unwrap(), "inside");
        assert_eq!(scratch.read("../../etc/motd").unwrap(), "inside");
    }

    #[test]
    fn nothing_outside_the_root_is_reached() {
        let scratch = Scratch::new("outside");
        symlink(scratch.0.join("secret"), scratch.0.join("root/link")).unwrap();
        for attempt in ["../secret", "/link", "etc/../../secret"] {
            let error = scratch.read(attempt).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{attempt}");
        }
    }

    #[test]
    fn magic_links_are_not_followed() {
        let proc = open_directory(Path::new("/proc")).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        open_in_root(proc.as_fd(), Path::new("self/task"), flags).unwrap();
        let error = open_in_root(proc.as_fd(), Path::new("self/cwd"), flags).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn an_open_file_knows_its_path() {
        let fd = open_directory(Path::new("/usr/../usr")).unwrap();
        assert_eq!(path_of(fd).unwrap(), Path::new("/usr"));
    }
}
