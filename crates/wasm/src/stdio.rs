//! The guest's standard streams: descriptors 0, 1 and 2 of this process, unbuffered and without
//! helper threads.
//!
//! Reading waits through the runtime's epoll, so that a guest can wait for input and for a clock at
//! once. Writing blocks: a guest whose reader is slow stands still, and nothing is kept in memory
//! for it. Bytes go straight to the descriptor, so nothing is left to flush when the process ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::unistd;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Bytes moved by one call at most, whatever the guest asks for.
const MAX_CHUNK: usize = 64 * 1024;

/// Standard input. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Input(Arc<OnceLock<Watch>>);

/// How to learn that there is input.
enum Watch {
    Epoll(AsyncFd<io::Stdin>),
    /// Regular files and /dev/null cannot be watched and never make a reader wait.
    AlwaysReady,
}

/// Whether reading standard input can ever have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Possible,
    Never,
}

impl Input {
    /// Tells whether the runtime must be able to watch descriptors. A regular file, /dev/null and
    /// nothing at all always answer at once.
    pub(crate) fn waiting() -> Waiting {
        let Ok(found) = fstat(io::stdin()) else {
            return Waiting::Never;
        };
        let is_null = (major(found.st_rdev), minor(found.st_rdev)) == (1, 3);
        match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG | SFlag::S_IFDIR => Waiting::Never,
            SFlag::S_IFCHR if is_null => Waiting::Never,
            _ => Waiting::Possible,
        }
    }

    /// Registers with the runtime at the first wait: a guest that never reads costs nothing.
    #[expect(
        deprecated,
        reason = "the successor is unsafe; it asks that the descriptor stays the same while it is \
                  registered, and nothing in a guest's process closes or replaces standard input"
    )]
    fn watch(&self) -> &Watch {
        self.0.get_or_init(|| match AsyncFd::with_interest(io::stdin(), Interest::READABLE) {
            Ok(watched) => Watch::Epoll(watched),
            Err(_) => Watch::AlwaysReady,
        })
    }

    /// Completes when a read would not block, be it for data, for the end or for an error.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if is_ready(io::stdin().as_fd(), PollFlags::POLLIN, PollTimeout::ZERO) {
                return Poll::Ready(Ok(()));
            }
            match self.watch() {
                Watch::AlwaysReady => return Poll::Ready(Ok(())),
                // What epoll last said is out of date, since nothing can be read now: forget it
                // and wait for its next word.
                Watch::Epoll(watched) => ready!(watched.poll_read_ready(context))?.clear_ready(),
            }
        }
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        io::IsTerminal::is_terminal(&io::stdin())
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        // A failure to wait is reported by the read that follows.
        let _failure = std::future::poll_fn(|context| self.poll_ready(context)).await;
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let stdin = io::stdin();
        if size == 0 || !is_ready(stdin.as_fd(), PollFlags::POLLIN, PollTimeout::ZERO) {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; size.min(MAX_CHUNK)];
        match read_some(stdin.as_fd(), &mut buffer) {
            Ok(0) => Err(StreamError::Closed),
            Ok(count) => {
                buffer.truncate(count);
                Ok(buffer.into())
            }
            Err(Errno::EAGAIN) => Ok(Bytes::new()),
            Err(errno) => Err(failed(errno)),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(context))?;
        let count = read_some(io::stdin().as_fd(), buffer.initialize_unfilled())?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// Standard output or standard error.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    Standard,
    Error,
}

impl Output {
    pub(crate) fn standard() -> Self {
        Self::Standard
    }

    pub(crate) fn error() -> Self {
        Self::Error
    }

    /// Writes a text of our own, as far as it goes: there is no third place to complain to.
    pub(crate) fn say(self, text: &str) {
        let _unheard = self.write_all(text.as_bytes());
    }

    /// As [`Self::say`], if it can be said at once: not into a pipe that nobody empties. The text is
    /// shorter than a page, which is what a pipe has room for when it has any.
    pub(crate) fn say_at_once(self, text: &str) {
        let stderr = io::stderr();
        let stdout = io::stdout();
        let descriptor = match self {
            Self::Standard => stdout.as_fd(),
            Self::Error => stderr.as_fd(),
        };
        let mut fds = [PollFd::new(descriptor, PollFlags::POLLOUT)];
        if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
            self.say(text);
        }
    }

    fn write_all(self, bytes: &[u8]) -> nix::Result<()> {
        match self {
            Self::Standard => write_all(io::stdout().as_fd(), bytes),
            Self::Error => write_all(io::stderr().as_fd(), bytes),
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        match self {
            Self::Standard => io::IsTerminal::is_terminal(&io::stdout()),
            Self::Error => io::IsTerminal::is_terminal(&io::stderr()),
        }
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(*self)
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(*self)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_all(&bytes).map_err(failed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_CHUNK)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let chunk = &bytes[..bytes.len().min(MAX_CHUNK)];
        Poll::Ready(match self.write_all(chunk) {
            Ok(()) => Ok(chunk.len()),
            Err(errno) => Err(errno.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Tells whether the descriptor can be used without blocking. What poll cannot answer counts as
/// ready: the call that follows says what is wrong.
fn is_ready(descriptor: BorrowedFd<'_>, wanted: PollFlags, timeout: PollTimeout) -> bool {
    let mut polled = [PollFd::new(descriptor, wanted)];
    loop {
        match poll(&mut polled, timeout) {
            Ok(count) => return count > 0,
            Err(Errno::EINTR) => {}
            Err(_) => return true,
        }
    }
}

fn read_some(descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    loop {
        match unistd::read(descriptor, buffer) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn write_all(descriptor: BorrowedFd<'_>, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match unistd::write(descriptor, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            // Whoever shares the open file made it non-blocking; the guest waits all the same.
            Err(Errno::EAGAIN) => {
                is_ready(descriptor, PollFlags::POLLOUT, PollTimeout::NONE);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Tells the guest of a failed call; a reader that is gone is a closed stream to it.
fn failed(errno: Errno) -> StreamError {
    match errno {
        Errno::EPIPE => StreamError::Closed,
        errno => StreamError::LastOperationFailed(io::Error::from(errno).into()),
    }
}
