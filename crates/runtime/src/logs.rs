//! What a container wrote, as a stream.

use std::pin::Pin;
use std::time::SystemTime;

use futures::Stream;

use crate::error::Error;

/// Which part of a container's output is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Whether to wait for more after the last line.
    pub follow: Follow,
    /// Only what was written at or after this time.
    pub since: Option<SystemTime>,
    /// Only this many of the last lines.
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

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was read.
    pub at: SystemTime,
    /// Which of the two outputs it came from.
    pub source: Output,
    /// The bytes, as written.
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
