//! The task service: converts a request, checks it against the container's
//! state, calls one function of the runtime, converts the answer back.

mod create;

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
use lifecycle::{Request, Verdict, decide};
use runtime::UniversalContainer;
use runtime::handle::Scope;
use settings::Node;
use tokio::sync::Notify;

use crate::containerd::Containerd;
use crate::convert::{self, denied, status, timestamp, to_ttrpc};
use crate::driver::Task;
use crate::events::Publisher;
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

    fn task(&self, id: &str, exec_id: &str) -> ttrpc::Result<Arc<Task>> {
        if !exec_id.is_empty() {
            return Err(status(
                Code::NOT_FOUND,
                format!("container {id} has no process {exec_id}"),
            ));
        }
        self.registry.get(id).ok_or_else(|| {
            status(Code::NOT_FOUND, format!("there is no container {id} in this shim"))
        })
    }

    /// Finds a container whose state allows `request`; `None` when there is
    /// nothing to be done.
    async fn allowed(
        &self,
        id: &str,
        exec_id: &str,
        request: Request,
    ) -> ttrpc::Result<Option<Arc<Task>>> {
        let task = self.task(id, exec_id)?;
        let state =
            self.runtime.status(&task.handle).await.map_err(|error| to_ttrpc(&error))?.state;
        match decide(state, request) {
            Verdict::Allow => Ok(Some(task)),
            Verdict::Ignore => Ok(None),
            Verdict::Deny(reason) => Err(denied(reason)),
        }
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
        let pid = match self.allowed(&request.id, &request.exec_id, Request::Start).await? {
            Some(task) => {
                task.start().await.map_err(|error| to_ttrpc(&error))?;
                convert::pid(task.handle.pid())
            }
            None => 0,
        };
        Ok(StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let task = self.task(&request.id, &request.exec_id)?;
        let now = self.runtime.status(&task.handle).await.map_err(|error| to_ttrpc(&error))?;
        let mut response = StateResponse {
            id: request.id,
            bundle: task.bundle.to_string_lossy().into_owned(),
            pid: convert::pid(now.pid),
            status: convert::state(now.state).into(),
            stdin: task.paths.stdin.clone(),
            stdout: task.paths.stdout.clone(),
            stderr: task.paths.stderr.clone(),
            terminal: task.paths.terminal,
            ..Default::default()
        };
        if let (Some(exit), Some(at)) = (now.exit, now.finished_at) {
            response.exit_status = convert::exit_code(exit);
            response.exited_at = timestamp(at);
        }
        Ok(response)
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        if let Some(task) = self.allowed(&request.id, &request.exec_id, Request::Kill).await? {
            let signal = i32::try_from(request.signal).map_err(|_| {
                status(Code::INVALID_ARGUMENT, format!("{} is no signal", request.signal))
            })?;
            let scope = if request.all { Scope::All } else { Scope::Init };
            self.runtime
                .signal(&task.handle, signal, scope)
                .await
                .map_err(|error| to_ttrpc(&error))?;
        }
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let task = self.task(&request.id, &request.exec_id)?;
        let exit = task.wait().await.map_err(|error| to_ttrpc(&error))?;
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
        let mut response = DeleteResponse::default();
        if let Some(task) = self.allowed(&request.id, &request.exec_id, Request::Delete).await? {
            task.delete().await.map_err(|error| to_ttrpc(&error))?;
            response.pid = convert::pid(task.handle.pid());
            if let Some(exit) = task.exit() {
                response.exit_status = convert::exit_code(exit.status);
                response.exited_at = timestamp(exit.at);
            }
        }
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let mut response = PidsResponse::default();
        if let Some(task) = self.allowed(&request.id, "", Request::Pids).await? {
            let pids =
                self.runtime.processes(&task.handle).await.map_err(|error| to_ttrpc(&error))?;
            response.processes = pids
                .into_iter()
                .map(|pid| ProcessInfo { pid: convert::pid(pid), ..Default::default() })
                .collect();
        }
        Ok(response)
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        if let Some(task) = self.allowed(&request.id, &request.exec_id, Request::CloseIo).await?
            && request.stdin
        {
            task.held.close_stdin();
        }
        Ok(Empty::new())
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

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        self.not_built(&request.id, "exec")
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        self.not_built(&request.id, "resizing a terminal")
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        self.not_built(&request.id, "pausing a container")
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        self.not_built(&request.id, "resuming a container")
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        self.not_built(&request.id, "updating a container's limits")
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        self.not_built(&request.id, "reading a container's usage")
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> ttrpc::Result<Empty> {
        self.not_built(&request.id, "checkpointing a container")
    }
}

impl TaskService {
    fn not_built<T>(&self, id: &str, what: &str) -> ttrpc::Result<T> {
        self.task(id, "")?;
        Err(status(
            Code::UNIMPLEMENTED,
            format!("{what} is not supported by this version of {}", crate::RUNTIME),
        ))
    }
}
