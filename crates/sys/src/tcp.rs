//! Listening sockets in three steps, for a process that loses its power in between: bound while it
//! may still take a port below 1024, listening once there is somebody to answer, and closed to
//! newcomers before it is closed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind as bind_to,
    listen as listen_at, setsockopt, socket, sockopt,
};

/// Makes a nonblocking, close-on-exec TCP socket of this address. Connections to it are refused
/// until it listens.
///
/// An address that was in use a moment ago is taken: what is left of its connections is no reason
/// to wait. The unspecified IPv6 address takes IPv4 as well.
///
/// # Errors
/// What socket(2), setsockopt(2) and bind(2) say; `AddrInUse` when somebody listens there.
pub fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&made, sockopt::Ipv6V6Only, &false)?;
    }
    bind_to(made.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(made)
}

/// Lets connections come, as many to wait as the kernel allows.
///
/// # Errors
/// What listen(2) says; `AddrInUse` when somebody else listens at the address by now.
pub fn listen(bound: BorrowedFd<'_>) -> io::Result<()> {
    Ok(listen_at(&bound, Backlog::MAXALLOWABLE)?)
}

/// Has the kernel drop every attempt to connect to a listening socket from now on. Those that have
/// connected, or are about to have, can still be accepted: so the socket can be emptied and closed
/// without a reset for anybody who was let in.
///
/// # Errors
/// What setsockopt(2) says.
pub fn refuse_newcomers(listening: BorrowedFd<'_>) -> io::Result<()> {
    // A filter of a TCP socket sees the segment from its header on. The flags are in byte 13; the
    // first segment of a connection has SYN (2) and not ACK (16).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_AND_ACK: u32 = 0x12;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        // The codes of classic BPF are all below 0x100.
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_AND_ACK),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&filter)).map_err(io::Error::other)?;
    // SAFETY: the option's value is a `sock_fprog` of the size given, which points at as many
    // instructions as it says; the kernel copies them before the call returns.
    let result = unsafe {
        libc::setsockopt(
            listening.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    /// A socket of this address with a port of the kernel's choice, and its address.
    fn bound(address: &str) -> (OwnedFd, SocketAddr) {
        let made = bind(address.parse().expect("address")).expect("bind");
        let known = TcpListener::from(made.try_clone().expect("clone")).local_addr();
        (made, known.expect("address"))
    }

    fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect_timeout(&address, Duration::from_millis(300))
    }

    #[test]
    fn nobody_connects_before_it_listens() {
        let (socket, address) = bound("127.0.0.1:0");
        assert_eq!(connect(address).expect_err("early").kind(), io::ErrorKind::ConnectionRefused);
        listen(socket.as_fd()).expect("listen");
        connect(address).expect("connects");
        assert_eq!(bind(address).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_unspecified_address_of_version_6_takes_both() {
        let Ok(socket) = bind("[::]:0".parse().expect("address")) else {
            return eprintln!("SKIPPED: no IPv6 here");
        };
        listen(socket.as_fd()).expect("listen");
        let port = TcpListener::from(socket.try_clone().expect("clone")).local_addr();
        connect(([127, 0, 0, 1], port.expect("address").port()).into()).expect("connects");
    }

    #[test]
    fn who_is_in_can_be_accepted_after_newcomers_are_refused() {
        let (socket, address) = bound("127.0.0.1:0");
        listen(socket.as_fd()).expect("listen");
        let early = connect(address).expect("connects");
        refuse_newcomers(socket.as_fd()).expect("filter");
        let late = connect(address).expect_err("late");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let listener = TcpListener::from(socket);
        let (accepted, peer) = listener.accept().expect("accept");
        assert_eq!(peer, early.local_addr().expect("address"));
        io::Write::write_all(&mut &accepted, b"x").expect("write");
        assert_eq!(io::Read::read(&mut &early, &mut [0; 9]).expect("read"), 1);
        assert_eq!(listener.accept().expect_err("empty").kind(), io::ErrorKind::WouldBlock);
    }
}
