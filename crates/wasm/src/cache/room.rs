//! Keeping the cache within its size.
//!
//! Entries go in the order of their last use, whatever engine they are for, so that those of an
//! older version of this program end up first. One that any process has mapped is locked by it and
//! stays, even if the cache is too large then.

use std::os::unix::fs::MetadataExt;

use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};

use super::ENTRY;
use super::folder::{CacheError, Folder, Opened, written_for};

/// The name whose lock is held by whoever makes room: two at once would remove twice as much.
const ROOM_LOCK: &str = "room";

/// An entry as it was listed.
#[derive(Debug)]
struct Listed {
    name: String,
    size: u64,
    inode: u64,
    used: (i64, i64),
}

/// Removes what compilers that were killed have left, and then the entries that nobody has mapped,
/// the least recently used first, until all together take at most `size` bytes.
pub(super) fn make(folder: &Folder, size: u64) -> Result<(), CacheError> {
    let _lock = folder.lock(ROOM_LOCK)?;
    let names = folder.names()?;
    for (left, meant_for) in names.iter().filter_map(|name| Some((name, written_for(name)?))) {
        // Whoever has the lock is still writing it.
        if let Some(_lock) = folder.try_lock(meant_for)? {
            folder.discard(left);
        }
    }
    let entries = names.into_iter().filter(|name| name.ends_with(ENTRY));
    let mut entries: Vec<Listed> = entries.filter_map(|name| list(folder, name)).collect();
    let mut taken: u64 = entries.iter().map(|entry| entry.size).sum();
    entries.sort_by_key(|entry| entry.used);
    for entry in entries {
        if taken <= size {
            break;
        }
        if remove_unused(folder, &entry)? {
            log::info!("{} left the module cache: it was not used for longest", entry.name);
            taken = taken.saturating_sub(entry.size);
        }
    }
    Ok(())
}

/// Looks at a file; what is gone by now, or is no file, takes no room.
fn list(folder: &Folder, name: String) -> Option<Listed> {
    let found = fstatat(folder, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    if found.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return None;
    }
    let size = u64::try_from(found.st_size).unwrap_or_default();
    Some(Listed { name, size, inode: found.st_ino, used: (found.st_mtime, found.st_mtime_nsec) })
}

/// Removes an entry, unless somebody has it mapped; says whether it did.
fn remove_unused(folder: &Folder, entry: &Listed) -> Result<bool, CacheError> {
    let failed = |attempt, source| folder.failed(attempt, &entry.name, source);
    // Nobody replaces it between the look at it and its removal.
    let Some(_lock) = folder.try_lock(&entry.name)? else {
        return Ok(false);
    };
    let is_unused = match folder.open_file(&entry.name)? {
        Opened::Nothing => false,
        Opened::Unfit(_) => true,
        Opened::File(file) => {
            let now = file.metadata().map_err(|source| failed("look at", source))?;
            now.ino() == entry.inode && file.try_lock().is_ok()
        }
    };
    if is_unused {
        folder.remove(&entry.name).map_err(|source| failed("remove", source))?;
    }
    Ok(is_unused)
}
