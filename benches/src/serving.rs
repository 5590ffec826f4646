//! Requests answered by an HTTP component, beside `wasmtime serve` with the same component: how many a second, and how
//! long the slowest hundredth waits.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::command::Invocation;
use testkit::image::Archive;
use testkit::language::ServerLanguage;

use crate::effort::Effort;
use crate::lab::Lab;

/// Connections that send one request after the other.
pub(crate) const CONNECTIONS: usize = 16;
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What one server reached in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    /// Milliseconds that one request in a hundred waits at least.
    pub(crate) slowest: f64,
}

/// Both servers, one value a round.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    pub(crate) ours: Vec<Load>,
    pub(crate) peer: Vec<Load>,
}

/// Measures both in turns, each while the other is idle.
pub(crate) fn measure(lab: &Lab, effort: &Effort) -> Result<Serving> {
    let image = ServerLanguage::Rust.image()?;
    lab.daemon.import(&image)?;
    let component = lab.daemon.scratch()?.join("server.wasm");
    fs::write(&component, ServerLanguage::Rust.server()?).context("writing the component")?;
    let here = free_address()?;
    let id = serve(lab, &image, here)?;
    let there = free_address()?;
    let peer = Invocation::new(testkit::peers::wasmtime()?)
        .args(["serve", "-S", "cli", "--addr", &there.to_string()])
        .arg(&component)
        .timeout(Duration::from_secs(3600))
        .spawn()?;
    let mut serving = Serving::default();
    for address in [here, there] {
        await_answer(address)?;
        // What is mapped or grown at the first requests is not what a rate tells.
        load(address, Duration::from_secs(1))?;
    }
    for round in 1..=effort.load_rounds {
        eprintln!("bench: HTTP, round {round} of {}", effort.load_rounds);
        serving.ours.push(load(here, effort.load)?);
        serving.peer.push(load(there, effort.load)?);
    }
    drop(peer);
    lab.daemon.ctr(["tasks", "kill", "--signal", "SIGTERM", &id])?.ok()?;
    await_end(lab, &id)?;
    lab.daemon.ctr(["containers", "rm", &id])?.ok()?;
    Ok(serving)
}

fn serve(lab: &Lab, image: &Archive, address: SocketAddr) -> Result<String> {
    let id = lab.daemon.unique("serving");
    lab.daemon
        .run(image, &id)
        .runtime(testkit::containerd::HYBRID)
        .flags(["--net-host"])
        .annotation("com.wasm.http.address", &address.to_string())
        .detach()
        .output()?
        .ok()?;
    Ok(id)
}

fn await_end(lab: &Lab, id: &str) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while !lab.daemon.ctr(["tasks", "delete", id])?.success() {
        ensure!(Instant::now() < deadline, "container {id} does not end after SIGTERM");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("binding a port")?;
    listener.local_addr().context("asking for a port")
}

fn await_answer(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    while let Err(error) = TcpStream::connect(address) {
        if Instant::now() > deadline {
            bail!("nobody serves at {address}: {error}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Has `wrk` send requests for so long.
fn load(address: SocketAddr, time: Duration) -> Result<Load> {
    let output = Invocation::new(Path::new("wrk"))
        .args(["--threads", "1", "--latency"])
        .args(["--connections", &CONNECTIONS.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs().max(1))])
        .arg(format!("http://{address}/"))
        .timeout(time + Duration::from_secs(30))
        .run()?
        .ok()?;
    read(&output.stdout).with_context(|| output.report())
}

/// Reads the report of `wrk --latency`; one with errors is refused.
fn read(report: &str) -> Result<Load> {
    let field = |start: &str| {
        report.lines().map(str::trim).find_map(|line| line.strip_prefix(start)).map(str::trim)
    };
    if let Some(errors) = field("Socket errors:").or_else(|| field("Non-2xx or 3xx responses:")) {
        bail!("not every request was answered: {errors}");
    }
    let per_second = field("Requests/sec:").context("no Requests/sec")?;
    let slowest = field("99%").context("no 99%")?;
    Ok(Load {
        per_second: per_second.parse().context("reading Requests/sec")?,
        slowest: milliseconds(slowest).context("reading 99%")?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let number = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[number.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        unit => bail!("{unit:?} is no unit of time"),
    };
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://127.0.0.1:8080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.61ms    0.9ms  22.09ms   97.35%
  Latency Distribution
     50%  612.00us
     99%    3.96ms
  11021 requests in 1.10s, 1.57MB read
Requests/sec:  10019.33
Transfer/sec:      1.43MB
";

    #[test]
    fn a_report_is_read() {
        let load = read(REPORT).unwrap();
        assert_eq!(load, Load { per_second: 10019.33, slowest: 3.96 });
        assert_eq!(milliseconds("612.00us").unwrap(), 0.612);
        assert_eq!(milliseconds("1.5s").unwrap(), 1500.0);
    }

    #[test]
    fn a_report_with_errors_is_no_figure() {
        for line in
            ["Non-2xx or 3xx responses: 4", "Socket errors: connect 0, read 3, write 0, timeout 0"]
        {
            assert!(read(&format!("{REPORT}  {line}\n")).is_err());
        }
        assert!(read("").is_err());
    }
}
