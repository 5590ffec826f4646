//! A process by the ids with which requests name it, and every call of the task API that can be made about it.

use std::time::Duration;

use containerd_shim::protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, DeleteRequest,
    DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest,
    PidsResponse, ResizePtyRequest, ResumeRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::types::task::Status;
use serde_json::Value;

use super::server::{Answer, Server};
use crate::lab::PATIENCE;

/// How containerd names the types of the runtime specification, whose content is JSON.
const SPEC_TYPES: &str = "types.containerd.io/opencontainers/runtime-spec/1";

/// Names a container's init, or a process executed in it. Nothing of it need exist.
#[derive(Debug, Clone)]
pub struct Process<'server> {
    server: &'server Server,
    id: String,
    exec: String,
}

impl<'server> Process<'server> {
    pub(super) fn new(server: &'server Server, id: &str, exec: &str) -> Self {
        Self { server, id: id.to_owned(), exec: exec.to_owned() }
    }

    /// Names a process executed in the same container.
    pub fn executed(&self, exec: &str) -> Self {
        Self::new(self.server, &self.id, exec)
    }

    /// Returns the request that registers a process of this container, without standard streams.
    pub fn exec_request(&self, exec: &str, process: &Value) -> ExecProcessRequest {
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal: process["terminal"] == true,
            spec: Some(spec_type("Process", process)).into(),
            ..ExecProcessRequest::default()
        }
    }

    /// Registers a process of this container; it runs when it is started.
    pub fn exec(&self, exec: &str, process: &Value) -> Answer<Self> {
        self.exec_by(&self.exec_request(exec, process))
    }

    /// Sends any exec request.
    pub fn exec_by(&self, request: &ExecProcessRequest) -> Answer<Self> {
        let _: Empty = self.server.call("Exec", request)?;
        Ok(self.executed(&request.exec_id))
    }

    /// Starts it and returns its pid.
    pub fn start(&self) -> Answer<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..StartRequest::default()
        };
        self.server.call("Start", &request).map(|response: StartResponse| response.pid)
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: i32) -> Answer<()> {
        self.signal(signal, false)
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, signal: i32) -> Answer<()> {
        self.signal(signal, true)
    }

    fn signal(&self, signal: i32, all: bool) -> Answer<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            signal: signal.cast_unsigned(),
            all,
            ..KillRequest::default()
        };
        self.server.call("Kill", &request).map(|_: Empty| ())
    }

    /// Waits for its end and returns its exit status.
    pub fn wait(&self) -> Answer<u32> {
        self.wait_within(PATIENCE)
    }

    /// Waits for its end, but not longer than this.
    pub fn wait_within(&self, patience: Duration) -> Answer<u32> {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..WaitRequest::default()
        };
        let answer = self.server.call_within(patience, "Wait", &request);
        answer.map(|response: WaitResponse| response.exit_status)
    }

    /// Returns all that is told about it.
    pub fn state(&self) -> Answer<StateResponse> {
        let request = StateRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..StateRequest::default()
        };
        self.server.call("State", &request)
    }

    /// Returns its state.
    pub fn status(&self) -> Answer<Status> {
        self.state().map(|state| state.status.enum_value().unwrap_or(Status::UNKNOWN))
    }

    /// Deletes it.
    pub fn delete(&self) -> Answer<DeleteResponse> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            ..DeleteRequest::default()
        };
        self.server.call("Delete", &request)
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, columns: u32, rows: u32) -> Answer<()> {
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            width: columns,
            height: rows,
            ..ResizePtyRequest::default()
        };
        self.server.call("ResizePty", &request).map(|_: Empty| ())
    }

    /// Ends its standard input.
    pub fn close_input(&self) -> Answer<()> {
        let request = CloseIORequest {
            id: self.id.clone(),
            exec_id: self.exec.clone(),
            stdin: true,
            ..CloseIORequest::default()
        };
        self.server.call("CloseIO", &request).map(|_: Empty| ())
    }

    /// Freezes the container.
    pub fn pause(&self) -> Answer<()> {
        let request = PauseRequest { id: self.id.clone(), ..PauseRequest::default() };
        self.server.call("Pause", &request).map(|_: Empty| ())
    }

    /// Lets a frozen container go on.
    pub fn resume(&self) -> Answer<()> {
        let request = ResumeRequest { id: self.id.clone(), ..ResumeRequest::default() };
        self.server.call("Resume", &request).map(|_: Empty| ())
    }

    /// Sets limits, given as the `LinuxResources` of the runtime specification.
    pub fn update(&self, resources: &Value) -> Answer<()> {
        self.update_by(spec_type("LinuxResources", resources))
    }

    /// Sends any resources.
    pub fn update_by(&self, resources: Any) -> Answer<()> {
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(resources).into(),
            ..UpdateTaskRequest::default()
        };
        self.server.call("Update", &request).map(|_: Empty| ())
    }

    /// Returns the container's usage: the name of its type, and its content.
    pub fn stats(&self) -> Answer<Any> {
        let request = StatsRequest { id: self.id.clone(), ..StatsRequest::default() };
        let response: StatsResponse = self.server.call("Stats", &request)?;
        Ok(response.stats.unwrap_or_default())
    }

    /// Returns the pids of the container's processes.
    pub fn pids(&self) -> Answer<Vec<u32>> {
        let request = PidsRequest { id: self.id.clone(), ..PidsRequest::default() };
        let response: PidsResponse = self.server.call("Pids", &request)?;
        Ok(response.processes.iter().map(|process| process.pid).collect())
    }

    /// Asks for an image of the running container in a folder.
    pub fn checkpoint(&self, folder: &str) -> Answer<()> {
        let request = CheckpointTaskRequest {
            id: self.id.clone(),
            path: folder.to_owned(),
            ..CheckpointTaskRequest::default()
        };
        self.server.call("Checkpoint", &request).map(|_: Empty| ())
    }

    /// Asks the shim who it is, and for the pid of the container's init.
    pub fn connect(&self) -> Answer<ConnectResponse> {
        let request = ConnectRequest { id: self.id.clone(), ..ConnectRequest::default() };
        self.server.call("Connect", &request)
    }
}

/// Wraps JSON as containerd does.
pub fn spec_type(name: &str, content: &Value) -> Any {
    Any {
        type_url: format!("{SPEC_TYPES}/{name}"),
        value: content.to_string().into_bytes(),
        ..Any::default()
    }
}
