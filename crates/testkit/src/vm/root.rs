//! The machine's kernel and root file system, made once by mmdebstrap from the archive that this machine uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::folder;
use crate::apt;
use crate::command::Invocation;

const TIMEOUT: Duration = Duration::from_secs(600);
const SIZE: &str = "1500M";
const PACKAGES: &str = "systemd,systemd-sysv,udev,kmod,dbus,runc,libseccomp2,busybox-static,\
containernetworking-plugins,iproute2,iptables,tmux";

/// Brings the kernel and the unit that runs the checks into the new root.
const HOOK: &str = include_str!("root-hook.sh");

/// What a machine boots from.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) kernel: PathBuf,
    pub(super) image: PathBuf,
}

/// Returns kernel and root image, making them if they are missing or this recipe has changed.
pub(super) fn image() -> Result<Root> {
    let folder = folder()?;
    let root = Root { kernel: folder.join("vmlinuz"), image: folder.join("root.img") };
    let stamp = folder.join("root.recipe");
    let recipe = format!("{PACKAGES}\n{SIZE}\n{HOOK}");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        return Ok(root);
    }
    make(&folder, &root)?;
    fs::write(&stamp, recipe).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(root)
}

fn make(folder: &Path, root: &Root) -> Result<()> {
    eprintln!("testkit: making the virtual machine's root, about a minute ...");
    let tree = folder.join("tree");
    remove(&tree)?;
    let hook = folder.join("root-hook.sh");
    fs::write(&hook, HOOK).with_context(|| format!("writing {}", hook.display()))?;
    let mirror = apt::mirror()?;
    let security = mirror.trim_end_matches('/').to_owned() + "-security";
    Invocation::new("mmdebstrap")
        .args(["--quiet", "--mode=root", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg(format!("--customize-hook=sh {} \"$1\"", hook.display()))
        .arg("bookworm")
        .arg(&tree)
        .arg(format!("deb {mirror} bookworm main"))
        .arg(format!("deb {security} bookworm-security main"))
        .timeout(TIMEOUT)
        .run()?
        .ok()
        .context("making the root of the virtual machine")?;
    let kernel = tree.join("boot/vmlinuz");
    fs::copy(&kernel, &root.kernel).with_context(|| format!("copying {}", kernel.display()))?;
    disk_of(&tree, &root.image, SIZE)?;
    remove(&tree)
}

/// Makes an ext4 image of a folder.
pub(super) fn disk_of(tree: &Path, image: &Path, size: &str) -> Result<()> {
    if image.exists() {
        fs::remove_file(image).with_context(|| format!("removing {}", image.display()))?;
    }
    Invocation::new("mke2fs")
        .args(["-q", "-t", "ext4", "-m", "0", "-d"])
        .args([tree, image])
        .arg(size)
        .timeout(TIMEOUT)
        .run()?
        .ok()
        .with_context(|| format!("making {}", image.display()))?;
    Ok(())
}

pub(super) fn remove(tree: &Path) -> Result<()> {
    match tree.exists() {
        true => fs::remove_dir_all(tree).with_context(|| format!("removing {}", tree.display())),
        false => Ok(()),
    }
}
