//! The container's cgroup folders: shown to it, or made before libcontainer needs them.
//!
//! On version 1 libcontainer's way of showing them is replaced. It looks up the
//! cgroup of a process by an id of the container's pid namespace among the processes
//! of the host, so that it fails or shows a stranger's where that namespace is joined;
//! it forgets that the mount was to be read-only, so that a container can lift its own
//! limits; and it shows hierarchies that it leaves the container's processes out of.
//! Instead each folder is a bind mount, on a tmpfs, as runc does it.
//!
//! On version 2 it fails when another container makes the same parent at the same time.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use sys::cgroup::Location;

use super::Facts;

/// The controllers in whose hierarchies libcontainer makes a folder for the container
/// and puts its processes there.
const JOINED: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// Replaces the cgroup mounts of version 1; returns the folders that have to be made,
/// with their parents, before libcontainer is called.
///
/// All are bind mounts, with a cgroup namespace too: the namespace's root is the
/// folder that is mounted, and what the container sees is the same.
pub(super) fn settle(
    spec: &mut Spec,
    cgroup: &Location,
    systemd: bool,
    facts: &Facts<'_>,
) -> Vec<PathBuf> {
    if facts.unified {
        // What is in a slice systemd makes.
        return match systemd {
            true => Vec::new(),
            false => parents(cgroup, facts),
        };
    }
    let Some(mounts) = spec.mounts_mut().as_mut().filter(|mounts| mounts.iter().any(is_cgroup))
    else {
        return Vec::new();
    };
    let shown: Vec<&Path> = facts.hierarchies.iter().copied().filter(|it| is_joined(it)).collect();
    *mounts = std::mem::take(mounts)
        .into_iter()
        .flat_map(|mount| match is_cgroup(&mount) {
            true => replacement(&mount, cgroup, &shown),
            false => vec![mount],
        })
        .collect();
    shown.iter().map(|hierarchy| hierarchy.join(cgroup.relative())).collect()
}

fn parents(cgroup: &Location, facts: &Facts<'_>) -> Vec<PathBuf> {
    let parent = cgroup.relative().parent().filter(|it| !it.as_os_str().is_empty());
    let below = |parent: &Path| facts.hierarchies.iter().map(|it| it.join(parent)).collect();
    parent.map(below).unwrap_or_default()
}

fn is_cgroup(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("cgroup")
}

/// The names of a hierarchy's controllers, which its folder is called after.
fn controllers(hierarchy: &Path) -> impl Iterator<Item = &str> {
    let name = hierarchy.file_name().and_then(|name| name.to_str());
    name.into_iter().flat_map(|name| name.split(','))
}

fn is_joined(hierarchy: &Path) -> bool {
    controllers(hierarchy).any(|name| JOINED.contains(&name))
}

fn replacement(mount: &Mount, cgroup: &Location, shown: &[&Path]) -> Vec<Mount> {
    let quiet = ["nosuid", "noexec", "nodev"].map(str::to_owned);
    let mut ground = Mount::default();
    ground.set_destination(mount.destination().clone());
    ground.set_typ(Some("tmpfs".to_owned()));
    ground.set_source(Some("tmpfs".into()));
    ground.set_options(Some([&quiet[..], &["mode=755".to_owned()]].concat()));

    let mut options = quiet.to_vec();
    options.extend(mount.options().iter().flatten().cloned());
    options.push("rbind".to_owned());
    let bind = |hierarchy: &Path, name: &str| {
        let mut bind = Mount::default();
        bind.set_destination(mount.destination().join(name));
        bind.set_typ(Some("bind".to_owned()));
        bind.set_source(Some(hierarchy.join(cgroup.relative())));
        bind.set_options(Some(options.clone()));
        bind
    };
    let mut mounts = vec![ground];
    for hierarchy in shown {
        let whole = hierarchy.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        mounts.push(bind(hierarchy, whole));
        // Where the host has symlinks from `cpu` to `cpu,cpuacct`: nobody would make
        // those here.
        let parts = controllers(hierarchy).filter(|name| *name != whole);
        mounts.extend(parts.map(|name| bind(hierarchy, name)));
    }
    mounts
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::SpecBuilder;

    use super::*;

    const VERSION_1: [&str; 4] = ["/cg/cpu,cpuacct", "/cg/memory", "/cg/rdma", "/cg/systemd"];

    fn settled(
        given: &str,
        (unified, systemd): (bool, bool),
        cgroup: &str,
    ) -> (Vec<Mount>, Vec<PathBuf>) {
        let hierarchies = if unified { &["/cg"][..] } else { &VERSION_1[..] };
        let hierarchies = hierarchies.iter().map(Path::new).collect();
        let facts = Facts { id: "web", rootfs: Path::new("/"), home: None, unified, hierarchies };
        let mounts: Vec<Mount> = serde_json::from_str(given).unwrap();
        let mut spec = SpecBuilder::default().mounts(mounts).build().unwrap();
        let cgroup = Location::parse(Some(cgroup), "web").unwrap();
        let made = settle(&mut spec, &cgroup, systemd, &facts);
        (spec.mounts().clone().unwrap(), made)
    }

    const PROC: &str = r#"{"destination":"/proc","type":"proc","source":"proc"}"#;
    const CGROUP: &str = r#"{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup",
        "options":["relatime","ro"]}"#;

    #[test]
    fn a_cgroup_mount_of_version_1_becomes_the_containers_own_folders() {
        let given = format!("[{PROC},{CGROUP},{PROC}]");
        let (mounts, made) = settled(&given, (false, false), "/pods/web");
        assert_eq!(made, ["/cg/cpu,cpuacct/pods/web", "/cg/memory/pods/web"].map(PathBuf::from));
        let text = |mount: &Mount| {
            let source = mount.source().as_ref().unwrap().display();
            let options = mount.options().clone().unwrap_or_default().join(",");
            format!("{source} {} {options}", mount.destination().display())
        };
        let bind = "nosuid,noexec,nodev,relatime,ro,rbind";
        let expected = [
            "proc /proc ".to_owned(),
            "tmpfs /sys/fs/cgroup nosuid,noexec,nodev,mode=755".to_owned(),
            format!("/cg/cpu,cpuacct/pods/web /sys/fs/cgroup/cpu,cpuacct {bind}"),
            format!("/cg/cpu,cpuacct/pods/web /sys/fs/cgroup/cpu {bind}"),
            format!("/cg/cpu,cpuacct/pods/web /sys/fs/cgroup/cpuacct {bind}"),
            format!("/cg/memory/pods/web /sys/fs/cgroup/memory {bind}"),
            "proc /proc ".to_owned(),
        ];
        assert_eq!(mounts.iter().map(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_what_is_needed_is_made_and_other_mounts_stay() {
        let with = format!("[{PROC},{CGROUP}]");
        let without = format!("[{PROC}]");
        let slice = "pods.slice:cri:web";
        let table = [
            (&without, (false, false), "/pods/web", None),
            (&with, (true, false), "/pods/a/web", Some("/cg/pods/a")),
            (&without, (true, false), "/pods/web", Some("/cg/pods")),
            (&with, (true, false), "/web", None),
            (&with, (true, true), slice, None),
        ];
        for (given, version, cgroup, expected) in table {
            let (mounts, made) = settled(given, version, cgroup);
            assert_eq!(made, Vec::from_iter(expected.map(PathBuf::from)), "{cgroup}");
            assert_eq!(mounts, serde_json::from_str::<Vec<Mount>>(given).unwrap(), "{cgroup}");
        }
    }
}
