//! A limit of the runtime spec as a value for a cgroup file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxRdma, LinuxResources};

use super::error::{CgroupError, Result};
use super::files::{read_number, try_write};

/// One limit to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller whose hierarchy has the file.
    pub(super) controller: &'static str,
    /// The limit's name in the runtime spec, below `linux.resources`.
    pub(super) key: String,
    /// The file and its value, and others that take its place where the kernel lacks it.
    pub(super) places: Vec<Place>,
    /// What must be written first where the kernel refuses the value for now:
    /// of two coupled limits the order depends on the old values.
    pub(super) after: Option<Box<Setting>>,
    /// What it means that the kernel has none of the files.
    pub(super) absent: Absent,
}

/// A cgroup file and what to write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The limit cannot be kept.
    Refused,
    /// It is kept anyhow: there is nothing that could exceed it.
    Kept,
}

impl Setting {
    pub(super) fn new(
        controller: &'static str,
        key: &str,
        file: &str,
        value: impl ToString,
    ) -> Self {
        let places = vec![Place { file: file.to_owned(), value: value.to_string() }];
        Self { controller, key: key.to_owned(), places, after: None, absent: Absent::Refused }
    }

    pub(super) fn or_in(mut self, file: &str, value: impl ToString) -> Self {
        self.places.push(Place { file: file.to_owned(), value: value.to_string() });
        self
    }

    pub(super) fn unless_refused(mut self, first: Option<Setting>) -> Self {
        self.after = first.map(Box::new);
        self
    }

    pub(super) fn kept_if_absent(mut self) -> Self {
        self.absent = Absent::Kept;
        self
    }

    /// The file in `folder` that is written, there or not, with its value.
    pub(super) fn target(&self, folder: &Path) -> (PathBuf, &str) {
        let path = |place: &Place| folder.join(&place.file);
        // Where none exists the first gives the error that names it.
        let found = self.places.iter().find(|place| path(place).exists());
        let place = found.unwrap_or(&self.places[0]);
        (path(place), &place.value)
    }

    pub(super) fn write_in(&self, folder: &Path) -> Result<()> {
        let (path, value) = self.target(folder);
        let error = match (try_write(&path, value), &self.after) {
            (Ok(()), _) => return Ok(()),
            (Err(error), Some(first)) if error.raw_os_error() == Some(libc::EINVAL) => {
                first.write_in(folder)?;
                match try_write(&path, value) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            (Err(error), _) => error,
        };
        if self.absent == Absent::Kept && error.kind() == io::ErrorKind::NotFound {
            return Ok(());
        }
        if error.raw_os_error() == Some(libc::EBUSY) && path.ends_with("memory.limit_in_bytes") {
            let bytes = |file| read_number(&folder.join(file)).map(Option::unwrap_or_default);
            return Err(CgroupError::InUseAbove {
                limit: value.to_owned(),
                usage: bytes("memory.usage_in_bytes")?,
                peak: bytes("memory.max_usage_in_bytes")?,
            });
        }
        let (key, value) = (self.key.clone(), value.to_owned());
        Err(CgroupError::Limit { key, value, path, source: error })
    }
}

/// A limit in bytes or counts where -1 is none and 0 says nothing.
pub(super) fn limit(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// Refuses a limit by the name it has in the runtime spec.
pub(super) fn refused(name: &str, value: impl ToString, reason: &'static str) -> CgroupError {
    CgroupError::Refused { name: name.to_owned(), value: value.to_string(), reason }
}

/// The limit on processes: 0 says nothing, negative is none.
pub(super) fn pids_setting(value: i64) -> Option<Setting> {
    let value = match value {
        0 => return None,
        negative if negative < 0 => "max".to_owned(),
        positive => positive.to_string(),
    };
    Some(Setting::new("pids", "pids.limit", "pids.max", value))
}

/// Limits on RDMA devices; both versions have the same file.
pub(super) fn rdma_settings(resources: &LinuxResources) -> Vec<Setting> {
    let devices: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    let line = |(device, rdma): (&String, &LinuxRdma)| {
        let part = |key, value: Option<u32>| {
            value.map(|value| format!(" {key}={value}")).unwrap_or_default()
        };
        let handles = part("hca_handle", rdma.hca_handles());
        let objects = part("hca_object", rdma.hca_objects());
        Setting::new("rdma", "rdma", "rdma.max", format!("{device}{handles}{objects}"))
    };
    devices.into_iter().map(line).collect()
}
