//! Which files a guest sees: what the spec's root and mounts become.
//!
//! A pure decision; nothing is opened here. The container's root is granted
//! read-only as `/`, a private empty directory as `/tmp`, and each mount that the
//! spec lists as it lists it. What only a Linux program could use (procfs, sysfs,
//! devices, terminals and anything else below `/proc`, `/sys` and `/dev`) is
//! left out, because a wasm guest has no such thing; what would open the kernel
//! or a device to a guest is refused.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};

use crate::command::Access;

/// How much a guest may write to the `/tmp` it has when the spec names none.
/// It is memory, and counted as the container's.
const OWN_TMP_BYTES: u64 = 64 << 20;

/// How many files and directories that `/tmp` holds at most.
const OWN_TMP_INODES: u64 = 16_384;

/// Where kernel interfaces and devices live, on the host as in a container.
const INTERFACES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Types of mounts that serve Linux programs alone.
const LINUX_ONLY: [&str; 7] =
    ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs"];

/// One place in the guest's view of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The absolute path under which the guest knows it.
    pub guest: String,
    /// Where it comes from.
    pub source: Source,
    /// What the guest may do there.
    pub access: Access,
}

/// Where granted files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A directory or a single file of the host.
    Host(PathBuf),
    /// A new, empty directory in memory, gone with the container.
    Memory(Memory),
}

/// A new directory in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes at most; `None` is the kernel's default, half of the memory.
    pub size: Option<u64>,
    /// Files and directories at most.
    pub inodes: Option<u64>,
    /// Permission bits of the directory.
    pub mode: Option<u32>,
    /// Owner of the directory.
    pub uid: u32,
    /// Group of the directory.
    pub gid: u32,
}

/// A mount or root that cannot be granted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It would show the guest an interface of the kernel.
    #[error("mount {target} is refused: its source {} is below {interface}, which no wasm guest may see", .from.display())]
    Interface {
        /// The mount's destination.
        target: String,
        /// Its source.
        from: PathBuf,
        /// The folder of interfaces it is in.
        interface: &'static str,
    },
    /// The destination is no place for a mount.
    #[error("mount destination {} is refused: {reason}", .target.display())]
    Destination {
        /// The destination.
        target: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The mount is of a kind that wasm containers do not have.
    #[error("mount {target} is refused: {what}")]
    Unsupported {
        /// The mount's destination.
        target: String,
        /// What cannot be honoured.
        what: String,
    },
}

/// Lists what the guest of `spec` may see, the root first.
///
/// # Errors
/// A mount that is refused or not understood.
pub fn from_spec(spec: &Spec, bundle: &Path) -> Result<Vec<Grant>, GrantError> {
    let mut grants = vec![root(spec, bundle), own_tmp()];
    for mount in spec.mounts().iter().flatten() {
        if let Some(grant) = from_mount(mount)? {
            // Of two mounts in one place the guest sees the later one.
            grants.retain(|other| other.guest != grant.guest);
            grants.push(grant);
        }
    }
    Ok(grants)
}

fn root(spec: &Spec, bundle: &Path) -> Grant {
    let source = match spec.root() {
        Some(root) => Source::Host(bundle.join(root.path())),
        None => Source::Memory(Memory::default()),
    };
    Grant { guest: "/".to_owned(), source, access: Access::ReadOnly }
}

fn own_tmp() -> Grant {
    let memory = Memory {
        size: Some(OWN_TMP_BYTES),
        inodes: Some(OWN_TMP_INODES),
        mode: Some(0o1777),
        ..Memory::default()
    };
    Grant { guest: "/tmp".to_owned(), source: Source::Memory(memory), access: Access::ReadWrite }
}

fn from_mount(mount: &Mount) -> Result<Option<Grant>, GrantError> {
    let guest = destination(mount.destination())?;
    let kind = mount.typ().as_deref().unwrap_or_default();
    let options = mount.options().as_deref().unwrap_or_default();
    if LINUX_ONLY.contains(&kind) || interface_above(Path::new(&guest)).is_some() {
        log::debug!("mount {guest} ({kind}) is left out: a wasm guest has no such thing");
        return Ok(None);
    }
    let unsupported = |what: String| GrantError::Unsupported { target: guest.clone(), what };
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(unsupported("id-mapped mounts are not supported for wasm".to_owned()));
    }
    let given = |name: &str| options.iter().any(|option| option == name);
    let source = if kind == "bind" || given("bind") || given("rbind") {
        bound(mount, &guest, options)?
    } else if kind == "tmpfs" {
        Source::Memory(memory(options).map_err(unsupported)?)
    } else {
        return Err(unsupported(format!("type {kind:?} is not supported for wasm")));
    };
    Ok(Some(Grant { guest, source, access: access(options) }))
}

/// The last word counts, as with mount(8).
fn access(options: &[String]) -> Access {
    let words = options.iter().rev().map(String::as_str);
    match words.into_iter().find(|word| matches!(*word, "ro" | "rro" | "rw")) {
        Some("ro" | "rro") => Access::ReadOnly,
        _ => Access::ReadWrite,
    }
}

fn bound(mount: &Mount, guest: &str, options: &[String]) -> Result<Source, GrantError> {
    let unsupported =
        |what: &str| GrantError::Unsupported { target: guest.to_owned(), what: what.to_owned() };
    if options.iter().any(|option| option == "shared" || option == "rshared") {
        return Err(unsupported("a wasm container's mounts are private, not shared"));
    }
    let from = mount.source().clone().filter(|path| path.is_absolute());
    let from = from.ok_or_else(|| unsupported("its source is not an absolute path"))?;
    match interface_above(&from) {
        None => Ok(Source::Host(from)),
        Some(interface) => Err(GrantError::Interface { target: guest.to_owned(), from, interface }),
    }
}

/// The folder of interfaces that a path is in by its name. Where symlinks lead
/// is seen when the source is opened.
fn interface_above(path: &Path) -> Option<&'static str> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    INTERFACES.into_iter().find(|interface| plain.starts_with(interface))
}

/// Brings a destination into the form `/a/b`.
fn destination(path: &Path) -> Result<String, GrantError> {
    let refuse = |reason| GrantError::Destination { target: path.to_owned(), reason };
    let mut guest = String::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                let name = name.to_str().ok_or_else(|| refuse("it is not UTF-8"))?;
                guest.push('/');
                guest.push_str(name);
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(refuse("it has .. in it")),
        }
    }
    if guest.is_empty() {
        return Err(refuse("it is the container's root"));
    }
    Ok(guest)
}

/// Reads the options of a tmpfs.
fn memory(options: &[String]) -> Result<Memory, String> {
    let mut memory = Memory { mode: Some(0o1777), ..Memory::default() };
    for option in options {
        let Some((key, value)) = option.split_once('=') else { continue };
        let bad = || format!("tmpfs option {option:?} is not understood");
        match key {
            "size" => memory.size = Some(amount(value).ok_or_else(bad)?),
            "nr_inodes" => memory.inodes = Some(amount(value).ok_or_else(bad)?),
            "mode" => {
                memory.mode = Some(u32::from_str_radix(value, 8).map_err(|_| bad())? & 0o7777)
            }
            "uid" => memory.uid = value.parse().map_err(|_| bad())?,
            "gid" => memory.gid = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
    }
    Ok(memory)
}

/// Reads a number with the kernel's suffixes k, m and g.
fn amount(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{MountBuilder, SpecBuilder};

    use super::*;

    fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(source)
            .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    fn granted(mount: &Mount) -> Result<Option<Grant>, GrantError> {
        from_mount(mount)
    }

    fn host(path: &str) -> Source {
        Source::Host(path.into())
    }

    #[test]
    fn without_mounts_there_is_the_root_and_a_private_tmp() {
        let spec = SpecBuilder::default().mounts(Vec::new()).build().unwrap();
        let grants = from_spec(&spec, Path::new("/bundle")).unwrap();
        assert_eq!(grants.len(), 2);
        assert_eq!(grants[0].guest, "/");
        assert_eq!(grants[0].source, host("/bundle/rootfs"));
        assert_eq!(grants[0].access, Access::ReadOnly);
        assert_eq!(grants[1].guest, "/tmp");
        assert_eq!(grants[1].access, Access::ReadWrite);
    }

    #[test]
    fn the_default_mounts_of_a_linux_container_are_left_out() {
        let grants = from_spec(&Spec::default(), Path::new("/bundle")).unwrap();
        let places: Vec<_> = grants.iter().map(|grant| grant.guest.as_str()).collect();
        assert_eq!(places, ["/", "/tmp"]);
    }

    #[test]
    fn a_mount_on_tmp_takes_the_place_of_the_private_one() {
        let mounts = vec![mount("/tmp/", "bind", "/srv/tmp", &["rbind", "rw"])];
        let spec = SpecBuilder::default().mounts(mounts).build().unwrap();
        let grants = from_spec(&spec, Path::new("/bundle")).unwrap();
        assert_eq!(grants.len(), 2);
        assert_eq!(grants[1].source, host("/srv/tmp"));
    }

    #[test]
    fn binds_are_granted_as_they_are_listed() {
        let table = [
            (&["rbind", "ro"][..], Access::ReadOnly),
            (&["bind", "rw", "rprivate"], Access::ReadWrite),
            (&["rbind", "rro"], Access::ReadOnly),
            (&["rbind", "rslave"], Access::ReadWrite),
            (&["rbind", "ro", "rw"], Access::ReadWrite),
        ];
        for (options, access) in table {
            let grant = granted(&mount("//data/./x", "bind", "/srv/data", options)).unwrap();
            let wanted = Grant { guest: "/data/x".to_owned(), source: host("/srv/data"), access };
            assert_eq!(grant, Some(wanted), "{options:?}");
        }
    }

    #[test]
    fn sources_among_kernel_interfaces_are_refused() {
        for source in ["/proc", "/proc/sys", "/sys/fs", "/dev", "/dev/shm", "/srv/../proc/1"] {
            let error = granted(&mount("/data", "bind", source, &["rbind"])).unwrap_err();
            assert!(matches!(error, GrantError::Interface { .. }), "{source}");
        }
        assert!(granted(&mount("/data", "bind", "/process", &["rbind"])).is_ok());
        let error = granted(&mount("/data", "bind", "/proc", &["rbind"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mount /data is refused: its source /proc is below /proc, which no wasm guest may see"
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for refused in [
            mount("/", "bind", "/srv", &["rbind"]),
            mount("/a/../b", "bind", "/srv", &["rbind"]),
            mount("/data", "bind", "srv", &["rbind"]),
            mount("/data", "bind", "/srv", &["rbind", "rshared"]),
            mount("/data", "nfs", "host:/x", &[]),
            mount("/data", "overlay", "overlay", &["lowerdir=/a:/b"]),
            mount("/data", "tmpfs", "tmpfs", &["size=lots"]),
            mount("/data", "tmpfs", "tmpfs", &["huge=always"]),
        ] {
            assert!(granted(&refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_tmpfs_keeps_its_options() {
        let options = ["nosuid", "size=64m", "mode=750", "uid=7", "gid=8", "nr_inodes=2k", "ro"];
        let grant = granted(&mount("/data", "tmpfs", "tmpfs", &options)).unwrap().unwrap();
        let memory =
            Memory { size: Some(64 << 20), inodes: Some(2048), mode: Some(0o750), uid: 7, gid: 8 };
        assert_eq!(grant.source, Source::Memory(memory));
        assert_eq!(grant.access, Access::ReadOnly);
    }
}
