//! Tasks per second in one running shim: created, started, awaited and deleted, one at a time and two at a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::contestant::{Contestant, Work};
use crate::effort::Effort;
use crate::lab::{Bundle, Lab};
use crate::server::Server;
use crate::task::{self, Phases};
use crate::wire::Connection;

/// How many tasks are under way at once.
pub(crate) const WIDTHS: [usize; 2] = [1, 2];
/// Tasks before the first that counts: what is compiled, read or cached once is not what a rate tells.
const WARM_UP: usize = 3;

/// What one contestant reached.
#[derive(Debug)]
pub(crate) struct Rates {
    pub(crate) contestant: Contestant,
    /// Tasks per second, for each width one value a round.
    pub(crate) per_second: [Vec<f64>; 2],
    /// What the tasks that ran alone spent in each request.
    pub(crate) phases: Vec<Phases>,
}

/// One shim server with as many containers as will run at once.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) server: Server,
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    shim: Connection,
    bundle: Bundle,
}

/// The tasks of one stretch of time.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) phases: Vec<Phases>,
    elapsed: Duration,
}

impl Slice {
    pub(crate) fn per_second(&self) -> f64 {
        // A count of tasks is far below what a float holds exactly.
        self.phases.iter().map(|_| 1.0).sum::<f64>() / self.elapsed.as_secs_f64()
    }
}

/// Measures all contestants in turns.
pub(crate) fn measure(
    lab: &Lab,
    contestants: &[Contestant],
    effort: &Effort,
) -> Result<Vec<Rates>> {
    let mut tracks = contestants
        .iter()
        .map(|contestant| Track::open(lab, *contestant))
        .collect::<Result<Vec<_>>>()?;
    let mut rates: Vec<Rates> = contestants
        .iter()
        .map(|contestant| Rates {
            contestant: *contestant,
            per_second: [Vec::new(), Vec::new()],
            phases: Vec::new(),
        })
        .collect();
    for round in 1..=effort.rate_rounds {
        eprintln!("bench: tasks in a running shim, round {round} of {}", effort.rate_rounds);
        for (place, width) in WIDTHS.into_iter().enumerate() {
            for (track, rates) in tracks.iter_mut().zip(&mut rates) {
                let slice = track.run(width, effort.slice)?;
                rates.per_second[place].push(slice.per_second());
                if width == 1 {
                    rates.phases.extend(slice.phases);
                }
            }
        }
    }
    for track in tracks {
        track.close(lab)?;
    }
    Ok(rates)
}

impl Track {
    /// Starts a server and runs the first tasks in it.
    pub(crate) fn open(lab: &Lab, contestant: Contestant) -> Result<Self> {
        let group = lab.daemon.unique("rate");
        let bundles = (0..WIDTHS[1])
            .map(|_| lab.container(contestant, Work::Brief, &group))
            .collect::<Result<Vec<_>>>()?;
        let first = bundles.first().context("no container")?;
        let server = Server::start(lab, contestant, first)?;
        let workers = bundles
            .into_iter()
            .map(|bundle| Ok(Worker { shim: server.connect()?, bundle }))
            .collect::<Result<Vec<_>>>()?;
        let mut track = Self { server, workers };
        for _ in 0..WARM_UP {
            track.run(WIDTHS[1], Duration::ZERO)?;
        }
        Ok(track)
    }

    /// Runs tasks, `width` at a time, until the time is over; those under way are finished, and at least one each.
    pub(crate) fn run(&mut self, width: usize, time: Duration) -> Result<Slice> {
        let started = Instant::now();
        let deadline = started + time;
        let phases = thread::scope(|scope| {
            let runs: Vec<_> = self.workers[..width]
                .iter_mut()
                .map(|worker| scope.spawn(move || worker.run_until(deadline)))
                .collect();
            runs.into_iter()
                .map(|run| run.join().map_err(|_| anyhow!("a worker panicked"))?)
                .collect::<Result<Vec<_>>>()
        });
        let elapsed = started.elapsed();
        let log = || self.workers[0].bundle.log();
        Ok(Slice { phases: phases.with_context(log)?.concat(), elapsed })
    }

    /// Ends the server and removes its containers.
    pub(crate) fn close(self, lab: &Lab) -> Result<()> {
        let bundles: Vec<Bundle> = self.workers.into_iter().map(|worker| worker.bundle).collect();
        self.server.stop()?;
        bundles.iter().try_for_each(|bundle| lab.remove(bundle))
    }
}

impl Worker {
    fn run_until(&mut self, deadline: Instant) -> Result<Vec<Phases>> {
        let mut phases = Vec::new();
        loop {
            phases.push(task::run(&mut self.shim, &self.bundle)?);
            if Instant::now() >= deadline {
                return Ok(phases);
            }
        }
    }
}
