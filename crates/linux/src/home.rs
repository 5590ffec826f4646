//! A container's folder of state: taken before anything is made, removed last.
//!
//! ```text
//! STATE_ROOT/ID/            mode 0700; making it takes the id
//!   record.json             what has to be cleaned up, written before it exists
//!   config.json             the spec as planned
//!   confinement.json        what every process of the container is bound by
//!   making                  locked by every process that is making the container, or
//!                           joining it and not yet in its cgroup
//!   state/ID/               libcontainer's own
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lifecycle::{ContainerId, InvalidId};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use sys::cgroup::Location;
use sys::pidfd::Identity;

use crate::confinement::Confinement;

/// Largest config.json that is read, in bytes.
const MAX_SPEC: u64 = 32 * 1024 * 1024;

const RECORD: &str = "record.json";
pub(crate) const CONFIG: &str = "config.json";
const CONFINEMENT: &str = "confinement.json";
const MAKING: &str = "making";

/// A file or folder of the state that refused.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", .path.display())]
pub struct StateError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StateError {
    fn new(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { attempt, path, source }
    }

    pub(crate) fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// What deleting needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) bundle: PathBuf,
    pub(crate) cgroup: Location,
    /// The first process.
    pub(crate) init: Option<Identity>,
}

/// The folder of one container.
#[derive(Debug)]
pub(crate) struct Home {
    folder: PathBuf,
    id: String,
}

impl Home {
    /// Names the folder; touches nothing.
    pub(crate) fn at(state_root: &Path, id: &str) -> Result<Self, InvalidId> {
        let id = String::from(ContainerId::try_from(id)?);
        Ok(Self { folder: state_root.join(&id), id })
    }

    /// Takes the id: of several at once one succeeds.
    ///
    /// # Errors
    /// Kind `AlreadyExists` when the id is taken.
    pub(crate) fn take(&self) -> Result<(), StateError> {
        let folders = self.folder.parent().unwrap_or(Path::new("/"));
        let private = |recursive| {
            let mut builder = DirBuilder::new();
            builder.mode(0o700).recursive(recursive);
            builder
        };
        private(true).create(folders).map_err(StateError::new("make folder", folders))?;
        private(false).create(&self.folder).map_err(StateError::new("make folder", &self.folder))
    }

    /// Marks the container as being made, until the file and every copy of it
    /// in forked processes is closed.
    pub(crate) fn mark_making(&self) -> Result<File, StateError> {
        let path = self.folder.join(MAKING);
        let marked = File::create(&path).and_then(|file| file.lock().map(|()| file));
        marked.map_err(StateError::new("lock", &path))
    }

    /// Marks that a process is joining the container, until the file and every copy
    /// of it in forked processes is closed. Any number may at once.
    pub(crate) fn mark_joining(&self) -> Result<File, StateError> {
        let path = self.folder.join(MAKING);
        let marked = File::open(&path).and_then(|file| {
            file.try_lock_shared()?;
            Ok(file)
        });
        marked.map_err(StateError::new("lock", &path))
    }

    /// Says whether a process that makes or joins the container is still there: its
    /// worker, or one that a worker that was killed has left behind.
    pub(crate) fn is_being_made(&self) -> Result<bool, StateError> {
        let path = self.folder.join(MAKING);
        let failed = |error| StateError::new("look at", &path)(error);
        match File::open(&path) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    pub(crate) fn exists(&self) -> bool {
        self.folder.exists()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root folder that libcontainer is given.
    pub(crate) fn library_root(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The folder that libcontainer makes in its root.
    pub(crate) fn library_folder(&self) -> PathBuf {
        self.library_root().join(&self.id)
    }

    pub(crate) fn save_record(&self, record: &Record) -> Result<(), StateError> {
        self.save(RECORD, record)
    }

    /// Reads the record; none when there is none yet.
    ///
    /// # Errors
    /// Kind `InvalidData` when it is damaged.
    pub(crate) fn load_record(&self) -> Result<Option<Record>, StateError> {
        let path = self.folder.join(RECORD);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| StateError::new("read", &path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::new("read", &path)(error)),
        }
    }

    pub(crate) fn save_spec(&self, spec: &Spec) -> Result<(), StateError> {
        self.save(CONFIG, spec)
    }

    pub(crate) fn load_spec(&self) -> Result<Spec, StateError> {
        load_spec(&self.folder)
    }

    pub(crate) fn save_confinement(&self, confinement: &Confinement) -> Result<(), StateError> {
        self.save(CONFINEMENT, confinement)
    }

    /// Reads what every process of the container is bound by.
    ///
    /// # Errors
    /// When it is not there or damaged: no process is bound by less.
    pub(crate) fn load_confinement(&self) -> Result<Confinement, StateError> {
        let path = self.folder.join(CONFINEMENT);
        let failed = |error| StateError::new("read", &path)(error);
        let text = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Replaces a file as a whole: a reader finds the old or the new one.
    pub(crate) fn save(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        save(&self.folder.join(name), value)
    }

    /// Removes the folder with all that is in it; none is removed already.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(StateError::new("remove", &self.folder)),
        }
    }
}

/// Replaces a file as a whole; only root can read it.
pub(crate) fn save(path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let fresh = path.with_extension("new");
    let text =
        serde_json::to_vec(value).map_err(|error| StateError::new("write", path)(error.into()))?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(StateError::new("write", path))
}

/// Reads the config.json of a bundle.
///
/// # Errors
/// Kind `InvalidData` when it is no runtime spec, `FileTooLarge` over 32 MiB.
pub(crate) fn load_spec(bundle: &Path) -> Result<Spec, StateError> {
    let path = bundle.join(CONFIG);
    let failed = |error| StateError::new("read", &path)(error);
    let size = fs::metadata(&path).map_err(failed)?.len();
    if size > MAX_SPEC {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let text = fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_id_that_is_a_path_names_no_folder() {
        for id in ["", "..", "../x", "a/b"] {
            assert!(Home::at(Path::new("/run/x"), id).is_err(), "{id:?}");
        }
        let home = Home::at(Path::new("/run/x"), "web").unwrap();
        assert_eq!(home.folder(), Path::new("/run/x/web"));
    }

    #[test]
    fn an_id_can_be_taken_once_and_its_folder_is_private() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("deep/er");
        let home = Home::at(&root, "web").unwrap();
        home.take().unwrap();
        assert_eq!(home.take().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        for folder in [&root, home.folder()] {
            let mode = fs::metadata(folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
        home.remove().unwrap();
        home.remove().unwrap();
        home.take().unwrap();
    }

    #[test]
    fn a_damaged_record_is_told_from_a_missing_one() {
        let scratch = tempfile::tempdir().unwrap();
        let home = Home::at(scratch.path(), "web").unwrap();
        home.take().unwrap();
        assert_eq!(home.load_record().unwrap(), None);
        let record = Record {
            bundle: "/b".into(),
            cgroup: Location::parse(None, "web").unwrap(),
            init: Identity::of(nix::unistd::getpid()).ok(),
        };
        home.save_record(&record).unwrap();
        assert_eq!(home.load_record().unwrap(), Some(record));
        fs::write(home.folder().join(RECORD), "{").unwrap();
        assert_eq!(home.load_record().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn any_number_may_join_at_once_but_not_what_is_being_made() {
        let scratch = tempfile::tempdir().unwrap();
        let home = Home::at(scratch.path(), "web").unwrap();
        home.take().unwrap();
        assert_eq!(home.mark_joining().unwrap_err().kind(), io::ErrorKind::NotFound);
        let making = home.mark_making().unwrap();
        assert_eq!(home.mark_joining().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(making);
        let joining = (home.mark_joining().unwrap(), home.mark_joining().unwrap());
        assert!(home.is_being_made().unwrap());
        drop(joining);
        assert!(!home.is_being_made().unwrap());
    }
}
