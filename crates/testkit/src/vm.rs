//! A virtual machine with what this machine may lack: cgroup version 2 alone, systemd and Landlock.
//!
//! ```text
//! root image (made once)   Debian 12 with systemd, and its 6.12 kernel
//! payload disk             the shim, containerd, test images, the crates' own tests, check.sh;
//!                          for the whole suite also the end-to-end tests and all they use, and suite.sh
//! results disk             what the scripts write, shown while they run
//! ```
//!
//! Processors are emulated, so that it runs wherever QEMU does; its time is bounded, and it has no network.

mod machine;
mod payload;
mod root;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{packages, place};

/// What makes and runs the machine, and why each is needed.
const NEEDED: [(&str, &str); 3] = [
    ("mmdebstrap", "makes the virtual machine's root"),
    ("e2fsprogs", "makes its disks"),
    ("qemu-system-x86", "runs it"),
];

/// How often the machine is booted at most when its kernel panics.
const BOOTS: u32 = 3;

/// What is run in the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// What differs on cgroup version 2 and under systemd, and the crates' own tests: a few minutes.
    Smoke,
    /// The end-to-end tests as well, or those of these files.
    Suite(Vec<String>),
}

impl Scope {
    /// A processor that is emulated is about seven times slower; a machine that hangs must not keep anyone.
    fn patience(&self) -> Duration {
        match self {
            Self::Smoke => Duration::from_secs(420),
            Self::Suite(_) => Duration::from_secs(5400),
        }
    }
}

/// Makes the machine, runs the checks in it and prints one line for each. Fails when one fails or none was made.
pub fn run(scope: &Scope) -> Result<()> {
    packages::ensure(&NEEDED)?;
    let started = Instant::now();
    let root = root::image()?;
    let payload = payload::disk(scope)?;
    println!("virtual machine made in {:.0} s, booting", started.elapsed().as_secs_f32());
    let mut report = machine::boot(&root, &payload, scope.patience())?;
    for _ in 1..BOOTS {
        if summary(&report.text).is_some() || !report.kernel_panicked() {
            break;
        }
        println!(
            "the kernel panicked on emulated processors, booting again:\n{}",
            report.console_tail()
        );
        report = machine::boot(&root, &payload, scope.patience())?;
    }
    println!("(the virtual machine ran for {:.0} s)", report.took.as_secs_f32());
    match summary(&report.text) {
        Some((line, 0)) => {
            println!("{line}");
            Ok(())
        }
        Some((line, _)) => {
            println!("{line}");
            bail!("checks failed in the virtual machine; its console is in {}", report.console)
        }
        None => bail!("the virtual machine did not come to an end:\n{}", report.console_tail()),
    }
}

/// Finds the closing line, `N passed, N failed`, and the number of failures.
fn summary(text: &str) -> Option<(&str, u32)> {
    let line = text.lines().next_back()?;
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    passed.parse::<u32>().ok()?;
    Some((line, failed.parse().ok()?))
}

/// Returns the folder of all that is made here.
fn folder() -> Result<PathBuf> {
    let folder = place::scratch().join("vm");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closing_line_is_a_summary() {
        assert_eq!(summary("ok  a\n2 passed, 0 failed\n"), Some(("2 passed, 0 failed", 0)));
        assert_eq!(summary("FAILED  a\n1 passed, 1 failed\n").map(|(_, failed)| failed), Some(1));
        for cut_off in ["", "ok  a\n", "2 passed, 0 failed\nok  a\n", "x passed, 0 failed\n"] {
            assert_eq!(summary(cut_off), None, "{cut_off:?}");
        }
    }
}
