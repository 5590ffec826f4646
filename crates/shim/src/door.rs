//! Who may come in, and how much may be brought.
//!
//! Only root can reach the socket; what the door keeps out are mistakes, since one bad client must not cost a pod its
//! shim. What it bounds is memory: connections, what they send, and what is not answered yet. It closes none
//! for being busy, since containerd takes that for the end of the shim, and for being slow only one whose large
//! request takes half a minute.

mod burden;
mod frame;
mod visitor;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::protos::ttrpc::asynchronous::transport::Listener;
use futures::stream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) use burden::Burden;
use visitor::{Guest, Visitor};

/// Connections at once. containerd needs one, and one more after its restart.
const ROOMS: usize = 64;
/// A connection keeps its place this long before its first request.
const GRACE: Duration = Duration::from_millis(500);
/// Large requests that are read at once.
const LARGE: usize = 4;
/// After a failure to accept: what is lacking (descriptors, memory) is not there again at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens the door: what comes in by this socket, for ttrpc to serve.
pub(crate) fn open(listener: std::os::unix::net::UnixListener) -> io::Result<Listener> {
    listener.set_nonblocking(true)?;
    let door = Door {
        listener: UnixListener::from_std(listener)?,
        rooms: Arc::new(Semaphore::new(ROOMS)),
        large: Arc::new(Semaphore::new(LARGE)),
        guests: VecDeque::new(),
    };
    let visitors = stream::unfold(door, async |mut door| Some((Ok(door.next().await), door)));
    Ok(Listener::new(visitors))
}

#[derive(Debug)]
struct Door {
    listener: UnixListener,
    rooms: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Whoever has been let in and not asked for anything, in order.
    guests: VecDeque<(Instant, Guest)>,
}

impl Door {
    async fn next(&mut self) -> Visitor {
        let stream = self.accept().await;
        let room = self.room().await;
        let (visitor, guest) = Visitor::new(stream, room, Arc::clone(&self.large));
        self.guests.push_back((Instant::now(), guest));
        visitor
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => log::warn!("cannot let a connection in: {error}"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for a free place; the one longest without a request has to leave its own.
    async fn room(&mut self) -> OwnedSemaphorePermit {
        loop {
            self.guests.retain(|(_, guest)| guest.is_stranger());
            let Some((since, guest)) = self.guests.pop_front() else { return self.free().await };
            if let Ok(room) = timeout_at(since + GRACE, self.free()).await {
                self.guests.push_front((since, guest));
                return room;
            }
            if guest.is_stranger() {
                drop(guest);
                return self.free().await;
            }
        }
    }

    async fn free(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.rooms).acquire_owned().await.expect("nobody closes the semaphore")
    }
}
