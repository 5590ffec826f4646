//! A shim server, started and ended the way containerd does it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use containerd_shim::api::{ConnectRequest, ConnectResponse, Empty, ShutdownRequest};
use testkit::command::Invocation;
use testkit::process::{self, Process};

use crate::contestant::Contestant;
use crate::lab::{Bundle, Lab};
use crate::wire::Connection;

const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running shim server. One that is not stopped is ended with the lab's daemon.
#[derive(Debug)]
pub(crate) struct Server {
    address: String,
    pid: i32,
}

impl Server {
    /// Executes the shim's `start` for a container and connects to what it names.
    pub(crate) fn start(lab: &Lab, contestant: Contestant, first: &Bundle) -> Result<Self> {
        let address = run_start(lab, contestant, first)
            .with_context(|| format!("starting {}", contestant.binary()))?;
        let mut connection = Connection::open(&address).with_context(|| first.log())?;
        let request = ConnectRequest { id: first.id.clone(), ..ConnectRequest::default() };
        let response: ConnectResponse = connection.call("Connect", &request)?;
        Ok(Self { address, pid: i32::try_from(response.shim_pid).context("a pid")? })
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open(&self.address)
    }

    /// Returns the server and all that descends from it: its helpers and the containers.
    pub(crate) fn family(&self) -> Vec<Process> {
        let mut members = process::family(|process| process.pid == self.pid, &[]);
        members.retain(|process| !process.is_zombie());
        members
    }

    /// Asks the server to end and waits until it and its helpers have.
    pub(crate) fn stop(self) -> Result<()> {
        let family = self.family();
        // The server may be gone before its answer is sent: what counts is that it goes.
        let _unanswered: Result<Empty> =
            self.connect()?.call("Shutdown", &ShutdownRequest::default());
        let deadline = Instant::now() + STOP_TIMEOUT;
        let lives = |member: &Process| {
            Process::read(member.pid)
                .is_some_and(|now| !now.is_zombie() && now.arguments == member.arguments)
        };
        while let Some(member) = family.iter().find(|member| lives(member)) {
            if Instant::now() > deadline {
                bail!("{member:?} lives on after the shim's shutdown");
            }
            thread::sleep(Duration::from_millis(5));
        }
        let socket = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        ensure!(!Path::new(socket).exists(), "{socket} is left of a shim that has ended");
        Ok(())
    }
}

fn run_start(lab: &Lab, contestant: Contestant, first: &Bundle) -> Result<String> {
    let (bin, address) = (lab.bin(), lab.daemon.address().display());
    let output = Invocation::new("/usr/bin/env")
        .arg("-i")
        .args([
            format!("PATH={}", bin.display()),
            "GOMAXPROCS=2".to_owned(),
            "MAX_SHIM_VERSION=2".to_owned(),
            format!("TTRPC_ADDRESS={address}.ttrpc"),
            format!("GRPC_ADDRESS={address}"),
            format!("NAMESPACE={}", lab.daemon.namespace()),
        ])
        .arg(bin.join(contestant.binary()))
        .args(["-namespace", lab.daemon.namespace(), "-id", &first.id])
        .args(["-address", &address.to_string()])
        .arg("-publish-binary")
        .arg(bin.join("containerd"))
        .arg("start")
        .directory(&first.path)
        .timeout(START_TIMEOUT)
        .run()?
        .ok()?;
    let answer = output.stdout.trim();
    ensure!(answer.starts_with("unix://"), "`start` answered {answer:?}, not an address");
    Ok(answer.to_owned())
}
