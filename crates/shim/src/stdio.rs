//! The standard streams of a container, between containerd's FIFOs and its init.
//!
//! The init reads and writes the FIFOs themselves: nothing is copied, and a slow
//! reader slows the writer. The shim holds the reading end of each output open, until
//! the container is deleted: so a reader that goes (containerd restarting) neither
//! ends the container with SIGPIPE nor loses what is in the pipe, even if the
//! container ends meanwhile. It holds no writing end, so that whoever reads sees the
//! end of the output as soon as the container has ended.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use containerd_shim::api::CreateTaskRequest;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// What a container was given, by containerd's names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// The shim's own ends, held until the container has no more use for them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    stdin: Mutex<Option<File>>,
    outputs: Mutex<Vec<OwnedFd>>,
}

impl Held {
    /// Lets the guest's reads see the end of its input, once containerd has
    /// closed its end too.
    pub(crate) fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Lets go of the outputs, and of what nobody has read of them.
    pub(crate) fn close_outputs(&self) {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl From<&CreateTaskRequest> for Paths {
    fn from(request: &CreateTaskRequest) -> Self {
        Self {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

impl Paths {
    /// Opens the streams: what the init gets, and what the shim holds.
    pub(crate) fn open(&self) -> anyhow::Result<([OwnedFd; 3], Held)> {
        if self.terminal {
            bail!("a terminal (-t) is not built yet: run without one");
        }
        let (stdin, stdin_hold) = open_stdin(&self.stdin)?;
        let (stdout, stdout_hold) = open_output(&self.stdout)?;
        let (stderr, stderr_hold) = open_output(&self.stderr)?;
        let held = Held {
            stdin: Mutex::new(stdin_hold),
            outputs: Mutex::new(stdout_hold.into_iter().chain(stderr_hold).collect()),
        };
        Ok(([stdin, stdout, stderr], held))
    }
}

fn open_stdin(path: &str) -> anyhow::Result<(OwnedFd, Option<File>)> {
    if path.is_empty() {
        return Ok((open_null()?, None));
    }
    let context = || format!("cannot open standard input {path}");
    let reader = sys::fifo::open_reader_nonblocking(Path::new(path)).with_context(context)?;
    let hold = File::options().write(true).open(path).with_context(context)?;
    let flags = OFlag::from_bits_retain(fcntl(reader.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(reader.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).with_context(context)?;
    Ok((reader, Some(hold)))
}

fn open_output(path: &str) -> anyhow::Result<(OwnedFd, Option<OwnedFd>)> {
    if path.is_empty() {
        return Ok((open_null()?, None));
    }
    if let Some((scheme, _)) = path.split_once("://") {
        bail!("output to {scheme}:// is not built yet: {path} should name a FIFO");
    }
    let context = || format!("cannot open the output {path}");
    // With this reader there, opening the other end does not wait for containerd's.
    let hold = sys::fifo::open_reader_nonblocking(Path::new(path)).with_context(context)?;
    let writer = File::options().write(true).open(path).with_context(context)?;
    Ok((writer.into(), Some(hold)))
}

fn open_null() -> anyhow::Result<OwnedFd> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")?;
    Ok(null.into())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn output_nobody_has_read_outlives_the_container_until_it_is_deleted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("stdout");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
        let paths = Paths { stdout: path.to_string_lossy().into_owned(), ..Paths::default() };
        let read = || {
            let reader = sys::fifo::open_reader_nonblocking(&path).expect("a reader");
            let mut text = String::new();
            File::from(reader).read_to_string(&mut text).map(|_| text)
        };

        let ([_, stdout, _], held) = paths.open().expect("opened though nobody reads");
        File::from(stdout.try_clone().expect("the init's")).write_all(b"last words").expect("room");
        // The reader sees no end while the container lives, and goes.
        assert_eq!(read().expect_err("no end").kind(), ErrorKind::WouldBlock);
        File::from(stdout).write_all(b"more").expect("no SIGPIPE");
        assert_eq!(read().expect("the end"), "more");

        let ([_, stdout, _], second) = paths.open().expect("opened");
        File::from(stdout).write_all(b"unread").expect("room");
        held.close_outputs();
        assert_eq!(read().expect("the end"), "unread");
        File::from(paths.open().expect("opened").0.into_iter().nth(1).expect("stdout"))
            .write_all(b"lost")
            .expect("room");
        second.close_outputs();
        assert_eq!(read().expect("the end"), "");
    }

    #[test]
    fn an_output_that_is_no_fifo_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let paths =
            Paths { stdout: file.path().to_string_lossy().into_owned(), ..Paths::default() };
        assert!(format!("{:#}", paths.open().expect_err("refused")).contains("is not a fifo"));
    }
}
