//! What the server asks for: each request is begun here, and answered at once or
//! by the report that ends it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::unistd::Pid;
use sys::seqpacket::Message;
use wasm::module::Prepared;
use wasm::sandbox::{Launched, START};

use crate::child::{Child, Then};
use crate::linux_side;
use crate::message::{Call, CreateWasm, Failure, Reply, Request};
use crate::process::Keeper;
use crate::wasm_side::{self, WasmSide};
use crate::worker::{self, Holder, Keeps, Outcome};

impl Keeper {
    pub(crate) fn serve_call(&mut self, message: Message) -> io::Result<()> {
        let Call { seq, request } = match serde_json::from_slice(&message.body) {
            Ok(call) => call,
            Err(error) => {
                log::error!("a request of the server is unreadable: {error}");
                return Ok(());
            }
        };
        let begun = match request {
            Request::CreateLinux(create) => self.create_linux(seq, create, message.fds),
            Request::StartLinux(container) => {
                let job = move || linux_side::start(&container);
                self.start_worker(seq, Then::Answer, Keeps::All, job)
            }
            Request::DeleteLinux(container) => {
                let job = move || linux_side::delete(&container);
                self.start_worker(seq, Then::Answer, Keeps::All, job)
            }
            Request::CreateWasm(create) => self.create_wasm(seq, create, message.fds),
            Request::StartWasm { pid } => self.start_wasm(seq, Pid::from_raw(pid)),
        };
        match begun {
            Ok(()) => Ok(()),
            Err(failure) => self.reply(seq, Err(failure), None),
        }
    }

    fn create_linux(
        &mut self,
        seq: u64,
        create: linux::CreateRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let stdio = stdio_of(fds)?;
        let kept = stdio.each_ref().map(AsRawFd::as_raw_fd);
        let job = move || linux_side::create(&create, stdio);
        self.start_worker(seq, Then::TellCreated, Keeps::Only(&kept), job)
    }

    fn create_wasm(
        &mut self,
        seq: u64,
        create: Box<CreateWasm>,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let module = if fds.len() > 3 { fds.pop() } else { None };
        let stdio = stdio_of(fds)?;
        let side = match &mut self.wasm {
            Some(side) => side,
            none => none.insert(WasmSide::new(&self.single, &self.place)?),
        };
        match (side.prepare(&create.module), module) {
            (Ok(prepared), _) => self.launch(seq, create, &prepared, stdio),
            (Err(Failure::NotCompiled), Some(bytes)) => {
                let job = || side.compile(bytes, &create.module);
                let (pid, link) =
                    worker::spawn(&self.single, Keeps::All, job).map_err(cannot_fork)?;
                let then = Then::Launch { create, stdio };
                self.children.insert(pid, Child::Worker { seq, link: Some(link), then });
                Ok(())
            }
            (Err(failure), _) => Err(failure),
        }
    }

    /// Clones the container's init, once there is a cgroup that it can have.
    pub(crate) fn launch(
        &mut self,
        seq: u64,
        create: Box<CreateWasm>,
        prepared: &Prepared,
        stdio: [OwnedFd; 3],
    ) -> Result<(), Failure> {
        let scoped = sys::cgroup::needs_scope(&create.sandbox.cgroup)
            .map_err(|error| Failure::Failed(sys::error::chain(&error)))?;
        if !scoped {
            return self.clone_init(seq, &create, prepared, stdio, None);
        }
        let job = || wasm_side::start_scope(&create);
        let (pid, link) = worker::spawn_holder(&self.single, job).map_err(cannot_fork)?;
        let then = Then::Enter { create, stdio };
        self.children.insert(pid, Child::Worker { seq, link: Some(link), then });
        Ok(())
    }

    pub(crate) fn clone_init(
        &mut self,
        seq: u64,
        create: &CreateWasm,
        prepared: &Prepared,
        stdio: [OwnedFd; 3],
        holder: Option<Holder>,
    ) -> Result<(), Failure> {
        let side = self.wasm.as_ref().expect("a module was prepared by it");
        let Launched { pid, pidfd, link } =
            side.launch(&self.single, &self.title, create, prepared, stdio)?;
        let cgroup = create.sandbox.cgroup.clone();
        self.children.insert(pid, Child::Preparing { seq, link, pidfd, cgroup, holder });
        Ok(())
    }

    fn start_wasm(&mut self, seq: u64, pid: Pid) -> Result<(), Failure> {
        let not_created = || {
            Failure::Failed(format!("process {pid} is not the init of a created wasm container"))
        };
        let child = self.children.get_mut(&pid).ok_or_else(not_created)?;
        let Child::Waiting { link } = child else {
            return Err(not_created());
        };
        link.send(START, &[])
            .map_err(|error| Failure::Failed(format!("cannot start process {pid}: {error}")))?;
        *child = Child::Running;
        self.reply(seq, Ok(Reply::Done), None)
            .map_err(|error| Failure::Failed(format!("cannot answer the server: {error}")))
    }

    pub(crate) fn start_worker(
        &mut self,
        seq: u64,
        then: Then,
        keeps: Keeps<'_>,
        job: impl FnOnce() -> Outcome,
    ) -> Result<(), Failure> {
        let (pid, link) = worker::spawn(&self.single, keeps, job).map_err(cannot_fork)?;
        self.children.insert(pid, Child::Worker { seq, link: Some(link), then });
        Ok(())
    }
}

fn stdio_of(fds: Vec<OwnedFd>) -> Result<[OwnedFd; 3], Failure> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| {
        Failure::Failed(format!(
            "a create needs three stdio descriptors and came with {}",
            fds.len()
        ))
    })
}

fn cannot_fork(error: io::Error) -> Failure {
    Failure::Failed(format!("cannot fork a worker process: {error}"))
}
