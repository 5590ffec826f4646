//! Pseudo-terminals.
//!
//! The one of a container is made on the container's own devpts, so that its
//! programs find it by the name that tty(1) says. Everything below the container's
//! /dev may be a stranger's work: the multiplexer is opened where a devpts was seen,
//! through no symlink and under no further mount, and the slave is asked of the
//! master, never looked for by a path.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::setsid;
use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

/// The magic number of devpts; the C library's constant is one that musl lacks.
const DEVPTS: FsType = FsType(0x1cd1);

/// The device number of a multiplexer.
const MULTIPLEXER: (u64, u64) = (5, 2);

/// Both ends of a pseudo-terminal, close-on-exec.
#[derive(Debug)]
pub struct Terminal {
    /// The end that is read and written by whoever shows the terminal.
    pub master: OwnedFd,
    /// The end that is a program's standard input, output and error.
    pub slave: OwnedFd,
}

/// How many characters a terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// In one line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Size {
    /// The size that a spec gives a process's terminal.
    #[must_use]
    pub fn asked_by(process: &Process) -> Option<Self> {
        let asked = process.console_size()?;
        // More than a terminal can have is as much as it can have.
        let cut = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        let size = Self { columns: cut(asked.width()), rows: cut(asked.height()) };
        // As for runc, half a size is none.
        (size.columns > 0 && size.rows > 0).then_some(size)
    }
}

/// Makes a terminal on the devpts that this process sees as /dev/pts.
///
/// # Errors
/// As [`open_in`].
pub fn open_on_host() -> io::Result<Terminal> {
    open_in(crate::path::open_directory(Path::new("/"))?.as_fd())
}

/// Makes a terminal on the devpts at /dev/pts of the tree below `root`.
///
/// # Errors
/// `ELOOP` and `EXDEV` for a path through a symlink or another mount, `InvalidData`
/// for what is no devpts or no multiplexer, `ENOSPC` when it has no more terminals.
pub fn open_in(root: BorrowedFd<'_>) -> io::Result<Terminal> {
    let inside = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = openat2(root, "dev/pts", OpenHow::new().flags(folder).resolve(inside))?;
    if fstatfs(&folder)?.filesystem_type() != DEVPTS {
        return Err(hostile("/dev/pts is no devpts"));
    }
    let terminal = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // Without crossing a mount, so that nothing laid over it is opened, not even to be
    // looked at: to open a device can have effects.
    let how = OpenHow::new().flags(terminal).resolve(inside | ResolveFlag::RESOLVE_NO_XDEV);
    let master = openat2(&folder, "ptmx", how)?;
    let found = fstat(&master)?;
    let is_device = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    if !is_device || (major(found.st_rdev), minor(found.st_rdev)) != MULTIPLEXER {
        return Err(hostile("/dev/pts/ptmx is no terminal multiplexer"));
    }
    unlock(master.as_fd())?;
    let slave = slave_of(master.as_fd())?;
    Ok(Terminal { master, slave })
}

fn hostile(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int through the pointer, which is that of a live int.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens the other end of a terminal by its master alone, in whichever mount
/// namespace its devpts is.
///
/// # Errors
/// `ENOTTY` for what is no master, `EIO` while it is locked.
pub fn slave_of(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open(2)'s flags by value and touches no memory of ours.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

/// Makes the caller, a process that leads no session yet, the leader of a new one
/// and the slave `terminal` that session's controlling terminal: Ctrl-C at the
/// master is then SIGINT to the processes in its foreground.
///
/// # Errors
/// `EPERM` for a process group's leader, or a terminal that another session controls.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    setsid()?;
    // SAFETY: TIOCSCTTY takes a number, here "do not steal it", and touches no memory of ours.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells a terminal its size; when that is a new one, the processes in its
/// foreground get SIGWINCH.
///
/// # Errors
/// `ENOTTY` for what is no terminal.
pub fn resize(master: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer, which is that of a live one.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives the master that a runtime sends over a console socket: one message with
/// one descriptor.
///
/// # Errors
/// `InvalidData` for any other message, `UnexpectedEof` when none comes.
pub fn receive_master(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // The text beside it names the multiplexer, and is of no interest.
    let mut text = Vec::with_capacity(4096);
    let mut fds = crate::seqpacket::receive(socket, &mut text)?;
    match (fds.pop(), fds.is_empty()) {
        (Some(master), true) => Ok(master),
        (None, _) if text.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(hostile("a console socket carried something else than one descriptor")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use nix::mount::{MsFlags, mount};
    use nix::sched::CloneFlags;

    use super::*;
    use crate::forked::in_child;
    use crate::path::open_directory;
    use crate::pidfd::{ExitStatus, PidFd};
    use crate::process::{Fork, SingleThreaded, exit_now};

    const SIZE: Size = Size { columns: 132, rows: 43 };

    fn size_of(terminal: BorrowedFd<'_>) -> Size {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one winsize through the pointer, which is that of a live one.
        let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
        assert_eq!(done, 0);
        Size { columns: size.ws_col, rows: size.ws_row }
    }

    #[test]
    fn what_is_typed_is_echoed_and_read() {
        let Terminal { master, slave } = open_on_host().expect("a terminal");
        let (mut master, mut slave) = (File::from(master), File::from(slave));
        master.write_all(b"hello\n").expect("type");
        let mut line = [0; 6];
        slave.read_exact(&mut line).expect("read");
        assert_eq!(&line, b"hello\n");
        let mut echo = [0; 7];
        master.read_exact(&mut echo).expect("echo");
        assert_eq!(&echo, b"hello\r\n");
        resize(master.as_fd(), SIZE).expect("resize");
        assert_eq!(size_of(slave.as_fd()), SIZE);
        let other = slave_of(master.as_fd()).expect("once more");
        assert_eq!(size_of(other.as_fd()), SIZE);
    }

    #[test]
    fn what_is_no_terminal_is_told_from_one() {
        let file = File::open("/dev/null").expect("null");
        assert_eq!(resize(file.as_fd(), SIZE).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(slave_of(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }

    /// Runs a child that leads a session on a terminal and reads from it for ever, does `act`
    /// to the master, and tells how the child ended. What `act` returns lives until then.
    fn after<T>(act: impl FnOnce(File) -> T) -> ExitStatus {
        let Terminal { master, slave } = open_on_host().expect("a terminal");
        let (ready, tell) = std::io::pipe().expect("pipe");
        let single = SingleThreaded::prove().expect("proof");
        let child: PidFd = match single.fork(CloneFlags::empty()).expect("fork") {
            Fork::Child => {
                drop((master, ready));
                // Whoever started the tests in the background ignores Ctrl-C, and so would this.
                crate::signal::reset_for_child().expect("signals are reset");
                let mut slave = match make_controlling(slave.as_fd()) {
                    Ok(()) => File::from(slave),
                    Err(_) => exit_now(90),
                };
                drop(tell);
                let mut byte = [0];
                exit_now(match slave.read(&mut byte) {
                    Ok(0) => 4,
                    _ => 91,
                })
            }
            Fork::Parent { pidfd, .. } => pidfd,
        };
        drop((slave, tell));
        assert_eq!({ ready }.read(&mut [0]).expect("the child is ready"), 0);
        let _held = act(File::from(master));
        child.wait().expect("wait")
    }

    #[test]
    fn the_keys_of_a_controlling_terminal_are_signals() {
        in_child(|| {
            let typed = |key: &'static [u8]| {
                after(move |mut master| {
                    master.write_all(key).expect("type");
                    // Or SIGHUP could come first.
                    master
                })
            };
            assert_eq!(typed(b"\x03"), ExitStatus::Signalled(libc::SIGINT), "Ctrl-C");
            assert_eq!(typed(b"\x1c"), ExitStatus::Signalled(libc::SIGQUIT), "Ctrl-backslash");
            assert_eq!(typed(b"\x04"), ExitStatus::Exited(4), "Ctrl-D");
            assert_eq!(after(drop), ExitStatus::Signalled(libc::SIGHUP), "hang-up");
        });
    }

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("sys-terminal-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("dev/pts")).expect("root");
            Self(path)
        }

        fn open(&self) -> io::Result<Terminal> {
            open_in(open_directory(&self.0)?.as_fd())
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("remove the root");
        }
    }

    #[test]
    fn only_a_real_multiplexer_is_opened() {
        let root = Root::new("hostile");
        let errno = |root: &Root| root.open().map(drop).unwrap_err();
        assert_eq!(errno(&root).to_string(), "/dev/pts is no devpts");
        fs::write(root.0.join("dev/pts/ptmx"), "").expect("a file");
        assert_eq!(errno(&root).to_string(), "/dev/pts is no devpts");
        fs::remove_dir_all(root.0.join("dev/pts")).expect("remove");
        symlink("/dev/pts", root.0.join("dev/pts")).expect("link");
        assert_eq!(errno(&root).raw_os_error(), Some(libc::ELOOP));
        fs::remove_dir_all(root.0.join("dev")).expect("remove");
        symlink("/dev", root.0.join("dev")).expect("link");
        assert_eq!(errno(&root).raw_os_error(), Some(libc::ELOOP));
        open_on_host().expect("the host's own");
    }

    #[test]
    fn what_lies_over_the_multiplexer_is_never_opened() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to mount a devpts");
            return;
        }
        let root = Root::new("covered");
        in_child(|| {
            let none = None::<&str>;
            crate::namespace::unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
            let pts = root.0.join("dev/pts");
            let options = Some("newinstance,ptmxmode=0666,mode=0620");
            mount(Some("devpts"), &pts, Some("devpts"), MsFlags::empty(), options).expect("devpts");
            let terminal = root.open().expect("a terminal of its own");
            assert!(pts.join("0").exists() && terminal.slave.as_raw_fd() > 2);
            let ptmx = pts.join("ptmx");
            mount(Some("/dev/null"), &ptmx, none, MsFlags::MS_BIND, none).expect("cover it");
            let error = root.open().map(drop).expect_err("covered");
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        });
    }

    #[test]
    fn a_console_socket_carries_one_master() {
        use std::io::IoSlice;
        use std::os::unix::net::UnixStream;

        use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

        let send = |fds: &[std::os::fd::RawFd]| {
            let (ours, theirs) = UnixStream::pair().expect("pair");
            let (text, rights) = ([IoSlice::new(b"/dev/ptmx")], [ControlMessage::ScmRights(fds)]);
            sendmsg::<UnixAddr>(theirs.as_raw_fd(), &text, &rights, MsgFlags::empty(), None)
                .expect("send");
            receive_master(ours.as_fd())
        };
        let terminal = open_on_host().expect("a terminal");
        let master = terminal.master.as_raw_fd();
        resize(send(&[master]).expect("one").as_fd(), SIZE).expect("it is the master");
        assert_eq!(send(&[master, master]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (ours, theirs) = UnixStream::pair().expect("pair");
        drop(theirs);
        let error = receive_master(ours.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
