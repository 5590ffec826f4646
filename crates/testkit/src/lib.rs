//! What the end-to-end tests, the demonstration and the benches are made of: real containerd daemons, images built from
//! text, clients, and a census of what containers leave behind.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use testkit::{catalogue, containerd::{Daemon, Release}};
//!
//! let daemon = Daemon::start(Release::V1_7)?;
//! let hello = catalogue::hello_wasm()?;
//! daemon.import(&hello)?;
//! let output = daemon.run(&hello, &daemon.unique("hello")).output()?.ok()?;
//! assert!(output.stdout.contains("hello from wasm"));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod apt;
pub mod catalogue;
pub mod clients;
pub mod command;
pub mod containerd;
pub mod cri;
pub mod demo;
pub mod guest;
pub mod image;
pub mod language;
pub mod leftovers;
pub mod packages;
pub mod peers;
pub mod place;
pub mod process;
pub mod terminal;
mod toolchain;
pub mod vm;

use anyhow::Result;
use containerd::Release;

/// Downloads all that tests download: every containerd release and runc.
pub fn fetch() -> Result<()> {
    for release in Release::ALL {
        println!("containerd {release}: {}", release.fetch()?.display());
    }
    println!("runc: {}", containerd::runc()?.display());
    Ok(())
}

/// Says whether tests that need a real containerd can run here; if not, tells why on the standard error.
pub fn ready() -> bool {
    let reason = if nix::unistd::geteuid().is_root() {
        Release::ALL
            .iter()
            .find_map(|release| release.fetch().err())
            .map(|error| format!("cannot fetch containerd: {error:#}"))
    } else {
        Some("needs root".to_owned())
    };
    if let Some(reason) = &reason {
        eprintln!("SKIPPED: {reason}");
    }
    reason.is_none()
}
