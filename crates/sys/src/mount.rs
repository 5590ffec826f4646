//! Mounts made with the file-descriptor API: detached trees that no path of
//! the host ever shows, restricted first and attached last.
//!
//! A [`Tree`] never holds a submount of its source (`open_tree` without
//! `AT_RECURSIVE`) and receives none later (private propagation), so a procfs
//! or sysfs below the source is not in it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::unistd::{fchdir, pivot_root};

mod filesystem;

pub use filesystem::{Filesystem, filesystem_of};

/// A mount that is attached nowhere until [`Tree::attach`].
#[derive(Debug)]
pub struct Tree(OwnedFd);

/// Restrictions of a mount; they add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountFlags(u64);

impl MountFlags {
    /// No file below can be changed through this mount.
    pub const RDONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// Set-user-id bits and file capabilities do nothing.
    pub const NOSUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    /// Device nodes cannot be opened.
    pub const NODEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    /// Files cannot be executed or mapped executable.
    pub const NOEXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    /// What every tree that a guest sees has: nosuid, nodev, noexec.
    pub const GUEST: Self = Self(Self::NOSUID.0 | Self::NODEV.0 | Self::NOEXEC.0);

    /// Returns both sets of restrictions together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tree {
    /// Clones the one mount that an open file or directory lies in, seen from
    /// there down, without submounts and private. It may be a single file and may
    /// be opened with `O_PATH`.
    ///
    /// # Errors
    /// Those of open_tree(2): needs CAP_SYS_ADMIN.
    pub fn clone_of_fd(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let empty = libc::AT_EMPTY_PATH.cast_unsigned();
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | empty;
        // SAFETY: the path is a NUL-terminated literal, `fd` is open for as
        // long as its borrow, and open_tree writes to no memory of ours.
        let raw =
            unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) };
        let tree = Self(owned(raw)?);
        set_attributes(tree.as_fd(), 0, libc::MS_PRIVATE)?;
        Ok(tree)
    }

    /// Makes a new tmpfs of at most `size` bytes and `inodes` files (the
    /// kernel's default, half of the memory, where `None`).
    ///
    /// # Errors
    /// Those of fsopen(2), fsconfig(2) and fsmount(2).
    pub fn tmpfs(size: Option<u64>, mode: u32, inodes: Option<u64>) -> io::Result<Self> {
        let context = Context::open(c"tmpfs")?;
        context.set(c"mode", &format!("{mode:o}"))?;
        if let Some(size) = size {
            context.set(c"size", &size.to_string())?;
        }
        if let Some(inodes) = inodes {
            context.set(c"nr_inodes", &inodes.to_string())?;
        }
        context.mount()
    }

    /// Makes a read-only overlay of at least two directories, the uppermost
    /// first. They are named by paths of the current mount namespace.
    ///
    /// # Errors
    /// `EINVAL` for fewer than two directories, for a path with `:`, `,` or
    /// `\`, for paths over 255 bytes together, and where the directories are
    /// themselves overlays too deep to stack.
    pub fn overlay_of(lowers: &[&Path]) -> io::Result<Self> {
        let awkward =
            |path: &&Path| path.as_os_str().as_bytes().iter().any(|byte| b":,\\".contains(byte));
        if lowers.len() < 2 || lowers.iter().any(awkward) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let joined =
            lowers.iter().map(|path| path.as_os_str().as_bytes()).collect::<Vec<_>>().join(&b':');
        let context = Context::open(c"overlay")?;
        context.set_bytes(c"lowerdir", joined)?;
        let tree = context.mount()?;
        tree.restrict(MountFlags::RDONLY)?;
        Ok(tree)
    }

    /// Adds restrictions; none is ever taken away.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn restrict(&self, flags: MountFlags) -> io::Result<()> {
        restrict_mount(self.as_fd(), flags)
    }

    /// Attaches the tree on `path`, looked up from the directory `at`.
    ///
    /// # Errors
    /// Those of move_mount(2): `ENOTDIR` where one is a file and the other a
    /// directory.
    pub fn attach(self, at: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        self.move_to(at, &text(path.as_os_str().as_bytes())?, 0)
    }

    /// Attaches the tree on an open file or directory itself.
    ///
    /// # Errors
    /// Those of move_mount(2).
    pub fn attach_on(self, target: BorrowedFd<'_>) -> io::Result<()> {
        self.move_to(target, c"", libc::MOVE_MOUNT_T_EMPTY_PATH)
    }

    fn move_to(self, at: BorrowedFd<'_>, path: &CStr, flags: u32) -> io::Result<()> {
        let flags = flags | libc::MOVE_MOUNT_F_EMPTY_PATH;
        // SAFETY: both paths are NUL-terminated and live until the call
        // returns; both descriptors are open; no memory of ours is written.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                at.as_raw_fd(),
                path.as_ptr(),
                flags,
            )
        };
        checked(done).map(drop)
    }
}

/// Adds restrictions to the mount whose root is open as `fd`, attached or not.
///
/// # Errors
/// Those of mount_setattr(2): `EINVAL` when `fd` is not the root of a mount.
pub fn restrict_mount(fd: BorrowedFd<'_>, flags: MountFlags) -> io::Result<()> {
    set_attributes(fd, flags.0, 0)
}

fn set_attributes(fd: BorrowedFd<'_>, attributes: u64, propagation: u64) -> io::Result<()> {
    let request = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation, userns_fd: 0 };
    // SAFETY: `request` is a whole mount_attr, its true size is passed along
    // and the kernel only reads it; the path is a literal; `fd` is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(done).map(drop)
}

/// Makes `new_root`, which must be the root of a mount, the root of this mount
/// namespace and detaches the old root with everything below it.
///
/// # Errors
/// Those of pivot_root(2) and umount2(2).
pub fn pivot_into_fd(new_root: BorrowedFd<'_>) -> io::Result<()> {
    fchdir(new_root)?;
    // With both paths ".", the old root ends up on top of the new one and is
    // what "." then names; no directory has to be made for it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir("/")?)
}

/// A filesystem being configured.
struct Context(OwnedFd);

impl Context {
    fn open(kind: &CStr) -> io::Result<Self> {
        // SAFETY: `kind` is NUL-terminated; fsopen writes to no memory of ours.
        let raw = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
        Ok(Self(owned(raw)?))
    }

    fn set(&self, key: &CStr, value: &str) -> io::Result<()> {
        self.set_bytes(key, value.as_bytes().to_vec())
    }

    fn set_bytes(&self, key: &CStr, value: Vec<u8>) -> io::Result<()> {
        let value = text(&value)?;
        self.command(libc::FSCONFIG_SET_STRING, Some((key, &value)))
    }

    fn mount(self) -> io::Result<Tree> {
        self.command(libc::FSCONFIG_CMD_CREATE, None)?;
        // SAFETY: the descriptor is an open filesystem context; fsmount
        // writes to no memory of ours.
        let raw = unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, 0)
        };
        Ok(Tree(owned(raw)?))
    }

    fn command(&self, command: u32, pair: Option<(&CStr, &CStr)>) -> io::Result<()> {
        let null = std::ptr::null();
        let (key, value) = pair.map_or((null, null), |(key, value)| (key.as_ptr(), value.as_ptr()));
        // SAFETY: key and value are NUL-terminated strings that outlive the
        // call, or null, which FSCONFIG_CMD_CREATE demands; the kernel copies
        // them and writes nothing.
        let done = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0)
        };
        checked(done).map(drop)
    }
}

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes the descriptor that a system call has just returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw =
        RawFd::try_from(checked(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: only called with the fresh result of a system call that makes a
    // descriptor, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests;
