//! What the server and the keeper say to each other, as JSON over a message
//! socket. Descriptors travel beside the text, in the order each variant names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sys::pidfd::ExitStatus;

/// One request of the server; `seq` comes back in its reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the server, unique among the calls under way.
    pub seq: u64,
    /// What to do.
    pub request: Request,
}

/// What the server can ask for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Creates a Linux container. Descriptors: stdin, stdout, stderr; none for a
    /// terminal.
    CreateLinux(linux::CreateRequest),
    /// Lets a created Linux container's init execute its program.
    StartLinux(LinuxContainer),
    /// Removes what is left of a Linux container, killing it if it runs.
    DeleteLinux(LinuxContainer),
    /// Runs another process in a Linux container. Descriptors as for its create.
    ExecLinux(linux::ExecRequest),
    /// Creates a wasm container. Descriptors: the gauge, then stdin, stdout and
    /// stderr unless it gets a terminal, and last, where the server has it at hand,
    /// the module.
    CreateWasm(Box<CreateWasm>),
    /// Makes another process in a wasm container's sandbox. Descriptors as for its
    /// create.
    ExecWasm(Box<ExecWasm>),
    /// Lets a process made by [`Request::CreateWasm`] or [`Request::ExecWasm`] run
    /// its module.
    StartWasm {
        /// The process's id, as its making was answered.
        pid: i32,
    },
}

/// Where libcontainer keeps a container's state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinuxContainer {
    /// The folder that holds a folder per container.
    pub state_root: PathBuf,
    /// The container's id.
    pub id: String,
    /// The bundle the container was created from.
    pub bundle: PathBuf,
}

/// All that a wasm container is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateWasm {
    /// Namespaces, cgroup, file grants, identity.
    pub sandbox: wasm::sandbox::SandboxPlan,
    /// Arguments, environment and engine limits.
    pub guest: wasm::command::Guest,
    /// Digest of the module, by which its native code is kept.
    pub module: image::Digest,
    /// How its native code is compiled and run.
    pub engine: wasm::engine::EngineSettings,
    /// Whether its native code may come from the node's cache, and go there.
    pub caching: settings::Caching,
}

/// All that another process of a wasm container is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecWasm {
    /// The sandbox it joins, and who it is there.
    pub joined: wasm::sandbox::Joined,
    /// Arguments, environment, what to call and engine limits.
    pub guest: wasm::command::Guest,
    /// Digest of the module, by which its native code is kept.
    pub module: image::Digest,
    /// How its native code is compiled and run.
    pub engine: wasm::engine::EngineSettings,
    /// Whether its native code may come from the node's cache, and go there.
    pub caching: settings::Caching,
}

/// What the keeper says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// Answers the call `seq`. A `Created` carries the process's pidfd, unless
    /// it is gone already, and then the terminal's master, if it got a terminal.
    Reply {
        /// The call's number.
        seq: u64,
        /// How it went.
        outcome: Result<Reply, Failure>,
    },
    /// A container's process ended. Comes after the reply that named it.
    Exited {
        /// Its process id.
        pid: i32,
        /// How it ended.
        status: ExitStatus,
    },
}

/// A request that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The process is there. An init, and any of a wasm container, waits for its
    /// start; another of a Linux container runs.
    Created {
        /// Its process id, in the server's process namespace.
        pid: i32,
        /// Whether it got a terminal, whose master is the last descriptor.
        terminal: bool,
    },
    /// Done, nothing to tell.
    Done,
}

/// A request that was not carried out; nothing of it is left, unless it says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// This node holds no native code for the module, and the call did not
    /// bring the module: ask again with it.
    #[error("the module has not been compiled on this node yet")]
    NotCompiled,
    /// What was asked can't be done with this image or configuration.
    #[error("{0}")]
    Refused(String),
    /// It should have worked and did not.
    #[error("{0}")]
    Failed(String),
    /// Nobody knows how far it got: what there is of it has to be removed.
    #[error("{0}")]
    Lost(String),
}

/// Tells a failure by its kind.
pub(crate) fn told(is_refusal: bool, error: &dyn std::error::Error) -> Failure {
    let text = sys::error::chain(error);
    if is_refusal { Failure::Refused(text) } else { Failure::Failed(text) }
}
