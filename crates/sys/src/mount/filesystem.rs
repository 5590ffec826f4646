//! Which filesystem an open file lies on, and whether that filesystem is an
//! interface of the kernel rather than a place for data.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::stat::{fstat, stat};
use nix::sys::statfs::fstatfs;

/// A kind of filesystem, as far as it matters for what a guest may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// procfs.
    Proc,
    /// sysfs.
    Sysfs,
    /// A cgroup hierarchy of either version.
    Cgroup,
    /// The tree of device nodes that is mounted on `/dev`.
    Devtmpfs,
    /// POSIX message queues.
    Mqueue,
    /// Terminals.
    Devpts,
    /// debugfs.
    Debugfs,
    /// tracefs.
    Tracefs,
    /// securityfs, selinuxfs or smackfs.
    Security,
    /// configfs.
    Configfs,
    /// Pinned eBPF objects.
    Bpf,
    /// pstore or efivarfs: what the firmware keeps.
    Firmware,
    /// binfmt_misc.
    BinfmtMisc,
    /// The control filesystem of FUSE.
    FuseControl,
    /// Namespaces, pidfds and the like.
    Handles,
    /// Anything else, with its `statfs` magic number.
    Other(i64),
}

impl Filesystem {
    /// Says whether files on it reach into the kernel or other processes.
    #[must_use]
    pub fn is_kernel_interface(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// The kernel's name for it, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sysfs => "sysfs",
            Self::Cgroup => "cgroup",
            Self::Devtmpfs => "devtmpfs",
            Self::Mqueue => "mqueue",
            Self::Devpts => "devpts",
            Self::Debugfs => "debugfs",
            Self::Tracefs => "tracefs",
            Self::Security => "securityfs",
            Self::Configfs => "configfs",
            Self::Bpf => "bpf",
            Self::Firmware => "efivarfs or pstore",
            Self::BinfmtMisc => "binfmt_misc",
            Self::FuseControl => "fusectl",
            Self::Handles => "nsfs",
            Self::Other(_) => "data",
        }
    }

    /// Maps the magic number of statfs(2) (linux/magic.h).
    fn from_magic(magic: i64) -> Self {
        match magic {
            0x9fa0 => Self::Proc,
            0x6265_6572 => Self::Sysfs,
            0x0027_e0eb | 0x6367_7270 => Self::Cgroup,
            0x1980_0202 => Self::Mqueue,
            0x1cd1 => Self::Devpts,
            0x6462_6720 => Self::Debugfs,
            0x7472_6163 => Self::Tracefs,
            0x7363_6673 | 0xf97c_ff8c | 0x4341_5d53 => Self::Security,
            0x6265_6570 => Self::Configfs,
            0xcafe_4a11 => Self::Bpf,
            0x6165_676c | 0xde5e_81e4 => Self::Firmware,
            0x4249_4e4d => Self::BinfmtMisc,
            0x6573_5543 => Self::FuseControl,
            0x6e73_6673 | 0x5049_4446 => Self::Handles,
            other => Self::Other(other),
        }
    }
}

/// Returns the kind of filesystem that an open file (`O_PATH` will do) lies on.
///
/// # Errors
/// Those of fstatfs(2) and fstat(2). That `/dev` cannot be examined is one
/// too, unless it does not exist.
pub fn filesystem_of(fd: BorrowedFd<'_>) -> io::Result<Filesystem> {
    let by_magic = Filesystem::from_magic(fstatfs(fd)?.filesystem_type().0);
    if by_magic.is_kernel_interface() || !shares_device_with_dev(fd)? {
        return Ok(by_magic);
    }
    Ok(Filesystem::Devtmpfs)
}

/// devtmpfs calls itself a tmpfs, but there is one instance of it per system:
/// what has the device number of `/dev`, where that is a mount of its own, is it
/// (or a tmpfs full of device nodes, which is no better).
fn shares_device_with_dev(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let dev = match stat("/dev") {
        Ok(dev) => dev.st_dev,
        Err(nix::Error::ENOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    Ok(dev != stat("/")?.st_dev && fstat(fd)?.st_dev == dev)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::path::open_reference;

    fn of(path: &str) -> Filesystem {
        filesystem_of(open_reference(Path::new(path)).unwrap().as_fd()).unwrap()
    }

    #[test]
    fn kernel_interfaces_are_told_from_data() {
        assert_eq!(of("/proc/sys"), Filesystem::Proc);
        assert_eq!(of("/sys/kernel"), Filesystem::Sysfs);
        assert_eq!(of("/dev/null"), Filesystem::Devtmpfs);
        assert!(!of("/").is_kernel_interface());
        assert!(!of("/etc/passwd").is_kernel_interface());
    }
}
