//! What a user waits for `ctr run --rm` of a program that says hello, beside what ctr and containerd cost without any
//! shim: `ctr containers create` and `ctr containers rm`.

use anyhow::{Result, ensure};

use crate::contestant::{Contestant, Work};
use crate::effort::Effort;
use crate::figures::milliseconds;
use crate::lab::Lab;

/// Milliseconds, one value a round.
#[derive(Debug)]
pub(crate) struct Walls {
    pub(crate) floor: Vec<f64>,
    pub(crate) runs: Vec<(Contestant, Vec<f64>)>,
}

/// Measures all contestants in turns.
pub(crate) fn measure(lab: &Lab, contestants: &[Contestant], effort: &Effort) -> Result<Walls> {
    let mut walls = Walls {
        floor: Vec::new(),
        runs: contestants.iter().map(|contestant| (*contestant, Vec::new())).collect(),
    };
    for (contestant, _) in &walls.runs {
        // The first of each kind reads files nobody has read yet.
        run(lab, *contestant)?;
    }
    eprintln!("bench: ctr run, {} rounds", effort.wall_rounds);
    for _ in 0..effort.wall_rounds {
        walls.floor.push(create_and_remove(lab)?);
        for (contestant, values) in &mut walls.runs {
            values.push(run(lab, *contestant)?);
        }
    }
    Ok(walls)
}

fn run(lab: &Lab, contestant: Contestant) -> Result<f64> {
    let (picture, arguments) = contestant.workload(Work::Hello);
    let output = lab
        .daemon
        .run(lab.archive(picture), &lab.daemon.unique("wall"))
        .runtime(contestant.runtime())
        .args(arguments.iter().copied())
        .output()?
        .ok()?;
    ensure!(output.stdout.contains("hello"), "no hello: {}", output.report());
    Ok(milliseconds(output.took))
}

fn create_and_remove(lab: &Lab) -> Result<f64> {
    let id = lab.daemon.unique("floor");
    let started = std::time::Instant::now();
    lab.record(Contestant::Runc, Work::Hello, &id, "")?;
    lab.daemon.ctr(["containers", "rm", &id])?.ok()?;
    Ok(milliseconds(started.elapsed()))
}
