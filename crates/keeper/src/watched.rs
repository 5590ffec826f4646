//! Descriptors that are waited on by tokio.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

/// Watches a descriptor that its own owner closes, after tokio has let go of it. Must
/// be called within a tokio runtime; the descriptor must answer at once.
///
/// # Errors
/// What epoll_ctl(2) says, as to a file that can't be waited on.
#[expect(deprecated, reason = "its unsafe successor asks for what an owning type gives anyway")]
pub fn watched<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}
