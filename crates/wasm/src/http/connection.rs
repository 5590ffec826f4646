//! One client's connection: HTTP/1.1 with keep-alive, or HTTP/2 if its first bytes say so.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use settings::Http;
use tokio::net::TcpStream;

use super::service::{Open, Phase, Service};

/// Requests of one HTTP/2 connection at a time.
const STREAMS: u32 = 250;
/// Bytes of requests' bodies that are kept for a guest which does not read them.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a connection has shown of itself.
#[derive(Default)]
struct Shown {
    a_request: AtomicBool,
    http2: AtomicBool,
}

/// Decides what is taken of a client.
pub(super) fn protocol(http: &Http) -> Builder<TokioExecutor> {
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout)
        .max_buf_size(size(http.header_bytes))
        .max_headers(size(http.headers));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(http.header_bytes)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Answers the client until it goes, or is let go.
pub(super) async fn serve(
    stream: TcpStream,
    builder: Arc<Builder<TokioExecutor>>,
    service: Arc<Service>,
    open: Open,
) {
    // An answer in small pieces is not held back. A socket that cannot be told so answers as well.
    let _slower = stream.set_nodelay(true);
    let shown = Arc::new(Shown::default());
    let mut phase = service.phase.clone();
    let header_timeout = service.http.header_timeout;
    let answer = {
        let shown = Arc::clone(&shown);
        service_fn(move |request: http::Request<_>| {
            shown.a_request.store(true, Ordering::Relaxed);
            if request.version() == Version::HTTP_2 {
                shown.http2.store(true, Ordering::Relaxed);
            }
            let (service, open) = (Arc::clone(&service), open.clone());
            async move { Ok::<_, Infallible>(service.answer(request, open).await) }
        })
    };
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    // The library's own timeout begins only once it knows which version the client speaks.
    let mut patience = std::pin::pin!(tokio::time::sleep(header_timeout));
    let mut is_patient = true;
    loop {
        tokio::select! {
            // How it ended is the client's affair: there is nobody else to tell.
            _ended = connection.as_mut() => return,
            () = patience.as_mut(), if is_patient => {
                if !shown.a_request.load(Ordering::Relaxed) {
                    return;
                }
                is_patient = false;
            }
            changed = phase.changed() => {
                let is_over = changed.is_err() || *phase.borrow_and_update() == Phase::Closing;
                // The end of an HTTP/2 connection is agreed on, so that no request is lost to it;
                // with HTTP/1.1 a request may be on its way while we close.
                if is_over || shown.http2.load(Ordering::Relaxed) {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
