//! Pausing and resuming every process of a cgroup.

use std::path::Path;
use std::time::{Duration, Instant};

use super::files::{keyed, read, read_optional, write};
use super::{Cgroup, CgroupError, Folder, Result};

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
        let done = folder.set_frozen(true).and_then(|()| folder.await_frozen());
        if done.is_err() {
            folder.set_frozen(false)?;
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
            Ok(folder) if folder.path.is_dir() => folder.set_frozen(false),
            Ok(_) | Err(CgroupError::NoController(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says whether the cgroup is frozen, or on its way there. One that does
    /// not exist is not.
    ///
    /// # Errors
    /// Those of reading the freezer's file.
    pub fn is_frozen(&self) -> Result<bool> {
        let folder = self.freezer()?;
        let state = match folder.hierarchy.is_v2() {
            true => read_optional(&folder.path.join("cgroup.freeze"))?,
            false => read_optional(&folder.path.join("freezer.state"))?,
        };
        Ok(!matches!(state.as_deref(), None | Some("0" | "THAWED")))
    }

    fn freezer(&self) -> Result<&Folder> {
        self.folders
            .iter()
            .find(|folder| folder.hierarchy.holds("freezer"))
            .ok_or_else(|| CgroupError::NoController("freezer".to_owned()))
    }
}

impl Folder {
    fn set_frozen(&self, frozen: bool) -> Result<()> {
        match (self.hierarchy.is_v2(), frozen) {
            (true, frozen) => {
                write(&self.path.join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
            (false, true) => write(&self.path.join("freezer.state"), "FROZEN"),
            (false, false) => write(&self.path.join("freezer.state"), "THAWED"),
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
                // Version 1 may stay FREEZING when a process forked in
                // between; asking again makes it look again.
                self.set_frozen(true)?;
            }
        }
        Ok(())
    }

    fn all_stand_still(&self) -> Result<bool> {
        if !self.hierarchy.is_v2() {
            return Ok(read(&self.path.join("freezer.state"))? == "FROZEN");
        }
        let events = self.path.join("cgroup.events");
        frozen_event(&events, &read(&events)?)
    }
}

fn frozen_event(path: &Path, text: &str) -> Result<bool> {
    Ok(keyed(path, text, "frozen")? == Some(1))
}
