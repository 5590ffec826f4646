//! A running shim, and the connection over which it is asked.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use containerd_shim::protos::api::{
    CreateTaskRequest, CreateTaskResponse, DeleteResponse, Empty, ShutdownRequest,
};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::ttrpc::{self, Client, Request};
use containerd_shim::protos::types::task::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::containerd::Release;

use super::process::Process;
use super::{HandBundle, Peer};
use crate::lab::PATIENCE;

/// What ends a container that must not outlive its test.
const SIGKILL: i32 = 9;

/// Why a request was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub code: ttrpc::Code,
    pub message: String,
}

/// What a call gave.
pub type Answer<T> = std::result::Result<T, Denied>;

fn denied(error: ttrpc::Error) -> Denied {
    match error {
        ttrpc::Error::RpcStatus(status) => {
            let code = status.code.enum_value().unwrap_or(ttrpc::Code::UNKNOWN);
            Denied { code, message: status.message }
        }
        other => Denied { code: ttrpc::Code::UNAVAILABLE, message: other.to_string() },
    }
}

/// A shim that serves one bundle, or more. Dropping it ends it and the container of its first bundle.
pub struct Server {
    client: Client,
    service: &'static str,
    address: String,
    bundle: HandBundle,
    /// runc's shim opens its log before it serves, and waits for a reader.
    _log: Option<File>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a shim in a bundle and connects to it.
    pub(super) fn of(bundle: &HandBundle) -> Result<Self> {
        let log = match bundle.peer() {
            Peer::Hybrid => None,
            Peer::Runc => Some(bundle.log_reader()?),
        };
        let answer = bundle.start()?.ok()?.stdout;
        // Some shims answer with the address alone, some with JSON around it.
        let rest = answer.find("unix://").map(|at| &answer[at..]).context("no address")?;
        let address = rest.split(['"', '\n']).next().unwrap_or_default().to_owned();
        let client = Client::connect(&address).context("connecting to the shim")?;
        // Each release's containerd asks for the version of the service that it knows.
        let service = match bundle.release() {
            Release::V1_6 | Release::V1_7 => "containerd.task.v2.Task",
            Release::V2_1 => "containerd.task.v3.Task",
        };
        Ok(Self { client, service, address, bundle: bundle.clone(), _log: log })
    }

    /// Asks for anything and waits as long as that may take.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn call<A: Message>(&self, method: &str, request: &impl Message) -> Answer<A> {
        self.call_within(PATIENCE, method, request)
    }

    /// Asks for anything; an answer that takes longer is a denial with the code `UNAVAILABLE` or `DEADLINE_EXCEEDED`.
    ///
    /// # Errors
    /// When the shim denies it or gives no answer in time.
    pub fn call_within<A: Message>(
        &self,
        patience: Duration,
        method: &str,
        request: &impl Message,
    ) -> Answer<A> {
        let request = Request {
            service: self.service.to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
            payload: request.write_to_bytes().expect("a request can be written"),
            ..Request::default()
        };
        let response = self.client.request(request).map_err(denied)?;
        A::parse_from_bytes(&response.payload)
            .map_err(|error| Denied { code: ttrpc::Code::DATA_LOSS, message: error.to_string() })
    }

    /// Returns the path of the shim's socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(self.address.trim_start_matches("unix://"))
    }

    /// Names any process by the ids that requests name it with; an empty `exec` is the container's init.
    pub fn process(&self, id: &str, exec: &str) -> Process<'_> {
        Process::new(self, id, exec)
    }

    /// Names the init of the container this shim was started for.
    pub fn init(&self) -> Process<'_> {
        self.process(&self.bundle.id, "")
    }

    /// Creates the container of another bundle in this shim, as one of a pod's.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn create_also(&self, bundle: &HandBundle) -> Answer<Process<'_>> {
        self.create_by(&bundle.request())?;
        Ok(self.process(bundle.id(), ""))
    }

    /// Returns the request that creates the bundle's container without standard streams.
    pub fn request(&self) -> CreateTaskRequest {
        self.bundle.request()
    }

    /// Creates the container and returns its pid.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn create(&self) -> Answer<u32> {
        self.create_by(&self.request())
    }

    /// Sends any create request.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn create_by(&self, request: &CreateTaskRequest) -> Answer<u32> {
        self.call("Create", request).map(|response: CreateTaskResponse| response.pid)
    }

    /// Starts the container.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn start(&self) -> Answer<u32> {
        self.init().start()
    }

    /// Sends the container's first process a signal.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn kill(&self, signal: i32) -> Answer<()> {
        self.init().kill(signal)
    }

    /// Waits for the end and returns the exit status.
    ///
    /// # Errors
    /// When the shim denies it, or nothing ends in time.
    pub fn wait(&self) -> Answer<u32> {
        self.init().wait()
    }

    /// Returns the container's state.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn state(&self) -> Answer<Status> {
        self.init().status()
    }

    /// Deletes the container.
    ///
    /// # Errors
    /// When the shim denies it.
    pub fn delete(&self) -> Answer<DeleteResponse> {
        self.init().delete()
    }

    /// Runs the container from create to delete and returns the exit status.
    ///
    /// # Errors
    /// When any step is denied.
    pub fn run(&self) -> Answer<u32> {
        self.create()?;
        self.start()?;
        let status = self.wait()?;
        self.delete()?;
        Ok(status)
    }

    /// Asks the shim to end and waits until its process is gone.
    ///
    /// # Errors
    /// When it lives on.
    pub fn shutdown(&self) -> Result<()> {
        // The connection may end before the answer.
        let _ended = self.ask_to_end();
        let deadline = Instant::now() + PATIENCE;
        while !self.bundle.servers().is_empty() {
            if Instant::now() > deadline {
                bail!("the shim did not end within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn ask_to_end(&self) -> Answer<Empty> {
        let request = ShutdownRequest { id: self.bundle.id.clone(), ..ShutdownRequest::default() };
        self.call("Shutdown", &request)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever of this is denied was not needed; the daemon's end clears the rest.
        let ended = self.kill(SIGKILL).and_then(|()| self.wait());
        if ended.is_err_and(|denied| denied.code == ttrpc::Code::UNAVAILABLE) {
            // Who does not answer will not answer what follows either, and must not hold up other tests.
            for server in self.bundle.servers() {
                let _gone = kill(Pid::from_raw(server.pid), Signal::SIGKILL);
            }
            return;
        }
        let _deleted = self.delete();
        let _shut = self.ask_to_end();
    }
}
