//! One task owns each container: it alone starts, pauses, changes and deletes it,
//! hears of its end, and tells containerd, in that order.
//!
//! Others send it orders and read what it has announced. A signal goes straight to
//! the kernel: nothing that takes long may keep a container from being killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim::protos::events::task::{
    TaskDelete, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use oci_spec::runtime::LinuxResources;
use runtime::memory::MemoryKills;
use runtime::process::{Exit, ExitStatus};
use runtime::{ContainerHandle, Error, UniversalContainer};
use tokio::sync::{mpsc, oneshot, watch};

use crate::convert::{exit_code, pid, timestamp};
use crate::events::Publisher;
use crate::exec::Execs;
use crate::registry::Registry;
use crate::rootfs;
use crate::stdio::{Held, Paths};

/// A container as the service sees it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) handle: ContainerHandle,
    pub(crate) bundle: PathBuf,
    pub(crate) paths: Paths,
    pub(crate) held: Held,
    pub(crate) execs: Execs,
    orders: mpsc::Sender<Order>,
    ended: watch::Receiver<Option<Exit>>,
}

/// What is to be done with a container, and who waits for it.
#[derive(Debug)]
struct Order {
    what: What,
    reply: oneshot::Sender<Result<(), Error>>,
}

#[derive(Debug)]
enum What {
    Start,
    Pause,
    Resume,
    Update(Box<LinuxResources>),
    Delete,
}

/// What a container is made of, on this side of the runtime.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) handle: ContainerHandle,
    pub(crate) bundle: PathBuf,
    pub(crate) paths: Paths,
    pub(crate) held: Held,
}

impl Task {
    /// Takes charge of a created container.
    pub(crate) fn own(
        runtime: Arc<dyn UniversalContainer>,
        publisher: Publisher,
        registry: Registry,
        made: Made,
    ) -> Arc<Self> {
        let Made { handle, bundle, paths, held } = made;
        let (orders, received) = mpsc::channel(8);
        let (announce, ended) = watch::channel(None);
        let execs = Execs::default();
        let task = Arc::new(Self { handle, bundle, paths, held, execs, orders, ended });
        let driver = Driver { runtime, publisher, registry, task: Arc::clone(&task), announce };
        tokio::spawn(driver.run(received));
        task
    }

    /// Starts the container.
    pub(crate) async fn start(&self) -> Result<(), Error> {
        self.order(What::Start).await
    }

    /// Stops the container's processes where they are.
    pub(crate) async fn pause(&self) -> Result<(), Error> {
        self.order(What::Pause).await
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self) -> Result<(), Error> {
        self.order(What::Resume).await
    }

    /// Changes the container's limits.
    pub(crate) async fn update(&self, resources: LinuxResources) -> Result<(), Error> {
        self.order(What::Update(Box::new(resources))).await
    }

    /// Deletes the container and all it held; its id is free then, even if whoever
    /// asked for it has given up waiting.
    pub(crate) async fn delete(&self) -> Result<(), Error> {
        self.order(What::Delete).await
    }

    /// Waits for the init's end, which has been announced to containerd then.
    pub(crate) async fn wait(&self) -> Result<Exit, Error> {
        let mut ended = self.ended.clone();
        let exit = ended
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Error::NotFound(format!("container {} was deleted", self.handle.id())))?;
        exit.ok_or_else(|| Error::Runtime("an end without a status".to_owned()))
    }

    /// The init's end, once announced.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.ended.borrow()
    }

    async fn order(&self, what: What) -> Result<(), Error> {
        let gone = || Error::NotFound(format!("container {} was deleted", self.handle.id()));
        let (reply, done) = oneshot::channel();
        self.orders.send(Order { what, reply }).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

struct Driver {
    runtime: Arc<dyn UniversalContainer>,
    publisher: Publisher,
    registry: Registry,
    task: Arc<Task>,
    announce: watch::Sender<Option<Exit>>,
}

impl Driver {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let mut kills = self.runtime.memory_kills(&self.task.handle);
        let mut told = 0;
        loop {
            let ended = self.announce.borrow().is_some();
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some(Order { what, reply }) = order else { return };
                    let is_delete = matches!(what, What::Delete);
                    let result = self.carry_out(what).await;
                    let is_over = is_delete && result.is_ok();
                    // Whoever gave up waiting for it does not hear it.
                    drop(reply.send(result));
                    if is_over {
                        return;
                    }
                },
                // Before the end that it may have caused.
                Ok(()) = kills.changed(), if !ended => self.announce_kills(&mut kills, &mut told),
                exit = self.runtime.wait(&self.task.handle), if !ended => match exit {
                    Ok(exit) => {
                        self.announce_kills(&mut kills, &mut told);
                        self.announce_end(exit).await;
                    }
                    Err(error) => {
                        log::error!("cannot wait for container {}: {error}", self.id());
                        let (status, at) = (ExitStatus::UNOBSERVED, SystemTime::now());
                        self.announce_end(Exit { status, at }).await;
                    }
                },
            }
        }
    }

    async fn carry_out(&self, what: What) -> Result<(), Error> {
        let handle = &self.task.handle;
        let container_id = self.id().to_owned();
        match what {
            What::Start => {
                self.task.held.keep_stdin();
                self.runtime.start(handle).await?;
                let pid = pid(handle.pid());
                let started = TaskStart { container_id, pid, ..TaskStart::default() };
                self.publisher.publish(started);
            }
            What::Pause => {
                self.runtime.pause(handle).await?;
                self.publisher.publish(TaskPaused { container_id, ..TaskPaused::default() });
            }
            What::Resume => {
                self.runtime.resume(handle).await?;
                self.publisher.publish(TaskResumed { container_id, ..TaskResumed::default() });
            }
            What::Update(resources) => self.runtime.update(handle, *resources).await?,
            What::Delete => self.delete().await?,
        }
        Ok(())
    }

    /// Tells of what the kernel killed for lack of memory since it was last told.
    fn announce_kills(&self, kills: &mut watch::Receiver<MemoryKills>, told: &mut u64) {
        let count = kills.borrow_and_update().count;
        if count > *told {
            *told = count;
            let container_id = self.id().to_owned();
            self.publisher.publish(TaskOOM { container_id, ..TaskOOM::default() });
        }
    }

    async fn announce_end(&self, exit: Exit) {
        if let Err(error) = self.runtime.end_others(&self.task.handle).await {
            log::error!("processes of container {} may outlive it: {error}", self.id());
        }
        self.task.execs.all_ended().await;
        self.task.held.ended();
        let id = self.id().to_owned();
        self.publisher.publish(TaskExit {
            container_id: id.clone(),
            id,
            pid: pid(self.task.handle.pid()),
            exit_status: exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..TaskExit::default()
        });
        self.announce.send_replace(Some(exit));
    }

    async fn delete(&self) -> Result<(), Error> {
        self.runtime.delete(&self.task.handle).await?;
        let rootfs = self.task.bundle.join("rootfs");
        tokio::task::spawn_blocking(move || rootfs::unmount(&rootfs))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| {
                Error::Runtime(format!("cannot unmount the root filesystem: {error}"))
            })?;
        let exit = self.runtime.wait(&self.task.handle).await?;
        if self.announce.borrow().is_none() {
            self.announce_end(exit).await;
        }
        self.task.execs.delete_all().await;
        self.task.held.finish().await;
        self.publisher.publish(TaskDelete {
            container_id: self.id().to_owned(),
            pid: pid(self.task.handle.pid()),
            exit_status: exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..TaskDelete::default()
        });
        // Before anyone hears of it: containerd asks for the shutdown next.
        self.registry.remove(self.id());
        Ok(())
    }

    fn id(&self) -> &str {
        self.task.handle.id()
    }
}
