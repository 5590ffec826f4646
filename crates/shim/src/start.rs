//! `start`: finds the shim server for a container, or starts one.
//!
//! Containers of one pod share a server: the group is the pod's sandbox id. The
//! server is given its listening socket ready made, as its standard input, so
//! that containerd can connect the moment `start` has answered.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use containerd_shim::{Flags, StartOpts};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::record::Server;
use serde::Deserialize;

use crate::bootstrap;

/// How long a killed server may take to close its socket.
const CLOSING_MILLISECONDS: u8 = 250;

/// Annotations that name a container's group, the first one present wins.
const GROUPS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.containerd.runc.v2.group"];

/// Answers containerd with the address of the container's shim server.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let start = bootstrap::read(flags)?;
    let bundle = bundle_of(flags)?;
    let address = start.opts.socket_address(&group(&bundle, &start.opts.id));
    let socket = socket_path(&address);
    // Before the server is started: a bundle that can't be written to must not
    // leave one behind.
    std::fs::write(bundle.join("address"), &address)
        .with_context(|| format!("cannot write the shim's address into {}", bundle.display()))?;
    if let Some(listener) = listen_unless_served(&socket)? {
        launch(&start.opts, listener).inspect_err(|_| forget(&socket))?;
    }
    let mut out = io::stdout();
    out.write_all(&start.answer(&address)?)
        .and_then(|()| out.flush())
        .context("cannot answer containerd")
}

/// The bundle: the folder containerd names or runs the shim in.
pub(crate) fn bundle_of(flags: &Flags) -> anyhow::Result<PathBuf> {
    if flags.bundle.is_empty() {
        std::env::current_dir().context("cannot tell the bundle: the working directory is gone")
    } else {
        Ok(PathBuf::from(&flags.bundle))
    }
}

/// The file of a `unix://` address.
pub(crate) fn socket_path(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
}

/// Returns the group of the bundle's container: its pod, or itself. A
/// `config.json` that can't be read is reported by the create, in full.
pub(crate) fn group(bundle: &Path, id: &str) -> String {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let annotations = std::fs::read(bundle.join("config.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Annotated>(&text).ok())
        .map(|spec| spec.annotations)
        .unwrap_or_default();
    GROUPS.iter().find_map(|key| annotations.get(*key)).cloned().unwrap_or_else(|| id.to_owned())
}

/// Returns a new listener, or `None` when a server answers there already. A
/// socket that nobody listens on is a dead server's and is replaced.
fn listen_unless_served(socket: &Path) -> anyhow::Result<Option<UnixListener>> {
    let context = || format!("cannot listen on {}", socket.display());
    let folder = socket.parent().with_context(context)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(context)?;
    let _alone = lock_folder(folder).with_context(context)?;
    loop {
        match UnixListener::bind(socket) {
            Ok(listener) => {
                std::fs::set_permissions(socket, Permissions::from_mode(0o600))
                    .with_context(context)?;
                return Ok(Some(listener));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                match UnixStream::connect(socket) {
                    Ok(_) => return Ok(None),
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => forget(socket),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(context),
                }
            }
            Err(error) => return Err(error).with_context(context),
        }
    }
}

/// Keeps others from judging the sockets of a folder while the answer lives: one that
/// is bound and does not listen yet looks just like a dead server's.
fn lock_folder(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}

/// Removes a socket unless a server answers there.
pub(crate) fn forget_if_dead(socket: &Path) -> Server {
    match socket.parent().map(lock_folder) {
        Some(Ok(_alone)) if !is_served(socket) => {
            forget(socket);
            return Server::Gone;
        }
        Some(Ok(_)) => return Server::Lives,
        None => {}
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => {}
        Some(Err(error)) => {
            log::warn!("cannot lock the folder of the socket {}: {error}", socket.display());
        }
    }
    Server::Gone
}

/// Says whether somebody accepts connections there and goes on doing so: a server
/// that was just killed closes what it has open one by one, this socket perhaps last.
fn is_served(socket: &Path) -> bool {
    let Ok(connection) = UnixStream::connect(socket) else {
        return false;
    };
    let mut polled = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    let still_open = PollTimeout::from(CLOSING_MILLISECONDS);
    // It has nothing to say, so any word of the kernel's is the connection's end.
    matches!(poll(&mut polled, still_open), Ok(0))
}

/// Removes a socket nobody serves; its absence is as good.
pub(crate) fn forget(socket: &Path) {
    if let Err(error) = std::fs::remove_file(socket)
        && error.kind() != ErrorKind::NotFound
    {
        log::warn!("cannot remove the socket {}: {error}", socket.display());
    }
}

/// Starts the server, from a copy of this binary that nothing can write to.
fn launch(opts: &StartOpts, listener: UnixListener) -> anyhow::Result<()> {
    let sealed = sys::sealed_exe::seal().context("cannot seal the shim's binary")?;
    let mut command = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    command
        .arg0(std::env::args_os().next().unwrap_or_else(|| "containerd-shim-hybrid-v1".into()))
        .args(["-namespace", &opts.namespace, "-id", &opts.id, "-address", &opts.address])
        .args(opts.debug.then_some("-debug"))
        .env_clear()
        .env("TTRPC_ADDRESS", &opts.ttrpc_address)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command.spawn().context("cannot start the shim server")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Starts at once what a pod's containers start, and returns who got to listen.
    fn concurrent_starts(socket: &Path) -> Vec<UnixListener> {
        const STARTS: usize = 16;
        let together = Barrier::new(STARTS);
        let start = || {
            together.wait();
            listen_unless_served(socket).expect("answered")
        };
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
            starts.into_iter().filter_map(|start| start.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn of_concurrent_starts_one_listens_and_its_socket_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s/socket");
        for round in 0..100 {
            // What is found at first is nothing, and later the socket of a dead server.
            let listeners = concurrent_starts(&socket);
            assert_eq!(listeners.len(), 1, "round {round}");
            UnixStream::connect(&socket).expect("the listener is still there");
        }
    }
}
