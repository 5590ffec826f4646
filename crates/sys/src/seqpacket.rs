//! A message socket between processes of this program: whole messages, each with descriptors.
//!
//! A body of up to 64 KiB travels in the packet. A larger one, up to 32 MiB, travels in a sealed
//! memfd that the receiver reads and closes, so that no message depends on the size of a socket
//! buffer. The first byte of each packet says which; callers see only bodies and descriptors.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use crate::sealed_memory;

/// The largest body, in bytes.
pub const BODY_LIMIT: usize = 32 * 1024 * 1024;
/// The most descriptors in one message.
pub const FD_LIMIT: usize = 32;

const INLINE_LIMIT: usize = 64 * 1024;
const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;

/// One end of a connected message socket.
#[derive(Debug)]
pub struct Seqpacket(OwnedFd);

/// A received message.
#[derive(Debug)]
pub struct Message {
    /// The bytes that were sent; may be empty.
    pub body: Vec<u8>,
    /// The descriptors that came with them, in order, all close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Seqpacket {
    /// Makes two connected ends, both close-on-exec and blocking.
    ///
    /// # Errors
    /// What socketpair(2) says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `InvalidInput` above [`BODY_LIMIT`] or [`FD_LIMIT`]; `WouldBlock` when the socket is
    /// nonblocking and full: nothing was sent then; `BrokenPipe` when the peer is gone.
    pub fn send(&self, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if body.len() > BODY_LIMIT || fds.len() > FD_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "message of {} bytes and {} descriptors is too large",
                    body.len(),
                    fds.len()
                ),
            ));
        }
        let mut raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        if body.len() <= INLINE_LIMIT {
            return self.send_packet(INLINE, body, &raw);
        }
        let memfd = sealed_memory::holding(c"message", body)?;
        raw.insert(0, memfd.as_raw_fd());
        self.send_packet(IN_MEMFD, &(body.len() as u64).to_le_bytes(), &raw)
    }

    /// Receives one message; `None` when the peer has closed its end.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is nonblocking and empty; `InvalidData` for a packet that
    /// [`Seqpacket::send`] would not have made, or one cut short because this process is out of
    /// descriptors. Its descriptors are closed then.
    pub fn recv(&self) -> io::Result<Option<Message>> {
        // Room for the largest packet; only as much of it is ever touched as a packet fills.
        let mut packet = Vec::with_capacity(1 + INLINE_LIMIT);
        let fds = loop {
            match receive(self.0.as_fd(), &mut packet) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The peer closed with messages of ours unread. The kernel says so once, ahead
                // of what the peer had sent before; that is still to be received.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                other => break other?,
            }
        };
        match packet.split_first() {
            None => Ok(None),
            Some((&INLINE, body)) => Ok(Some(Message { body: body.to_vec(), fds })),
            Some((&IN_MEMFD, announced)) => read_from_memfd(announced, fds).map(Some),
            Some(_) => Err(invalid("packet of unknown kind")),
        }
    }

    fn send_packet(&self, kind: u8, body: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(body)];
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None) {
                // A packet is sent whole or not at all.
                Ok(_length) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Seqpacket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Seqpacket {
    /// Takes over a descriptor that is a connected `SOCK_SEQPACKET` socket.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Seqpacket> for OwnedFd {
    fn from(socket: Seqpacket) -> Self {
        socket.0
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_from_memfd(announced: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<Message> {
    let length = <[u8; 8]>::try_from(announced)
        .ok()
        .and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok())
        .filter(|length| *length <= BODY_LIMIT)
        .ok_or_else(|| invalid("packet announces a body of impossible size"))?;
    if fds.is_empty() {
        return Err(invalid("packet announces a memfd and carries none"));
    }
    let memfd = File::from(fds.remove(0));
    // Anything but a sealed memfd could change while it is read, or block the reader.
    if !sealed_memory::is_sealed(&memfd)? || memfd.metadata()?.len() != length as u64 {
        return Err(invalid("packet carries an unsealed memfd or one of another size"));
    }
    let mut body = vec![0; length];
    memfd.read_exact_at(&mut body, 0)?;
    Ok(Message { body, fds })
}

/// The most descriptors the kernel puts in one packet (SCM_MAX_FD). There is room for them all,
/// so that none the kernel has installed goes unseen and stays open.
const KERNEL_FD_LIMIT: usize = 253;
const CONTROL_WORDS: usize = (KERNEL_FD_LIMIT * size_of::<RawFd>()).div_ceil(8) + 4;

/// Receives a packet into the capacity of `packet`, in place of what was in it.
pub(crate) fn receive(socket: BorrowedFd<'_>, packet: &mut Vec<u8>) -> io::Result<Vec<OwnedFd>> {
    packet.clear();
    let room = packet.spare_capacity_mut();
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: an all-zero msghdr is valid: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `header` was just set to a buffer that is alive, writable, of the
    // length given beside it, and not otherwise used until the call returns.
    let result =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let Ok(length) = usize::try_from(result) else {
        return Err(io::Error::last_os_error());
    };
    let fds = take_descriptors(&header);
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(invalid("packet is longer than any that is sent here"));
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(invalid("descriptors of a packet were lost, too many are open here"));
    }
    // SAFETY: the kernel has written `length` bytes to the start of the spare capacity, and says no
    // more than it had room for unless asked for MSG_TRUNC.
    unsafe { packet.set_len(length) };
    Ok(fds)
}

/// Takes ownership of every descriptor that the kernel installed for this packet.
///
/// `header` must be as a successful recvmsg left it, and be asked once.
fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `header` describes the control buffer of its caller, which is alive and aligned for
    // cmsghdr (it is made of u64), and the kernel has set its length to what it filled.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: the pointer is null or was returned by CMSG_FIRSTHDR or CMSG_NXTHDR for this
    // buffer, so a whole header that the kernel wrote is behind it.
    while let Some(control) = unsafe { next.as_ref() } {
        if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as above; the data follows its header in the same buffer.
            let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
            // SAFETY: CMSG_LEN only computes.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (control.cmsg_len - overhead) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: `index` is below the count that cmsg_len gives for this header.
                let slot = unsafe { data.add(index) };
                // SAFETY: the kernel wrote an integer there; alignment is not relied on.
                let fd = unsafe { slot.read_unaligned() };
                // SAFETY: the kernel has installed this descriptor for this packet; nobody else
                // has seen its number.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `header` and `control` are as CMSG_FIRSTHDR's note says.
        next = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiting::{set_blocking, set_nonblocking};
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::{Read, Seek, Write};

    fn round_trip(body: &[u8], fds: &[BorrowedFd<'_>]) -> Message {
        let (one, other) = Seqpacket::pair().expect("pair");
        one.send(body, fds).expect("send");
        other.recv().expect("receive").expect("a message")
    }

    #[test]
    fn bodies_of_every_size_arrive_whole() {
        for size in [0, 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3 * 1024 * 1024, BODY_LIMIT] {
            let body: Vec<u8> = (0..=250).cycle().take(size).collect();
            let message = round_trip(&body, &[]);
            assert!(message.body == body, "a body of {size} bytes was changed");
            assert!(message.fds.is_empty());
        }
    }

    #[test]
    fn messages_keep_their_bounds_and_order() {
        let (one, other) = Seqpacket::pair().expect("pair");
        for body in [&b"first"[..], b"", b"third"] {
            one.send(body, &[]).expect("send");
        }
        drop(one);
        let mut bodies = Vec::new();
        while let Some(message) = other.recv().expect("receive") {
            bodies.push(message.body);
        }
        assert_eq!(bodies, [&b"first"[..], b"", b"third"]);
    }

    #[test]
    fn descriptors_arrive_in_order_and_close_on_exec() {
        for size in [10, INLINE_LIMIT + 10] {
            let mut files = Vec::new();
            for n in 0..FD_LIMIT {
                let mut file = File::from(memfd_create(c"n", MFdFlags::empty()).expect("memfd"));
                write!(file, "{n}").expect("write");
                files.push(file);
            }
            let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            let message = round_trip(&vec![7; size], &borrowed);
            assert_eq!((message.body.len(), message.fds.len()), (size, FD_LIMIT));
            for (n, fd) in message.fds.into_iter().enumerate() {
                let flags = fcntl(&fd, FcntlArg::F_GETFD).expect("flags");
                assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
                let (mut file, mut text) = (File::from(fd), String::new());
                file.rewind().expect("rewind");
                file.read_to_string(&mut text).expect("read");
                assert_eq!(text, n.to_string());
            }
        }
    }

    #[test]
    fn too_much_is_refused_by_the_sender() {
        let (one, other) = Seqpacket::pair().expect("pair");
        let many = vec![other.as_fd(); FD_LIMIT + 1];
        assert_eq!(one.send(b"", &many).expect_err("33").kind(), io::ErrorKind::InvalidInput);
        let large = vec![0; BODY_LIMIT + 1];
        assert_eq!(one.send(&large, &[]).expect_err("large").kind(), io::ErrorKind::InvalidInput);
        one.send(b"", &many[1..]).expect("32 are not too many");
    }

    #[test]
    fn a_closed_peer_is_the_end_and_not_an_error() {
        let (one, other) = Seqpacket::pair().expect("pair");
        one.send(b"never read by the peer", &[]).expect("send");
        other.send(b"last words", &[]).expect("send");
        drop(other);
        assert_eq!(one.recv().expect("receive").expect("a message").body, b"last words");
        assert!(one.recv().expect("receive").is_none());
        assert_eq!(one.send(b"x", &[]).expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_nonblocking_end_says_so_when_empty_or_full() {
        let (one, other) = Seqpacket::pair().expect("pair");
        set_nonblocking(&one).expect("set");
        assert_eq!(one.recv().expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        let mut sent = 0;
        let full = loop {
            match one.send(&[0; 1000], &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        for _ in 0..sent {
            assert_eq!(other.recv().expect("receive").expect("a message").body.len(), 1000);
        }
        set_blocking(&one).expect("set");
        other.send(b"x", &[]).expect("send");
        assert_eq!(one.recv().expect("receive").expect("a message").body, b"x");
    }

    #[test]
    fn forged_packets_are_errors_and_leave_no_descriptor_open() {
        let unsealed = File::from(memfd_create(c"n", MFdFlags::MFD_ALLOW_SEALING).expect("memfd"));
        unsealed.set_len(100_000).expect("size");
        let length = 100_000_u64.to_le_bytes();
        let huge = u64::MAX.to_le_bytes();
        let pipe = nix::unistd::pipe().expect("pipe");
        let cases: [(u8, &[u8], &[RawFd]); 6] = [
            (IN_MEMFD, &length, &[unsealed.as_raw_fd()]),
            (IN_MEMFD, &length, &[]),
            (IN_MEMFD, &length[..7], &[unsealed.as_raw_fd()]),
            (IN_MEMFD, &huge, &[unsealed.as_raw_fd()]),
            (IN_MEMFD, &length, &[pipe.0.as_raw_fd()]),
            (9, b"", &[pipe.1.as_raw_fd()]),
        ];
        let (one, other) = Seqpacket::pair().expect("pair");
        for (kind, body, fds) in cases {
            one.send_packet(kind, body, fds).expect("send");
            let error = other.recv().expect_err("forged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        one.send_packet(INLINE, &vec![0; INLINE_LIMIT + 1], &[pipe.1.as_raw_fd()]).expect("send");
        assert_eq!(other.recv().expect_err("cut").kind(), io::ErrorKind::InvalidData);
        // Were a copy of the writing end still open somewhere, this would wait for ever.
        drop(pipe.1);
        assert_eq!(File::from(pipe.0).read(&mut [0]).expect("read"), 0);
    }
}
