//! What can be asked of a container that exists.

use std::fmt;

/// A request to a container or its first process, in the words of containerd's
/// task API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Release the start gate.
    Start,
    /// Send its first process a signal.
    Kill,
    /// Send every process of it a signal.
    KillAll,
    /// Remove what is left of the container.
    Delete,
    /// Add another process to the container.
    Exec,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// Change its resource limits.
    Update,
    /// Write it to disk.
    Checkpoint,
    /// List its processes.
    Pids,
    /// Read its resource usage.
    Stats,
    /// Close its standard input.
    CloseIo,
    /// Change the size of its terminal.
    ResizePty,
    /// Ask for its state.
    State,
    /// Wait for its end.
    Wait,
}

impl Request {
    /// All requests, for tables.
    pub const ALL: [Self; 15] = [
        Self::Start,
        Self::Kill,
        Self::KillAll,
        Self::Delete,
        Self::Exec,
        Self::Pause,
        Self::Resume,
        Self::Update,
        Self::Checkpoint,
        Self::Pids,
        Self::Stats,
        Self::CloseIo,
        Self::ResizePty,
        Self::State,
        Self::Wait,
    ];
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::KillAll => "kill all",
            Self::Delete => "delete",
            Self::Exec => "exec",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Pids => "pids",
            Self::Stats => "stats",
            Self::CloseIo => "close io",
            Self::ResizePty => "resize pty",
            Self::State => "state",
            Self::Wait => "wait",
        })
    }
}

/// A request to a process that was added to a container, in the words of
/// containerd's task API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecRequest {
    /// Make it run.
    Start,
    /// Send it a signal.
    Kill,
    /// Forget it.
    Delete,
    /// Close its standard input.
    CloseIo,
    /// Change the size of its terminal.
    ResizePty,
    /// Ask for its state.
    State,
    /// Wait for its end.
    Wait,
}

impl ExecRequest {
    /// All requests, for tables.
    pub const ALL: [Self; 7] = [
        Self::Start,
        Self::Kill,
        Self::Delete,
        Self::CloseIo,
        Self::ResizePty,
        Self::State,
        Self::Wait,
    ];
}
