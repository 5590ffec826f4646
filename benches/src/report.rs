//! The one table a run prints.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::contestant::Contestant;
use crate::effort::Effort;
use crate::figures::{Figure, milliseconds, ratios};
use crate::memory::Memory;
use crate::rate::Rates;
use crate::serving::{CONNECTIONS, Load, Serving};
use crate::starts::{MANY, Sharing, Starts};
use crate::task::Phases;
use crate::wall::Walls;

/// Prints all figures: medians, with the lowest and highest in brackets; ratios are to runc's shim, larger is more.
pub(crate) fn print(effort: &Effort, memory: &[Memory], rates: &[Rates], walls: &Walls) {
    println!(
        "containerd 1.7, Linux {}, {} CPUs; medians [lowest, highest]; x = ratio to runc's shim in the same rounds",
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        thread::available_parallelism().map_or(0, usize::from),
    );
    task_rates(effort, rates);
    println!("\nwhere the time of a task goes, one at a time, ms");
    for rates in rates {
        phases(rates.contestant, &rates.phases);
    }
    run_times(effort, walls);
    footprints(effort, memory);
}

/// Prints what the engine does, beside the `wasmtime` tool of the same release.
pub(crate) fn engine(effort: &Effort, starts: &[Starts], sharing: &Sharing, serving: &Serving) {
    println!("\n`ctr run --rm` of a module, {} rounds", effort.start_rounds);
    for starts in starts {
        println!("  {}", starts.name);
        for (title, values) in [("first on this node", &starts.first), ("second", &starts.second)] {
            println!("    {title:<22} {} ms", spread(Figure::of(values.iter().copied()), 1));
        }
        println!(
            "    {:<22} {} ms   {}",
            "compiling and keeping",
            spread(Figure::of(starts.compiling.iter().copied()), 1),
            times(&starts.compiling, Some(&starts.peer)),
        );
        println!(
            "    {:<22} {} ms   x  1.00",
            "wasmtime compile",
            spread(Figure::of(starts.peer.iter().copied()), 1),
        );
    }
    println!(
        "\na guest's process, proportional set size: {:.2} MiB alone, {:.2} MiB as one of {MANY} of its image",
        sharing.alone, sharing.among_many,
    );
    println!(
        "\nHTTP, a Rust component, {CONNECTIONS} connections, {} rounds of {:.0} s",
        effort.load_rounds,
        effort.load.as_secs_f64()
    );
    type Pick = fn(&Load) -> f64;
    let rows: [(&str, Pick, usize); 2] =
        [("requests/s", |load| load.per_second, 0), ("99 % ms", |load| load.slowest, 2)];
    for (title, pick, digits) in rows {
        let values = |loads: &[Load]| loads.iter().map(pick).collect::<Vec<f64>>();
        let (ours, peer) = (values(&serving.ours), values(&serving.peer));
        for (name, values) in [("hybrid", &ours), ("wasmtime serve", &peer)] {
            println!(
                "    {name:<14} {} {title:<10}   {}",
                spread(Figure::of(values.iter().copied()), digits),
                times(values, Some(&peer)),
            );
        }
    }
}

/// Prints the medians of one contestant's requests.
pub(crate) fn phases(contestant: Contestant, phases: &[Phases]) {
    let median = |part: fn(&Phases) -> Duration| {
        Figure::of(phases.iter().map(|phases| milliseconds(part(phases))))
            .map_or(f64::NAN, |figure| figure.median)
    };
    println!(
        "  {:<14} create {:6.2}   start {:6.2}   wait {:6.2}   delete {:6.2}   all {:6.2}",
        contestant.name(),
        median(|phases| phases.create),
        median(|phases| phases.start),
        median(|phases| phases.wait),
        median(|phases| phases.delete),
        median(Phases::total),
    );
}

fn task_rates(effort: &Effort, rates: &[Rates]) {
    println!(
        "\ntasks in one running shim (create, start, wait, delete), {} rounds of {:.1} s",
        effort.rate_rounds,
        effort.slice.as_secs_f64()
    );
    for (place, title) in ["one at a time", "two at a time"].into_iter().enumerate() {
        println!("  {title}");
        let peer = rates.iter().find(|rates| rates.contestant == Contestant::Runc);
        for rates in rates {
            let values = &rates.per_second[place];
            let per_task = Figure::of(values.iter().map(|rate| 1000.0 / rate));
            println!(
                "    {:<14} {} /s   {} ms/task   {}",
                rates.contestant.name(),
                spread(Figure::of(values.iter().copied()), 1),
                spread(per_task, 2),
                times(values, peer.map(|peer| peer.per_second[place].as_slice())),
            );
        }
    }
}

fn run_times(effort: &Effort, walls: &Walls) {
    println!("\n`ctr run --rm` of a hello, {} rounds", effort.wall_rounds);
    println!("    {:<14} {} ms", "no shim at all", spread(Figure::of(walls.floor.clone()), 1));
    let peer = walls.runs.iter().find(|(contestant, _)| *contestant == Contestant::Runc);
    for (contestant, values) in &walls.runs {
        let above: Vec<f64> =
            values.iter().zip(&walls.floor).map(|(run, floor)| run - floor).collect();
        println!(
            "    {:<14} {} ms   {}   {:5.1} ms above no shim",
            contestant.name(),
            spread(Figure::of(values.iter().copied()), 1),
            times(values, peer.map(|(_, values)| values.as_slice())),
            Figure::of(above).map_or(f64::NAN, |figure| figure.median),
        );
    }
}

fn footprints(effort: &Effort, memory: &[Memory]) {
    println!("\nmemory (proportional set size), {} rounds", effort.memory_rounds);
    let peer = memory.iter().find(|memory| memory.contestant == Contestant::Runc);
    type Pick = fn(&Memory) -> &[f64];
    let rows: [(&str, Pick); 3] = [
        ("one idle container with its shim", |memory| &memory.first),
        ("  of that, pages of no file: what each further pod costs in full", |memory| {
            &memory.unshared
        }),
        ("one more in the same shim", |memory| &memory.one_more),
    ];
    for (title, pick) in rows {
        println!("  {title}");
        for memory in memory {
            println!(
                "    {:<14} {} MiB   {}",
                memory.contestant.name(),
                spread(Figure::of(pick(memory).iter().copied()), 2),
                times(pick(memory), peer.map(pick)),
            );
        }
    }
    println!("  by process");
    for memory in memory {
        let parts: Vec<String> =
            memory.processes.iter().map(|(name, size)| format!("{name} {size:.2}")).collect();
        println!("    {:<14} {}", memory.contestant.name(), parts.join(", "));
    }
}

fn spread(figure: Option<Figure>, digits: usize) -> String {
    figure.map_or("-".to_owned(), |Figure { median, lowest, highest }| {
        let range = format!("[{lowest:.digits$}, {highest:.digits$}]");
        format!("{median:8.digits$} {range:<18}")
    })
}

fn times(values: &[f64], peer: Option<&[f64]>) -> String {
    peer.and_then(|peer| ratios(values, peer))
        .map_or(String::new(), |ratio| format!("x {:5.2}", ratio.median))
}
