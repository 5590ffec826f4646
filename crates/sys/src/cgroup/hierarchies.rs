//! Where this host keeps its cgroup hierarchies.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use super::error::{CgroupError, failed};

/// Where every distribution mounts them.
const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies of this host. Found once per process: the layout is fixed
/// at boot.
#[derive(Clone, Debug)]
pub struct Hierarchies(Vec<Hierarchy>);

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Version 1, with these controllers (or one name without controller).
    V1(Vec<String>),
    /// Version 2, which has all controllers.
    Unified,
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        self.kind == Kind::Unified
    }

    /// Says whether limits of this controller are set here.
    pub(super) fn holds(&self, controller: &str) -> bool {
        match &self.kind {
            Kind::V1(controllers) => controllers.iter().any(|name| name == controller),
            Kind::Unified => true,
        }
    }
}

impl Hierarchies {
    /// Returns the hierarchies of this host, found at the first call.
    ///
    /// # Errors
    /// As [`Hierarchies::discover`]; a failure is not remembered.
    pub fn of_host() -> Result<&'static Self, CgroupError> {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let found = Self::discover()
            .map_err(|error| failed("look for hierarchies in", Path::new(ROOT), error))?;
        Ok(FOUND.get_or_init(|| found))
    }

    /// Looks below `/sys/fs/cgroup`, by the type of the filesystems there. A
    /// version 2 tree beside version 1 ones is passed over: nothing is limited
    /// there, and to move a process in it makes the whole system wait for each
    /// other (see [`Cgroup::join_self`](super::Cgroup::join_self)).
    ///
    /// # Errors
    /// When the folder cannot be read, or holds no hierarchy at all.
    pub fn discover() -> io::Result<Self> {
        Self::discover_in(Path::new(ROOT))
    }

    fn discover_in(root: &Path) -> io::Result<Self> {
        if kind_of(root)? == CGROUP2_SUPER_MAGIC {
            return Ok(Self(vec![Hierarchy { mount: root.to_owned(), kind: Kind::Unified }]));
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            // `cpu` and `cpuacct` are often symlinks to `cpu,cpuacct`; the
            // folder itself is enough.
            if entry.file_type()?.is_dir() {
                found.extend(hierarchy_at(entry.path())?);
            }
        }
        if found.is_empty() {
            let text = format!("no cgroup hierarchy is mounted below {}", root.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        // The order of a folder's entries is chance; errors should not be.
        found.sort_by(|one, other| one.mount.cmp(&other.mount));
        Ok(Self(found))
    }

    /// Says whether version 2 is the only one here.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        matches!(self.0.as_slice(), [Hierarchy { kind: Kind::Unified, .. }])
    }

    /// Where each of them is mounted.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|hierarchy| hierarchy.mount.as_path())
    }

    #[cfg(test)]
    pub(super) fn unified_at(mount: PathBuf) -> Self {
        Self(vec![Hierarchy { mount, kind: Kind::Unified }])
    }

    pub(super) fn all(&self) -> &[Hierarchy] {
        &self.0
    }
}

fn hierarchy_at(mount: PathBuf) -> io::Result<Option<Hierarchy>> {
    if kind_of(&mount)? != CGROUP_SUPER_MAGIC {
        return Ok(None);
    }
    let kind = Kind::V1(controllers_of(&mount));
    Ok(Some(Hierarchy { mount, kind }))
}

/// A version 1 folder is named after its controllers: `cpu,cpuacct`.
fn controllers_of(mount: &Path) -> Vec<String> {
    let name = mount.file_name().unwrap_or_default().to_string_lossy();
    name.split(',').map(str::to_owned).collect()
}

fn kind_of(path: &Path) -> io::Result<FsType> {
    Ok(statfs(path)?.filesystem_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_hierarchies_and_each_controller_has_one_home() {
        let found = Hierarchies::discover().unwrap();
        for controller in ["cpu", "memory", "pids"] {
            let homes = found.all().iter().filter(|each| each.holds(controller)).count();
            assert_eq!(homes, 1, "{controller}");
        }
    }

    #[test]
    fn a_folder_without_hierarchies_is_an_error() {
        assert!(Hierarchies::discover_in(Path::new("/etc")).is_err());
    }
}
