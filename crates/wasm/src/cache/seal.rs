//! Seals: what tells an entry this node wrote from any other file.
//!
//! A seal is a BLAKE3 keyed hash over the entry's name and content, at the end of the file. The key
//! is made once per folder, at random, readable for its owner alone: a file that was merely dropped
//! into the folder, by whatever mistake, does not pass. BLAKE3 because every load checks it, and at
//! the size of a Go program it takes under a millisecond where SHA-256 takes six.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::folder::{CacheError, Folder, Opened};
use super::lock::Lock;

/// The file that holds the folder's key.
pub(super) const KEY_NAME: &str = "seal.key";
const KEY_LENGTH: usize = blake3::KEY_LEN;

/// Stands before every seal; a change of the format changes it.
const MARK: &[u8; 8] = b"hybridc1";
const SEAL_LENGTH: usize = MARK.len() + blake3::OUT_LEN;

/// Bytes read at a time; large enough for the hash to use all lanes of the processor.
const CHUNK: usize = 256 * 1024;

/// The key of one cache folder.
pub(super) struct Key([u8; KEY_LENGTH]);

/// What a folder holds for a key.
#[derive(Debug)]
pub(super) enum Found {
    Key(Key),
    /// A new one has to be made, for this reason.
    Unusable(String),
    Nothing,
}

impl Key {
    /// Reads the folder's key.
    pub(super) fn of(folder: &Folder) -> Result<Found, CacheError> {
        match folder.open_file(KEY_NAME)? {
            Opened::Nothing => Ok(Found::Nothing),
            Opened::Unfit(why) => Ok(Found::Unusable(why)),
            Opened::File(file) => {
                Self::read(&file).map_err(|source| folder.failed("read", KEY_NAME, source))
            }
        }
    }

    /// Reads the folder's key, making a new one where there is none that can be used.
    pub(super) fn ensured(folder: &Folder) -> Result<Self, CacheError> {
        if let Found::Key(key) = Self::of(folder)? {
            return Ok(key);
        }
        let lock = folder.lock(KEY_NAME)?;
        // Once more: somebody else may have been first, and theirs is the one that counts.
        match Self::of(folder)? {
            Found::Key(key) => return Ok(key),
            Found::Nothing => {}
            Found::Unusable(why) => log::warn!(
                "{KEY_NAME} of the module cache is unusable ({why}): a new one is made, and every \
                 module will be compiled anew"
            ),
        }
        Self::make(folder, &lock)
    }

    fn make(folder: &Folder, _lock: &Lock) -> Result<Self, CacheError> {
        let fresh = random().map_err(|source| folder.failed("make", KEY_NAME, source))?;
        folder.replace(KEY_NAME, &[&fresh], |_| Ok(()))?;
        Ok(Self(fresh))
    }

    fn read(file: &File) -> io::Result<Found> {
        let length = file.metadata()?.len();
        if length != KEY_LENGTH as u64 {
            return Ok(Found::Unusable(format!("it has {length} bytes, expected {KEY_LENGTH}")));
        }
        let mut key = [0; KEY_LENGTH];
        file.read_exact_at(&mut key, 0)?;
        // What a machine that lost its power may leave of a file it had just made.
        if key == [0; KEY_LENGTH] {
            return Ok(Found::Unusable("it is all zeros".to_owned()));
        }
        Ok(Found::Key(Self(key)))
    }

    /// Returns the bytes that end the file `name` when this is what stands before them.
    pub(super) fn seal(&self, name: &str, content: &[u8]) -> [u8; SEAL_LENGTH] {
        finish(self.begin(name).update(content))
    }

    /// Tells whether the file ends in the seal that its name and content call for.
    pub(super) fn sealed(&self, file: &File, name: &str) -> io::Result<bool> {
        let Some(content) = file.metadata()?.len().checked_sub(SEAL_LENGTH as u64) else {
            return Ok(false);
        };
        // First, so that no time is spent on a file that is not sealed at all, however long it is.
        let mut seal = [0; SEAL_LENGTH];
        file.read_exact_at(&mut seal, content)?;
        let (mark, hash) = seal.split_at(MARK.len());
        if mark != MARK {
            return Ok(false);
        }
        let mut hasher = self.begin(name);
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < content {
            let wanted = usize::try_from(content - offset).map_or(CHUNK, |left| left.min(CHUNK));
            file.read_exact_at(&mut buffer[..wanted], offset)?;
            hasher.update(&buffer[..wanted]);
            offset += wanted as u64;
        }
        // Compared as a hash, which takes the same time wherever the difference is.
        Ok(blake3::Hash::from_slice(hash).is_ok_and(|hash| hash == hasher.finalize()))
    }

    fn begin(&self, name: &str) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // The zero parts name from content: no name holds one.
        hasher.update(MARK).update(name.as_bytes()).update(&[0]);
        hasher
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

fn finish(hasher: &blake3::Hasher) -> [u8; SEAL_LENGTH] {
    let mut seal = [0; SEAL_LENGTH];
    let (mark, hash) = seal.split_at_mut(MARK.len());
    mark.copy_from_slice(MARK);
    hash.copy_from_slice(hasher.finalize().as_bytes());
    seal
}

fn random() -> io::Result<[u8; KEY_LENGTH]> {
    let mut bytes = [0; KEY_LENGTH];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
