//! The cgroup of one container: made before the container's first process,
//! removed after its last.
//!
//! Version 1 (one folder per hierarchy) and version 2 look the same from outside.
//! Nothing here reads mountinfo or lists cgroups of others, so no call grows
//! dearer with the number of containers on the host.
//!
//! ```text
//! location, hierarchies   where it is
//! folder, members         made and removed; its processes
//! resources, v1, v2       limits of the runtime spec as files and values
//! update                  limits set at first, or changed all or none; systemd told
//! freezer, oom, stats     paused; killed for its memory; what it has used
//! ```

use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

mod beside;
mod error;
mod files;
mod folder;
mod freezer;
mod hierarchies;
mod location;
mod members;
pub mod oom;
mod resources;
pub mod stats;
mod systemd;
mod update;
mod v1;
mod v2;

pub use error::CgroupError;
pub use hierarchies::Hierarchies;
pub use location::{Driver, InvalidLocation, Location};
pub use stats::{CpuStats, MemoryStats, PidStats, Stats};
pub use systemd::start_scope;

use error::Result;
use folder::{Folder, Made};

/// How long [`Cgroup::remove`] waits for processes that are dying.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// The cgroup of one container, made or not.
#[derive(Clone, Debug)]
pub struct Cgroup {
    location: Location,
    /// One folder per hierarchy of the host.
    folders: Vec<Folder>,
}

impl Cgroup {
    /// Names the cgroup at `location`; touches nothing.
    #[must_use]
    pub fn at(hierarchies: &Hierarchies, location: &Location) -> Self {
        let folder = |hierarchy: &hierarchies::Hierarchy| Folder {
            path: hierarchy.mount.join(location.relative()),
            hierarchy: hierarchy.clone(),
        };
        let folders = hierarchies.all().iter().map(folder).collect();
        Self { location: location.clone(), folders }
    }

    /// Opens the cgroup at `location` if it exists in any hierarchy of this host.
    ///
    /// # Errors
    /// When the host's hierarchies cannot be found.
    pub fn open(location: &Location) -> Result<Option<Self>> {
        let cgroup = Self::at(Hierarchies::of_host()?, location);
        Ok(cgroup.exists().then_some(cgroup))
    }

    /// Makes the folder in every hierarchy and applies the limits. On any
    /// error all that this call made is removed again.
    ///
    /// Device rules are not applied: the guests whose cgroup is made here have
    /// no device nodes, and every mount they see is `nodev`.
    ///
    /// On version 2 a location in a slice is only limited: its scope must stand,
    /// made by [`start_scope`] for this container, and goes by itself on an error.
    ///
    /// # Errors
    /// [`CgroupError::InUse`] when processes live there already,
    /// [`CgroupError::SystemdScope`] for a location in a slice that has no
    /// scope, and whatever keeps a folder from being made or a limit from being
    /// set.
    pub fn create(&self, resources: &LinuxResources) -> Result<()> {
        // A folder made behind systemd's back would lose its controllers, and
        // with them its limits, at systemd's next reload.
        if self.is_scope() {
            return match self.exists() {
                true => self.limit_at_first(resources),
                false => Err(CgroupError::SystemdScope(self.location.relative().to_owned())),
            };
        }
        let mut made = Made::default();
        for folder in &self.folders {
            folder.create(&mut made)?;
        }
        self.limit_at_first(resources)?;
        made.keep();
        Ok(())
    }

    /// Checks that the cgroup is nobody's yet: not there, or left over and empty.
    /// What is in it after that came with the container.
    ///
    /// # Errors
    /// [`CgroupError::InUse`], and those of reading the folders.
    pub fn refuse_occupied(&self) -> Result<()> {
        self.folders.iter().try_for_each(Folder::refuse_occupied)
    }

    /// Says whether the cgroup exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.folders.iter().any(Folder::is_there)
    }

    /// Removes the cgroup, and any below it, from every hierarchy; waits up to
    /// two seconds for dying processes, and for systemd to remove a scope. One
    /// that does not exist is removed.
    ///
    /// # Errors
    /// `EBUSY` when processes are still in it after that time.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        for folder in &self.folders {
            if self.location.driver() == Driver::Systemd && folder.hierarchy.is_v2() {
                systemd::await_end(&folder.path, deadline);
            }
            folder.remove(deadline)?;
        }
        Ok(())
    }

    fn is_unified(&self) -> bool {
        self.folders.iter().all(|folder| folder.hierarchy.is_v2())
    }

    /// Says whether systemd keeps it: a scope of version 2. Of version 1 systemd
    /// manages a hierarchy of its own, and the others are anybody's.
    fn is_scope(&self) -> bool {
        self.location.driver() == Driver::Systemd && self.is_unified()
    }

    /// The folder whose hierarchy has this controller, if the cgroup exists there.
    fn counted(&self, controller: &str) -> Option<&Folder> {
        let mut folders = self.folders.iter();
        folders.find(|folder| folder.hierarchy.holds(controller) && folder.is_there())
    }
}

/// Says whether systemd has to make the cgroup at `location` on this host: a scope
/// of version 2. On version 1 its path is a folder like any other, as for a
/// Linux container.
///
/// # Errors
/// When the host's hierarchies cannot be found.
pub fn needs_scope(location: &Location) -> Result<bool> {
    Ok(location.driver() == Driver::Systemd && Hierarchies::of_host()?.is_unified())
}

/// Removes the cgroup at `location` from every hierarchy of this host, as
/// [`Cgroup::remove`] does.
///
/// # Errors
/// When the hierarchies cannot be found, or processes stay in the cgroup.
pub fn remove(location: &Location) -> Result<()> {
    Cgroup::at(Hierarchies::of_host()?, location).remove()
}

#[cfg(test)]
mod tests;
