//! The mounts of a bundle's root filesystem, as containerd hands them over.

use std::io;
use std::path::{Path, PathBuf};

use containerd_shim::protos::types::mount::Mount;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::mount;

/// Mounted file systems that are unmounted again unless they are kept.
#[derive(Debug)]
pub(crate) struct Mounted {
    target: Option<PathBuf>,
}

impl Mounted {
    /// Leaves the mounts in place.
    pub(crate) fn keep(mut self) {
        self.target = None;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(target) = &self.target
            && let Err(error) = unmount(target)
        {
            log::error!("cannot unmount {} after a failed create: {error}", target.display());
        }
    }
}

/// Mounts `mounts` on top of each other at `target`.
pub(crate) fn mount(mounts: &[Mount], target: &Path) -> anyhow::Result<Mounted> {
    let mounted = Mounted { target: (!mounts.is_empty()).then(|| target.to_owned()) };
    for described in mounts {
        mount::mount(described, target)?;
    }
    Ok(mounted)
}

/// Unmounts whatever is mounted at `target`; nothing there is fine.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
