//! Limits set at first, and changed while the processes run.
//!
//! A change is all or nothing: what the files held is read before, and written
//! back when one of them refuses. systemd, which keeps the limits of a scope and
//! sets them anew whenever it reloads, is told first, and told otherwise again.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::error::{CgroupError, Result};
use super::files::{read_optional, try_write};
use super::resources::{Place, Setting};
use super::v2::Standing;
use super::{Cgroup, Folder, systemd, v1, v2};

impl Cgroup {
    /// Sets the limits of a cgroup that is not in use yet and goes if one is refused.
    pub(super) fn limit_at_first(&self, resources: &LinuxResources) -> Result<()> {
        let settings = self.settings(resources, &Standing::default())?;
        self.write_all(&settings)
    }

    /// Changes limits of a cgroup that exists; what `resources` does not name stays
    /// as it is. On an error all stays as it was.
    ///
    /// For a scope of systemd's this asks over D-Bus, which starts threads.
    ///
    /// # Errors
    /// The first limit that cannot be set: [`CgroupError::InUseAbove`] for one on
    /// memory that is below what is in use (version 1; on version 2
    /// [`CgroupError::Rejected`], only where the request says to look first), else
    /// most often [`CgroupError::Limit`]. [`CgroupError::HalfChanged`] when an old
    /// value could not be written back.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let mut standing = Standing::default();
        if self.is_unified()
            && let [folder] = self.folders.as_slice()
        {
            v2::check_usage(resources, &folder.path)?;
            standing = Standing::of(&folder.path)?;
        }
        let settings = self.settings(resources, &standing)?;
        let before = self.held_by(&settings)?;
        if self.is_scope() {
            let places = settings.iter().flat_map(|setting| &setting.places);
            systemd::tell_limits(&self.location, places)?;
        }
        self.write_all(&settings).map_err(|refusal| self.undo(before, refusal))
    }

    fn settings(&self, resources: &LinuxResources, standing: &Standing) -> Result<Vec<Setting>> {
        if !self.is_unified() {
            return v1::settings(resources);
        }
        let mut settings = v2::settings(resources, standing)?;
        if self.is_scope() {
            settings.iter_mut().for_each(systemd::round_as_kept);
        }
        Ok(settings)
    }

    fn write_all(&self, settings: &[Setting]) -> Result<()> {
        settings.iter().try_for_each(|setting| setting.write_in(&self.folder_of(setting)?.path))
    }

    fn folder_of(&self, setting: &Setting) -> Result<&Folder> {
        let mut folders = self.folders.iter();
        folders
            .find(|folder| folder.hierarchy.holds(setting.controller))
            .ok_or_else(|| CgroupError::NoController(setting.key.clone()))
    }

    /// Reads every file that the settings would change.
    fn held_by(&self, settings: &[Setting]) -> Result<Vec<Held>> {
        let mut held: Vec<Held> = Vec::new();
        for setting in settings {
            let (path, _) = setting.target(&self.folder_of(setting)?.path);
            if held.iter().any(|one| one.path == path) {
                continue;
            }
            // A file that is not there refuses the limit, and is left as it is.
            if let Some(text) = read_optional(&path)? {
                held.push(Held { path, text });
            }
        }
        Ok(held)
    }

    /// Writes back what the files held; returns `refusal`, with what went wrong now.
    fn undo(&self, held: Vec<Held>, refusal: CgroupError) -> CgroupError {
        let mut left = Vec::new();
        if self.is_scope() {
            let places: Vec<Place> = held.iter().filter_map(Held::place).collect();
            if let Err(error) = systemd::tell_limits(&self.location, &places) {
                left.push(crate::error::chain(&error));
            }
        }
        left.extend(write_back(held));
        match left.is_empty() {
            true => refusal,
            false => CgroupError::HalfChanged { source: Box::new(refusal), left: left.join("; ") },
        }
    }
}

/// What a file held before a change.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    text: String,
}

/// Writes the old values back, the last first. Of two that are coupled one may have
/// to wait for the other, so those refused are tried again as long as one goes.
/// Returns a sentence for each that stays refused.
fn write_back(mut held: Vec<Held>) -> Vec<String> {
    held.reverse();
    loop {
        let count = held.len();
        let mut refused = Vec::new();
        let mut sentences = Vec::new();
        for one in held {
            if let Err(sentence) = one.write_back() {
                sentences.push(sentence);
                refused.push(one);
            }
        }
        if refused.is_empty() || refused.len() == count {
            return sentences;
        }
        held = refused;
    }
}

impl Held {
    fn write_back(&self) -> std::result::Result<(), String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let now = read_optional(&self.path).map_err(|error| crate::error::chain(&error))?;
        for value in undoing(&name, &self.text, &now.unwrap_or_default()) {
            try_write(&self.path, &value)
                .map_err(|error| format!("write {value:?} to {}: {error}", self.path.display()))?;
        }
        Ok(())
    }

    /// As systemd is told of it.
    fn place(&self) -> Option<Place> {
        let file = self.path.file_name()?.to_str()?.to_owned();
        Some(Place { file, value: self.text.clone() })
    }
}

/// What has to be written to a file to turn `now` into `before`, each in a call of
/// its own.
fn undoing(file: &str, before: &str, now: &str) -> Vec<String> {
    if before == now {
        return Vec::new();
    }
    if file == "memory.oom_control" {
        // It is read as three lines and written as a number.
        let value = before.lines().find_map(|line| line.strip_prefix("oom_kill_disable "));
        return value.into_iter().map(str::to_owned).collect();
    }
    let Some(nothing) = word_for_nothing(file) else {
        // An empty file, as of a cpuset that has its parent's, is written as a line.
        return vec![if before.is_empty() { "\n".to_owned() } else { before.to_owned() }];
    };
    let key = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let is_new = |line: &&str| !before.lines().any(|old| key(old) == key(line));
    let new =
        now.lines().filter(is_new).filter_map(|line| Some(format!("{} {nothing}", key(line)?)));
    let changed = before.lines().filter(|old| !now.lines().any(|line| line == *old));
    new.chain(changed.map(str::to_owned)).collect()
}

/// For a file of one line per device, or per name: what takes back such a line.
fn word_for_nothing(file: &str) -> Option<&'static str> {
    match file {
        "io.max" => Some("rbps=max wbps=max riops=max wiops=max"),
        "rdma.max" => Some("hca_handle=max hca_object=max"),
        "misc.max" => Some("max"),
        "io.latency" => Some("target=max"),
        "io.weight" | "io.bfq.weight" | "blkio.weight_device" | "blkio.bfq.weight_device" => {
            Some("default")
        }
        "net_prio.ifpriomap" => Some("0"),
        file if file.starts_with("blkio.throttle.") => Some("0"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_undone_line_by_line() {
        let table: [(&str, &str, &str, &[&str]); 9] = [
            ("memory.max", "max", "max", &[]),
            ("memory.max", "max", "4096", &["max"]),
            ("cpuset.cpus", "", "0", &["\n"]),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0", "oom_kill_disable 1", &["0"]),
            (
                "io.max",
                "8:0 rbps=1 wbps=max riops=max wiops=max",
                "8:0 rbps=2 wbps=max riops=max wiops=max\n8:16 rbps=1 wbps=max riops=max wiops=max",
                &[
                    "8:16 rbps=max wbps=max riops=max wiops=max",
                    "8:0 rbps=1 wbps=max riops=max wiops=max",
                ],
            ),
            ("io.weight", "default 100", "default 200\n8:0 5", &["8:0 default", "default 100"]),
            ("blkio.throttle.read_bps_device", "", "8:0 1", &["8:0 0"]),
            ("blkio.throttle.read_bps_device", "8:0 1", "", &["8:0 1"]),
            ("rdma.max", "m hca_handle=max", "m hca_handle=1", &["m hca_handle=max"]),
        ];
        for (file, before, now, expected) in table {
            assert_eq!(undoing(file, before, now), expected, "{file}: {now:?} to {before:?}");
        }
    }
}
