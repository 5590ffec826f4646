//! The annotations that say how an HTTP component is served.

/// Where it listens, as `0.0.0.0:8080` or `[::]:8080`.
pub const HTTP_ADDRESS: &str = "com.wasm.http.address";
/// How long one request may take, as `60s`.
pub const HTTP_DEADLINE: &str = "com.wasm.http.deadline";
/// Requests that are answered at a time.
pub const HTTP_CONCURRENCY: &str = "com.wasm.http.concurrency";
/// Requests that wait for their turn.
pub const HTTP_QUEUE: &str = "com.wasm.http.queue";
/// Requests that one instance answers, one after the other.
pub const HTTP_REUSE: &str = "com.wasm.http.reuse";
/// How long the requests under way may still take after SIGTERM, as `30s`.
pub const HTTP_GRACE: &str = "com.wasm.http.grace";
