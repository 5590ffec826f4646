//! The FIFOs containerd makes for a process, for tests that drive a shim by hand.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use containerd_shim::protos::api::{CreateTaskRequest, ExecProcessRequest};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Three FIFOs.
#[derive(Debug)]
pub struct Streams {
    pub stdin: PathBuf,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

impl Streams {
    /// Makes them in a folder.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn in_folder(folder: &Path, name: &str) -> Result<Self> {
        let streams = Self {
            stdin: folder.join(format!("{name}-stdin")),
            stdout: folder.join(format!("{name}-stdout")),
            stderr: folder.join(format!("{name}-stderr")),
        };
        for path in [&streams.stdin, &streams.stdout, &streams.stderr] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).context("making a FIFO")?;
        }
        Ok(streams)
    }

    /// Opens both ends of each, so that nobody waits for the other side.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(&self) -> Result<[File; 3]> {
        let open = |path: &Path| {
            let opened = File::options().read(true).write(true).open(path);
            opened.with_context(|| format!("opening {}", path.display()))
        };
        Ok([open(&self.stdin)?, open(&self.stdout)?, open(&self.stderr)?])
    }

    /// Gives them to a container's init.
    #[must_use]
    pub fn of_init(&self, mut request: CreateTaskRequest) -> CreateTaskRequest {
        request.stdin = self.stdin.display().to_string();
        request.stdout = self.stdout.display().to_string();
        request.stderr = self.stderr.display().to_string();
        request
    }

    /// Gives them to a process that is executed.
    #[must_use]
    pub fn of_exec(&self, mut request: ExecProcessRequest) -> ExecProcessRequest {
        request.stdin = self.stdin.display().to_string();
        request.stdout = self.stdout.display().to_string();
        request.stderr = self.stderr.display().to_string();
        request
    }
}
