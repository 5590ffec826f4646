//! `delete`: removes what is left of a container whose shim server is gone.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use containerd_shim::protos::api::DeleteResponse;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::{Flags, socket_address};
use runtime::record::Server;

use crate::convert::timestamp;
use crate::{rootfs, start};

/// The exit status of a container that was killed because its shim was gone.
const KILLED: u32 = 137;

/// Kills the container's processes, removes its cgroup, mount, state and socket,
/// and answers containerd with how it ended.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let bundle = start::bundle_of(flags)?;
    let pid = runtime::record::read_pid(&bundle);
    // First what takes no time: containerd ends this process after five seconds.
    let server = forget_socket(flags, &bundle);
    let removed = runtime::record::remove_leftovers(&bundle, server).with_context(|| {
        format!("cannot remove what is left of the container in {}", bundle.display())
    });
    // The root filesystem is unmounted even if a process could not be removed:
    // what can go, goes.
    let unmounted = rootfs::unmount(&bundle.join("rootfs"))
        .with_context(|| format!("cannot unmount the root filesystem in {}", bundle.display()));
    removed.and(unmounted)?;
    let response = DeleteResponse {
        pid: pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
        exit_status: KILLED,
        exited_at: timestamp(SystemTime::now()),
        ..DeleteResponse::default()
    };
    std::io::stdout().write_all(&response.write_to_bytes()?).context("cannot answer containerd")
}

/// Removes the dead server's socket. A server that answers is a pod's, whose
/// other containers live on.
fn forget_socket(flags: &Flags, bundle: &Path) -> Server {
    if flags.namespace.is_empty() || flags.id.is_empty() {
        // Asked by the server itself, whose keeper has ended.
        return Server::Gone;
    }
    let group = start::group(bundle, &flags.id);
    let socket = start::socket_path(&socket_address(&flags.address, &flags.namespace, &group));
    start::forget_if_dead(&socket)
}
