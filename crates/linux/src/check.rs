//! What a bundle must not contain.
//!
//! The root filesystem is a stranger's. libcontainer makes device nodes and
//! symlinks in its `dev` by path, so a symlink there leads onto the host, and it
//! mounts whatever the spec lists over `/proc`, where a fake file disarms the
//! writes a runtime relies on (security labels, sysctls). Both are refused
//! before anything is made. Since a shared volume can change between this look
//! and the mounts, [`verify_mounts`] looks once more from inside, when all is
//! mounted and nothing of the image has run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use oci_spec::runtime::{Mount, Spec};

use crate::resolve::{TooManySymlinks, View};

/// Directories of the root filesystem that are mounted over or filled.
const MOUNTED_OVER: [&str; 3] = ["dev", "proc", "sys"];

/// The only files below /proc that may be a mount's target: those that lxcfs
/// serves, as in runc.
const REPLACEABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnsafeBundle {
    /// The spec names no root filesystem.
    #[error("config.json names no root filesystem")]
    NoRoot,
    /// The root filesystem cannot be looked at.
    #[error("root filesystem {} cannot be read", .path.display())]
    Rootfs {
        /// What was looked at.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `dev`, `proc` or `sys` of the root filesystem is a symlink or a file.
    #[error("{} of the root filesystem is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A mount that would hide part of /proc.
    #[error("{} cannot be mounted: it resolves to {}, which is inside /proc", .target.display(), .resolved.display())]
    InsideProc {
        /// The target as the spec gives it.
        target: PathBuf,
        /// Where it leads.
        resolved: PathBuf,
    },
    /// A mount on /proc of something that is not procfs.
    #[error("{} cannot be mounted because it is not of type proc", .0.display())]
    NotProc(PathBuf),
    /// A mount over the whole root filesystem.
    #[error("{} cannot be mounted: it would cover the root filesystem", .0.display())]
    OverRoot(PathBuf),
    /// A target whose symlinks do not end.
    #[error("mount target {} cannot be resolved", .target.display())]
    Unresolvable {
        /// The target as the spec gives it.
        target: PathBuf,
        /// Too many symlinks.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A device node whose folder is reached through a symlink.
    #[error("device {} would be made through a symlink", .0.display())]
    DeviceThroughSymlink(PathBuf),
}

/// Checks a bundle's root filesystem and the targets of its mounts.
///
/// # Errors
/// [`UnsafeBundle`] names the first hostile element.
pub fn check(spec: &Spec, bundle: &Path) -> Result<(), UnsafeBundle> {
    let root = spec.root().as_ref().ok_or(UnsafeBundle::NoRoot)?;
    let rootfs = bundle.join(root.path());
    check_rootfs(&rootfs)?;
    let view = check_mounts(spec, &rootfs)?;
    check_devices(spec, &view)
}

fn check_rootfs(rootfs: &Path) -> Result<(), UnsafeBundle> {
    let unreadable = |path: &Path, source| UnsafeBundle::Rootfs { path: path.to_owned(), source };
    if !fs::metadata(rootfs).map_err(|error| unreadable(rootfs, error))?.is_dir() {
        return Err(UnsafeBundle::NotADirectory(rootfs.to_owned()));
    }
    for name in MOUNTED_OVER {
        let path = rootfs.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(UnsafeBundle::NotADirectory(Path::new("/").join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    Ok(())
}

fn check_mounts(spec: &Spec, rootfs: &Path) -> Result<View, UnsafeBundle> {
    let mut view = View::of_root(rootfs);
    for mount in spec.mounts().iter().flatten() {
        let resolved = resolve(&view, mount.destination())?;
        if resolved == Path::new("/") {
            return Err(UnsafeBundle::OverRoot(mount.destination().clone()));
        }
        check_target(mount, &resolved)?;
        let source = if is_bind(mount) { mount.source().clone() } else { None };
        view.mount(resolved, source);
    }
    Ok(view)
}

fn check_target(mount: &Mount, resolved: &Path) -> Result<(), UnsafeBundle> {
    let target = || mount.destination().clone();
    if resolved == Path::new("/proc") {
        if mount.typ().as_deref() == Some("proc") || (is_bind(mount) && binds_proc(mount)) {
            return Ok(());
        }
        return Err(UnsafeBundle::NotProc(target()));
    }
    if resolved.starts_with("/proc") && !is_replaceable(resolved) {
        return Err(UnsafeBundle::InsideProc { target: target(), resolved: resolved.to_owned() });
    }
    Ok(())
}

/// Without a filesystem of their own on /dev, device nodes are made in the
/// image's folders.
fn check_devices(spec: &Spec, view: &View) -> Result<(), UnsafeBundle> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in devices.into_iter().flatten() {
        if let Some(folder) = device.path().parent()
            && resolve(view, folder)? != folder
        {
            return Err(UnsafeBundle::DeviceThroughSymlink(device.path().clone()));
        }
    }
    Ok(())
}

fn resolve(view: &View, target: &Path) -> Result<PathBuf, UnsafeBundle> {
    view.resolve(target).map_err(|source: TooManySymlinks| UnsafeBundle::Unresolvable {
        target: target.to_owned(),
        source: Box::new(source),
    })
}

/// Says whether a mount makes an existing tree appear at its target.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    let asks = |options: &[String]| options.iter().any(|it| it == "bind" || it == "rbind");
    mount.typ().as_deref() == Some("bind") || mount.options().as_deref().is_some_and(asks)
}

fn binds_proc(mount: &Mount) -> bool {
    let found = mount.source().as_ref().and_then(|source| statfs(source).ok());
    found.is_some_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC)
}

fn is_replaceable(resolved: &Path) -> bool {
    REPLACEABLE.iter().any(|allowed| resolved == Path::new(allowed))
}

/// Looks, from inside the container, for mounts that lie over its /proc and are
/// neither the spec's own masks nor replaceable files.
///
/// # Errors
/// The mount point, or what kept `/proc/self/mountinfo` from being read.
pub(crate) fn verify_mounts(spec: &Spec) -> Result<(), String> {
    match statfs("/proc") {
        Ok(found) if found.filesystem_type() == PROC_SUPER_MAGIC => {}
        // Without procfs there is nothing to disarm.
        _ => return Ok(()),
    }
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("read the container's mounts: {error}"))?;
    match uninvited(&table, spec) {
        Some(point) => {
            Err(format!("{} cannot be mounted because it is inside /proc", point.display()))
        }
        None => Ok(()),
    }
}

fn uninvited(mountinfo: &str, spec: &Spec) -> Option<PathBuf> {
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|it| it.masked_paths().as_ref()).into_iter().flatten();
    let readonly = linux.and_then(|it| it.readonly_paths().as_ref()).into_iter().flatten();
    let expected: Vec<&Path> = masked.chain(readonly).map(Path::new).collect();
    mountinfo
        .lines()
        // The fifth field; octal escapes only matter to names that are in no list.
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with("/proc") && point != Path::new("/proc"))
        .find(|point| !is_replaceable(point) && !expected.contains(&point.as_path()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use oci_spec::runtime::{
        LinuxBuilder, LinuxDeviceBuilder, LinuxDeviceType, MountBuilder, RootBuilder, SpecBuilder,
    };

    use super::*;

    fn bundle_with(prepare: impl FnOnce(&Path)) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        let rootfs = scratch.path().join("rootfs");
        for name in ["etc", "proc", "sys", "dev"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        prepare(&rootfs);
        scratch
    }

    fn spec_with(mounts: Vec<Mount>) -> Spec {
        let root = RootBuilder::default().path("rootfs").build().unwrap();
        SpecBuilder::default().root(root).mounts(mounts).build().unwrap()
    }

    fn bind(source: &str, target: &str) -> Mount {
        MountBuilder::default()
            .typ("bind")
            .source(source)
            .destination(target)
            .options(vec!["rbind".to_owned()])
            .build()
            .unwrap()
    }

    fn proc_at(target: &str) -> Mount {
        MountBuilder::default().typ("proc").source("proc").destination(target).build().unwrap()
    }

    #[test]
    fn a_plain_bundle_passes() {
        let bundle = bundle_with(|_| ());
        let spec = spec_with(vec![proc_at("/proc"), bind("/tmp", "/data")]);
        check(&spec, bundle.path()).unwrap();
    }

    #[test]
    fn dev_proc_and_sys_must_be_real_directories() {
        for name in MOUNTED_OVER {
            let bundle = bundle_with(|rootfs| {
                fs::remove_dir(rootfs.join(name)).unwrap();
                symlink("/etc", rootfs.join(name)).unwrap();
            });
            let refused = check(&spec_with(vec![]), bundle.path()).unwrap_err();
            assert!(matches!(refused, UnsafeBundle::NotADirectory(_)), "{name}: {refused}");
            let bundle = bundle_with(|rootfs| fs::remove_dir(rootfs.join(name)).unwrap());
            check(&spec_with(vec![]), bundle.path()).unwrap();
        }
    }

    #[test]
    fn only_runcs_files_below_proc_may_be_targets() {
        let table = [
            ("/proc/cpuinfo", true),
            ("/proc/sys/kernel/ns_last_pid", true),
            ("/procedure", true),
            ("/sys/fs/bpf", true),
            ("/proc/sys", false),
            ("/proc/self/attr", false),
            ("/proc/sys/kernel", false),
            ("/x/../proc/sys", false),
            ("/innocent", false),
            ("/innocent/kernel", false),
            ("/", false),
            ("/..", false),
        ];
        let bundle = bundle_with(|rootfs| symlink("/proc/sys", rootfs.join("innocent")).unwrap());
        for (target, allowed) in table {
            let spec = spec_with(vec![proc_at("/proc"), bind("/tmp", target)]);
            assert_eq!(check(&spec, bundle.path()).is_ok(), allowed, "{target}");
        }
    }

    #[test]
    fn only_procfs_may_be_mounted_on_proc() {
        let bundle = bundle_with(|_| ());
        let on_proc = |mount| check(&spec_with(vec![mount]), bundle.path());
        assert!(on_proc(bind("/tmp", "/proc")).is_err());
        on_proc(bind("/proc", "/proc")).unwrap();
        on_proc(proc_at("/proc")).unwrap();
    }

    #[test]
    fn devices_are_not_made_through_symlinks() {
        let bundle = bundle_with(|rootfs| symlink("/etc", rootfs.join("dev/net")).unwrap());
        let with_device = |path: &str| {
            let device = LinuxDeviceBuilder::default()
                .path(path)
                .typ(LinuxDeviceType::C)
                .major(10)
                .minor(200)
                .build()
                .unwrap();
            let linux = LinuxBuilder::default().devices(vec![device]).build().unwrap();
            let mut spec = spec_with(vec![]);
            spec.set_linux(Some(linux));
            check(&spec, bundle.path())
        };
        assert!(with_device("/dev/net/tun").is_err());
        with_device("/dev/vhost/net").unwrap();
    }

    #[test]
    fn the_look_from_inside_knows_the_specs_own_masks() {
        let mut spec = spec_with(vec![]);
        let linux = LinuxBuilder::default()
            .masked_paths(vec!["/proc/kcore".to_owned()])
            .readonly_paths(vec!["/proc/sys".to_owned()])
            .build()
            .unwrap();
        spec.set_linux(Some(linux));
        let line = |point: &str| format!("9 8 0:1 / {point} rw - proc proc rw\n");
        let table = ["/", "/proc", "/proc/kcore", "/proc/sys", "/proc/cpuinfo"].map(line).concat();
        assert_eq!(uninvited(&table, &spec), None);
        let hostile = table + &line("/proc/self/attr");
        assert_eq!(uninvited(&hostile, &spec), Some(PathBuf::from("/proc/self/attr")));
    }
}
