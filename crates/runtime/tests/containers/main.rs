//! Containers of both kinds, driven as a front door drives them: through the trait,
//! with real keepers, cgroups and processes. Needs root and a static busybox.
//!
//! Runs without the usual harness: that one has threads, and keepers are forked from
//! a process that has none. Every case is given the same keepers, and must leave
//! nothing of its containers behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod counters;
mod execs;
mod guests;
mod lab;
mod lifecycle;
mod output;
mod pauses;
mod running;
mod updates;
mod world;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use world::{Keepers, World};

/// Statically linked; its applets are made as symlinks.
const BUSYBOX: &str = "/bin/busybox";

/// No case takes as long, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

type Running = Pin<Box<dyn Future<Output = ()>>>;
type Case = (&'static str, fn(&'static World) -> Running);

/// Lists async functions as cases.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::Case] =
            &[$((stringify!($case), |world| Box::pin($case(world)))),*];
    };
}
pub(crate) use cases;

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new(BUSYBOX).exists() {
        eprintln!("SKIPPED: needs root and a static {BUSYBOX} to make containers");
        return ExitCode::SUCCESS;
    }
    // Before the first thread: the keepers are copies of this process.
    let keepers = Keepers::fork();
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    // As in the shim: all on one thread, but for what may wait.
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world: &'static World = Box::leak(Box::new(tokio.block_on(keepers.connect())));
    let cases = [
        lifecycle::CASES,
        output::CASES,
        counters::CASES,
        updates::CASES,
        execs::CASES,
        pauses::CASES,
    ]
    .concat();
    let chosen =
        cases.iter().filter(|(name, _)| filter.as_ref().is_none_or(|it| name.contains(it)));
    let mut failed = 0;
    for (name, case) in chosen {
        let begun = Instant::now();
        let run = async {
            let in_time = tokio::time::timeout(PATIENCE, case(world)).await;
            in_time.expect("it hangs");
            world.expect_nothing_left().await;
        };
        let passed = catch_unwind(AssertUnwindSafe(|| tokio.block_on(run))).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", begun.elapsed().as_millis());
        if !passed {
            failed += 1;
            lab::remove_cgroups();
        }
    }
    lab::remove_cgroups();
    world.remove_folder();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
