//! Requests that a guest makes itself. Nothing grants them yet: each is denied, and the guest is
//! told so.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use wasmtime_wasi::WasiView;
use wasmtime_wasi_http::{Error, RequestOptions, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::command::Host;

/// Denies every request.
#[derive(Debug, Default)]
pub(crate) struct Denied;

type WasiBody = UnsyncBoxBody<Bytes, Error>;
type Transmitted = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answered = Result<(http::Response<WasiBody>, Transmitted), Error>;

impl WasiHttpHooks for Denied {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _transmitted: Transmitted,
    ) -> Box<dyn Future<Output = Answered> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let Self { wasi, http, outgoing, .. } = self;
        WasiHttpCtxView { hooks: outgoing, table: wasi.ctx().table, ctx: http }
    }
}
