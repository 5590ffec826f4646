//! Where the shim copies an output to, when it is the shim that copies.

use std::io;
use std::os::fd::OwnedFd;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;

/// Where an output goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// It is read, and that is all.
    Nowhere,
    /// The writing end of a FIFO or pipe; the others are kept open as long.
    Pipe(OwnedFd, Option<OwnedFd>),
    /// A file.
    File(std::fs::File),
}

/// A [`Sink`] that can be waited for.
pub(super) struct Writer {
    /// Whose output it takes, for messages.
    name: String,
    end: End,
}

enum End {
    Nowhere,
    Pipe(Sender, #[expect(dead_code, reason = "held open")] Option<OwnedFd>),
    File(File),
}

impl Writer {
    /// Takes over a sink; to be called where tokio runs.
    ///
    /// # Errors
    /// What the kernel says to a descriptor that can't be waited on.
    pub(super) fn open(name: String, sink: Sink) -> io::Result<Self> {
        let end = match sink {
            Sink::Nowhere => End::Nowhere,
            Sink::Pipe(writer, others) => End::Pipe(Sender::from_owned_fd(writer)?, others),
            Sink::File(file) => End::File(File::from_std(file)),
        };
        Ok(Self { name, end })
    }

    /// Writes all of it. What can't be written is lost: the guest should not have to wait
    /// for a logging binary that is gone, or a disk that is full.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let written = match &mut self.end {
            End::Nowhere => Ok(()),
            End::Pipe(pipe, _) => pipe.write_all(bytes).await,
            End::File(file) => match file.write_all(bytes).await {
                Ok(()) => file.flush().await,
                failed => failed,
            },
        };
        if let Err(error) = written {
            log::error!("{} is lost from here on: {error}", self.name);
            self.end = End::Nowhere;
        }
    }
}
