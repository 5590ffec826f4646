//! Letting a container's first process go.
//!
//! It waits on a socket in the container's state folder. That socket, not a
//! process id, says whether the right process is still there: only it listens.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use libcontainer::container::{Container, ContainerStatus, State};
use libcontainer::error::LibcontainerError;
use libcontainer::hooks::{HookError, run_hooks};
use libcontainer::notify_socket::NOTIFY_FILE;
use lifecycle::InvalidId;

use crate::home::{Home, StateError, save};

/// The socket's name once a start has claimed it.
const CLAIMED: &str = "started.sock";

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The id cannot name a container.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// It was not created, was started before, or has died since.
    #[error("container {0:?} is not waiting to be started")]
    NotWaiting(String),
    /// The process could not be told.
    #[error("tell container {id:?} to start")]
    Tell {
        /// The container.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process runs, but its state cannot be kept.
    #[error("state of container {id:?} cannot be kept")]
    State {
        /// The container.
        id: String,
        /// The file or folder that refused.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The process runs, but a `poststart` hook failed; it has to be killed.
    #[error("poststart hook of container {id:?} failed")]
    Hook {
        /// The container.
        id: String,
        /// What the hook did.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Starts a created container: its program runs from here on.
///
/// # Errors
/// [`StartError`]; with `State` and `Hook` the program is running.
pub fn start(state_root: &Path, id: &str) -> Result<(), StartError> {
    let home = Home::at(state_root, id)?;
    let mut container = load(&home, id)?;
    tell(&home.library_folder(), id)?;
    container.set_status(ContainerStatus::Running);
    keep(&home, &container.state)
        .map_err(|error| StartError::State { id: id.to_owned(), source: error.into() })?;
    poststart(&home, &container)
        .map_err(|error| StartError::Hook { id: id.to_owned(), source: error })
}

fn load(home: &Home, id: &str) -> Result<Container, StartError> {
    if !home.library_folder().exists() {
        return Err(StartError::NotWaiting(id.to_owned()));
    }
    Container::load(home.library_folder()).map_err(|error: LibcontainerError| StartError::State {
        id: id.to_owned(),
        source: error.into(),
    })
}

fn tell(folder: &Path, id: &str) -> Result<(), StartError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            StartError::NotWaiting(id.to_owned())
        }
        _ => StartError::Tell { id: id.to_owned(), source },
    };
    // By descriptor: a socket's address is at most 108 bytes long, and the
    // folder's path may well be longer.
    let reference = File::open(folder).map_err(failed)?;
    let socket = format!("/proc/self/fd/{}/{CLAIMED}", reference.as_raw_fd());
    // Before the process hears anything, since it takes a connection that says
    // nothing for its start too: a second start finds nobody waiting, and one that
    // cannot write here has begun nothing.
    fs::rename(folder.join(NOTIFY_FILE), folder.join(CLAIMED)).map_err(failed)?;
    let mut stream = UnixStream::connect(&socket).map_err(failed)?;
    stream.write_all(b"start container").map_err(failed)
}

fn keep(home: &Home, state: &State) -> Result<(), StateError> {
    save(&home.library_folder().join("state.json"), state)
}

fn poststart(
    home: &Home,
    container: &Container,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let spec = home.load_spec()?;
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
    run_hooks(hooks, Some(&container.state), None, None, None)
        .map_err(|error: HookError| error.into())
}
