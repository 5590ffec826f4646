//! Reading and writing the small files of a cgroup.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::error::{CgroupError, Result, failed};

/// Writes a value in one system call, as cgroup files need it.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    try_write(path, value).map_err(|error| failed(&format!("write {value:?} to"), path, error))
}

/// [`write`] for a caller that looks at the kernel's answer.
pub(super) fn try_write(path: &Path, value: &str) -> io::Result<()> {
    // No O_CREAT and no O_TRUNC: a file that is not there is an error.
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// Reads a file, without the white space around.
pub(super) fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(failed("read", path, error)),
    }
}

/// [`read`], with `None` when there is no such file or the cgroup is gone.
pub(super) fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed("read", path, error)),
    }
}

/// Reads a file that holds one number; `max` is `None`.
pub(super) fn read_number(path: &Path) -> Result<Option<u64>> {
    let text = read(path)?;
    if text == "max" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| unreadable(path, &text))
}

/// Returns the number after `key` in a file of `key number` lines, or `None`
/// when there is no such line.
pub(super) fn keyed(path: &Path, text: &str, key: &str) -> Result<Option<u64>> {
    for line in text.lines() {
        if let Some((name, value)) = line.split_once(' ')
            && name == key
        {
            return value.trim().parse().map(Some).map_err(|_| unreadable(path, line));
        }
    }
    Ok(None)
}

pub(super) fn unreadable(path: &Path, text: &str) -> CgroupError {
    CgroupError::Unreadable { path: path.to_owned(), text: text.chars().take(80).collect() }
}
