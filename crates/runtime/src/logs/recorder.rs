//! Writes what a container writes to a log file, with the times.
//!
//! The container is never stopped by its log: where the disk is full, output is lost and
//! that is said, and the file stays one of whole lines.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use super::Output;
use super::line::{self, Ending};
use crate::error::Error;

/// As much of a line as becomes one entry, which is what containerd's CRI takes too; also
/// what is read at once.
const LONGEST: usize = 16 << 10;

/// Root may write a log, and its group read it, as CRI has it.
const MODE: u32 = 0o640;

/// The keeping of one container's output; it goes on until both its outputs end, also
/// when this is dropped.
#[derive(Debug, Clone)]
pub struct Recorder {
    finished: watch::Receiver<bool>,
}

impl Recorder {
    /// Begins to keep what comes from the reading ends of two pipes, the standard output
    /// and error of a container, in a file that is appended to. To be called where tokio
    /// runs.
    ///
    /// # Errors
    /// [`Error::Runtime`] names the file, and says why it can't be written.
    pub fn start(outputs: [OwnedFd; 2], path: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            Error::Runtime(format!("cannot keep output in {}: {error}", path.display()))
        };
        let [stdout, stderr] = outputs.map(Receiver::from_owned_fd);
        let sources = [
            Source::new(stdout.map_err(failed)?, Output::Stdout),
            Source::new(stderr.map_err(failed)?, Output::Stderr),
        ];
        let log = Log::open(path).map_err(failed)?;
        let (announce, finished) = watch::channel(false);
        tokio::spawn(async move {
            record(sources, log).await;
            announce.send_replace(true);
        });
        Ok(Self { finished })
    }

    /// Waits until both outputs have ended and all of them is in the file.
    pub async fn finished(&self) {
        // Also over when the one who records is gone, and the server with it.
        drop(self.finished.clone().wait_for(|finished| *finished).await);
    }
}

/// One output, and the beginning of a line that has not ended yet.
#[derive(Debug)]
struct Source {
    pipe: Option<Receiver>,
    name: Output,
    begun: Vec<u8>,
}

impl Source {
    fn new(pipe: Receiver, name: Output) -> Self {
        Self { pipe: Some(pipe), name, begun: Vec::new() }
    }

    /// Reads once; never returns once the output has ended.
    async fn read(&mut self, chunk: &mut [u8]) -> usize {
        match &mut self.pipe {
            None => std::future::pending().await,
            Some(pipe) => match pipe.read(chunk).await {
                Ok(count) => count,
                Err(error) => {
                    log::error!("an output can't be read any more: {error}");
                    0
                }
            },
        }
    }

    /// Turns what was read into lines of the log.
    fn take(&mut self, bytes: &[u8], lines: &mut Vec<u8>) {
        let at = line::timestamp(SystemTime::now());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ending) = match piece.split_last() {
                Some((b'\n', text)) => (text, Ending::Newline),
                _ => (piece, Ending::None),
            };
            let mut text = text;
            while self.begun.len() + text.len() > LONGEST {
                let (now, later) = text.split_at(LONGEST - self.begun.len());
                self.begun.extend_from_slice(now);
                line::write(lines, &at, self.name, Ending::None, &self.begun);
                self.begun.clear();
                text = later;
            }
            if ending == Ending::None {
                self.begun.extend_from_slice(text);
            } else if self.begun.is_empty() {
                line::write(lines, &at, self.name, ending, text);
            } else {
                self.begun.extend_from_slice(text);
                line::write(lines, &at, self.name, ending, &self.begun);
                self.begun.clear();
            }
        }
    }

    /// Ends the output, and the line that was begun.
    fn end(&mut self, lines: &mut Vec<u8>) {
        self.pipe = None;
        if !self.begun.is_empty() {
            let at = line::timestamp(SystemTime::now());
            line::write(lines, &at, self.name, Ending::None, &self.begun);
            self.begun = Vec::new();
        }
    }
}

async fn record(sources: [Source; 2], mut log: Log) {
    let [mut stdout, mut stderr] = sources;
    let (mut out_chunk, mut err_chunk) = (vec![0; LONGEST], vec![0; LONGEST]);
    while stdout.pipe.is_some() || stderr.pipe.is_some() {
        let mut lines = Vec::new();
        let (source, bytes) = tokio::select! {
            count = stdout.read(&mut out_chunk) => (&mut stdout, &out_chunk[..count]),
            count = stderr.read(&mut err_chunk) => (&mut stderr, &err_chunk[..count]),
        };
        match bytes {
            [] => source.end(&mut lines),
            bytes => source.take(bytes, &mut lines),
        }
        if lines.is_empty() {
            continue;
        }
        let written = tokio::task::spawn_blocking(move || {
            log.append(&lines);
            log
        });
        match written.await {
            Ok(same) => log = same,
            Err(error) => return log::error!("output is not kept any more: {error}"),
        }
    }
}

/// The file that is appended to.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    /// Whether it has been said that output is lost.
    is_losing: bool,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, is_losing: false })
    }

    /// Appends whole lines, all of them or none.
    fn append(&mut self, lines: &[u8]) {
        match self.try_append(lines) {
            Ok(()) => self.is_losing = false,
            Err(error) if self.is_losing => log::debug!("output is lost: {error}"),
            Err(error) => {
                log::error!("output is lost: cannot append to {}: {error}", self.path.display());
                self.is_losing = true;
            }
        }
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.is_in_place()? {
            // Rotated: what comes now belongs to the next file.
            self.file = open(&self.path)?;
        }
        let length = self.file.metadata()?.len();
        self.file.write_all(lines).inspect_err(|_| {
            // A part of a line would make all that follows unreadable.
            if let Err(error) = self.file.set_len(length) {
                log::error!("{} may end with half a line: {error}", self.path.display());
            }
        })
    }

    fn is_in_place(&self) -> io::Result<bool> {
        match std::fs::metadata(&self.path) {
            Ok(named) => {
                let own = self.file.metadata()?;
                Ok((named.dev(), named.ino()) == (own.dev(), own.ino()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // A FIFO without a reader is an error, instead of waiting for one.
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    let file = File::options()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt, StreamExt};
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;
    use crate::logs::{Follow, LogEntry, LogOptions, read};

    struct Setup {
        folder: tempfile::TempDir,
        stdout: File,
        stderr: File,
        recorder: Recorder,
    }

    impl Setup {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let [out, err] = [(); 2].map(|()| pipe2(OFlag::O_CLOEXEC).expect("a pipe"));
            let path = folder.path().join("log");
            let recorder = Recorder::start([out.0, err.0], &path).expect("started");
            Self { folder, stdout: out.1.into(), stderr: err.1.into(), recorder }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("log")
        }
    }

    async fn all(path: &Path) -> Vec<LogEntry> {
        let stream = read(path, LogOptions::default(), std::future::pending()).await;
        let entries: Vec<_> = stream.expect("readable").collect().await;
        entries.into_iter().map(|entry| entry.expect("readable")).collect()
    }

    fn bytes(entries: &[LogEntry], source: Output) -> Vec<u8> {
        let of_source = entries.iter().filter(|entry| entry.source == source);
        of_source.flat_map(|entry| entry.bytes.clone()).collect()
    }

    async fn appears(path: &Path, count: usize) {
        let lines = || std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
        for _ in 0..200 {
            if lines() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} lines and not {count}", lines());
    }

    #[tokio::test]
    async fn output_is_kept_with_its_source_and_time_and_the_last_words() {
        let mut setup = Setup::new();
        let begun = SystemTime::now();
        setup.stdout.write_all(b"one\ntwo\n\n").expect("written");
        appears(&setup.path(), 3).await;
        setup.stderr.write_all(b"three\n").expect("written");
        appears(&setup.path(), 4).await;
        setup.stdout.write_all(b"no newline").expect("written");
        let (path, recorder) = (setup.path(), setup.recorder.clone());
        assert!(recorder.finished().now_or_never().is_none());
        let Setup { stdout, stderr, folder, .. } = setup;
        drop((stdout, stderr));
        recorder.finished().await;
        let entries = all(&path).await;
        let texts = [&b"one\n"[..], b"two\n", b"\n", b"three\n", b"no newline"];
        assert_eq!(entries.iter().map(|entry| &entry.bytes[..]).collect::<Vec<_>>(), texts);
        assert_eq!(entries[3].source, Output::Stderr);
        assert!(entries.iter().all(|entry| entry.at >= begun && entry.at <= SystemTime::now()));
        let mode = std::fs::metadata(&path).expect("the log").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        drop(folder);
    }

    #[tokio::test]
    async fn all_of_a_great_deal_is_kept_in_order_and_in_pieces_that_are_bounded() {
        let setup = Setup::new();
        let path = setup.path();
        let Setup { mut stdout, mut stderr, recorder, folder } = setup;
        let long = vec![b'x'; 1 << 20];
        let mut lines = Vec::new();
        for number in 0..200_000 {
            lines.extend_from_slice(format!("line {number}\n").as_bytes());
        }
        let (written_long, written_lines) = (long.clone(), lines.clone());
        let writers = [
            std::thread::spawn(move || stdout.write_all(&written_lines)),
            std::thread::spawn(move || stderr.write_all(&written_long)),
        ];
        recorder.finished().await;
        for writer in writers {
            writer.join().expect("joined").expect("written");
        }
        let entries = all(&path).await;
        assert!(bytes(&entries, Output::Stdout) == lines);
        assert!(bytes(&entries, Output::Stderr) == long);
        assert!(entries.iter().all(|entry| entry.bytes.len() <= LONGEST));
        let is_line = |entry: &&LogEntry| entry.source == Output::Stdout;
        assert_eq!(entries.iter().filter(is_line).count(), 200_000);
        drop(folder);
    }

    #[tokio::test]
    async fn a_line_as_long_as_a_piece_is_one() {
        let Setup { mut stdout, stderr, recorder, folder } = Setup::new();
        let writer = std::thread::spawn(move || {
            for length in [LONGEST - 1, LONGEST, LONGEST + 1] {
                stdout.write_all(&vec![b'x'; length]).expect("written");
                stdout.write_all(b"\n").expect("written");
            }
        });
        drop(stderr);
        recorder.finished().await;
        writer.join().expect("joined");
        let lengths: Vec<usize> =
            all(&folder.path().join("log")).await.iter().map(|entry| entry.bytes.len()).collect();
        assert_eq!(lengths, [LONGEST, LONGEST + 1, LONGEST, 2]);
    }

    #[tokio::test]
    async fn a_log_is_followed_to_the_last_word_and_through_a_rotation() {
        let mut setup = Setup::new();
        let path = setup.path();
        let recorder = setup.recorder.clone();
        let options = LogOptions { follow: Follow::Yes, ..LogOptions::default() };
        let ended = async move { recorder.finished().await };
        let mut stream = read(&path, options, ended).await.expect("readable");
        for text in ["one\n", "two\n", "three\n"] {
            setup.stdout.write_all(text.as_bytes()).expect("written");
            let entry = stream.next().await.expect("more").expect("readable");
            assert_eq!(entry.bytes, text.as_bytes());
            std::fs::rename(&path, setup.folder.path().join(text.trim())).expect("renamed");
        }
        setup.stdout.write_all(b"last words").expect("written");
        let Setup { stdout, stderr, folder, .. } = setup;
        drop((stdout, stderr));
        assert_eq!(stream.next().await.expect("more").expect("readable").bytes, b"last words");
        assert!(stream.next().await.is_none());
        drop(folder);
    }

    #[tokio::test]
    async fn a_full_disk_loses_output_and_stops_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let mount = folder.path();
        let small = Some("size=64k");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), mount, Some("tmpfs"), flags, small)
            .expect("root may mount");
        let path = mount.join("log");
        let [out, err] = [(); 2].map(|()| pipe2(OFlag::O_CLOEXEC).expect("a pipe"));
        let recorder = Recorder::start([out.0, err.0], &path).expect("started");
        let mut stdout = File::from(out.1);
        let filler = mount.join("filler");
        stdout.write_all(b"before\n").expect("written");
        appears(&path, 1).await;
        drop(std::fs::write(&filler, vec![0; 1 << 20]).expect_err("full"));
        let flood = move || stdout.write_all(&[b'x'; 1 << 20]).map(|()| stdout);
        let flooded = tokio::task::spawn_blocking(flood).await.expect("joined");
        let mut stdout = flooded.expect("not stopped");
        // What is left in the pipe is lost too.
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::fs::remove_file(filler).expect("room again");
        stdout.write_all(b"\nafter\n").expect("written");
        drop(stdout);
        drop(err.1);
        recorder.finished().await;
        let entries = all(&path).await;
        assert_eq!(entries[0].bytes, b"before\n");
        assert_eq!(entries.last().expect("more").bytes, b"after\n");
        nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    }

    #[tokio::test]
    async fn what_can_not_be_written_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path().to_owned(), folder.path().join("missing/log")] {
            let [out, err] = [(); 2].map(|()| pipe2(OFlag::O_CLOEXEC).expect("a pipe"));
            let error = Recorder::start([out.0, err.0], &path).map(drop).expect_err("refused");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }
}
