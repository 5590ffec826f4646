//! `ctr run` as a builder.

use std::time::Duration;

use anyhow::Result;

use super::{Daemon, runtime};
use crate::command::{Invocation, Output, Running};

/// One `ctr run` that is about to happen.
#[derive(Debug, Clone)]
pub struct Run {
    ctr: Invocation,
    fifos: String,
    image: String,
    id: String,
    runtime: String,
    platform: String,
    flags: Vec<String>,
    args: Vec<String>,
    keep: bool,
    detach: bool,
}

impl Run {
    pub(super) fn new(daemon: &Daemon, image: &str, id: &str) -> Self {
        Self {
            ctr: daemon.ctr_command(),
            fifos: daemon.territory.fifos().display().to_string(),
            image: image.to_owned(),
            id: id.to_owned(),
            runtime: runtime(),
            platform: String::new(),
            flags: Vec::new(),
            args: Vec::new(),
            keep: false,
            detach: false,
        }
    }

    /// Takes another runtime than the shim under test.
    pub fn runtime(mut self, runtime: &str) -> Self {
        self.runtime = runtime.to_owned();
        self
    }

    /// Picks a platform of the image; the default is the first it lists.
    pub fn platform(mut self, platform: &str) -> Self {
        self.platform = platform.to_owned();
        self
    }

    /// Replaces the image's entrypoint and command, as `ctr` does.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Adds flags of `ctr run`, such as `--env A=b` or `--mount type=bind,...`.
    pub fn flags(mut self, flags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Adds an annotation to the container's spec.
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.flags(["--annotation".to_owned(), format!("{key}={value}")])
    }

    /// Sets an environment variable of the container.
    pub fn env(self, key: &str, value: &str) -> Self {
        self.flags(["--env".to_owned(), format!("{key}={value}")])
    }

    /// Keeps the container and its task after the end (no `--rm`).
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// Returns as soon as the task runs; the container stays until it is removed.
    pub fn detach(mut self) -> Self {
        self.detach = true;
        self
    }

    /// Writes `content` to the container's input and closes it, a second after the start: `ctr` loses an end of file
    /// that comes before the task exists.
    pub fn stdin(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.ctr = self.ctr.stdin_after(Duration::from_secs(1), content);
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.ctr = self.ctr.timeout(timeout);
        self
    }

    /// Returns the `ctr` command as it will be run.
    pub fn command(self) -> Invocation {
        let mut words = vec!["run".to_owned()];
        if self.detach {
            words.push("--detach".to_owned());
        } else if !self.keep {
            words.push("--rm".to_owned());
        }
        for (flag, value) in
            [("--runtime", self.runtime), ("--platform", self.platform), ("--fifo-dir", self.fifos)]
        {
            if !value.is_empty() {
                words.extend([flag.to_owned(), value]);
            }
        }
        words.extend(self.flags);
        words.extend([self.image, self.id]);
        words.extend(self.args);
        self.ctr.args(words)
    }

    /// Runs the container to its end; the exit code is the container's own.
    pub fn output(self) -> Result<Output> {
        self.command().run()
    }

    /// Starts the container in the background.
    pub fn spawn(self) -> Result<Running> {
        self.command().spawn()
    }
}
