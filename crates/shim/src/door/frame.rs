//! The frames of ttrpc as they pass: a header of ten bytes, then as many bytes as it says.
//!
//! ```text
//! length of the body: 4 bytes | stream: 4 bytes | kind: 1 byte | flags: 1 byte | body
//! ```
//!
//! A peer that has lost the beginning of its frames, or never knew of any, is told by its headers. What an honest
//! client may send is let through, also where the answer will be an error.

use std::fmt;

const HEADER: usize = 10;
const REQUEST: u8 = 1;
const DATA: u8 = 3;

/// The longest body there may be, in bytes: what containerd itself takes in one message. ttrpc takes 4 MiB and, as
/// Go's server does, passes over the rest of a longer one and answers with an error. That is left to it: containerd
/// takes a closed connection for a dead shim, and would kill its containers.
const LONGEST: u32 = 16 << 20;

/// Follows the frames of one connection, however they are cut.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frames {
    header: [u8; HEADER],
    /// How much of the header is there.
    known: usize,
    /// How much of the body is still to come.
    missing: u32,
    complete: bool,
}

/// A header that no client of ttrpc sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoFrame {
    header: [u8; HEADER],
    reason: &'static str,
}

impl Frames {
    /// Takes the bytes that came next.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), NoFrame> {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let length = bytes.len().min(usize::try_from(self.missing).unwrap_or(usize::MAX));
                self.missing -= u32::try_from(length).unwrap_or(self.missing);
                bytes = &bytes[length..];
            } else {
                let length = bytes.len().min(HEADER - self.known);
                self.header[self.known..][..length].copy_from_slice(&bytes[..length]);
                self.known += length;
                bytes = &bytes[length..];
                if self.known < HEADER {
                    continue;
                }
                self.known = 0;
                self.missing = length_of(&self.header)?;
            }
            self.complete |= self.missing == 0;
        }
        Ok(())
    }

    /// Tells whether there was a whole frame.
    pub(super) fn any_complete(&self) -> bool {
        self.complete
    }

    /// How much of a body is still to come.
    pub(super) fn missing(&self) -> u32 {
        self.missing
    }
}

fn length_of(header: &[u8; HEADER]) -> Result<u32, NoFrame> {
    let refused = |reason| Err(NoFrame { header: *header, reason });
    let [l0, l1, l2, l3, _, _, _, stream, kind, _] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    match kind {
        _ if length > LONGEST => refused("its length is more than any request's"),
        REQUEST | DATA if stream % 2 == 1 => Ok(length),
        REQUEST | DATA => refused("a client's streams have odd numbers"),
        _ => refused("a client sends requests and data only"),
    }
}

impl std::error::Error for NoFrame {}

impl fmt::Display for NoFrame {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { header, reason } = self;
        write!(out, "the bytes {header:02x?} begin no frame of ttrpc: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u32, stream: u32, kind: u8) -> Vec<u8> {
        [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0]].concat()
    }

    #[test]
    fn what_a_client_sends_passes_and_nothing_else() {
        for (length, stream, kind, passes) in [
            (0, 1, REQUEST, true),
            (30, 0xffff_ffff, REQUEST, true),
            (0, 3, DATA, true),
            (LONGEST, 1, REQUEST, true),
            (LONGEST + 1, 1, REQUEST, false),
            (u32::MAX, 1, REQUEST, false),
            (0, 0, REQUEST, false),
            (0, 2, REQUEST, false),
            (0, 2, DATA, false),
            (0, 1, 0, false),
            // An answer, which is the server's to send.
            (0, 1, 2, false),
            (0, 1, 4, false),
            (0, 1, 255, false),
        ] {
            let judged = Frames::default().take(&header(length, stream, kind));
            assert_eq!(judged.is_ok(), passes, "{length} {stream} {kind}: {judged:?}");
        }
        for garbage in [&[0; 10][..], b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\n", &[0xff; 64]]
        {
            assert!(Frames::default().take(garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let good = [
            header(3, 1, REQUEST),
            vec![0; 3],
            header(0, 3, REQUEST),
            header(5, 5, DATA),
            vec![0xff; 5],
        ];
        let good = good.concat();
        let bad = [&good[..], &[0; 10]].concat();
        for piece in 1..=good.len() {
            let mut frames = Frames::default();
            assert!(good.chunks(piece).all(|bytes| frames.take(bytes).is_ok()), "{piece}");
            assert!(frames.any_complete() && frames.missing() == 0, "{piece}: {frames:?}");
            let mut frames = Frames::default();
            assert!(!bad.chunks(piece).all(|bytes| frames.take(bytes).is_ok()), "{piece}");
        }
    }

    #[test]
    fn half_a_frame_is_none() {
        let mut frames = Frames::default();
        frames.take(&header(300, 1, REQUEST)).expect("a good header");
        frames.take(&[0; 299]).expect("a body");
        assert!(!frames.any_complete());
        assert_eq!(frames.missing(), 1);
        frames.take(&[0]).expect("its end");
        assert!(frames.any_complete());
    }

    #[test]
    fn a_refusal_says_what_came_and_why() {
        let refused = Frames::default().take(&[0; 10]).expect_err("zeros").to_string();
        assert!(refused.contains("[00, 00,") && refused.contains("requests and data"), "{refused}");
    }
}
