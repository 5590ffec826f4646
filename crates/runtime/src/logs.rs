//! What a container wrote: kept in a file, and read back as a stream.
//!
//! The file has the format in which CRI keeps logs ([`line`]), so that every tool that
//! reads those reads it too. [`Recorder`] writes it, [`read`] reads it. Containers whose
//! output goes elsewhere, as to containerd's FIFOs, have none.

mod line;
mod reader;
mod recorder;

use std::path::PathBuf;
use std::pin::Pin;
use std::time::SystemTime;

use futures::Stream;
use nix::fcntl::OFlag;

use crate::error::Error;
use crate::process::Process;
use crate::spec::{ContainerSpec, Stdio};

pub use reader::read;
pub use recorder::Recorder;

/// The kept output of a container.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    path: PathBuf,
    recorder: Recorder,
}

impl Kept {
    /// Has the output of a container that is to be created kept where its spec asks for
    /// that; its streams lead there then.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] for a terminal, whose output is its reader's alone;
    /// [`Error::Runtime`] when the file cannot be written.
    pub(crate) fn begin(spec: &mut ContainerSpec) -> Result<Option<Self>, Error> {
        let Some(path) = spec.log.clone() else {
            return Ok(None);
        };
        let Stdio::Streams([_, stdout, stderr]) = &mut spec.stdio else {
            return Err(Error::InvalidSpec(format!(
                "the output of a terminal cannot be kept in {}: create the container without one",
                path.display()
            )));
        };
        let pipe = || {
            nix::unistd::pipe2(OFlag::O_CLOEXEC)
                .map_err(|errno| Error::Runtime(format!("cannot make a pipe for output: {errno}")))
        };
        let ((out_reader, out_writer), (err_reader, err_writer)) = (pipe()?, pipe()?);
        let recorder = Recorder::start([out_reader, err_reader], &path)?;
        (*stdout, *stderr) = (out_writer, err_writer);
        Ok(Some(Self { path, recorder }))
    }

    /// Streams what is kept, until `init` has ended and all it wrote was read.
    pub(crate) async fn read(
        &self,
        options: LogOptions,
        init: Process,
    ) -> Result<LogStream, Error> {
        let recorder = self.recorder.clone();
        let ended = async move {
            init.wait().await;
            recorder.finished().await;
        };
        read(&self.path, options, ended).await
    }
}

/// Which part of a container's output is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Whether to wait for more after the last line.
    pub follow: Follow,
    /// Only what was written at or after this time.
    pub since: Option<SystemTime>,
    /// Only this many of the last lines, counted by where they begin. A line may come in
    /// several entries.
    pub tail: Option<usize>,
}

/// What happens at the end of what was written so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Follow {
    /// The stream ends.
    #[default]
    No,
    /// The stream goes on until the container ends.
    Yes,
}

/// One piece of output: a line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was read from the container.
    pub at: SystemTime,
    /// Which of the two outputs it came from.
    pub source: Output,
    /// The bytes, as written: with a newline at the end, unless the line goes on or was
    /// the last and had none.
    pub bytes: Vec<u8>,
}

/// An output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Output as it comes.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogEntry, Error>> + Send>>;
