//! Real containers, made as root, from a busybox image.
//!
//! Runs without the usual harness: that one has threads, and containers are
//! made by forks of a process that has none. This process stands for the
//! keeper: parent of the workers and of the containers' first processes.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod cgroups;
mod exec;
mod hostile;
mod keeper;
mod lab;
mod leftovers;
mod running;
mod terminals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Statically linked; its applets are made as symlinks.
const BUSYBOX: &str = "/bin/busybox";

type Case = (&'static str, fn());

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new(BUSYBOX).exists() {
        eprintln!("SKIPPED: needs root and a static {BUSYBOX} to make containers");
        return ExitCode::SUCCESS;
    }
    sys::process::become_subreaper().unwrap();
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let cases = [
        running::CASES,
        cgroups::CASES,
        exec::CASES,
        terminals::CASES,
        hostile::CASES,
        leftovers::CASES,
    ]
    .concat();
    let chosen =
        cases.iter().filter(|(name, _)| filter.as_ref().is_none_or(|it| name.contains(it)));
    let mut failed = 0;
    for (name, case) in chosen {
        let passed = catch_unwind(AssertUnwindSafe(case)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u32::from(!passed);
    }
    lab::remove_shared_cgroups();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
