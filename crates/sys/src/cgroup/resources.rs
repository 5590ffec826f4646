//! A limit of the runtime spec as a value for a cgroup file.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{LinuxRdma, LinuxResources};

use super::files::try_write;
use super::{CgroupError, Result, failed};

/// One value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller whose hierarchy has the file.
    pub(super) controller: &'static str,
    /// The file, and others that take its place where the kernel lacks it.
    pub(super) files: Vec<String>,
    pub(super) value: String,
    /// What must be written first where the kernel refuses the value for now:
    /// of two coupled limits the order depends on the old values.
    pub(super) after: Option<Box<Setting>>,
}

impl Setting {
    pub(super) fn new(controller: &'static str, file: &str, value: impl ToString) -> Self {
        let files = vec![file.to_owned()];
        Self { controller, files, value: value.to_string(), after: None }
    }

    pub(super) fn or_in(mut self, file: &str) -> Self {
        self.files.push(file.to_owned());
        self
    }

    pub(super) fn unless_refused(mut self, first: Setting) -> Self {
        self.after = Some(Box::new(first));
        self
    }

    pub(super) fn write_in(&self, folder: &Path) -> Result<()> {
        let found = self.files.iter().map(|file| folder.join(file)).find(|path| path.exists());
        // Where none exists the first gives the error that names it.
        let path = found.unwrap_or_else(|| folder.join(&self.files[0]));
        match (try_write(&path, &self.value), &self.after) {
            (Ok(()), _) => Ok(()),
            (Err(error), Some(first)) if error.raw_os_error() == Some(libc::EINVAL) => {
                first.write_in(folder)?;
                try_write(&path, &self.value)
            }
            (Err(error), _) => Err(error),
        }
        .map_err(|error| failed(&format!("write {:?} to", self.value), &path, error))
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
    Some(Setting::new("pids", "pids.max", value))
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
        Setting::new("rdma", "rdma.max", format!("{device}{handles}{objects}"))
    };
    devices.into_iter().map(line).collect()
}
