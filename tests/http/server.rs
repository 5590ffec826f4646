//! A server in a container with a network namespace of its own, and the way in.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use end_to_end::lab::{Lab, PATIENCE};
use nix::sched::{CloneFlags, setns};
use testkit::command::{Invocation, Output, Running};
use testkit::containerd::Run;
use testkit::image::Archive;

use crate::client::Client;

/// To compile a component takes seconds, once; longer while other tests run.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server<'lab> {
    lab: &'lab Lab,
    pub(crate) id: String,
    pub(crate) pid: i32,
    address: SocketAddr,
    ctr: Running,
}

impl<'lab> Server<'lab> {
    /// Starts the image as `change` says, and waits until it listens at the address.
    pub(crate) fn start(
        lab: &'lab Lab,
        image: &Archive,
        address: &str,
        change: impl FnOnce(Run) -> Run,
    ) -> Result<Self> {
        let server = Self::begin(lab, image, address, change)?;
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// As [`Server::start`], and does not wait.
    pub(crate) fn begin(
        lab: &'lab Lab,
        image: &Archive,
        address: &str,
        change: impl FnOnce(Run) -> Run,
    ) -> Result<Self> {
        let id = lab.unique("http");
        let ctr = change(lab.run(image, &id)).timeout(LONG).spawn()?;
        lab.wait_for_status(&id, "RUNNING", LONG)?;
        let pid = lab.task_pid(&id)?;
        let namespace = format!("--net=/proc/{pid}/ns/net");
        let up = ["ip", "link", "set", "lo", "up"];
        Invocation::new("nsenter").arg(namespace).args(up).run()?.ok()?;
        Ok(Self { lab, id, pid, address: address.parse()?, ctr })
    }

    fn wait_until_it_listens(&self) -> Result<()> {
        let deadline = Instant::now() + LONG;
        while let Err(error) = self.connect() {
            if Instant::now() > deadline {
                bail!("nobody listens at {}: {error:#}; {}", self.address, self.said());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What it has written to its standard error so far.
    pub(crate) fn said(&self) -> String {
        self.ctr.stderr_so_far()
    }

    /// Returns how to connect, for threads of the test's own.
    pub(crate) fn dialler(&self) -> Dialler {
        Dialler { pid: self.pid, address: self.address }
    }

    pub(crate) fn connect(&self) -> Result<Client> {
        self.dialler().connect().map(Client::new)
    }

    /// Prepares a command that runs in its network.
    pub(crate) fn beside(&self, program: &str) -> Invocation {
        Invocation::new("nsenter").arg(format!("--net=/proc/{}/ns/net", self.pid)).arg(program)
    }

    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        self.lab.ctr(["tasks", "kill", "--signal", signal, &self.id])?.ok()?;
        Ok(())
    }

    /// Waits for its end, and returns what it has written and its exit code.
    pub(crate) fn ended(self) -> Result<Output> {
        self.ctr.finish()
    }

    /// Ends it and returns what it has written.
    pub(crate) fn end(self) -> Result<Output> {
        self.signal("SIGTERM")?;
        let began = Instant::now();
        let output = self.ended()?;
        if began.elapsed() > PATIENCE {
            bail!("it took {:?} to end: {}", began.elapsed(), output.report());
        }
        Ok(output)
    }
}

/// Connects to a server from within its network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialler {
    pid: i32,
    address: SocketAddr,
}

impl Dialler {
    pub(crate) fn connect(self) -> Result<TcpStream> {
        // A thread that enters a namespace stays there, and what it has connected belongs there.
        thread::spawn(move || {
            self.enter()?;
            self.connect_inside()
        })
        .join()
        .map_err(|_| anyhow::anyhow!("the connecting thread has panicked"))?
    }

    /// Takes the calling thread into the server's network.
    pub(crate) fn enter(self) -> Result<()> {
        let path = format!("/proc/{}/ns/net", self.pid);
        let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {path}"))
    }

    /// Connects from a thread that is in the server's network.
    pub(crate) fn connect_inside(self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
