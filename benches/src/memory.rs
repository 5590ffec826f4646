//! What an idle container costs in memory: its shim's processes and its own, and one more container in the same shim.
//!
//! The proportional set size counts a page that several processes map once in all. Each contestant is measured while no
//! other shim runs: two shims of one binary would share its pages, and each would look smaller than it is.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::process::Process;

use crate::contestant::{Contestant, Work};
use crate::effort::Effort;
use crate::lab::Lab;
use crate::server::Server;
use crate::task;

/// What one contestant needs, in MiB, one value a round.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) contestant: Contestant,
    pub(crate) first: Vec<f64>,
    /// The part of `first` that is not a file's pages: shims of other pods map the same files, but share nothing of this.
    pub(crate) unshared: Vec<f64>,
    pub(crate) one_more: Vec<f64>,
    /// The processes of the first container: name and MiB, of the last round.
    pub(crate) processes: Vec<(String, f64)>,
}

/// Measures all contestants in turns.
pub(crate) fn measure(
    lab: &Lab,
    contestants: &[Contestant],
    effort: &Effort,
) -> Result<Vec<Memory>> {
    let mut memory: Vec<Memory> = contestants
        .iter()
        .map(|contestant| Memory {
            contestant: *contestant,
            first: Vec::new(),
            unshared: Vec::new(),
            one_more: Vec::new(),
            processes: Vec::new(),
        })
        .collect();
    for round in 1..=effort.memory_rounds {
        eprintln!("bench: memory, round {round} of {}", effort.memory_rounds);
        for memory in &mut memory {
            memory
                .take(lab, effort.idle)
                .with_context(|| format!("with {}", memory.contestant.name()))?;
        }
    }
    Ok(memory)
}

impl Memory {
    fn take(&mut self, lab: &Lab, idle: Duration) -> Result<()> {
        let group = lab.daemon.unique("memory");
        let containers = [
            lab.container(self.contestant, Work::Idle, &group)?,
            lab.container(self.contestant, Work::Idle, &group)?,
        ];
        let server = Server::start(lab, self.contestant, &containers[0])?;
        let log = || containers[0].log();
        let mut shim = server.connect()?;
        let mut totals = Vec::new();
        for container in &containers {
            task::launch(&mut shim, container).with_context(log)?;
            thread::sleep(idle);
            let sizes: Vec<Size> = server.family().iter().filter_map(Size::of).collect();
            totals.push(sizes.iter().map(|size| size.all).sum::<f64>());
            if totals.len() == 1 {
                self.unshared.push(sizes.iter().map(|size| size.all - size.files).sum());
                self.processes = sizes.into_iter().map(|size| (size.name, size.all)).collect();
            }
        }
        self.first.push(totals[0]);
        self.one_more.push(totals[1] - totals[0]);
        for container in &containers {
            task::end(&mut shim, container).with_context(log)?;
        }
        server.stop()?;
        containers.iter().try_for_each(|container| lab.remove(container))
    }
}

/// The proportional set size of one process, in MiB.
#[derive(Debug)]
struct Size {
    name: String,
    all: f64,
    files: f64,
}

impl Size {
    /// Reads it; none of a process that has ended.
    fn of(process: &Process) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok()?;
        Some(Self {
            name: process.name.clone(),
            all: mebibytes(&text, "Pss:")?,
            files: mebibytes(&text, "Pss_File:")?,
        })
    }
}

pub(crate) fn mebibytes(smaps: &str, field: &str) -> Option<f64> {
    let value = smaps.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proportional_size_is_read() {
        let text = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:  99 kB\nPss:     3072 kB\nPss_File: 512 kB\n";
        assert_eq!(mebibytes(text, "Pss:"), Some(3.0));
        assert_eq!(mebibytes(text, "Pss_File:"), Some(0.5));
        assert_eq!(mebibytes("Rss: 99 kB\n", "Pss:"), None);
    }
}
