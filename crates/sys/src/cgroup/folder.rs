//! One folder of a hierarchy: made with its parents, removed with what is below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{CgroupError, Result, failed};
use super::files::read_optional;
use super::hierarchies::Hierarchy;
use super::{v1, v2};

/// The folder of one cgroup in one hierarchy, there or not.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) hierarchy: Hierarchy,
    pub(super) path: PathBuf,
}

/// Folders that were made for one cgroup and are taken back unless all succeeds.
#[derive(Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for folder in self.0.drain(..).rev() {
            if let Err(error) = fs::remove_dir(&folder) {
                // The error that led here is already on its way to the caller.
                log::warn!("remove half-made cgroup {}: {error}", folder.display());
            }
        }
    }
}

impl Folder {
    pub(super) fn is_there(&self) -> bool {
        self.path.is_dir()
    }

    pub(super) fn create(&self, made: &mut Made) -> Result<()> {
        if !make(&self.path, made)? {
            self.refuse_occupied()?;
        }
        if self.hierarchy.is_v2() {
            v2::enable_controllers(&self.hierarchy.mount, &self.path)
        } else if self.hierarchy.holds("cpuset") {
            v1::inherit_cpuset(&self.hierarchy.mount, &self.path)
        } else {
            Ok(())
        }
    }

    /// A folder that is left over from a crash may be used again, one with
    /// processes or cgroups below may not: limits would hit, and a kill would end,
    /// a stranger.
    pub(super) fn refuse_occupied(&self) -> Result<()> {
        let processes = read_optional(&self.path.join("cgroup.procs"))?.unwrap_or_default();
        match processes.is_empty() && children(&self.path)?.is_empty() {
            true => Ok(()),
            false => Err(CgroupError::InUse(self.path.clone())),
        }
    }

    pub(super) fn remove(&self, deadline: Instant) -> Result<()> {
        remove_tree(&self.path, deadline)
    }
}

/// Makes a folder with its parents; says whether it is new.
fn make(path: &Path, made: &mut Made) -> Result<bool> {
    let result = match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or_else(|| failed("make", path, error))?;
            make(parent, made)?;
            fs::create_dir(path)
        }
        other => other,
    };
    match result {
        Ok(()) => {
            made.0.push(path.to_owned());
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make", path, error)),
    }
}

/// The folders right below; none when the folder is gone.
pub(super) fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        if entry.file_type().map_err(|error| failed("list", folder, error))?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

fn remove_tree(folder: &Path, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        // The folder itself first: nearly always there is nothing below it,
        // and listing a cgroup costs more than removing it.
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline =>
            {
                return Err(failed("remove", folder, error));
            }
            Err(_) => {}
        }
        for child in children(folder)? {
            remove_tree(&child, deadline)?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
