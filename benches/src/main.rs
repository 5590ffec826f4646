//! `bench`: measures this shim beside runc's, in one run, on one private containerd.
//!
//! Every figure is taken in rounds in which each contestant has its turn, so that whatever else the machine does
//! hits all alike, and ratios are formed within a round. Nothing that was made is left, also after an error.
#![forbid(unsafe_code)]

mod contestant;
mod effort;
mod figures;
mod lab;
mod memory;
mod profile;
mod rate;
mod remains;
mod report;
mod server;
mod serving;
mod starts;
mod task;
mod wall;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use testkit::leftovers::Census;

use contestant::Contestant;
use effort::Effort;
use lab::Lab;

#[derive(Debug, Parser)]
#[command(about = "Measures the shim beside runc's on a private containerd (needs root)")]
struct Arguments {
    /// Measure for less than a minute: fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Measure these alone
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// Only run tasks of one kind, one at a time, for perf or strace to look at
    #[arg(long, value_enum, conflicts_with_all = ["quick", "only"])]
    profile: Option<Contestant>,
    /// How long to run them
    #[arg(long, default_value_t = 20, requires = "profile")]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let contestants = contestants(&arguments)?;
    let lab = Lab::start()?;
    let before = Census::of(&lab.daemon)?;
    if let Some(contestant) = arguments.profile {
        return profile::run(&lab, contestant, Duration::from_secs(arguments.seconds));
    }
    let effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let started = Instant::now();
    let memory = memory::measure(&lab, &contestants, &effort).context("measuring memory")?;
    let rates = rate::measure(&lab, &contestants, &effort).context("measuring task rates")?;
    let walls = wall::measure(&lab, &contestants, &effort).context("measuring `ctr run`")?;
    let engine = if contestants.contains(&Contestant::Wasm) {
        Some((
            starts::measure(&effort).context("measuring first starts")?,
            serving::measure(&lab, &effort).context("measuring HTTP")?,
        ))
    } else {
        None
    };
    report::print(&effort, &memory, &rates, &walls);
    if let Some(((starts, sharing), serving)) = &engine {
        report::engine(&effort, starts, sharing, serving);
    }
    println!("\nmeasured in {:.0} s", started.elapsed().as_secs_f64());
    remains::check(&lab, &before)
}

fn contestants(arguments: &Arguments) -> Result<Vec<Contestant>> {
    let wanted: Vec<Contestant> = match (arguments.profile, arguments.only.as_slice()) {
        (Some(one), _) => vec![one],
        (None, []) => Contestant::ALL.to_vec(),
        (None, some) => some.to_vec(),
    };
    let shim = testkit::place::shim();
    if wanted.iter().any(|contestant| contestant.is_ours()) && !shim.exists() {
        bail!("{} is missing; build it with `cargo build --release -p shim`", shim.display());
    }
    Ok(wanted)
}
