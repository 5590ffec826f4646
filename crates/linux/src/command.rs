//! The program of a process: found the way runc finds it, and run.
//!
//! Used inside the container, by a process that already is its user and has its
//! capabilities.

use std::ffi::{CString, NulError};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use oci_spec::runtime::Process;
use sys::seccomp::Filter;

/// What the sentence begins with that says why a program cannot be run.
pub(crate) const NOT_RUNNABLE: &str = "exec: ";

/// A program that was found, with its arguments and environment.
#[derive(Debug)]
pub(crate) struct Command {
    path: PathBuf,
    file: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    /// Finds the program that a process is to run.
    ///
    /// # Errors
    /// The whole sentence, from [`NOT_RUNNABLE`] on.
    pub(crate) fn find(process: &Process) -> Result<Self, String> {
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let Some(name) = args.first() else {
            return Err(format!("{NOT_RUNNABLE}no program is named"));
        };
        let failed = |why: NotRunnable| format!("{NOT_RUNNABLE}{name:?}: {why}");
        let path = find(name, search_path(env)).map_err(failed)?;
        let zero_byte = |_: NulError| failed(NotRunnable::ZeroByte);
        Ok(Self {
            file: CString::new(path.as_os_str().as_bytes()).map_err(zero_byte)?,
            args: c_strings(args).map_err(zero_byte)?,
            env: c_strings(env).map_err(zero_byte)?,
            path,
        })
    }

    /// Becomes the program, under the filter if there is one; returns only to say
    /// why it could not.
    pub(crate) fn run(&self, filter: Option<&Filter>) -> String {
        // The worker ignores SIGPIPE; a program must not begin that way.
        if let Err(error) = sys::signal::reset_for_child() {
            return format!("reset signals: {error}");
        }
        if let Some(Err(error)) = filter.map(Filter::install) {
            return format!("install the seccomp profile: {}", plain(&error));
        }
        let Err(error) = execve(&self.file, &self.args, &self.env);
        format!("exec {}: {}", self.path.display(), plain(&error.into()))
    }
}

/// The kernel's words for an error, as Go programs print them.
pub(crate) fn plain(error: &io::Error) -> String {
    let number = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    number.desc().to_lowercase()
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, NulError> {
    texts.iter().map(|text| CString::new(text.as_str())).collect()
}

fn search_path(env: &[String]) -> &str {
    env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("")
}

/// Why a program cannot be run; reads on after `exec: "NAME": ` ([`NOT_RUNNABLE`]).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NotRunnable {
    #[error("executable file not found in $PATH")]
    NotInPath,
    #[error("stat {}: {}", .0.display(), .1.desc().to_lowercase())]
    Missing(PathBuf, Errno),
    #[error("is a directory")]
    Directory,
    #[error("permission denied")]
    Denied,
    #[error("a zero byte in the path, the arguments or the environment")]
    ZeroByte,
}

/// Finds a program the way runc does: a name with a slash is a path, any other
/// is looked for along PATH, where what is not executable does not count.
fn find(name: &str, search_path: &str) -> Result<PathBuf, NotRunnable> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return runnable(&path).map(|()| path);
    }
    search_path
        .split(':')
        .map(|folder| if folder.is_empty() { "." } else { folder })
        .map(|folder| Path::new(folder).join(name))
        .find(|path| !name.is_empty() && runnable(path).is_ok())
        .ok_or(NotRunnable::NotInPath)
}

fn runnable(path: &Path) -> Result<(), NotRunnable> {
    let missing = |error: io::Error| {
        let reason = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        match reason {
            Errno::EACCES => NotRunnable::Denied,
            _ => NotRunnable::Missing(path.to_owned(), reason),
        }
    };
    if fs::metadata(path).map_err(missing)?.is_dir() {
        return Err(NotRunnable::Directory);
    }
    // Real, effective and file system ids are one and the same by now.
    access(path, AccessFlags::X_OK).map_err(|_| NotRunnable::Denied)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_are_found_and_missed_as_runc_says_it() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().to_str().unwrap();
        let place = |name: &str, mode: u32| {
            let path = scratch.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let tool = place("tool", 0o755);
        let plain = place("plain", 0o644);
        let path = format!("/nowhere:{folder}");

        assert_eq!(find("tool", &path), Ok(tool.clone()));
        assert_eq!(find(tool.to_str().unwrap(), ""), Ok(tool));
        let text = |name: &str| find(name, &path).unwrap_err().to_string();
        assert_eq!(text("absent"), "executable file not found in $PATH");
        assert_eq!(text("plain"), "executable file not found in $PATH");
        assert_eq!(text(""), "executable file not found in $PATH");
        assert_eq!(text("/absent"), "stat /absent: no such file or directory");
        assert_eq!(text(folder), "is a directory");
        assert_eq!(text(plain.to_str().unwrap()), "permission denied");
    }

    #[test]
    fn the_last_path_of_the_environment_counts() {
        let env = ["PATH=/a", "PATHS=/b", "PATH=/c"].map(str::to_owned);
        assert_eq!(search_path(&env), "/c");
        assert_eq!(search_path(&env[1..2]), "");
    }
}
