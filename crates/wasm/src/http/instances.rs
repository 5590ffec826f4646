//! What answers: instances of the component, made for a request or used again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use hyper::Response;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::error::Context as _;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::body::Failure;
use super::budget::{Budget, Share};
use crate::command::{Guest, Host, Preopen, wasi_for};
use crate::engine::{Engine, Fuel};
use crate::gauge::Recorder;
use crate::limits::{self, Limits, Meter};
use crate::provided::Provided;

/// Who waits for what the guest answers.
pub(super) type Answer = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// The source of instances.
pub(super) struct Instances {
    program: ProxyPre<Host>,
    engine: Engine,
    guest: Guest,
    preopens: Vec<Preopen>,
    gauge: Recorder,
    provided: Provided,
    budget: Arc<Budget>,
    /// Requests that one of them answers.
    reuse: u32,
    idle: Mutex<Vec<Instance>>,
}

/// One instance with a memory of its own. It answers one request at a time.
pub(super) struct Instance {
    store: Store<Host>,
    proxy: Proxy,
    answered: u32,
}

/// What a request is given.
enum Found {
    Idle(Instance),
    Room(Share),
}

impl Instances {
    pub(super) fn new(
        program: ProxyPre<Host>,
        engine: Engine,
        guest: Guest,
        preopens: Vec<Preopen>,
        gauge: Recorder,
    ) -> Self {
        let reuse = guest.http.as_ref().map_or(1, |http| http.reuse);
        let (budget, idle) = (Budget::new(gauge.clone()), Mutex::default());
        let provided = Provided::of(&guest);
        Self { program, engine, guest, preopens, gauge, provided, budget, reuse, idle }
    }

    /// The bounds of each of them.
    pub(super) fn limits(&self) -> &Limits {
        &self.guest.limits
    }

    /// Returns an instance that answers nothing else, once there is memory for it.
    ///
    /// # Errors
    /// When the component cannot be instantiated.
    pub(super) async fn take(&self) -> wasmtime::Result<Instance> {
        let found = self.budget.wait_for(|| match self.idle().pop() {
            Some(instance) => Some(Found::Idle(instance)),
            None => self.budget.share().map(Found::Room),
        });
        match found.await {
            Found::Idle(instance) => Ok(instance),
            Found::Room(share) => self.make(share).await,
        }
    }

    /// Takes back an instance that has answered, for as often as it may.
    pub(super) fn put_back(&self, instance: Instance) {
        if instance.answered < self.reuse {
            self.idle().push(instance);
            self.budget.freed();
        }
    }

    async fn make(&self, share: Share) -> wasmtime::Result<Instance> {
        let meter = Meter::new(&self.guest.limits, self.gauge.clone());
        // Nothing to read: the container's standard input is no request's.
        let wasi = wasi_for(&self.guest, &self.preopens)?.build_p1();
        let host = Host::new(wasi, meter, self.provided.clone(), Some(share));
        let mut store = Store::new(self.engine.wasmtime(), host);
        store.limiter(|host| host);
        limits::bound_the_host(&mut store);
        store.epoch_deadline_async_yield_and_update(1);
        self.begin(&mut store)?;
        let proxy = self.program.instantiate_async(&mut store).await;
        let proxy = proxy.context("cannot make an instance")?;
        store.data_mut().meter.instantiated();
        Ok(Instance { store, proxy, answered: 0 })
    }

    /// Gives the store what it has for each request.
    fn begin(&self, store: &mut Store<Host>) -> wasmtime::Result<()> {
        store.set_epoch_deadline(1);
        if self.engine.fuel() == Fuel::Metered {
            store.set_fuel(self.guest.limits.fuel.unwrap_or(u64::MAX))?;
        }
        Ok(())
    }

    /// Has the instance answer, and returns it when the guest has returned.
    ///
    /// Dropping the future ends the guest where it is. Unless the guest returns, `failure` is told
    /// before its part of the answer's body is let go.
    ///
    /// # Errors
    /// What the guest has failed with.
    pub(super) async fn answer(
        &self,
        mut instance: Instance,
        request: Request<Incoming>,
        answer: Answer,
        failure: &Failure,
    ) -> wasmtime::Result<Instance> {
        // Dropped before the store, which is an argument, and so outlives it.
        let mut unfinished = Unfinished(Some(failure));
        let store = &mut instance.store;
        self.begin(store)?;
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let answer = store.data_mut().http().new_response_outparam(answer)?;
        let handler = instance.proxy.wasi_http_incoming_handler();
        handler.call_handle(&mut *store, request, answer).await?;
        unfinished.0 = None;
        instance.answered += 1;
        Ok(instance)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of a failure unless it is taken away.
struct Unfinished<'a>(Option<&'a Failure>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(failure) = self.0 {
            failure.happened();
        }
    }
}
