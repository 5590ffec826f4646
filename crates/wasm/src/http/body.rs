//! The body of an answer: the guest's own, streamed as it is written, or a sentence of the server's.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Whether the instance that writes a body has failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Failure(Arc<AtomicBool>);

impl Failure {
    pub(super) fn happened(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn has_happened(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The body of an answer.
pub(super) struct Body {
    inner: HyperOutgoingBody,
    failure: Failure,
    /// Dropped with the body.
    held: Option<Arc<()>>,
}

/// A body ended before it was complete; the connection, or its stream, is reset.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
pub(super) struct CutOff;

impl Body {
    /// The guest's. If what writes it fails, the client must not take what came for the whole.
    pub(super) fn of_guest(inner: HyperOutgoingBody, failure: Failure) -> Self {
        Self { inner, failure, held: None }
    }

    /// A text of the server's own.
    pub(super) fn text(text: String) -> Self {
        let never = |never: Infallible| match never {};
        let inner = Full::new(Bytes::from(text)).map_err(never).boxed_unsync();
        Self { inner, failure: Failure::default(), held: None }
    }

    /// Keeps this for as long as the body is not sent.
    pub(super) fn hold(&mut self, held: Arc<()>) {
        self.held = Some(held);
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner: _, failure, held } = self;
        let mut shown = f.debug_struct("Body");
        shown.field("failure", failure).field("held", held).finish_non_exhaustive()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            // An instance that fails lets go of the body as one that has finished does.
            Poll::Ready(None) if self.failure.has_happened() => Poll::Ready(Some(Err(CutOff))),
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(|_| CutOff))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
