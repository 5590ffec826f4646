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

/// Whether a listening socket lets clients in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newcomers {
    /// As usual.
    Admitted,
    /// The kernel drops every attempt to connect. Those that have connected, or are about to have,
    /// can still be accepted: so the socket can be emptied and closed without a reset for anybody
    /// who was let in.
    Refused,
}

/// Decides who is let in by a listening socket. What is accepted while newcomers are refused may
/// have to be told afterwards that its own client is admitted.
///
/// # Errors
/// What setsockopt(2) says.
pub fn let_in(socket: BorrowedFd<'_>, newcomers: Newcomers) -> io::Result<()> {
    // A segment that could have come from further away than the next host is dropped, and nobody's
    // begins with the highest count of hops but that of a few routers. A packet filter would say it
    // outright, but there are kernels that let only the administrator of the network attach one.
    let least_hops: libc::c_int = match newcomers {
        Newcomers::Admitted => 0,
        Newcomers::Refused => 255,
    };
    set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, least_hops)?;
    match set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, least_hops) {
        // It is a socket of IPv4 alone.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        set => set,
    }
}

/// Sets an option whose value is an int.
fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let value = (&raw const value).cast();
    // SAFETY: `value` points at an int, whose size is given, and which outlives the call; an option
    // of another kind would read those bytes and no more.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, size) };
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

    fn who_is_in_can_be_accepted(address: &str) {
        let (socket, address) = bound(address);
        listen(socket.as_fd()).expect("listen");
        let early = connect(address).expect("connects");
        let_in(socket.as_fd(), Newcomers::Refused).expect("option");
        let late = connect(address).expect_err("late");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let listener = TcpListener::from(socket);
        let (accepted, peer) = listener.accept().expect("accept");
        let_in(accepted.as_fd(), Newcomers::Admitted).expect("option");
        assert_eq!(peer, early.local_addr().expect("address"));
        io::Write::write_all(&mut &accepted, b"x").expect("write");
        assert_eq!(io::Read::read(&mut &early, &mut [0; 9]).expect("read"), 1);
        assert_eq!(listener.accept().expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        let_in(listener.as_fd(), Newcomers::Admitted).expect("option");
        connect(address).expect("connects again");
    }

    #[test]
    fn who_is_in_can_be_accepted_after_newcomers_are_refused() {
        who_is_in_can_be_accepted("127.0.0.1:0");
        if TcpListener::bind("[::1]:0").is_ok() {
            who_is_in_can_be_accepted("[::1]:0");
        }
    }
}
