//! A container that was created, and the test's ends of its streams.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::pipe;
use oci_spec::runtime::Process as ProcessSpec;
use runtime::process::{ExitStatus, Process};
use runtime::spec::{Command, ExecOptions, Stdio};
use runtime::stats::{GuestStats, Stats};
use runtime::{ContainerHandle, ContainerState, Error, UniversalContainer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::lab::resources;

pub(crate) struct Running<'a> {
    pub(crate) runtime: &'a dyn UniversalContainer,
    pub(crate) handle: ContainerHandle,
    /// None on a terminal.
    pub(crate) ends: Option<Ends>,
    /// Held for as long as there is a container in it.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(crate) bundle: Arc<TempDir>,
}

/// A process that was added to a container.
pub(crate) struct Added {
    pub(crate) process: Process,
    pub(crate) ends: Ends,
}

/// The other ends of a process's streams.
pub(crate) struct Ends {
    stdin: Option<Sender>,
    stdout: BufReader<Receiver>,
    stderr: BufReader<Receiver>,
}

impl Running<'_> {
    pub(crate) async fn start(&self) {
        self.runtime.start(&self.handle).await.unwrap();
    }

    pub(crate) async fn wait(&self) -> ExitStatus {
        self.runtime.wait(&self.handle).await.unwrap().status
    }

    pub(crate) async fn delete(&self) {
        self.runtime.delete(&self.handle).await.unwrap();
    }

    pub(crate) async fn state(&self) -> ContainerState {
        self.runtime.status(&self.handle).await.unwrap().state
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.runtime.stats(&self.handle).await.unwrap()
    }

    pub(crate) async fn guest(&self) -> GuestStats {
        self.stats().await.guest.unwrap()
    }

    pub(crate) async fn update(&self, limits: Value) {
        self.runtime.update(&self.handle, resources(limits)).await.unwrap();
    }

    /// Runs another process with streams of its own.
    pub(crate) async fn exec(&self, process: ProcessSpec) -> Result<Added, Error> {
        let (stdio, ends) = Ends::new();
        let process = self.exec_with(process, stdio).await?;
        assert!(process.take_console().is_none());
        Ok(Added { process, ends: ends.unwrap() })
    }

    /// Runs another process on a terminal.
    pub(crate) async fn exec_on_terminal(&self, mut process: ProcessSpec) -> (Process, OwnedFd) {
        process.set_terminal(Some(true));
        let process = self.exec_with(process, Stdio::Terminal).await.unwrap();
        let console = process.take_console().expect("a console");
        assert!(process.take_console().is_none(), "there is one, for who comes first");
        (process, console)
    }

    async fn exec_with(&self, process: ProcessSpec, stdio: Stdio) -> Result<Process, Error> {
        self.runtime.exec(&self.handle, Command { process }, ExecOptions { stdio }).await
    }

    pub(crate) fn ends(&mut self) -> &mut Ends {
        self.ends.as_mut().expect("no terminal")
    }
}

impl Added {
    /// Waits for the end; returns how it ended and what it wrote.
    pub(crate) async fn end(mut self) -> (ExitStatus, String, String) {
        self.ends.close_stdin();
        let [stdout, stderr] = self.ends.rest().await;
        (self.process.wait().await.status, stdout, stderr)
    }
}

impl Ends {
    pub(crate) fn new() -> (Stdio, Option<Self>) {
        let (stdin, to_stdin) = pipe().unwrap();
        let (from_stdout, stdout) = pipe().unwrap();
        let (from_stderr, stderr) = pipe().unwrap();
        let reader = |end| BufReader::new(Receiver::from_owned_fd(end).unwrap());
        let ends = Self {
            stdin: Some(Sender::from_owned_fd(to_stdin).unwrap()),
            stdout: reader(from_stdout),
            stderr: reader(from_stderr),
        };
        (Stdio::Streams([stdin, stdout, stderr]), Some(ends))
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Reads a line of the standard output.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Reads a byte of the standard output; none in `patience` is `None`.
    pub(crate) async fn byte_within(&mut self, patience: Duration) -> Option<u8> {
        tokio::time::timeout(patience, self.stdout.read_u8()).await.ok().map(Result::unwrap)
    }

    /// Reads, without waiting for more, what has been written to the standard output.
    pub(crate) async fn drain(&mut self) {
        while self.byte_within(Duration::ZERO).await.is_some() {}
    }

    /// Reads both outputs to their end.
    pub(crate) async fn rest(&mut self) -> [String; 2] {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).await.unwrap();
        self.stderr.read_to_string(&mut stderr).await.unwrap();
        [stdout, stderr]
    }

    /// Asks a [`crate::guests::tool`] to take 1 MiB more; says whether it got it.
    pub(crate) async fn grow(&mut self) -> bool {
        self.write("+").await;
        match self.line().await.as_str() {
            "yes" => true,
            "no" => false,
            other => panic!("{other:?}"),
        }
    }
}

/// Reads a terminal until its last process has gone.
pub(crate) async fn read_console(console: OwnedFd) -> String {
    let read = move || {
        let (mut console, mut text) = (File::from(console), Vec::new());
        if let Err(error) = console.read_to_end(&mut text) {
            assert_eq!(error.raw_os_error(), Some(Errno::EIO as i32), "how a terminal's end reads");
        }
        String::from_utf8(text).unwrap()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Reads a terminal until `wanted` has come.
pub(crate) async fn read_console_until(console: &OwnedFd, wanted: &'static str) {
    let mut console = File::from(console.try_clone().unwrap());
    let read = move || {
        let mut text = Vec::new();
        while !text.ends_with(wanted.as_bytes()) {
            let mut byte = [0];
            console.read_exact(&mut byte).unwrap();
            text.extend_from_slice(&byte);
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap();
}

/// Asks again until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
