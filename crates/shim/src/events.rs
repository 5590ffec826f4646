//! Events on their way to containerd: in order, each once, bounded while
//! containerd is away.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_shim::event::Event;
use containerd_shim::protos::protobuf::MessageDyn;
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::shim::events::ForwardRequest;
use containerd_shim::protos::shim_async::{Client, EventsClient};
use containerd_shim::protos::ttrpc;
use containerd_shim::util::convert_to_any;
use tokio::sync::{Notify, mpsc};

use crate::convert::timestamp;

/// Events kept while containerd does not answer; later ones are dropped, loudly.
const QUEUE: usize = 4096;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// One forward may take this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// At the shutdown the queue may take this long to empty.
const FAREWELL: Duration = Duration::from_secs(3);

/// Sends events; clones share one queue.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Item>,
    namespace: String,
}

#[derive(Debug)]
enum Item {
    Event(Box<Envelope>),
    Flush(Arc<Notify>),
}

impl Publisher {
    /// Begins to forward events to containerd's ttrpc socket at `address`.
    pub(crate) fn start(address: String, namespace: String) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        tokio::spawn(forward_all(address, items));
        Self { queue, namespace }
    }

    /// Queues an event; never waits.
    pub(crate) fn publish(&self, event: impl Event) {
        let topic = event.topic();
        let message: Box<dyn MessageDyn> = Box::new(event);
        let event = match convert_to_any(message) {
            Ok(any) => any,
            Err(error) => return log::error!("cannot encode an event for {topic}: {error}"),
        };
        let envelope = Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: self.namespace.clone(),
            topic,
            event: Some(event).into(),
            ..Envelope::default()
        };
        if let Err(full) = self.queue.try_send(Item::Event(Box::new(envelope))) {
            log::error!("an event is lost, containerd has been away too long: {full}");
        }
    }

    /// Waits, for a bounded time, until what is queued has been forwarded.
    pub(crate) async fn drain(&self) {
        let flushed = Arc::new(Notify::new());
        if self.queue.try_send(Item::Flush(Arc::clone(&flushed))).is_ok()
            && tokio::time::timeout(FAREWELL, flushed.notified()).await.is_err()
        {
            log::warn!("events were still queued for containerd at the shutdown");
        }
    }
}

async fn forward_all(address: String, mut items: mpsc::Receiver<Item>) {
    let mut client = None;
    while let Some(item) = items.recv().await {
        match item {
            Item::Event(envelope) => forward(&address, &mut client, *envelope).await,
            Item::Flush(flushed) => flushed.notify_one(),
        }
    }
}

/// Forwards one event, however often it takes: a later one must not overtake it.
async fn forward(address: &str, client: &mut Option<EventsClient>, envelope: Envelope) {
    let request = ForwardRequest { envelope: Some(envelope).into(), ..ForwardRequest::default() };
    let mut pause = RETRY_FIRST;
    loop {
        match attempt(address, client, &request).await {
            Ok(()) => return,
            Err(ttrpc::Error::RpcStatus(status)) => {
                return log::error!(
                    "containerd refused the event {:?}: {}",
                    request.envelope.topic,
                    status.message
                );
            }
            Err(error) => log::debug!("containerd does not take events, trying again: {error}"),
        }
        *client = None;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

async fn attempt(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        None => {
            client.insert(EventsClient::new(Client::connect(&format!("unix://{address}")).await?))
        }
    };
    let timeout = ttrpc::context::with_duration(PATIENCE);
    client.forward(timeout, request).await.map(drop)
}
