//! The life of one task in a running shim.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, KillRequest,
    StartRequest, StartResponse, WaitRequest, WaitResponse,
};

use crate::lab::Bundle;
use crate::wire::Connection;

/// How long each request of one task took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) create: Duration,
    pub(crate) start: Duration,
    pub(crate) wait: Duration,
    pub(crate) delete: Duration,
}

impl Phases {
    pub(crate) fn total(&self) -> Duration {
        self.create + self.start + self.wait + self.delete
    }
}

/// Runs a task of the bundle from its creation to its deletion; it must end with success.
pub(crate) fn run(shim: &mut Connection, bundle: &Bundle) -> Result<Phases> {
    live(shim, bundle).with_context(|| format!("running a task of {}", bundle.id))
}

fn live(shim: &mut Connection, bundle: &Bundle) -> Result<Phases> {
    let mut mark = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        let took = now - mark;
        mark = now;
        took
    };
    begin(shim, bundle)?;
    let create = lap();
    start(shim, bundle)?;
    let start = lap();
    let status = await_end(shim, bundle)?;
    let wait = lap();
    delete(shim, bundle)?;
    let delete = lap();
    ensure!(status == 0, "the task ended with {status}");
    Ok(Phases { create, start, wait, delete })
}

/// Creates and starts a task.
pub(crate) fn launch(shim: &mut Connection, bundle: &Bundle) -> Result<()> {
    begin(shim, bundle)?;
    start(shim, bundle)
}

/// Kills a task and deletes it.
pub(crate) fn end(shim: &mut Connection, bundle: &Bundle) -> Result<()> {
    const SIGKILL: u32 = 9;
    let request = KillRequest { id: bundle.id.clone(), signal: SIGKILL, ..KillRequest::default() };
    let _: Empty = shim.call("Kill", &request)?;
    await_end(shim, bundle)?;
    delete(shim, bundle)
}

fn begin(shim: &mut Connection, bundle: &Bundle) -> Result<()> {
    let request = CreateTaskRequest {
        id: bundle.id.clone(),
        bundle: bundle.path.display().to_string(),
        rootfs: bundle.rootfs.clone(),
        ..CreateTaskRequest::default()
    };
    let response: CreateTaskResponse = shim.call("Create", &request)?;
    ensure!(response.pid != 0, "a task without a pid");
    Ok(())
}

fn start(shim: &mut Connection, bundle: &Bundle) -> Result<()> {
    let request = StartRequest { id: bundle.id.clone(), ..StartRequest::default() };
    let _: StartResponse = shim.call("Start", &request)?;
    Ok(())
}

fn await_end(shim: &mut Connection, bundle: &Bundle) -> Result<u32> {
    let request = WaitRequest { id: bundle.id.clone(), ..WaitRequest::default() };
    let response: WaitResponse = shim.call("Wait", &request)?;
    Ok(response.exit_status)
}

fn delete(shim: &mut Connection, bundle: &Bundle) -> Result<()> {
    let request = DeleteRequest { id: bundle.id.clone(), ..DeleteRequest::default() };
    let _: DeleteResponse = shim.call("Delete", &request)?;
    Ok(())
}
