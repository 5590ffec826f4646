//! One connection, between the socket and ttrpc.
//!
//! It passes bytes on as they are. It ends when what comes are no frames. It reads no further requests while its peer
//! does not read the answers: those would pile up in memory, with whatever was asked since.

use std::fmt::{self, Display, Formatter};
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

use super::frame::Frames;

/// Most requests are shorter, and so come with one system call.
const BUFFER: usize = 4096;
/// A longer body takes its turn, in bytes: ttrpc makes room for all of it when it begins.
const LARGE: u32 = 64 << 10;
/// A large body has to be there after this time. containerd sends it in one go; whoever trickles it keeps others out.
const LARGE_IN: Duration = Duration::from_secs(30);

/// A connection, as ttrpc reads and writes it.
#[derive(Debug)]
pub(super) struct Visitor {
    stream: BufReader<UnixStream>,
    frames: Frames,
    /// The socket takes no more answers: the peer has not read those before.
    stuck: bool,
    /// Who wants to read once it is not stuck any more.
    reader: Option<Waker>,
    turn: Turn,
    /// Set with the first whole frame.
    known: Arc<AtomicBool>,
    asked_to_leave: oneshot::Receiver<()>,
    _room: OwnedSemaphorePermit,
}

/// What the door keeps of a connection. Dropping it ends the connection, unless that has become known.
#[derive(Debug)]
pub(super) struct Guest {
    known: Arc<AtomicBool>,
    leave: oneshot::Sender<()>,
}

impl Guest {
    /// Tells whether the connection stands and no frame of it has been seen.
    pub(super) fn is_stranger(&self) -> bool {
        !self.known.load(Ordering::Relaxed) && !self.leave.is_closed()
    }
}

impl Visitor {
    pub(super) fn new(
        stream: UnixStream,
        room: OwnedSemaphorePermit,
        large: Arc<Semaphore>,
    ) -> (Self, Guest) {
        let (leave, asked_to_leave) = oneshot::channel();
        let known = Arc::<AtomicBool>::default();
        let visitor = Self {
            stream: BufReader::with_capacity(BUFFER, stream),
            frames: Frames::default(),
            stuck: false,
            reader: None,
            turn: Turn::None(large),
            known: Arc::clone(&known),
            asked_to_leave,
            _room: room,
        };
        (visitor, Guest { known, leave })
    }

    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        if !self.known.load(Ordering::Relaxed)
            && Pin::new(&mut self.asked_to_leave).poll(cx).is_ready()
        {
            let reason = "it has asked for nothing, and others wait for its place";
            return Poll::Ready(Err(refusal(reason)));
        }
        self.turn.check(cx)?;
        if self.stuck {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = ready!(Pin::new(&mut self.stream).poll_fill_buf(cx))?;
        let length = bytes.len().min(buffer.remaining());
        // Not taken yet: as long as a large body has to wait, so has its header.
        let mut frames = self.frames;
        frames.take(&bytes[..length]).map_err(refusal)?;
        if frames.missing() > LARGE {
            ready!(self.turn.come(cx))?;
        } else if frames.missing() == 0 {
            self.turn.pass();
        }
        if frames.any_complete() {
            self.known.store(true, Ordering::Relaxed);
        }
        self.frames = frames;
        buffer.put_slice(&bytes[..length]);
        Pin::new(&mut self.stream).consume(length);
        Poll::Ready(Ok(()))
    }

    /// Notes whether the socket took an answer.
    fn wrote<T>(&mut self, written: &Poll<T>) {
        self.stuck = written.is_pending();
        if !self.stuck
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        self.get_mut().read(cx, buffer)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Tells the log why a connection ends, and ttrpc that it does.
fn refusal(reason: impl Display) -> Error {
    log::warn!("a connection is closed: {reason}");
    Error::new(ErrorKind::ConnectionAborted, reason.to_string())
}

/// The right to send a large body, of which there are few at once.
enum Turn {
    None(Arc<Semaphore>),
    Awaited(Pin<Box<dyn Future<Output = Acquired> + Send + Sync>>),
    Come(OwnedSemaphorePermit, Pin<Box<Sleep>>),
}

type Acquired = std::result::Result<OwnedSemaphorePermit, AcquireError>;

impl Turn {
    /// Waits for it.
    fn come(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            match self {
                Self::None(large) => {
                    *self = Self::Awaited(Box::pin(Arc::clone(large).acquire_owned()));
                }
                Self::Awaited(permit) => {
                    let permit = ready!(permit.as_mut().poll(cx)).map_err(Error::other)?;
                    *self = Self::Come(permit, Box::pin(tokio::time::sleep(LARGE_IN)));
                }
                Self::Come(..) => return Poll::Ready(self.check(cx)),
            }
        }
    }

    /// Ends a turn that takes too long.
    fn check(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if let Self::Come(_, deadline) = self
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Err(refusal(format!(
                "a request of more than {LARGE} bytes took over {LARGE_IN:?}"
            )));
        }
        Ok(())
    }

    fn pass(&mut self) {
        if let Self::Come(permit, _) = self {
            *self = Self::None(Arc::clone(permit.semaphore()));
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::None(_) => "None",
            Self::Awaited(_) => "Awaited",
            Self::Come(..) => "Come",
        })
    }
}
