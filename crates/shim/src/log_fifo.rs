//! The shim's log: lines for containerd's own log, through the FIFO in the bundle.
//!
//! containerd may be slow or away, and a server must not wait for it: a line that
//! the FIFO has no room for is dropped, and told of once there is room again.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::fcntl::OFlag;
use prost_types::Timestamp;

/// The FIFO's name in the bundle, which a shim is run in.
const NAME: &str = "log";

/// A longer line may be mixed with other processes' lines, in bytes: `PIPE_BUF`.
const LONGEST_LINE: usize = 4096;

/// What stands for the rest of a message that was cut.
const CUT: &str = "...";

/// Begins to log. Without a FIFO the shim still serves.
pub(crate) fn open(debug: bool) {
    let level = if debug { LevelFilter::Debug } else { LevelFilter::Info };
    match LogFifo::open(Path::new(NAME)) {
        Ok(fifo) => {
            // Fails where the log is open already, which is as good.
            if log::set_boxed_logger(Box::new(fifo)).is_ok() {
                log::set_max_level(level);
            }
        }
        Err(error) => eprintln!("no log: cannot open the FIFO {NAME}: {error}"),
    }
}

#[derive(Debug)]
struct LogFifo {
    fifo: File,
    dropped: AtomicU64,
}

impl LogFifo {
    fn open(path: &Path) -> io::Result<Self> {
        // For reading as well: so the FIFO outlives each containerd that reads it.
        let fifo = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        Ok(Self { fifo, dropped: AtomicU64::new(0) })
    }

    fn tell(&self, level: Level, message: &str) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let loss = format!("{dropped} lines are lost: the log was not read");
            if self.write(Level::Warn, &loss).is_err() {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        if self.write(level, message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a whole line or nothing: the kernel does not split so short a one.
    fn write(&self, level: Level, message: &str) -> io::Result<()> {
        (&self.fifo).write_all(line(SystemTime::now(), level, message).as_bytes())
    }
}

impl Log for LogFifo {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.tell(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// One line of logfmt, as containerd writes its own.
fn line(at: SystemTime, level: Level, message: &str) -> String {
    let level = level.as_str().to_lowercase();
    let head = format!("time=\"{}\" level={level} msg=", Timestamp::from(at));
    // Quoted as JSON: no message can end its field or begin a line of its own.
    let quoted = |message: &str| serde_json::Value::from(message).to_string();
    let mut text = quoted(message);
    let mut kept = message.len().min(LONGEST_LINE);
    while head.len() + text.len() + 1 > LONGEST_LINE {
        kept = message.floor_char_boundary(kept * 3 / 4);
        text = quoted(&format!("{}{CUT}", &message[..kept]));
    }
    format!("{head}{text}\n")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_line_has_time_level_and_an_escaped_message() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let text = line(at, Level::Error, "a \"b\"\nlevel=fatal \u{1b}[31m");
        assert_eq!(
            text,
            "time=\"1970-01-01T00:00:01Z\" level=error msg=\"a \\\"b\\\"\\nlevel=fatal \\u001b[31m\"\n"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        for message in ["\u{1}".repeat(5000), "ü".repeat(5000)] {
            let text = line(SystemTime::now(), Level::Info, &message);
            assert!(text.len() <= LONGEST_LINE, "{} bytes", text.len());
            assert!(text.len() > LONGEST_LINE / 2, "{} bytes", text.len());
            assert!(text.ends_with("...\"\n"));
        }
    }

    #[test]
    fn a_full_fifo_drops_lines_and_tells_how_many_once_it_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(NAME);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
        let log = LogFifo::open(&path).expect("opened without a reader");
        let long = "x".repeat(3000);
        for _ in 0..100 {
            log.tell(Level::Info, &long);
        }
        let dropped = log.dropped.load(Ordering::Relaxed);
        assert!(dropped > 0 && dropped < 100, "{dropped}");

        let mut reader =
            File::from(sys::fifo::open_reader_nonblocking(&path).expect("a late reader"));
        let mut read = Vec::new();
        let mut piece = [0; 65536];
        let mut drain = |read: &mut Vec<u8>| {
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                read.extend_from_slice(&piece[..length]);
            }
        };
        drain(&mut read);
        log.tell(Level::Info, "read again");
        drain(&mut read);
        let text = String::from_utf8(read).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        let kept = usize::try_from(100 - dropped).expect("a few");
        assert_eq!(lines.len(), kept + 2);
        let loss = format!("level=warn msg=\"{dropped} lines are lost: the log was not read\"");
        assert!(lines[kept].ends_with(&loss), "{}", lines[kept]);
        assert!(lines[kept + 1].ends_with("level=info msg=\"read again\""));
        assert_eq!(log.dropped.load(Ordering::Relaxed), 0);
    }
}
