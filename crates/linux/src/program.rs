//! The last steps inside the container: find the program, wait, run it.
//!
//! Runs in the container's first process, as its user, with its capabilities.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::Path;
use std::rc::Rc;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::Spec;
use sys::process::exit_now;
use sys::seccomp::Filter;

use crate::command::Command;
use crate::{cause, check, stdio};

/// Exit code when the program cannot be run after all, as runc's.
const CANNOT_RUN: i32 = 1;

/// Runs the program that the spec names, and nothing of the spec's own making
/// in between: environment and arguments arrive as they are written.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    // libcontainer clones the executor; what `validate` finds is for `exec`.
    found: Rc<RefCell<Option<Command>>>,
    /// Descriptors of the worker and its parents, of no use to the container.
    inherited: Vec<RawFd>,
    /// Installed last of all, unless libcontainer has done it already.
    filter: Option<Filter>,
}

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
        let process = spec.process().as_ref().ok_or_else(|| failed("no process".to_owned()))?;
        *self.found.borrow_mut() = Some(Command::find(process).map_err(failed)?);
        self.close_inherited().map_err(|error| failed(format!("close descriptors: {error}")))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is passed to execve as the spec has it: in its order.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let program = self.found.borrow_mut().take().ok_or(ExecutorError::InvalidArg)?;
        // libcontainer marks descriptors close-on-exec, but for those it
        // believes its caller wants kept; closing leaves no doubt.
        sys::stdio::close_others().map_err(|error| ExecutorError::Other(error.to_string()))?;
        let why = program.run(self.filter.as_ref());
        // Nobody waits for a message any more; the container's own output is
        // the place where its owner looks.
        if io::stderr().write_all(format!("{why}\n").as_bytes()).is_err() {
            // Without a reader of the message the exit code alone has to do.
        }
        exit_now(CANNOT_RUN)
    }
}
