//! How a create request becomes a container, or leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::protos::events::task::{TaskCreate, TaskIO};
use containerd_shim::protos::ttrpc::{self, Code};
use lifecycle::ContainerId;
use oci_spec::runtime::Spec;
use runtime::spec::Metadata;
use runtime::{ContainerHandle, ContainerSpec, Error};
use settings::{Node, Settings};

use super::TaskService;
use crate::containerd::ContainerImage;
use crate::convert::{self, status, to_ttrpc};
use crate::driver::{Made, Task};
use crate::rootfs::Mounted;
use crate::stdio::{Held, Owner, Paths};
use crate::{heard, options, rootfs};

/// What a container is made from, on this side of the runtime.
struct Ground {
    oci: Arc<Spec>,
    settings: Settings,
    mounted: Mounted,
}

impl TaskService {
    /// Creates a container, and deletes it again if nobody waits for it any more.
    pub(super) async fn create_container(
        &self,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<Arc<Task>> {
        let id = request.id.clone();
        let (maker, undoer) = (self.clone(), self.clone());
        let work = async move {
            let made = maker.make(request).await;
            made.inspect_err(|error| {
                log::error!("container {id} is not created: {}", convert::sentence(error));
            })
        };
        let undo = move |made| async move { undoer.undo(made).await };
        heard::or_undone(work, undo).await.unwrap_or_else(|| {
            Err(status(Code::INTERNAL, "the shim failed in a way that is a mistake in it"))
        })
    }

    /// Ends what a create has made that nobody has heard of.
    async fn undo(&self, made: ttrpc::Result<Arc<Task>>) {
        if let Ok(task) = made {
            let id = task.handle.id();
            log::warn!("nobody waits any more for container {id} to be created: deleting it");
            match task.delete().await {
                // Gone already is as good.
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => log::error!("container {id} is not deleted: {error}"),
            }
        }
        // containerd has asked already, while the id was still taken.
        self.leave_if_asked();
    }

    async fn make(&self, request: CreateTaskRequest) -> ttrpc::Result<Arc<Task>> {
        let id = ContainerId::try_from(request.id.as_str())
            .map_err(|error| status(Code::INVALID_ARGUMENT, error))?;
        if !request.checkpoint.is_empty() {
            return Err(status(Code::UNIMPLEMENTED, "restoring a checkpoint is not supported"));
        }
        let reservation = self.registry.reserve(&id).ok_or_else(|| {
            status(Code::ALREADY_EXISTS, format!("container {} exists already", id.as_str()))
        })?;
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            let message =
                format!("bundle {:?} is refused: expected an absolute path", request.bundle);
            return Err(status(Code::INVALID_ARGUMENT, message));
        }
        let image = ContainerImage::look_up(&self.containerd, id.as_str());
        let created = created(&request);
        let paths = Paths::from(&request);
        let ground = tokio::task::spawn_blocking({
            let bundle = bundle.clone();
            let node = Arc::clone(&self.node);
            move || Ground::prepare(&request, &bundle, &node)
        });
        let Ground { oci, settings, mounted } = ground.await.map_err(|panicked| {
            status(Code::INTERNAL, format!("preparing failed: {panicked}"))
        })??;
        let owner = Owner { id: id.as_str().to_owned(), namespace: self.namespace.clone() };
        let opened = paths.open(&owner).await;
        let (stdio, held) = opened.map_err(|error| to_ttrpc(&error.into()))?;
        let spec = ContainerSpec {
            id: id.into(),
            bundle: bundle.clone(),
            runtime: options::runtime_type(&settings),
            policy: settings.policy,
            caching: settings.caching,
            oci,
            image: Arc::new(image),
            metadata: Metadata { namespace: self.namespace.clone() },
            stdio,
            log: None,
        };
        let handle = match self.launch(spec, &held).await {
            Ok(handle) => handle,
            Err(error) => {
                held.finish().await;
                return Err(to_ttrpc(&error));
            }
        };
        mounted.keep();
        let pid = handle.pid();
        // A few bytes into memory: not worth a thread. The container is fine without.
        if let Err(error) = runtime::record::write_pid(&bundle, pid) {
            log::warn!("a later removal will not know process {pid}: {error}");
        }
        // Announced before anyone can find the task, and so before its start.
        let created = TaskCreate { pid: convert::pid(pid), ..created };
        self.publisher.publish(created);
        let task = Task::own(
            Arc::clone(&self.runtime),
            self.publisher.clone(),
            self.registry.clone(),
            Made { handle, bundle, paths, held },
        );
        self.registry.fill(reservation, Arc::clone(&task));
        Ok(task)
    }

    /// Has the container created, and connects its terminal, if it got one.
    async fn launch(&self, spec: ContainerSpec, held: &Held) -> Result<ContainerHandle, Error> {
        let handle = self.runtime.create(spec).await?;
        if let Some(console) = handle.init().take_console()
            && let Err(error) = held.attach(console)
        {
            self.runtime.delete(&handle).await?;
            return Err(Error::Runtime(format!("cannot use the terminal: {error}")));
        }
        Ok(handle)
    }
}

impl Ground {
    /// Does all the file work there is, in one go.
    fn prepare(
        request: &CreateTaskRequest,
        bundle: &Path,
        node: &Result<Node, String>,
    ) -> ttrpc::Result<Self> {
        let node = node.clone().map_err(|why| status(Code::FAILED_PRECONDITION, why))?;
        let oci =
            convert::read_config(bundle, request.terminal).map_err(|error| to_ttrpc(&error))?;
        let options = options::read(request.options.as_ref()).map_err(invalid)?;
        let settings = Settings::of(node, &options);
        let mounted = rootfs::mount(&request.rootfs, &bundle.join("rootfs")).map_err(failed)?;
        Ok(Self { oci, settings, mounted })
    }
}

/// The event that tells of the container; its process is not known yet.
fn created(request: &CreateTaskRequest) -> TaskCreate {
    TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: Some(TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        })
        .into(),
        checkpoint: request.checkpoint.clone(),
        ..Default::default()
    }
}

fn invalid(error: anyhow::Error) -> ttrpc::Error {
    status(Code::INVALID_ARGUMENT, format!("{error:#}"))
}

fn failed(error: anyhow::Error) -> ttrpc::Error {
    status(Code::UNKNOWN, format!("{error:#}"))
}
