//! The name of a blob by its content: `sha256:` and 64 lower-case hex digits.
//!
//! containerd's content store, the compile cache and the log all speak of
//! bytes by this name. Other algorithms are refused: nothing here could check
//! them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::quoted::Quoted;

const PREFIX: &str = "sha256:";
const HEX_DIGITS: usize = 64;

/// A SHA-256 digest as the OCI image spec writes it ("Digests" in descriptor.md).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Says why a text is no digest this crate can check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a sha256 digest: expected \"sha256:\" and 64 lower-case hex digits", Quoted(.0))]
pub struct InvalidDigest(String);

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the 64 hex digits alone, which are safe as a file name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(HEX_DIGITS), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
            hex
        })
    }
}

/// Hashes a blob that arrives in pieces.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts with no bytes seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Returns the digest of all pieces.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(raw: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(raw.to_owned());
        let hex = raw.strip_prefix(PREFIX).ok_or_else(invalid)?.as_bytes();
        if hex.len() != HEX_DIGITS {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = (hex_value(pair[0]), hex_value(pair[1]));
            *byte = high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(invalid)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(raw: String) -> Result<Self, InvalidDigest> {
        raw.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_NOTHING: &str =
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_no_bytes_is_the_well_known_one() {
        assert_eq!(Digest::of(b"").to_string(), OF_NOTHING);
    }

    #[test]
    fn text_and_digest_convert_both_ways() {
        let digest: Digest = OF_NOTHING.parse().unwrap();
        assert_eq!(digest.to_string(), OF_NOTHING);
        assert_eq!(format!("sha256:{}", digest.hex()), OF_NOTHING);
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{OF_NOTHING}\""));
        assert_eq!(serde_json::from_str::<Digest>(&format!("\"{OF_NOTHING}\"")).unwrap(), digest);
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = Hasher::new();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }

    #[test]
    fn anything_else_is_refused() {
        let upper = OF_NOTHING.to_uppercase().replace("SHA256", "sha256");
        let short = &OF_NOTHING[..OF_NOTHING.len() - 1];
        let long = format!("{OF_NOTHING}0");
        let sha512 = format!("sha512:{}", "0".repeat(128));
        let path = format!("sha256:../{}", "0".repeat(61));
        for raw in ["", "sha256:", "e3b0", &upper, short, &long, &sha512, &path] {
            let refused = raw.parse::<Digest>().unwrap_err().to_string();
            assert!(refused.contains("expected \"sha256:\""), "{refused}");
        }
    }
}
