//! A program that runs: its output so far, its end, and the end it is given when it takes too long.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Output;

/// How long output is awaited after the program's end: something it left behind may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// A program that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Capture,
    stderr: Capture,
    line: String,
    started: Instant,
    timeout: Duration,
}

impl Running {
    /// Takes a started program over: from now on its output is read.
    pub(super) fn follow(
        mut child: Child,
        line: String,
        started: Instant,
        timeout: Duration,
        echo: bool,
    ) -> Result<Self> {
        let stdout = child.stdout.take().context("no pipe for stdout")?;
        let stderr = child.stderr.take().context("no pipe for stderr")?;
        Ok(Self {
            stdout: Capture::of(stdout, echo),
            stderr: Capture::of(stderr, echo),
            child,
            line,
            started,
            timeout,
        })
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(Pid::from_raw(self.pid()), signal)
            .with_context(|| format!("sending {signal} to `{}`", self.line))
    }

    /// Returns what the program has written to its standard output up to now.
    pub fn stdout_so_far(&self) -> String {
        self.stdout.text()
    }

    /// Returns what the program has written to its standard error up to now.
    pub fn stderr_so_far(&self) -> String {
        self.stderr.text()
    }

    /// Waits until the standard output holds `text`.
    pub fn wait_for_stdout(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.stdout_so_far().contains(text) {
            let ended = self.child.try_wait().context("waiting")?.is_some();
            if ended || Instant::now() > deadline {
                // What came between the look and the end counts as well.
                thread::sleep(Duration::from_millis(50));
                if self.stdout_so_far().contains(text) {
                    break;
                }
                bail!(
                    "`{}` {} before it printed {text:?}; stdout: {}; stderr: {}",
                    self.line,
                    if ended { "ended" } else { "took too long" },
                    self.stdout_so_far(),
                    self.stderr_so_far()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits for the program's end, as long as its own timeout allows, counted from now.
    pub fn finish(self) -> Result<Output> {
        let timeout = self.timeout;
        self.wait(timeout)
    }

    /// Waits for the program's end; after `timeout` it is killed with its process group.
    pub fn wait(mut self, timeout: Duration) -> Result<Output> {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(200);
        let (status, timed_out) = loop {
            if let Some(status) = self.child.try_wait().context("waiting for a program")? {
                break (status, false);
            }
            if Instant::now() >= deadline {
                self.kill_group();
                break (self.child.wait().context("waiting for a killed program")?, true);
            }
            thread::sleep(pause);
            // A figure must not be off by more than a millisecond.
            pause = (pause * 2).min(Duration::from_millis(1));
        };
        let took = self.started.elapsed();
        self.stdout.drain(DRAIN);
        self.stderr.drain(DRAIN);
        Ok(Output {
            status: status.code(),
            signal: status.signal(),
            timed_out,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            took,
            line: self.line.clone(),
        })
    }

    fn kill_group(&self) {
        // The group may be gone already; that is what is wanted.
        let _gone = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once waited for, the number may belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_group();
            let _reaped = self.child.wait();
        }
    }
}

/// The bytes of one pipe, collected by a thread.
#[derive(Debug)]
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(mut pipe: impl Read + Send + 'static, echo: bool) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                if echo {
                    // Showing progress is a courtesy; the output is kept anyway.
                    let _unshown = std::io::stderr().write_all(&buffer[..count]);
                }
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn drain(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let Some(reader) = self.reader.take() else {
            return;
        };
        while !reader.is_finished() {
            if Instant::now() > deadline {
                return;
            }
            thread::sleep(Duration::from_micros(500));
        }
        // A reader has nothing to panic over, and its bytes are kept either way.
        let _ended = reader.join();
    }
}
