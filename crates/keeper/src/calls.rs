//! What the server asks for: each request is begun here, and answered at once or
//! by the report that ends it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;
use oci_spec::runtime::Process;
use sys::seqpacket::Message;
use sys::stdio::Stdio;
use wasm::module::Prepared;
use wasm::sandbox::START;

use crate::child::{Child, Preparing, Then};
use crate::linux_side;
use crate::message::{Call, Failure, Reply, Request};
use crate::process::Keeper;
use crate::wasm_side::{self, Cloned, Order, WasmSide, What};
use crate::worker::{self, Done, Holder, Keeps};

impl Keeper {
    pub(crate) fn serve_call(&mut self, message: Message) -> io::Result<()> {
        let Call { seq, request } = match serde_json::from_slice(&message.body) {
            Ok(call) => call,
            Err(error) => {
                log::error!("a request of the server is unreadable: {error}");
                return Ok(());
            }
        };
        let mut fds = VecDeque::from(message.fds);
        let begun = match request {
            Request::CreateLinux(create) => {
                let process = create.spec.process().as_ref();
                let stdio = stdio_of(&mut fds, process.is_some_and(has_terminal));
                stdio.and_then(|stdio| {
                    let kept = descriptors_of(&stdio);
                    let job = move || linux_side::create(&create, stdio);
                    self.start_worker(seq, Then::TellCreated, Keeps::Only(&kept), job)
                })
            }
            Request::ExecLinux(exec) => {
                stdio_of(&mut fds, has_terminal(&exec.process)).and_then(|stdio| {
                    let kept = descriptors_of(&stdio);
                    let job = move || linux_side::exec(&exec, stdio);
                    self.start_worker(seq, Then::TellCreated, Keeps::Only(&kept), job)
                })
            }
            Request::StartLinux(container) => {
                let job = move || linux_side::start(&container).into();
                self.start_worker(seq, Then::Answer, Keeps::All, job)
            }
            Request::DeleteLinux(container) => {
                let job = move || linux_side::delete(&container).into();
                self.start_worker(seq, Then::Answer, Keeps::All, job)
            }
            Request::CreateWasm(create) => self.make_wasm(seq, What::Init(create), fds),
            Request::ExecWasm(exec) => self.make_wasm(seq, What::Another(exec), fds),
            Request::StartWasm { pid } => self.start_wasm(seq, Pid::from_raw(pid)),
        };
        match begun {
            Ok(()) => Ok(()),
            Err(failure) => self.reply(seq, Err(failure), &[]),
        }
    }

    /// Makes a wasm process, once its module is mapped.
    fn make_wasm(
        &mut self,
        seq: u64,
        what: What,
        mut fds: VecDeque<OwnedFd>,
    ) -> Result<(), Failure> {
        let gauge = fds.pop_front().ok_or_else(|| miscounted("a gauge"))?;
        let stdio = stdio_of(&mut fds, what.sandbox().terminal)?;
        let module = fds.pop_front();
        let mut order = Order::new(what, stdio, gauge)?;
        let side = match &mut self.wasm {
            Some(side) => side,
            none => none.insert(WasmSide::new(&self.single, &self.place)?),
        };
        match (side.prepare(&order), module) {
            (Ok(prepared), _) => self.launch(seq, order, &prepared),
            (Err(Failure::NotCompiled), Some(bytes)) => {
                order.compiling();
                let job = || side.compile(bytes, &order);
                let (pid, link) =
                    worker::spawn(&self.single, Keeps::All, job).map_err(cannot_fork)?;
                let then = Then::Launch(order);
                self.children.insert(pid, Child::Worker { seq, link: Some(link), then });
                Ok(())
            }
            (Err(failure), _) => Err(failure),
        }
    }

    /// Clones the process, an init once there is a cgroup that it can have.
    pub(crate) fn launch(
        &mut self,
        seq: u64,
        order: Order,
        prepared: &Prepared,
    ) -> Result<(), Failure> {
        let scoped = match &order.what {
            What::Init(create) => sys::cgroup::needs_scope(&create.sandbox.cgroup)
                .map_err(|error| Failure::Failed(sys::error::chain(&error)))?,
            What::Another(_) => false,
        };
        if !scoped {
            return self.clone_wasm(seq, order, prepared, None);
        }
        let job = || wasm_side::start_scope(order.what.sandbox());
        let (pid, link) = worker::spawn_holder(&self.single, job).map_err(cannot_fork)?;
        let then = Then::Enter(order);
        self.children.insert(pid, Child::Worker { seq, link: Some(link), then });
        Ok(())
    }

    pub(crate) fn clone_wasm(
        &mut self,
        seq: u64,
        order: Order,
        prepared: &Prepared,
        holder: Option<Holder>,
    ) -> Result<(), Failure> {
        let side = self.wasm.as_ref().expect("a module was prepared by it");
        let cgroup = order.own_cgroup().cloned();
        let Cloned { launched, console } =
            side.clone(&self.single, &self.title, order, prepared)?;
        let (link, pidfd) = (launched.link, launched.pidfd);
        let preparing = Preparing { seq, link, pidfd, console, cgroup, holder };
        self.children.insert(launched.pid, Child::Preparing(preparing));
        Ok(())
    }

    fn start_wasm(&mut self, seq: u64, pid: Pid) -> Result<(), Failure> {
        let not_waiting = || {
            Failure::Failed(format!("process {pid} is no wasm process that waits to be started"))
        };
        let child = self.children.get_mut(&pid).ok_or_else(not_waiting)?;
        let Child::Waiting { link } = child else {
            return Err(not_waiting());
        };
        link.send(START, &[])
            .map_err(|error| Failure::Failed(format!("cannot start process {pid}: {error}")))?;
        *child = Child::Running;
        self.reply(seq, Ok(Reply::Done), &[])
            .map_err(|error| Failure::Failed(format!("cannot answer the server: {error}")))
    }

    pub(crate) fn start_worker(
        &mut self,
        seq: u64,
        then: Then,
        keeps: Keeps<'_>,
        job: impl FnOnce() -> Done,
    ) -> Result<(), Failure> {
        let (pid, link) = worker::spawn(&self.single, keeps, job).map_err(cannot_fork)?;
        self.children.insert(pid, Child::Worker { seq, link: Some(link), then });
        Ok(())
    }
}

fn has_terminal(process: &Process) -> bool {
    process.terminal().unwrap_or_default()
}

/// Takes the standard streams that came with a request.
fn stdio_of(fds: &mut VecDeque<OwnedFd>, terminal: bool) -> Result<Stdio, Failure> {
    if terminal {
        return Ok(Stdio::Terminal);
    }
    let mut next = || fds.pop_front().ok_or_else(|| miscounted("its standard streams"));
    Ok(Stdio::Streams([next()?, next()?, next()?]))
}

fn descriptors_of(stdio: &Stdio) -> Vec<RawFd> {
    match stdio {
        Stdio::Streams(streams) => streams.iter().map(AsRawFd::as_raw_fd).collect(),
        Stdio::Terminal => Vec::new(),
    }
}

fn miscounted(missing: &str) -> Failure {
    Failure::Failed(format!("a request came without {missing}: the server and its keeper differ"))
}

fn cannot_fork(error: io::Error) -> Failure {
    Failure::Failed(format!("cannot fork a worker process: {error}"))
}
