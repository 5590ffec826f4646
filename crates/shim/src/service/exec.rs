//! Requests about processes that were added to a container.

use std::sync::Arc;

use containerd_shim::api::{ExecProcessRequest, StateResponse};
use containerd_shim::protos::events::task::TaskExecAdded;
use containerd_shim::protos::ttrpc::{self, Code};
use lifecycle::{ContainerId, ExecRequest, State, decide_exec};
use runtime::process::Exit;

use super::{TaskService, judged};
use crate::convert::{self, status, to_ttrpc};
use crate::driver::Task;
use crate::exec::{Exec, Refused, Stand};
use crate::stdio::Paths;

impl TaskService {
    /// Adds a process to a container, to be started later.
    pub(super) fn add(&self, task: &Task, request: &ExecProcessRequest) -> ttrpc::Result<()> {
        let id = ContainerId::try_from(request.exec_id.as_str())
            .map_err(|error| status(Code::INVALID_ARGUMENT, format!("exec {error}")))?;
        let wanted = convert::process(request.spec.as_ref(), request.terminal)?;
        let exec_id: String = id.into();
        let size = request.spec.as_ref().map_or(0, |spec| spec.value.len());
        task.execs.add(exec_id.clone(), wanted, size, Paths::from(request)).map_err(|refused| {
            match refused {
                Refused::Taken => {
                    status(Code::ALREADY_EXISTS, format!("id {exec_id}: already exists"))
                }
                Refused::TooMany => status(
                    Code::RESOURCE_EXHAUSTED,
                    format!(
                        "process {exec_id} is one too many for container {}: delete some first",
                        task.handle.id()
                    ),
                ),
            }
        })?;
        let container_id = task.handle.id().to_owned();
        self.publisher.publish(TaskExecAdded { container_id, exec_id, ..Default::default() });
        Ok(())
    }

    /// Starts a process that was added, and returns its process id.
    pub(super) async fn start_added(&self, task: &Task, exec: Arc<Exec>) -> ttrpc::Result<i32> {
        if !allows(&exec, ExecRequest::Start)? {
            return Ok(0);
        }
        match self.state_of(task).await? {
            State::Created | State::Running => {}
            State::Paused => {
                return Err(status(Code::UNKNOWN, "cannot exec in a paused container"));
            }
            State::Stopped => {
                let message = format!("container {} init process is not running", task.handle.id());
                return Err(status(Code::FAILED_PRECONDITION, message));
            }
        }
        let stand = Stand {
            runtime: Arc::clone(&self.runtime),
            publisher: self.publisher.clone(),
            handle: task.handle.clone(),
            namespace: self.namespace.clone(),
        };
        // In a task of its own: a handler is dropped where it waits when containerd
        // hangs up, and a process half started would be nobody's.
        let (id, exec_id) = (task.handle.id().to_owned(), exec.id.clone());
        let started = tokio::spawn(async move { exec.start(stand).await }).await;
        let process = started
            .map_err(|panicked| status(Code::INTERNAL, format!("starting failed: {panicked}")))?
            .inspect_err(|error| {
                log::error!("process {exec_id} of container {id} is not started: {error}");
            })
            .map_err(|error| convert::exec_failed(&error))?;
        Ok(process.pid())
    }

    pub(super) async fn state_of_added(
        &self,
        task: &Task,
        exec: &Exec,
    ) -> ttrpc::Result<StateResponse> {
        let state = match (exec.state(), self.state_of(task).await?) {
            (State::Created | State::Running, State::Paused) => State::Paused,
            (own, _) => own,
        };
        let pid = exec.process().map(|process| process.pid()).unwrap_or_default();
        let response = convert::state_of(&exec.paths, pid, state, exec.exit());
        Ok(StateResponse {
            id: exec.id.clone(),
            exec_id: exec.id.clone(),
            bundle: task.bundle.to_string_lossy().into_owned(),
            ..response
        })
    }
}

/// Says whether there is something to be done for `request`, which the process's
/// state has to allow.
pub(super) fn allows(exec: &Exec, request: ExecRequest) -> ttrpc::Result<bool> {
    judged(decide_exec(exec.state(), request))
}

pub(super) fn kill(exec: &Exec, signal: i32) -> ttrpc::Result<()> {
    if !allows(exec, ExecRequest::Kill)? {
        return Ok(());
    }
    // One that is just being made is not there yet.
    let process =
        exec.process().ok_or_else(|| status(Code::FAILED_PRECONDITION, "process not created"))?;
    process.signal(signal).map_err(|error| to_ttrpc(&error))
}

/// Forgets a process; returns its id and how it ended, if it ever ran.
pub(super) async fn delete(task: &Task, exec: &Exec) -> ttrpc::Result<(Option<i32>, Option<Exit>)> {
    if !allows(exec, ExecRequest::Delete)? {
        return Ok((None, None));
    }
    let deleted = task.execs.delete(exec).await;
    deleted.ok_or_else(|| status(Code::UNKNOWN, "cannot delete a running process"))
}
