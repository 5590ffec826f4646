//! Runs tasks of one kind and nothing else, and says which processes to look at.

use std::time::Duration;

use anyhow::Result;

use crate::contestant::Contestant;
use crate::lab::Lab;
use crate::rate::Track;
use crate::report;

/// Runs tasks one at a time for so long. The shim's processes are named on the standard error before.
pub(crate) fn run(lab: &Lab, contestant: Contestant, time: Duration) -> Result<()> {
    let mut track = Track::open(lab, contestant)?;
    for process in track.server.family() {
        eprintln!("bench: pid {} {}", process.pid, process.name);
    }
    let slice = track.run(1, time)?;
    println!("{}: {:.1} tasks per second", contestant.name(), slice.per_second());
    report::phases(contestant, &slice.phases);
    track.close(lab)
}
