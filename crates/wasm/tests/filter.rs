//! What the engine's system call filter refuses, each beside what it must not break. Every probe
//! runs in a process of its own, without and with the filter.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, ForkResult};
use sys::seccomp::Filter;
use wasm::filter::{engine_filter, server_filter};

/// One call, as a process would make it.
type Probe = fn() -> io::Result<()>;

const PERMITTED: i32 = 0;
const REFUSED: i32 = 1;
const OTHER_ERROR: i32 = 2;

fn in_child(filtered: bool, probe: Probe) -> i32 {
    in_child_under(filtered.then(|| engine_filter().expect("filter builds")), probe)
}

fn in_child_under(filter: Option<Filter>, probe: impl FnOnce() -> io::Result<()>) -> i32 {
    // SAFETY: the C library's fork keeps its allocator usable in the child, and the probes take no
    // lock of the harness.
    match unsafe { unistd::fork() }.expect("fork") {
        ForkResult::Child => {
            if let Some(filter) = filter {
                sys::privileges::no_new_privs().expect("no_new_privs");
                filter.install().expect("filter installs");
            }
            sys::process::exit_now(match probe() {
                Ok(()) => PERMITTED,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => REFUSED,
                Err(_) => OTHER_ERROR,
            })
        }
        ForkResult::Parent { child } => match waitpid(child, None).expect("child ends") {
            WaitStatus::Exited(_, code) => code,
            other => panic!("the filter must not kill: {other:?}"),
        },
    }
}

fn map(protection: i32) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing else, and
    // it is never used.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn fork() -> io::Result<()> {
    // SAFETY: the child leaves at once.
    match unsafe { unistd::fork() }? {
        ForkResult::Child => sys::process::exit_now(0),
        ForkResult::Parent { child } => waitpid(child, None).map(drop).map_err(io::Error::from),
    }
}

#[test]
fn what_no_guest_needs_is_refused() {
    let probes: &[(&str, Probe)] = &[
        ("fork", fork),
        ("execute", || Command::new("/bin/true").status().map(drop)),
        ("tcp", || TcpListener::bind("127.0.0.1:0").map(drop)),
        ("udp", || UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("executable memory", || map(libc::PROT_READ | libc::PROT_EXEC)),
        ("namespace", || unshare(CloneFlags::CLONE_FS).map_err(io::Error::from)),
        ("change root", || unistd::chroot("/").map_err(io::Error::from)),
        ("change folder", || std::env::set_current_dir("/")),
    ];
    for (name, probe) in probes {
        assert_eq!(in_child(false, *probe), PERMITTED, "{name} without the filter");
        assert_eq!(in_child(true, *probe), REFUSED, "{name}");
    }
}

#[test]
fn what_the_engine_needs_works() {
    let probes: &[(&str, Probe)] = &[
        ("memory", || map(libc::PROT_READ | libc::PROT_WRITE)),
        ("thread", || {
            std::thread::Builder::new()
                .spawn(|| ())?
                .join()
                .map_err(|_| io::Error::other("thread panicked"))
        }),
        ("pair", || UnixStream::pair().map(drop)),
        ("files", || {
            let mut folder = std::env::temp_dir();
            folder.push(format!("filter-{}", std::process::id()));
            std::fs::File::create(&folder)?;
            std::fs::metadata(&folder)?;
            std::fs::File::open(&folder)?.sync_all()?;
            std::fs::read_dir(std::env::temp_dir())?.count();
            // Paths relative to a descriptor, as the engine names them.
            let here = std::fs::File::open(std::env::temp_dir())?;
            let name = folder.file_name().expect("has a name");
            unistd::unlinkat(&here, name, unistd::UnlinkatFlags::NoRemoveDir)?;
            Ok(())
        }),
        ("clocks", || {
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(())
        }),
    ];
    for (name, probe) in probes {
        assert_eq!(in_child(true, *probe), PERMITTED, "{name}");
    }
}

#[test]
fn a_server_serves_by_the_socket_it_has_and_reaches_out_by_none() {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sys::socket::{MsgFlags, SockaddrIn, connect, sendto};
    use sys::tcp::{Newcomers, let_in, listen};

    type Served = fn(&TcpListener) -> io::Result<()>;
    let under_filter = |probe: Served| {
        let socket = sys::tcp::bind("127.0.0.1:0".parse().expect("address")).expect("bind");
        let filter = server_filter().expect("filter builds");
        in_child_under(Some(filter), || probe(&socket.into()))
    };
    let needed: [(&str, Served); 2] = [
        ("listen and accept", |socket| {
            listen(socket.as_fd())?;
            socket.local_addr()?;
            match socket.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(drop),
            }
            let_in(socket.as_fd(), Newcomers::Refused)
        }),
        // A pair is what a filtered process can have of sockets; it stands in for a client.
        ("speak", |_| {
            let (mut one, mut other) = UnixStream::pair()?;
            one.write_all(b"x")?;
            other.read_exact(&mut [0])?;
            one.shutdown(Shutdown::Write)
        }),
    ];
    for (name, probe) in needed {
        assert_eq!(under_filter(probe), PERMITTED, "{name}");
    }
    let forbidden: [(&str, Served); 5] = [
        ("another socket", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
        ("connect", |_| TcpStream::connect("127.0.0.1:9").map(drop)),
        ("connect by its own", |socket| {
            let elsewhere = SockaddrIn::new(127, 0, 0, 1, 9);
            Ok(connect(socket.as_raw_fd(), &elsewhere)?)
        }),
        ("send before connecting", |socket| {
            let elsewhere = SockaddrIn::new(127, 0, 0, 1, 9);
            let at_once = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
            Ok(sendto(socket.as_raw_fd(), b"x", &elsewhere, at_once).map(drop)?)
        }),
        ("execute", |_| Command::new("/bin/true").status().map(drop)),
    ];
    for (name, probe) in forbidden {
        assert_eq!(under_filter(probe), REFUSED, "{name}");
    }
}
