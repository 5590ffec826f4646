//! What the binary says of itself, before any container exists.

use std::io::Write;

use anyhow::Context;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::RUNTIME;

const USAGE: &str = "\
Usage of containerd-shim-hybrid-v1:
  -address string
    \tgrpc address back to main containerd
  -bundle string
    \tpath to the bundle if not workdir
  -debug
    \tenable debug output in logs
  -id string
    \tid of the task
  -info
    \tprint the runtime's information as a protobuf message, with its options on stdin
  -namespace string
    \tnamespace that owns the shim
  -publish-binary string
    \taccepted and not used: events go to the address in TTRPC_ADDRESS
  -socket string
    \taccepted and not used: `start` passes the socket
  -v\tshow the shim version and exit

containerd runs it with `start` or `delete` after the flags, or to serve, with neither.
";

/// Prints how the program is called, as `-h` of runc's shim does.
pub(crate) fn print_usage() -> anyhow::Result<()> {
    std::io::stdout().write_all(USAGE.as_bytes()).context("cannot print the usage")
}

/// Prints name and version, as `-v` of runc's shim does.
pub(crate) fn print_version() -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "containerd-shim-hybrid-v1:\n  Runtime: {RUNTIME}\n  Version: {}",
        env!("CARGO_PKG_VERSION")
    )
    .context("cannot print the version")
}

/// Prints the `RuntimeInfo` message that containerd 2 asks for with `-info`.
pub(crate) fn print() -> anyhow::Result<()> {
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let bytes = info.write_to_bytes().context("cannot encode the runtime information")?;
    std::io::stdout().write_all(&bytes).context("cannot print the runtime information")
}
