//! What containerd tells a shim at its start, in either of its two dialects.
//!
//! containerd 2.3 and later write a `BootstrapParams` message to standard input
//! and read a `BootstrapResult`; older ones use flags and environment variables
//! and read the bare address, or JSON once they know task API version 3.

use std::env;
use std::io::Read;

use anyhow::Context;
use containerd_shim::bootstrap::{BootstrapParams, BootstrapResult};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::{Flags, StartOpts};
use serde_json::json;

/// More than this is no start request, in bytes; containerd's own bound.
const MAX_INPUT: u64 = 10 << 20;

/// The newest task API this shim serves, beside version 2.
const TASK_API: i32 = 3;

/// A start request and the dialect to answer in.
pub(crate) struct Start {
    pub(crate) opts: StartOpts,
    dialect: Dialect,
}

enum Dialect {
    /// A protobuf message each way.
    Message,
    /// JSON that names the task API version.
    Json,
    /// The address alone, which stands for task API version 2.
    Address,
}

/// Reads the start request.
pub(crate) fn read(flags: &Flags) -> anyhow::Result<Start> {
    let mut input = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .context("cannot read the start request from standard input")?;
    let start = from_message(&input, flags).unwrap_or_else(|| from_environment(flags));
    for (name, value) in [
        ("container id (-id)", &start.opts.id),
        ("namespace (-namespace)", &start.opts.namespace),
        ("containerd's gRPC address (-address)", &start.opts.address),
        ("containerd's ttrpc address (TTRPC_ADDRESS)", &start.opts.ttrpc_address),
    ] {
        anyhow::ensure!(
            !value.is_empty(),
            "the start request has no {name}: it must come from containerd"
        );
    }
    Ok(start)
}

/// Older containerds write a protobuf `Any` with runtime options, which can be
/// decoded as bootstrap parameters too: only a message for this very container
/// is one.
fn from_message(input: &[u8], flags: &Flags) -> Option<Start> {
    let params = BootstrapParams::parse_from_bytes(input).ok()?;
    (params.instance_id == flags.id && params.namespace == flags.namespace)
        .then(|| Start { opts: params.into(), dialect: Dialect::Message })
}

fn from_environment(flags: &Flags) -> Start {
    let variable = |name| env::var(name).unwrap_or_default();
    let newest = variable("MAX_SHIM_VERSION").parse::<i32>().unwrap_or_default();
    Start {
        opts: StartOpts {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            publish_binary: flags.publish_binary.clone(),
            address: if flags.address.is_empty() {
                variable("GRPC_ADDRESS")
            } else {
                flags.address.clone()
            },
            ttrpc_address: variable("TTRPC_ADDRESS"),
            debug: flags.debug,
            ..StartOpts::default()
        },
        dialect: if newest >= TASK_API { Dialect::Json } else { Dialect::Address },
    }
}

impl Start {
    /// Encodes the answer: where the shim's task service listens.
    pub(crate) fn answer(&self, address: &str) -> anyhow::Result<Vec<u8>> {
        Ok(match self.dialect {
            Dialect::Message => BootstrapResult {
                version: TASK_API,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .write_to_bytes()?,
            Dialect::Json => {
                json!({ "version": TASK_API, "address": address, "protocol": "ttrpc" })
                    .to_string()
                    .into_bytes()
            }
            Dialect::Address => address.as_bytes().to_vec(),
        })
    }
}
