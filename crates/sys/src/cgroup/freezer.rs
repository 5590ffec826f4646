//! Pausing and resuming every process of a cgroup.
//!
//! Version 2 freezes by itself: it is asked once, and `cgroup.events` tells when all
//! stand still. Version 1 stays `FREEZING` until every process has come by a point
//! where it can be stopped, looks only when it is read, and is asked anew each time
//! because kernels before 6.1 forget processes that are forked meanwhile. A process
//! the kernel itself holds, in version 1 or 2, keeps it from being frozen at all, so
//! the wait has an end, and what was stopped until then runs again.
//!
//! SIGKILL ends a frozen process of version 2. One of version 1 dies once thawed.

use std::io;
use std::time::{Duration, Instant};

use super::Cgroup;
use super::error::{CgroupError, Result, failed};
use super::files::{keyed, read, read_optional, try_write, unreadable, write};
use super::folder::Folder;

/// How long the kernel is given to stop every process.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Stops every process in the cgroup and returns once all stand still.
    ///
    /// # Errors
    /// [`CgroupError::Slow`] when that takes over two seconds; the processes
    /// are then let go again. [`CgroupError::NoController`] on a host without
    /// freezer.
    pub fn freeze(&self) -> Result<()> {
        let folder = self.freezer()?;
        let done = folder.set_frozen().and_then(|()| folder.await_frozen());
        if done.is_err() {
            folder.thaw()?;
        }
        done
    }

    /// Lets the processes of the cgroup run again. One that is not frozen, or
    /// does not exist, is left as it is.
    ///
    /// # Errors
    /// Those of writing the freezer's file.
    pub fn thaw(&self) -> Result<()> {
        match self.freezer() {
            Ok(folder) => folder.thaw(),
            Err(CgroupError::NoController(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says whether the cgroup itself is frozen, or on its way there; not whether one
    /// above it is. One that does not exist is not; nor is any on a host without freezer.
    ///
    /// # Errors
    /// Those of reading the freezer's file.
    pub fn is_frozen(&self) -> Result<bool> {
        let folder = match self.freezer() {
            Ok(folder) => folder,
            Err(CgroupError::NoController(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let file = if folder.hierarchy.is_v2() { "cgroup.freeze" } else { "freezer.self_freezing" };
        let path = folder.path.join(file);
        match read_optional(&path)?.as_deref() {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(other) => Err(unreadable(&path, other)),
        }
    }

    fn freezer(&self) -> Result<&Folder> {
        self.folders
            .iter()
            .find(|folder| folder.hierarchy.holds("freezer"))
            .ok_or_else(|| CgroupError::NoController("freezer".to_owned()))
    }
}

impl Folder {
    fn set_frozen(&self) -> Result<()> {
        match self.hierarchy.is_v2() {
            true => write(&self.path.join("cgroup.freeze"), "1"),
            false => write(&self.path.join("freezer.state"), "FROZEN"),
        }
    }

    fn thaw(&self) -> Result<()> {
        let (file, word) = match self.hierarchy.is_v2() {
            true => ("cgroup.freeze", "0"),
            false => ("freezer.state", "THAWED"),
        };
        let path = self.path.join(file);
        match try_write(&path, word) {
            Ok(()) => Ok(()),
            // A cgroup that is gone holds nobody.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ENODEV) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(&format!("write {word:?} to"), &path, error)),
        }
    }

    fn await_frozen(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(100);
        while !self.all_stand_still()? {
            if Instant::now() > deadline {
                return Err(CgroupError::Slow { path: self.path.clone(), wanted: "frozen" });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
            if !self.hierarchy.is_v2() {
                self.set_frozen()?;
            }
        }
        Ok(())
    }

    fn all_stand_still(&self) -> Result<bool> {
        if !self.hierarchy.is_v2() {
            return Ok(read(&self.path.join("freezer.state"))? == "FROZEN");
        }
        let events = self.path.join("cgroup.events");
        Ok(keyed(&events, &read(&events)?, "frozen")? == Some(1))
    }
}
