//! `containerd-shim-hybrid-v1`: containerd's door to both kinds of containers.
//!
//! containerd runs this binary in three roles, told apart by the command line
//! (containerd, "Runtime v2: shim authoring"): `start` prints the address of a
//! shim server, starting one if need be; `delete` removes what a dead server
//! left; without either it is the server. `-info` and `-v` describe it.
#![forbid(unsafe_code)]

mod bootstrap;
mod containerd;
mod convert;
mod delete;
mod door;
mod driver;
mod events;
mod exec;
mod heard;
mod info;
mod log_fifo;
mod metrics;
mod mount;
mod options;
mod reaper;
mod registry;
mod rootfs;
mod serve;
mod service;
mod start;
mod stdio;

use std::process::ExitCode;

use containerd_shim::Flags;

/// The name containerd knows this runtime by.
const RUNTIME: &str = "io.containerd.hybrid.v1";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows what a shim writes here to whoever asked for it.
            eprintln!("{RUNTIME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| ["-h", "-help", "--help"].iter().any(|help| first == help))
    {
        return info::print_usage();
    }
    let flags: Flags = containerd_shim::parse(&arguments)?;
    match flags.action.as_str() {
        _ if flags.version => info::print_version(),
        _ if flags.info => info::print(),
        "start" => start::run(&flags),
        "delete" => delete::run(&flags),
        "" => serve::run(&flags),
        unknown => anyhow::bail!(
            "unknown action {unknown:?}: containerd asks for `start` or `delete`, or for neither to serve"
        ),
    }
}
