//! The task service: converts a request, checks it against the container's
//! state, calls one function of the runtime, converts the answer back.

mod create;
mod exec;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::shim_async::Task as TaskApi;
use containerd_shim::protos::ttrpc::r#async::TtrpcContext;
use containerd_shim::protos::ttrpc::{self, Code};
use containerd_shim::protos::types::task::ProcessInfo;
use lifecycle::{ExecRequest, Request, State, Verdict, decide};
use runtime::UniversalContainer;
use runtime::handle::Scope;
use runtime::process::Exit;
use settings::Node;
use tokio::sync::Notify;

use crate::containerd::Containerd;
use crate::convert::{self, denied, status, timestamp, to_ttrpc};
use crate::driver::Task;
use crate::events::Publisher;
use crate::exec::Exec;
use crate::metrics;
use crate::registry::Registry;

/// Serves containerd's task API for every container of this shim; clones serve the
/// same ones.
#[derive(Debug, Clone)]
pub(crate) struct TaskService {
    runtime: Arc<dyn UniversalContainer>,
    containerd: Arc<Containerd>,
    publisher: Publisher,
    namespace: String,
    /// What the node file says, or why it can't be used.
    node: Arc<Result<Node, String>>,
    registry: Registry,
    shutdown: Arc<Notify>,
    asked_to_leave: Arc<AtomicBool>,
}

impl TaskService {
    pub(crate) fn new(
        runtime: Arc<dyn UniversalContainer>,
        containerd: Arc<Containerd>,
        publisher: Publisher,
        namespace: String,
        node: Result<Node, String>,
    ) -> Self {
        Self {
            runtime,
            containerd,
            publisher,
            namespace,
            node: Arc::new(node),
            registry: Registry::default(),
            shutdown: Arc::default(),
            asked_to_leave: Arc::default(),
        }
    }

    /// Is notified once containerd has asked for the end of this shim.
    pub(crate) fn shutdown_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.shutdown)
    }

    fn task(&self, id: &str) -> ttrpc::Result<Arc<Task>> {
        self.registry.get(id).ok_or_else(|| {
            status(Code::NOT_FOUND, format!("there is no container {id} in this shim"))
        })
    }

    /// Finds the process that a request is about.
    fn process(&self, id: &str, exec_id: &str) -> ttrpc::Result<Addressed> {
        let task = self.task(id)?;
        if exec_id.is_empty() {
            return Ok(Addressed::Init(task));
        }
        let exec = task.execs.get(exec_id).ok_or_else(|| {
            status(Code::NOT_FOUND, format!("container {id} has no process {exec_id}"))
        })?;
        Ok(Addressed::Added(task, exec))
    }

    async fn state_of(&self, task: &Task) -> ttrpc::Result<State> {
        let status = self.runtime.status(&task.handle).await;
        Ok(status.map_err(|error| to_ttrpc(&error))?.state)
    }

    /// Says whether there is something to be done for `request`, which the
    /// container's state has to allow.
    async fn allows(&self, task: &Task, request: Request) -> ttrpc::Result<bool> {
        judged(decide(self.state_of(task).await?, request))
    }

    /// Ends the shim if containerd has asked for it and no container is left or on
    /// its way.
    fn leave_if_asked(&self) {
        if self.asked_to_leave.load(Ordering::Relaxed) && self.registry.is_empty() {
            self.shutdown.notify_one();
        }
    }
}

#[async_trait]
impl TaskApi for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let task = self.create_container(request).await?;
        Ok(CreateTaskResponse { pid: convert::pid(task.handle.pid()), ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pid = match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => {
                if self.allows(&task, Request::Start).await? {
                    task.start().await.map_err(|error| to_ttrpc(&error))?;
                }
                task.handle.pid()
            }
            Addressed::Added(task, exec) => self.start_added(&task, exec).await?,
        };
        Ok(StartResponse { pid: convert::pid(pid), ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => {
                let now = self.runtime.status(&task.handle).await;
                let now = now.map_err(|error| to_ttrpc(&error))?;
                let exit = now.exit.zip(now.finished_at).map(|(status, at)| Exit { status, at });
                let response = convert::state_of(&task.paths, now.pid, now.state, exit);
                let bundle = task.bundle.to_string_lossy().into_owned();
                Ok(StateResponse { id: request.id, bundle, ..response })
            }
            Addressed::Added(task, exec) => self.state_of_added(&task, &exec).await,
        }
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let signal = i32::try_from(request.signal).map_err(|_| {
            status(Code::INVALID_ARGUMENT, format!("{} is no signal", request.signal))
        })?;
        match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => {
                let (scope, kind) = match request.all {
                    true => (Scope::All, Request::KillAll),
                    false => (Scope::Init, Request::Kill),
                };
                if self.allows(&task, kind).await? {
                    let sent = self.runtime.signal(&task.handle, signal, scope).await;
                    sent.map_err(|error| to_ttrpc(&error))?;
                }
            }
            Addressed::Added(_, exec) => exec::kill(&exec, signal)?,
        }
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => task.wait().await.map_err(|error| to_ttrpc(&error))?,
            Addressed::Added(_, exec) => exec.wait().await.map_err(|error| to_ttrpc(&error))?,
        };
        Ok(WaitResponse {
            exit_status: convert::exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let (pid, exit) = match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => {
                let was_created = self.state_of(&task).await? == State::Created;
                if self.allows(&task, Request::Delete).await? {
                    task.delete().await.map_err(|error| to_ttrpc(&error))?;
                }
                // What never ran has no end of its own to tell.
                (Some(task.handle.pid()), task.exit().filter(|_| !was_created))
            }
            Addressed::Added(task, exec) => exec::delete(&task, &exec).await?,
        };
        let mut response = DeleteResponse {
            pid: pid.map(convert::pid).unwrap_or_default(),
            ..DeleteResponse::default()
        };
        if let Some(exit) = exit {
            response.exit_status = convert::exit_code(exit.status);
            response.exited_at = timestamp(exit.at);
        }
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let task = self.task(&request.id)?;
        let mut response = PidsResponse::default();
        if self.allows(&task, Request::Pids).await? {
            let pids = self.runtime.processes(&task.handle).await;
            let mut pids = pids.map_err(|error| to_ttrpc(&error))?;
            if pids.is_empty() {
                // A containerd that was restarted takes a shim without processes for a
                // leak, and deletes it before it has asked how its container ended. So
                // the init is there until it is deleted, as a zombie would be.
                pids.push(task.handle.pid());
            }
            response.processes = pids
                .into_iter()
                .map(|pid| ProcessInfo {
                    pid: convert::pid(pid),
                    info: task.execs.id_of(pid).map(convert::process_details).into(),
                    ..Default::default()
                })
                .collect();
        }
        Ok(response)
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => {
                if self.allows(&task, Request::CloseIo).await? && request.stdin {
                    task.held.close_stdin();
                }
            }
            Addressed::Added(_, exec) => {
                if exec::allows(&exec, ExecRequest::CloseIo)? && request.stdin {
                    exec.close_stdin();
                }
            }
        }
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let size = convert::terminal_size(request.width, request.height)?;
        let resized = match self.process(&request.id, &request.exec_id)? {
            Addressed::Init(task) => match self.allows(&task, Request::ResizePty).await? {
                true => task.held.resize(size),
                false => Ok(()),
            },
            Addressed::Added(_, exec) => match exec::allows(&exec, ExecRequest::ResizePty)? {
                true => exec.held().map_or(Ok(()), |held| held.resize(size)),
                false => Ok(()),
            },
        };
        resized.map(|()| Empty::new()).map_err(|error| {
            status(Code::UNKNOWN, format!("cannot resize the terminal of {}: {error}", request.id))
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        if self.allows(&task, Request::Exec).await? {
            self.add(&task, &request)?;
        }
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        if self.allows(&task, Request::Pause).await? {
            task.pause().await.map_err(|error| to_ttrpc(&error))?;
        }
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        if self.allows(&task, Request::Resume).await? {
            task.resume().await.map_err(|error| to_ttrpc(&error))?;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        if self.allows(&task, Request::Update).await?
            && let Some(resources) = convert::resources(request.resources.as_ref())?
        {
            task.update(resources).await.map_err(|error| to_ttrpc(&error))?;
        }
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let task = self.task(&request.id)?;
        let mut response = StatsResponse::default();
        if self.allows(&task, Request::Stats).await? {
            let stats = self.runtime.stats(&task.handle).await;
            let encoded = metrics::encode(&stats.map_err(|error| to_ttrpc(&error))?);
            let any = encoded.map_err(|error| {
                status(Code::INTERNAL, format!("cannot encode the metrics: {error:#}"))
            })?;
            response.stats = Some(any).into();
        }
        Ok(response)
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        self.allows(&task, Request::Checkpoint).await?;
        Err(status(
            Code::UNIMPLEMENTED,
            format!(
                "{} does not checkpoint containers: start {} anew instead",
                crate::RUNTIME,
                request.id
            ),
        ))
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        let task = self.registry.get(&request.id);
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task.map(|task| convert::pid(task.handle.pid())).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        // A pod's shim lives until its last container is deleted.
        self.asked_to_leave.store(true, Ordering::Relaxed);
        self.leave_if_asked();
        Ok(Empty::new())
    }
}

/// The process that a request is about.
enum Addressed {
    /// The container's first.
    Init(Arc<Task>),
    /// One that was added.
    Added(Arc<Task>, Arc<Exec>),
}

/// Says whether there is something to be done.
fn judged(verdict: Verdict) -> ttrpc::Result<bool> {
    match verdict {
        Verdict::Allow => Ok(true),
        Verdict::Ignore => Ok(false),
        Verdict::Deny(reason) => Err(denied(reason)),
    }
}
