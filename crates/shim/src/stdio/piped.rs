//! An output that the process writes into a pipe, and the shim copies to a file.
//!
//! The process never has the file itself: it could cut it, change its mode and read what
//! others have written there. One task of the server's own runtime copies, with one small
//! buffer: a disk that is slow makes the process wait.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use runtime::watched;
use sys::waiting::set_nonblocking;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::passing::{Announcer, Passed, announced};
use super::sink::{Sink, Writer};

/// A quarter of what a pipe holds.
const CHUNK: usize = 16 << 10;

/// A pipe whose copy runs until this is dropped, or nobody has its writing end any more.
#[derive(Debug)]
pub(super) struct Piped {
    passed_on: Passed,
    copy: AbortHandle,
}

impl Piped {
    /// Starts the copy, and returns the writing end for the process; `name` is for
    /// messages, `ended` tells of the process's end.
    ///
    /// # Errors
    /// What the kernel says to one pipe more.
    pub(super) fn start(
        name: String,
        sink: Sink,
        ended: watch::Receiver<bool>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // Of the reader alone: the process's writes wait.
        set_nonblocking(&reader)?;
        let pipe = watched(reader)?;
        let sink = Writer::open(name.clone(), sink)?;
        let (announcer, passed_on) = announced();
        let copy = async move {
            if let Err(error) = copy(pipe, sink, ended, &announcer).await {
                log::error!("{name} is not passed on any more: {error}");
            }
            announcer.all();
        };
        Ok((Self { passed_on, copy: tokio::spawn(copy).abort_handle() }, writer))
    }

    /// Tells how far the output was passed on.
    pub(super) fn passed_on(&self) -> Passed {
        self.passed_on.clone()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        self.copy.abort();
    }
}

async fn copy(
    pipe: AsyncFd<OwnedFd>,
    mut sink: Writer,
    mut ended: watch::Receiver<bool>,
    announcer: &Announcer,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        // Looked at before the read: what was written before the end can be read after it.
        let is_over = *ended.borrow_and_update();
        match nix::unistd::read(pipe.get_ref(), &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                sink.write(&chunk[..count]).await;
                announcer.chunk();
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if is_over {
                    // One that it has left behind may write on until the process is deleted.
                    announcer.all();
                }
                tokio::select! {
                    // Cleared before the pipe is read empty again, so nothing is missed.
                    ready = pipe.readable() => ready?.clear_ready(),
                    // The sender is gone together with whoever wanted the output.
                    changed = ended.changed() => if changed.is_err() {
                        return Ok(());
                    },
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        // Neither reads nor some of the writes count as waiting.
        tokio::task::consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn start(sink: Sink) -> (Piped, File, watch::Sender<bool>) {
        let ended = watch::Sender::new(false);
        let started = Piped::start("a test's output".into(), sink, ended.subscribe());
        let (piped, writer) = started.expect("started");
        (piped, writer.into(), ended)
    }

    async fn passed_on(piped: &Piped) {
        let mut passed_on = piped.passed_on();
        timeout(LONG, passed_on.all()).await.expect("in time");
        assert!(passed_on.is_all(), "given up");
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("no panic")
    }

    fn numbers(count: u32) -> Vec<u8> {
        (0..count).flat_map(u32::to_le_bytes).collect()
    }

    #[tokio::test]
    async fn a_file_has_all_of_it_once_it_was_passed_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let file = File::create(&path).expect("a file");
        let (piped, mut writer, ended) = start(Sink::File(file));
        blocking(move || writer.write_all(&numbers(4 << 20))).await.expect("written");
        ended.send_replace(true);
        passed_on(&piped).await;
        assert!(std::fs::read(&path).expect("the file") == numbers(4 << 20));
    }

    #[tokio::test]
    async fn a_sink_that_is_slow_makes_the_process_wait() {
        let (reader, sink) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (piped, mut writer, ended) = start(Sink::Pipe(sink, None));
        let process = std::thread::spawn(move || writer.write_all(&numbers(1 << 20)));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!process.is_finished() && !piped.passed_on().is_all());
        let mut got = Vec::new();
        let got = blocking(move || File::from(reader).read_to_end(&mut got).map(|_| got)).await;
        assert!(got.expect("read") == numbers(1 << 20));
        process.join().expect("joined").expect("written");
        ended.send_replace(true);
        passed_on(&piped).await;
    }

    #[tokio::test]
    async fn a_full_disk_does_not_stop_the_process() {
        let full = File::options().write(true).open("/dev/full").expect("a full disk");
        let (piped, mut writer, ended) = start(Sink::File(full));
        blocking(move || writer.write_all(&numbers(1 << 20))).await.expect("read on");
        ended.send_replace(true);
        passed_on(&piped).await;
    }

    #[tokio::test]
    async fn what_the_process_leaves_behind_is_not_waited_for_and_heard_until_the_delete() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let file = File::create(&path).expect("a file");
        let (piped, mut writer, ended) = start(Sink::File(file));
        let mut left_behind = writer.try_clone().expect("another");
        writer.write_all(b"one ").expect("room");
        drop(writer);
        ended.send_replace(true);
        passed_on(&piped).await;
        assert_eq!(std::fs::read(&path).expect("the file"), b"one ");
        left_behind.write_all(b"two").expect("heard");
        let whole = async {
            while std::fs::read(&path).expect("the file") != b"one two" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, whole).await.expect("in time");
        drop(piped);
        let gone = async {
            while left_behind.write_all(b"x").is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, gone).await.expect("in time");
    }
}
