//! Opening the named pipes through which containerd carries a container's stdio.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Opens a FIFO for writing without waiting for a reader, and so that one always exists.
///
/// The descriptor is a reader too: a write never fails because the other side went away (its
/// successor reads on), it only waits while the pipe is full.
///
/// # Errors
/// `InvalidInput`, naming the path, when it is not a FIFO; what open(2) says.
pub fn open_writer_keeping_reader(path: &Path) -> io::Result<File> {
    let file = open(path, OpenOptions::new().read(true).write(true))?;
    // Nonblocking was for the open alone: what lies there could have been a device.
    let mut flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    flags.remove(OFlag::O_NONBLOCK);
    fcntl(&file, FcntlArg::F_SETFL(flags))?;
    Ok(file)
}

/// Opens a FIFO for reading without waiting for a writer; reads answer `WouldBlock` when nothing
/// is there, and 0 while no writer has it open.
///
/// # Errors
/// `InvalidInput`, naming the path, when it is not a FIFO; what open(2) says.
pub fn open_reader_nonblocking(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OpenOptions::new().read(true))?.into())
}

/// Opens the path nonblocking, and refuses it unless the file that was opened is a FIFO.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.custom_flags(flags).open(path).map_err(|error| named(path, &error))?;
    if file.metadata()?.file_type().is_fifo() {
        Ok(file)
    } else {
        let text = format!("{} is not a fifo", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot open the fifo {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
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
    fn a_writer_opens_without_a_reader_and_outlives_one() {
        let folder = Folder::new();
        let path = folder.fifo();
        let mut writer = open_writer_keeping_reader(&path).expect("no hang");
        for round in [b"one", b"two"] {
            let mut reader = File::from(open_reader_nonblocking(&path).expect("reader"));
            writer.write_all(round).expect("write");
            let mut bytes = [0; 3];
            reader.read_exact(&mut bytes).expect("read");
            assert_eq!(&bytes, round);
        }
        writer.write_all(b"kept for the next reader").expect("no EPIPE without a reader");
        let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).expect("flags"));
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn a_reader_opens_without_a_writer_and_never_waits() {
        let folder = Folder::new();
        let path = folder.fifo();
        let mut reader = File::from(open_reader_nonblocking(&path).expect("no hang"));
        assert_eq!(reader.read(&mut [0]).expect("no writer"), 0);
        let _writer = open_writer_keeping_reader(&path).expect("writer");
        assert_eq!(reader.read(&mut [0]).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_not_a_fifo_is_refused_by_name() {
        let folder = Folder::new();
        let file = folder.0.join("file");
        std::fs::write(&file, "").expect("write");
        for path in [file.as_path(), Path::new("/dev/null")] {
            for error in [
                open_writer_keeping_reader(path).expect_err("not a fifo"),
                open_reader_nonblocking(path).expect_err("not a fifo"),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert_eq!(error.to_string(), format!("{} is not a fifo", path.display()));
            }
        }
        let missing = folder.0.join("missing");
        let error = open_writer_keeping_reader(&missing).expect_err("missing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
