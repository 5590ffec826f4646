//! How much may be asked of the service and not be answered yet.
//!
//! containerd sends all requests of a pod on one connection, among them a wait for each process, and those stand for as
//! long as the process runs. So waits have a bound of their own: however many stand, a kill finds its place. A request
//! beyond its bound is answered with an error at once.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim::protos::ttrpc::asynchronous::{MethodHandler, Service, TtrpcContext};
use containerd_shim::protos::ttrpc::{self, Code, Error, Request, Response};
use tokio::sync::Semaphore;

use crate::convert::status;

/// What a request takes beside its own text while it is under way, in KiB: rounded from measurements.
const LEAST: usize = 2;
/// Of all waits together, in KiB: 8,192 of them. One that its client has given up stays until the process ends.
const WAITS: usize = 16 << 10;
/// Of all other requests together, in KiB.
const OTHERS: usize = 32 << 10;
const WAIT: &str = "Wait";

/// What is under way, in all services and over all connections.
#[derive(Debug)]
pub(crate) struct Burden {
    waits: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Burden {
    fn default() -> Self {
        Self { waits: Arc::new(Semaphore::new(WAITS)), others: Arc::new(Semaphore::new(OTHERS)) }
    }
}

impl Burden {
    /// Returns the service with these bounds.
    pub(crate) fn bound(&self, service: Service) -> Service {
        let methods = service.methods.into_iter().map(|(name, method)| {
            let room = Arc::clone(if name == WAIT { &self.waits } else { &self.others });
            let bounded: Box<dyn MethodHandler + Send + Sync> = Box::new(Bounded { method, room });
            (name, bounded)
        });
        Service { methods: methods.collect(), streams: service.streams }
    }
}

struct Bounded {
    method: Box<dyn MethodHandler + Send + Sync>,
    room: Arc<Semaphore>,
}

#[async_trait]
impl MethodHandler for Bounded {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let weight = u32::try_from(LEAST + request.payload.len() / 1024).unwrap_or(u32::MAX);
        let Ok(_held) = self.room.try_acquire_many(weight) else {
            return Ok(too_many(&request.method).into());
        };
        self.method.handler(context, request).await
    }
}

fn too_many(method: &str) -> Error {
    let message =
        format!("{method} is refused: too many requests of this shim are not answered yet");
    status(Code::RESOURCE_EXHAUSTED, message)
}
