//! The last steps inside the container: find the program, wait, run it.
//!
//! Runs in the container's first process, as its user, with its capabilities.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, NulError};
use std::fs;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};
use oci_spec::runtime::Spec;
use sys::process::exit_now;
use sys::seccomp::Filter;

use crate::{cause, check, stdio};

/// Exit code when the program cannot be run after all, as runc's.
const CANNOT_RUN: i32 = 1;

/// Runs the program that the spec names, and nothing of the spec's own making
/// in between: environment and arguments arrive as they are written.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    // libcontainer clones the executor; what `validate` finds is for `exec`.
    found: Rc<RefCell<Option<PathBuf>>>,
    /// Descriptors of the worker and its parents, of no use to the container.
    inherited: Vec<RawFd>,
    /// Installed last of all, unless libcontainer has done it already.
    filter: Option<Filter>,
}

/// What the sentence begins with that says why a program cannot be run.
pub(crate) const NOT_RUNNABLE: &str = "exec: ";

/// How many descriptors libcontainer may have opened beyond the inherited ones
/// when the program is found: it needs a dozen.
const HEADROOM: RawFd = 256;

impl Program {
    /// Notes what is open now: to be called before libcontainer opens anything.
    pub(crate) fn new(filter: Option<Filter>) -> io::Result<Self> {
        let folder = Path::new("/proc/self/fd");
        let listed: Vec<RawFd> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        // The listing has the descriptor that it was read by, which is closed
        // now: its number is the next that libcontainer will be given.
        let is_open = |fd: &RawFd| fs::symlink_metadata(folder.join(fd.to_string())).is_ok();
        let inherited = listed.into_iter().filter(is_open).collect();
        Ok(Self { found: Rc::default(), inherited, filter })
    }

    /// Closes what was inherited. Close-on-exec is too late: until it is
    /// started, the container's first process would keep the other ends of its
    /// own output open, and channels of the processes above it.
    fn close_inherited(&self) -> io::Result<()> {
        // Log and causes are written to descriptors that are closed here, and whose
        // numbers may come back as something else's.
        log::set_max_level(log::LevelFilter::Off);
        cause::silence();
        let end = self.inherited.iter().max().map_or(0, |highest| highest + HEADROOM);
        let kept: Vec<RawFd> = (3..end).filter(|fd| !self.inherited.contains(fd)).collect();
        sys::stdio::close_all_except(&kept)
    }
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = ExecutorValidationError::ArgValidationError;
        check::verify_mounts(spec).map_err(failed)?;
        stdio::reopen_null_output()
            .map_err(|error| failed(format!("reopen /dev/null for output: {error}")))?;
        let name = words(spec).0.first().ok_or_else(|| failed("no program is named".to_owned()))?;
        let program = find(name, search_path(words(spec).1))
            .map_err(|error| failed(format!("{NOT_RUNNABLE}{name:?}: {error}")))?;
        *self.found.borrow_mut() = Some(program);
        self.close_inherited().map_err(|error| failed(format!("close descriptors: {error}")))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is passed to execve as the spec has it: in its order.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let program = self.found.borrow_mut().take().ok_or(ExecutorError::InvalidArg)?;
        let (args, env) = words(spec);
        let nul = |_: NulError| ExecutorError::InvalidArg;
        let path = CString::new(program.as_os_str().as_bytes()).map_err(nul)?;
        let args = c_strings(args).map_err(nul)?;
        let env = c_strings(env).map_err(nul)?;
        // libcontainer marks descriptors close-on-exec, but for those it
        // believes its caller wants kept; closing leaves no doubt.
        // The worker ignores SIGPIPE; a program must not begin that way.
        sys::stdio::close_others()
            .and_then(|()| sys::signal::reset_for_child())
            .map_err(|error| ExecutorError::Other(error.to_string()))?;
        let error = match self.filter.as_ref().map(Filter::install) {
            Some(Err(error)) => format!("install the seccomp profile: {}", plain(&error)),
            _ => {
                let Err(error) = execve(&path, &args, &env);
                plain(&error.into())
            }
        };
        // Nobody waits for a message any more; the container's own output is
        // the place where its owner looks.
        let text = format!("exec {}: {error}\n", program.display());
        if io::stderr().write_all(text.as_bytes()).is_err() {
            // Without a reader of the message the exit code alone has to do.
        }
        exit_now(CANNOT_RUN)
    }
}

/// The kernel's words for an error, as Go programs print them.
fn plain(error: &io::Error) -> String {
    let number = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    number.desc().to_lowercase()
}

/// The arguments and the environment.
fn words(spec: &Spec) -> (&[String], &[String]) {
    let process = spec.process().as_ref();
    let args = process.and_then(|it| it.args().as_deref()).unwrap_or_default();
    let env = process.and_then(|it| it.env().as_deref()).unwrap_or_default();
    (args, env)
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
