//! The demonstration: one containerd, one shim, a wasm image and a Linux image side by side.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::catalogue;
use crate::command::{Invocation, Output};
use crate::containerd::{Daemon, Release, Run};
use crate::image::Archive;
use crate::place;

/// Runs both kinds of image in a private containerd and prints command lines, outputs and times.
pub fn run(release: Release, runtime: &str) -> Result<()> {
    let shim = place::shim();
    if !shim.exists() {
        bail!("{} is missing; build it with `cargo build --release -p shim`", shim.display());
    }
    println!("starting a private containerd {release} with {}", shim.display());
    let started = Instant::now();
    let daemon = Daemon::start(release)?;
    println!("containerd answers after {:.2} s\n", started.elapsed().as_secs_f32());

    let shown = show_both(&daemon, runtime);
    if shown.is_err() {
        eprintln!("containerd's log ends with:\n{}", daemon.log_tail(20));
    }
    println!("stopping containerd");
    drop(daemon);
    shown
}

fn show_both(daemon: &Daemon, runtime: &str) -> Result<()> {
    let linux = imported(daemon, catalogue::busybox()?)?;
    let greeting = ["echo", "hello from a Linux container"];
    show(run_of(daemon, &linux, "demo-linux", runtime).args(greeting), "hello from a Linux")?;

    let wasm = match daemon.release().takes_wasm_layers() {
        true => catalogue::hello_wasm()?,
        false => catalogue::hello_file()?,
    };
    let wasm = imported(daemon, wasm)?;
    for attempt in ["the first run compiles", "the second finds the compiled module"] {
        println!("# {attempt}");
        let run = run_of(daemon, &wasm, "demo-wasm", runtime).env("GREETING", "hi");
        show(run.args(["hello", "with", "arguments"]), "hello from wasm")?;
    }
    Ok(())
}

fn run_of(daemon: &Daemon, image: &Archive, name: &str, runtime: &str) -> Run {
    daemon.run(image, &daemon.unique(name)).runtime(runtime)
}

fn imported(daemon: &Daemon, archive: Archive) -> Result<Archive> {
    let started = Instant::now();
    daemon.import(&archive)?;
    println!(
        "imported {} ({}) in {:.2} s",
        archive.name,
        archive.platforms.join(", "),
        started.elapsed().as_secs_f32()
    );
    Ok(archive)
}

/// Runs one container, prints what a user would see, and checks that it said what it must.
fn show(run: Run, expected: &str) -> Result<()> {
    let command: Invocation = run.command();
    println!("$ {}", command.line());
    let output: Output = command.run()?.ok().context("the container failed")?;
    print!("{}", output.stdout);
    println!("({} ms)\n", output.took.as_millis());
    if !output.stdout.contains(expected) {
        bail!("the container did not print {expected:?}");
    }
    Ok(())
}
