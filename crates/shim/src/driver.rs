//! One task owns each container: it alone starts it, notices its end and
//! deletes it, so that containerd hears of these in that order, each once.
//!
//! Signals and questions do not pass through it: a start that hangs (a hook)
//! must not keep a container from being killed.

use std::path::PathBuf;
use std::sync::Arc;

use containerd_shim::protos::events::task::{TaskDelete, TaskExit, TaskStart};
use runtime::handle::Exit;
use runtime::{ContainerHandle, Error, UniversalContainer};
use tokio::sync::{mpsc, oneshot, watch};

use crate::convert::{exit_code, pid, timestamp};
use crate::events::{Publisher, TaskEvent};
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
    orders: mpsc::Sender<Order>,
    ended: watch::Receiver<Option<Exit>>,
}

#[derive(Debug)]
enum Order {
    Start(oneshot::Sender<Result<(), Error>>),
    Delete(oneshot::Sender<Result<(), Error>>),
}

impl Task {
    /// Takes charge of a created container.
    pub(crate) fn own(
        runtime: Arc<dyn UniversalContainer>,
        publisher: Publisher,
        registry: Registry,
        handle: ContainerHandle,
        bundle: PathBuf,
        paths: Paths,
        held: Held,
    ) -> Arc<Self> {
        let (orders, received) = mpsc::channel(8);
        let (announce, ended) = watch::channel(None);
        let task = Arc::new(Self { handle, bundle, paths, held, orders, ended });
        let driver = Driver { runtime, publisher, registry, task: Arc::clone(&task), announce };
        tokio::spawn(driver.run(received));
        task
    }

    /// Starts the container.
    pub(crate) async fn start(&self) -> Result<(), Error> {
        self.order(Order::Start).await
    }

    /// Deletes the container and all it held; its id is free then, even if whoever
    /// asked for it has given up waiting.
    pub(crate) async fn delete(&self) -> Result<(), Error> {
        self.order(Order::Delete).await
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

    async fn order(
        &self,
        order: fn(oneshot::Sender<Result<(), Error>>) -> Order,
    ) -> Result<(), Error> {
        let gone = || Error::NotFound(format!("container {} was deleted", self.handle.id()));
        let (reply, done) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| gone())?;
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
        loop {
            let ended = self.announce.borrow().is_some();
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Start(reply)) => answer(reply, self.start().await),
                    Some(Order::Delete(reply)) => {
                        let deleted = self.delete().await;
                        let done = deleted.is_ok();
                        answer(reply, deleted);
                        if done {
                            return;
                        }
                    }
                    None => return,
                },
                exit = self.runtime.wait(&self.task.handle), if !ended => match exit {
                    Ok(exit) => self.announce_end(exit),
                    Err(error) => {
                        log::error!("cannot wait for container {}: {error}", self.task.handle.id());
                        return;
                    }
                },
            }
        }
    }

    async fn start(&self) -> Result<(), Error> {
        self.runtime.start(&self.task.handle).await?;
        self.publisher.publish(TaskEvent::Start(TaskStart {
            container_id: self.task.handle.id().to_owned(),
            pid: pid(self.task.handle.pid()),
            ..TaskStart::default()
        }));
        Ok(())
    }

    fn announce_end(&self, exit: Exit) {
        self.task.held.close_stdin();
        let id = self.task.handle.id().to_owned();
        self.publisher.publish(TaskEvent::Exit(TaskExit {
            container_id: id.clone(),
            id,
            pid: pid(self.task.handle.pid()),
            exit_status: exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..TaskExit::default()
        }));
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
            self.announce_end(exit);
        }
        self.publisher.publish(TaskEvent::Delete(TaskDelete {
            container_id: self.task.handle.id().to_owned(),
            pid: pid(self.task.handle.pid()),
            exit_status: exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..TaskDelete::default()
        }));
        self.task.held.close_outputs();
        // Before anyone hears of it: containerd asks for the shutdown next.
        self.registry.remove(self.task.handle.id());
        Ok(())
    }
}

/// Answers an order; whoever gave up waiting for it does not hear it.
fn answer(reply: oneshot::Sender<Result<(), Error>>, result: Result<(), Error>) {
    drop(reply.send(result));
}
