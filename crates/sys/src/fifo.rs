//! Opening the named pipes through which containerd carries a container's stdio.
//!
//! Nothing here ever waits for the other side. The caller's error names the path.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Opens a FIFO for reading without waiting for a writer; reads answer `WouldBlock` when nothing
/// is there, and 0 while no writer has it open.
///
/// # Errors
/// `InvalidInput` when it is not a FIFO; what open(2) says.
pub fn open_reader_nonblocking(path: &Path) -> io::Result<OwnedFd> {
    // Nonblocking also spares us a wait when what lies there is a device.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        Ok(file.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a fifo"))
    }
}

/// Both ends of one FIFO.
#[derive(Debug)]
pub struct Pair {
    /// Never waits; reads are [`open_reader_nonblocking`]'s.
    pub reader: OwnedFd,
    /// Waits while the pipe is full, and gets EPIPE once no reader is left.
    pub writer: OwnedFd,
}

/// Opens both ends of a FIFO; they are of the same one even if the path is replaced meanwhile.
///
/// # Errors
/// `InvalidInput` when it is not a FIFO; what open(2) says.
pub fn open_pair(path: &Path) -> io::Result<Pair> {
    let reader = open_reader_nonblocking(path)?;
    let writer = open_writer_of(reader.as_fd())?;
    Ok(Pair { reader, writer })
}

/// Turns the only thing that keeps a FIFO's content, a reader, into a writer: whoever opens the
/// FIFO for reading then neither waits nor finds it empty, and is seen by [`has_reader`].
///
/// # Errors
/// What open(2) says.
pub fn into_writer(reader: OwnedFd) -> io::Result<OwnedFd> {
    open_writer_of(reader.as_fd())
}

/// Says whether anybody has the FIFO of this writer open for reading.
///
/// # Errors
/// What poll(2) says.
pub fn has_reader(writer: BorrowedFd<'_>) -> io::Result<bool> {
    let mut asked = [PollFd::new(writer, PollFlags::empty())];
    poll(&mut asked, PollTimeout::ZERO)?;
    Ok(!asked[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)))
}

/// Opens the writing end of the FIFO that `reader` is of, so that it has no end while others
/// come and go; `None` when somebody has written and is gone, whose end it is.
///
/// # Errors
/// What poll(2) and open(2) say.
pub fn keep_open(reader: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut polled = [PollFd::new(reader, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    // Set only once there was a writer since the reader was opened, and none is left.
    match polled[0].revents() {
        Some(found) if found.contains(PollFlags::POLLHUP) => Ok(None),
        _ => open_writer_of(reader).map(Some),
    }
}

/// Opens the writing end of the FIFO that `reader` is of. It is there, so this does not wait.
fn open_writer_of(reader: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let same = format!("/proc/self/fd/{}", reader.as_raw_fd());
    Ok(OpenOptions::new().write(true).open(same)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let template = std::env::temp_dir().join("fifo-test-XXXXXX");
            Self(nix::unistd::mkdtemp(&template).expect("folder"))
        }

        fn fifo(&self) -> PathBuf {
            let path = self.0.join("fifo");
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("fifo");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("remove");
        }
    }

    #[test]
    fn a_reader_opens_without_a_writer_and_never_waits() {
        let folder = Folder::new();
        let path = folder.fifo();
        let mut reader = File::from(open_reader_nonblocking(&path).expect("no hang"));
        assert_eq!(reader.read(&mut [0]).expect("no writer"), 0);
        let _writer = File::options().write(true).open(&path).expect("a reader is there");
        assert_eq!(reader.read(&mut [0]).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_pair_is_of_one_fifo_and_its_writer_waits_for_room_and_not_for_a_reader() {
        let folder = Folder::new();
        let path = folder.fifo();
        let Pair { reader, writer } = open_pair(&path).expect("no hang");
        std::fs::remove_file(&path).expect("removed");
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        let bytes: Vec<u8> = (0..1 << 20).map(|place: u32| place.to_le_bytes()[0]).collect();
        let written = {
            let bytes = bytes.clone();
            std::thread::spawn(move || writer.write_all(&bytes))
        };
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let mut room = [0; 4096];
            match reader.read(&mut room) {
                Ok(count) => got.extend_from_slice(&room[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        written.join().expect("joined").expect("all written");
        assert_eq!(got, bytes);
    }

    #[test]
    fn a_writer_without_readers_gets_an_error_and_no_signal() {
        let folder = Folder::new();
        let Pair { reader, writer } = open_pair(&folder.fifo()).expect("pair");
        drop(reader);
        let error = File::from(writer).write_all(b"x").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_a_writer_left_waits_for_a_late_reader_who_is_seen() {
        let folder = Folder::new();
        let path = folder.fifo();
        let Pair { reader, writer } = open_pair(&path).expect("pair");
        File::from(writer).write_all(b"last words").expect("room");
        let keeper = into_writer(reader).expect("there is a reader");
        assert!(!has_reader(keeper.as_fd()).expect("polled"));
        let mut late = File::open(path).expect("no hang");
        assert!(has_reader(keeper.as_fd()).expect("polled"));
        drop(keeper);
        let mut text = String::new();
        late.read_to_string(&mut text).expect("read");
        assert_eq!(text, "last words");
    }

    #[test]
    fn an_input_is_kept_open_unless_its_writer_has_come_and_gone() {
        let folder = Folder::new();
        let path = folder.fifo();
        let reader = open_reader_nonblocking(&path).expect("opened");
        let kept = keep_open(reader.as_fd()).expect("polled");
        assert!(kept.is_some(), "nobody has written yet");
        drop((kept, reader));

        let reader = open_reader_nonblocking(&path).expect("opened");
        let mut client = File::options().write(true).open(&path).expect("a reader is there");
        assert!(keep_open(reader.as_fd()).expect("polled").is_some(), "it still writes");
        client.write_all(b"all it had").expect("room");
        drop(client);
        assert!(keep_open(reader.as_fd()).expect("polled").is_none(), "it has ended");
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).expect("an end");
        assert_eq!(text, "all it had");
    }

    #[test]
    fn what_is_not_a_fifo_is_refused() {
        let folder = Folder::new();
        let file = folder.0.join("file");
        std::fs::write(&file, "").expect("write");
        for path in [file.as_path(), Path::new("/dev/null")] {
            for error in [
                open_reader_nonblocking(path).expect_err("not a fifo"),
                open_pair(path).map(|_pair| ()).expect_err("not a fifo"),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert_eq!(error.to_string(), "not a fifo");
            }
        }
        let error = open_pair(&folder.0.join("missing")).expect_err("missing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
