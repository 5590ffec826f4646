//! Reads a log file back, and follows it as it grows.
//!
//! Whoever follows is woken by the kernel (inotify). A file that has become shorter is
//! read from its beginning again; one that was replaced is read to its end, and then the
//! new one. A line that can't be read ends the stream with an error.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};

use super::line::{Ending, Line};
use super::{Follow, LogEntry, LogOptions, LogStream, Output};
use crate::error::Error;
use crate::watched;

/// A longer line is none of a container's log: writers break them at 16 KiB.
const LONGEST: usize = 1 << 20;

/// Reads a container's log file; `ended` resolves once nothing more will be added, which
/// is when [`super::Recorder::finished`] does.
///
/// # Errors
/// [`Error::Runtime`] names the file, and says why it can't be read.
pub async fn read(
    path: &Path,
    options: LogOptions,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<LogStream, Error> {
    let reader = Reader::open(path, options, Box::pin(ended)).await;
    let reader = reader.map_err(|error| unreadable(path, &error))?;
    Ok(Box::pin(futures::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|entry| (entry, reader)))
    })))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::Runtime(format!("cannot read the log {}: {error}", path.display()))
}

struct Reader {
    lines: Lines,
    selection: Selection,
    /// Only where it is followed.
    growth: Option<Growth>,
    /// Another file has its name: this one is read to its end once more.
    is_replaced: bool,
    /// No more will come: it is read to its end once more.
    is_ended: bool,
}

impl Reader {
    async fn open(path: &Path, options: LogOptions, ended: Ended) -> io::Result<Self> {
        // Before the first look at the file: nothing is missed between the two.
        let growth = match options.follow {
            Follow::No => None,
            Follow::Yes => Some(Growth::watch(path, ended)?),
        };
        let skipped = match options.tail {
            Some(count) => lines_of(path).await?.saturating_sub(count),
            None => 0,
        };
        Ok(Self {
            lines: Lines::open(path).await?,
            selection: Selection::new(options.since, skipped),
            growth,
            is_replaced: false,
            is_ended: false,
        })
    }

    async fn next(&mut self) -> Result<Option<LogEntry>, Error> {
        let path = self.lines.path.clone();
        let failed = |error: io::Error| unreadable(&path, &error);
        loop {
            if self.lines.advance().await.map_err(failed)? {
                let (number, line) = self.lines.current();
                match self.selection.of(line) {
                    Ok(Some(entry)) => return Ok(Some(entry)),
                    Ok(None) => continue,
                    Err(why) => return Err(corrupt(&path, number, &why)),
                }
            }
            // At the end of what is there.
            let Some(growth) = &mut self.growth else { return Ok(None) };
            if self.is_replaced {
                self.lines.expect_whole()?;
                match Lines::open(&path).await {
                    Ok(lines) => self.lines = lines,
                    // Gone again, before anyone has looked into it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
                self.is_replaced = false;
            } else if self.lines.restart_if_shorter().await.map_err(failed)? {
            } else if self.lines.are_replaced().await.map_err(failed)? {
                self.is_replaced = true;
            } else if self.is_ended {
                self.lines.expect_whole()?;
                return Ok(None);
            } else {
                self.is_ended = growth.wait().await.map_err(failed)? == Growing::Ended;
            }
        }
    }
}

fn corrupt(path: &Path, number: usize, why: &str) -> Error {
    Error::Runtime(format!("line {number} of the log {} can't be read: {why}", path.display()))
}

/// Counts the lines of output that are in a log now.
async fn lines_of(path: &Path) -> io::Result<usize> {
    let mut lines = Lines::open(path).await?;
    let mut begun = Begun::default();
    let mut count = 0;
    // Not what is added meanwhile, of which there may be no end.
    let length = lines.file.get_ref().metadata().await?.len();
    while lines.position < length && lines.advance().await? {
        // One that can't be read counts, and is said to be so if it is wanted.
        let line = Line::parse(lines.current().1);
        count += usize::from(line.map_or(true, |line| begun.is_first_of_its_line(&line)));
    }
    Ok(count)
}

/// Which outputs have a line that goes on.
#[derive(Default)]
struct Begun {
    stdout: bool,
    stderr: bool,
}

impl Begun {
    fn is_first_of_its_line(&mut self, line: &Line<'_>) -> bool {
        let begun = match line.source {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        let goes_on = line.ending == Ending::None;
        !std::mem::replace(begun, goes_on)
    }
}

/// What is wanted of the lines.
struct Selection {
    since: Option<SystemTime>,
    /// So many lines of output are left out yet.
    skipped: usize,
    /// The outputs whose line is being left out.
    left_out: [Option<Output>; 2],
    begun: Begun,
}

impl Selection {
    fn new(since: Option<SystemTime>, skipped: usize) -> Self {
        Self { since, skipped, left_out: [None; 2], begun: Begun::default() }
    }

    fn of(&mut self, line: &[u8]) -> Result<Option<LogEntry>, String> {
        let line = match Line::parse(line) {
            Err(_) if self.skipped > 0 => {
                self.skipped -= 1;
                return Ok(None);
            }
            line => line?,
        };
        if self.leaves_out(&line) {
            return Ok(None);
        }
        let entry = line.entry()?;
        let is_old = self.since.is_some_and(|since| entry.at < since);
        Ok(Some(entry).filter(|_| !is_old))
    }

    fn leaves_out(&mut self, line: &Line<'_>) -> bool {
        let slot = &mut self.left_out[match line.source {
            Output::Stdout => 0,
            Output::Stderr => 1,
        }];
        if self.begun.is_first_of_its_line(line) {
            *slot = Some(line.source).filter(|_| self.skipped > 0);
            self.skipped = self.skipped.saturating_sub(1);
        }
        slot.is_some()
    }
}

/// The lines of a file, as far as they have ended.
struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    /// How many have been read.
    number: usize,
    /// How many bytes that were.
    position: u64,
    current: Vec<u8>,
    is_whole: bool,
}

impl Lines {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        if !file.metadata().await?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(64 << 10, file),
            number: 0,
            position: 0,
            current: Vec::new(),
            is_whole: false,
        })
    }

    /// Goes on to the next line; false when none has ended yet.
    async fn advance(&mut self) -> io::Result<bool> {
        if std::mem::take(&mut self.is_whole) {
            self.current.clear();
        }
        let room = (LONGEST + 1 - self.current.len()) as u64;
        let count = (&mut self.file).take(room).read_until(b'\n', &mut self.current).await?;
        self.position += count as u64;
        if self.current.last() == Some(&b'\n') {
            self.current.pop();
            self.number += 1;
            self.is_whole = true;
        } else if self.current.len() > LONGEST {
            let number = self.number + 1;
            return Err(io::Error::other(format!("line {number} is longer than {LONGEST} bytes")));
        }
        Ok(self.is_whole)
    }

    /// The line, and its number.
    fn current(&self) -> (usize, &[u8]) {
        (self.number, &self.current)
    }

    /// Refuses a line that has not ended, where no more will come.
    fn expect_whole(&self) -> Result<(), Error> {
        match self.is_whole || self.current.is_empty() {
            true => Ok(()),
            false => Err(corrupt(&self.path, self.number + 1, "it is cut off")),
        }
    }

    async fn restart_if_shorter(&mut self) -> io::Result<bool> {
        let is_shorter = self.file.get_ref().metadata().await?.len() < self.position;
        if is_shorter {
            self.file.rewind().await?;
            (self.number, self.position) = (0, 0);
            self.current.clear();
        }
        Ok(is_shorter)
    }

    /// Whether the name is another file's; one that nothing has is as good as ours.
    async fn are_replaced(&self) -> io::Result<bool> {
        let named = match tokio::fs::metadata(&self.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            named => named?,
        };
        let own = self.file.get_ref().metadata().await?;
        Ok((named.dev(), named.ino()) != (own.dev(), own.ino()))
    }
}

type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells that a file may have grown, or that it will not any more.
struct Growth {
    events: AsyncFd<OwnedFd>,
    ended: Ended,
}

#[derive(PartialEq, Eq)]
enum Growing {
    On,
    Ended,
}

impl Growth {
    fn watch(path: &Path, ended: Ended) -> io::Result<Self> {
        // The folder's watch tells of its files, and of one that takes another's name.
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map_err(|errno| match errno {
            Errno::EMFILE => io::Error::other(
                "it can't be followed, since too many files are followed already: raise \
                 fs.inotify.max_user_instances",
            ),
            errno => errno.into(),
        })?;
        let changes =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, changes | AddWatchFlags::IN_ONLYDIR)?;
        Ok(Self { events: watched(inotify.into())?, ended })
    }

    /// Waits for either.
    async fn wait(&mut self) -> io::Result<Growing> {
        loop {
            let mut ready = tokio::select! {
                () = &mut self.ended => return Ok(Growing::Ended),
                ready = self.events.readable() => ready?,
            };
            // What happened is looked up in the file: the events are only counted off.
            let mut events = [0; 4096];
            match ready.try_io(|fd| Ok(nix::unistd::read(fd, &mut events)?)) {
                Ok(read) => return read.map(|_| Growing::On),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::{Duration, UNIX_EPOCH};

    use futures::{FutureExt, StreamExt};
    use tokio::sync::oneshot;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(text: &str) -> Self {
            let folder = Self(tempfile::tempdir().expect("a folder"));
            folder.append(text);
            folder
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("log")
        }

        fn append(&self, text: &str) {
            let file = fs::File::options().append(true).create(true).open(self.path());
            file.expect("opened").write_all(text.as_bytes()).expect("written");
        }
    }

    fn entry(second: u64, source: &str, tag: &str, text: &str) -> String {
        format!("1970-01-01T00:00:{second:02}Z {source} {tag} {text}\n")
    }

    /// What is read of a log that is not followed, with the outputs' initials.
    async fn texts(path: &Path, options: LogOptions) -> Result<String, String> {
        let stream = read(path, options, std::future::pending()).await;
        let entries: Vec<_> = stream.map_err(|error| error.to_string())?.collect().await;
        let mut texts = String::new();
        for entry in entries {
            let entry = entry.map_err(|error| format!("{texts}: {error}"))?;
            let initial = if entry.source == Output::Stdout { 'o' } else { 'e' };
            texts.push(initial);
            texts.push_str(&String::from_utf8_lossy(&entry.bytes));
        }
        Ok(texts)
    }

    #[tokio::test]
    async fn a_tail_and_a_time_select_lines() {
        let folder = Folder::with(
            &[
                entry(1, "stdout", "F", "a"),
                entry(2, "stdout", "P", "b"),
                entry(3, "stderr", "F", "c"),
                entry(4, "stdout", "P", "b"),
                entry(4, "stdout", "F", "b"),
                entry(5, "stderr", "F", ""),
                entry(6, "stdout", "P", "d"),
            ]
            .concat(),
        );
        let all = "oa\nobec\nobob\ne\nod";
        for (tail, since, expected) in [
            (None, None, all),
            (Some(9), None, all),
            (Some(5), None, all),
            (Some(4), None, "obec\nobob\ne\nod"),
            // The line of bs began before this.
            (Some(3), None, "ec\ne\nod"),
            (Some(1), None, "od"),
            (Some(0), None, ""),
            (None, Some(4), "obob\ne\nod"),
            (None, Some(7), ""),
            (Some(2), Some(6), "od"),
            (Some(1), Some(4), "od"),
        ] {
            let since = since.map(|second| UNIX_EPOCH + Duration::from_secs(second));
            let options = LogOptions { tail, since, follow: Follow::No };
            let texts = texts(&folder.path(), options).await;
            assert_eq!(texts.as_deref(), Ok(expected), "tail {tail:?}, since {since:?}");
        }
    }

    #[tokio::test]
    async fn a_corrupt_line_is_refused_by_its_number() {
        let good = entry(1, "stdout", "F", "a");
        let long = "x".repeat(LONGEST + 1);
        for (bad, why) in [
            ("{\"log\":\"docker's\"}\n", "line 3 of the log"),
            ("\n", "line 3 of the log"),
            ("\u{0}\u{0}\n", "line 3 of the log"),
            (long.as_str(), "line 3 is longer than 1048576 bytes"),
        ] {
            let folder = Folder::with(&format!("{good}{good}{bad}{good}"));
            let error = texts(&folder.path(), LogOptions::default()).await.expect_err("refused");
            let path = folder.path().display().to_string();
            assert!(error.starts_with("oa\noa\n: "), "{error}");
            assert!(error.contains(why) && error.contains(&path), "{error}");
        }
        // Before what is wanted it is not looked at.
        let folder = Folder::with(&format!("{good}nonsense\n{good}{good}"));
        let options = LogOptions { tail: Some(2), ..LogOptions::default() };
        assert_eq!(texts(&folder.path(), options).await.as_deref(), Ok("oa\noa\n"));
    }

    #[tokio::test]
    async fn a_log_that_is_missing_or_no_file_is_named() {
        let folder = Folder::with("");
        let missing = folder.0.path().join("missing");
        for (path, why) in [(missing.as_path(), "No such file"), (folder.0.path(), "it is no file")]
        {
            for follow in [Follow::No, Follow::Yes] {
                let options = LogOptions { follow, tail: Some(1), ..LogOptions::default() };
                let error = texts(path, options).await.expect_err("refused");
                assert!(
                    error.contains(why) && error.contains(&path.display().to_string()),
                    "{error}"
                );
            }
        }
        assert_eq!(texts(&folder.path(), LogOptions::default()).await.as_deref(), Ok(""));
    }

    /// A log that is followed.
    struct Followed {
        stream: LogStream,
        end: oneshot::Sender<()>,
    }

    impl Followed {
        async fn of(path: &Path, tail: Option<usize>) -> Self {
            let (end, ended) = oneshot::channel();
            let options = LogOptions { follow: Follow::Yes, tail, since: None };
            let stream = read(path, options, ended.map(drop)).await.expect("read");
            Self { stream, end }
        }

        async fn next(&mut self) -> Option<Result<String, String>> {
            let next = tokio::time::timeout(Duration::from_secs(10), self.stream.next());
            let entry = next.await.expect("in time")?;
            let text = |entry: LogEntry| String::from_utf8(entry.bytes).expect("text");
            Some(entry.map(text).map_err(|error| error.to_string()))
        }

        async fn expect(&mut self, text: &str) {
            assert_eq!(self.next().await, Some(Ok(text.to_owned())));
        }

        /// Whether nothing comes for a while, and no time is spent on that.
        async fn is_quiet(&mut self) -> bool {
            let before = cpu_time();
            let quiet = tokio::time::timeout(Duration::from_millis(200), self.stream.next()).await;
            quiet.is_err() && cpu_time() - before < Duration::from_millis(50)
        }
    }

    #[tokio::test]
    async fn a_log_is_followed_until_the_container_has_ended_and_all_was_read() {
        let folder = Folder::with(&(entry(1, "stdout", "F", "a") + &entry(1, "stdout", "F", "b")));
        let mut all = Followed::of(&folder.path(), None).await;
        let mut last = Followed::of(&folder.path(), Some(1)).await;
        let mut new = Followed::of(&folder.path(), Some(0)).await;
        all.expect("a\n").await;
        all.expect("b\n").await;
        last.expect("b\n").await;
        for text in ["c", "d"] {
            for followed in [&mut all, &mut last, &mut new] {
                assert!(followed.is_quiet().await);
            }
            let line = entry(2, "stderr", "F", text);
            // In two pieces, of which the first is no line.
            let (first, second) = line.split_at(9);
            folder.append(first);
            assert!(all.is_quiet().await);
            folder.append(second);
            for followed in [&mut all, &mut last, &mut new] {
                followed.expect(&format!("{text}\n")).await;
            }
        }
        folder.append(&entry(3, "stdout", "P", "last"));
        for mut followed in [all, last, new] {
            followed.end.send(()).expect("followed");
            let text = followed.stream.next().await.expect("one more").expect("readable");
            assert_eq!(text.bytes, b"last");
            assert!(followed.stream.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_log_that_is_cut_off_at_the_end_is_said_to_be() {
        let folder = Folder::with("1970-01-01T00:00:01Z stdo");
        let mut followed = Followed::of(&folder.path(), None).await;
        assert!(followed.is_quiet().await);
        followed.end.send(()).expect("followed");
        let error = followed.stream.next().await.expect("an error").expect_err("cut off");
        assert!(error.to_string().contains("line 1 of the log"), "{error}");
        assert!(followed.stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_log_may_be_truncated_and_replaced() {
        let folder = Folder::with(&entry(1, "stdout", "F", "a line of some length"));
        let mut followed = Followed::of(&folder.path(), None).await;
        followed.expect("a line of some length\n").await;
        // As logrotate's copytruncate does.
        fs::File::options().write(true).open(folder.path()).expect("open").set_len(0).expect("cut");
        folder.append(&entry(2, "stdout", "F", "b"));
        followed.expect("b\n").await;
        // And as kubelet does.
        let old = folder.0.path().join("log.1");
        let mut writer = fs::File::options().append(true).open(folder.path()).expect("open");
        fs::rename(folder.path(), old).expect("renamed");
        assert!(followed.is_quiet().await);
        writer.write_all(entry(3, "stdout", "F", "c").as_bytes()).expect("written");
        followed.expect("c\n").await;
        writer.write_all(entry(4, "stdout", "F", "d").as_bytes()).expect("written");
        folder.append(&entry(5, "stdout", "F", "e"));
        followed.expect("d\n").await;
        followed.expect("e\n").await;
        folder.append("nonsense\n");
        let error = followed.next().await.expect("an error").expect_err("corrupt");
        assert!(error.contains("line 2 of"), "of the new file: {error}");
    }

    fn cpu_time() -> Duration {
        use nix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
        Duration::from(time)
    }
}
