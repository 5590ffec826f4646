//! A page of numbers that two processes share: one maps it and counts in it without a system call,
//! the other reads and writes it through the descriptor and maps nothing.
//!
//! The page is a sealed memfd: it can neither shrink, so no access ever meets SIGBUS, nor grow. A
//! mapping is inherited by every fork, and outlives the descriptor. What a reader finds is whatever
//! the other side put there: of a process that is not trusted, believe nothing.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::ftruncate;

/// Bytes of a page of numbers.
const BYTES: usize = 4096;

/// How many numbers there are, each addressed by its index.
pub const SLOTS: usize = BYTES / size_of::<u64>();

/// What keeps the size, and these seals themselves, as they are.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// The page, by its descriptor.
#[derive(Debug)]
pub struct Page(OwnedFd);

impl Page {
    /// Makes a page of zeros.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) and fcntl(2) say.
    pub fn new() -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = memfd_create(c"hybrid-gauge", flags)?;
        ftruncate(&memory, i64::try_from(BYTES).map_err(io::Error::other)?)?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals()))?;
        Ok(Self(memory))
    }

    /// Takes a descriptor that somebody else made by [`Page::new`].
    ///
    /// # Errors
    /// `InvalidInput` when it is anything but such a page.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let not_a_page = |why: &str| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("not a page of numbers: {why}"))
        };
        // Only a memfd has seals to tell of, so this also keeps out every other kind of file.
        let found = match fcntl(&descriptor, FcntlArg::F_GET_SEALS) {
            Ok(found) => SealFlag::from_bits_truncate(found),
            Err(Errno::EINVAL) => return Err(not_a_page("it cannot be sealed")),
            Err(errno) => return Err(errno.into()),
        };
        if !found.contains(seals()) {
            return Err(not_a_page("its size is not sealed"));
        }
        if usize::try_from(fstat(&descriptor)?.st_size).ok() != Some(BYTES) {
            return Err(not_a_page("it has another size"));
        }
        Ok(Self(descriptor))
    }

    /// Reads the first `N` numbers. Each is whole; together they need not be of one moment.
    ///
    /// # Errors
    /// What pread(2) says, and `UnexpectedEof` where the page ends before.
    pub fn read<const N: usize>(&self) -> io::Result<[u64; N]> {
        let mut bytes = vec![0; N * size_of::<u64>()];
        if pread(&self.0, &mut bytes, 0)? != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut numbers = [0; N];
        let (words, _) = bytes.as_chunks::<{ size_of::<u64>() }>();
        for (number, word) in numbers.iter_mut().zip(words) {
            *number = u64::from_ne_bytes(*word);
        }
        Ok(numbers)
    }

    /// Writes one number.
    ///
    /// # Errors
    /// `InvalidInput` for a slot that there is not, and what pwrite(2) says.
    pub fn write(&self, slot: usize, number: u64) -> io::Result<()> {
        if slot >= SLOTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let offset = i64::try_from(slot * size_of::<u64>()).map_err(io::Error::other)?;
        // Aligned and inside one page: the kernel copies such a word in one move.
        match pwrite(&self.0, &number.to_ne_bytes(), offset)? {
            written if written == size_of::<u64>() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Maps the page. The descriptor is not needed any more afterwards.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn map(&self) -> io::Result<Mapped> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let descriptor = self.0.as_raw_fd();
        // SAFETY: the kernel chooses the address, so no mapping that is in use is replaced, and the
        // descriptor is open for the length of the call.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), BYTES, protection, libc::MAP_SHARED, descriptor, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Mapped(address.cast()))
    }
}

impl AsFd for Page {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The page, mapped into this process and those forked from it.
pub struct Mapped(NonNull<AtomicU64>);

impl Mapped {
    /// Returns the number in a slot.
    ///
    /// # Panics
    /// When there is no such slot, which is a mistake of the program: slots are constants.
    #[must_use]
    pub fn get(&self, slot: usize) -> u64 {
        self.slots()[slot].load(Ordering::Relaxed)
    }

    /// Sets the number in a slot. Of several numbers, others may see the later one first.
    ///
    /// # Panics
    /// As [`Mapped::get`].
    pub fn set(&self, slot: usize, number: u64) {
        self.slots()[slot].store(number, Ordering::Relaxed);
    }

    fn slots(&self) -> &[AtomicU64; SLOTS] {
        let page = self.0.cast::<[AtomicU64; SLOTS]>();
        // SAFETY: `map` got BYTES of memory at this address, page-aligned and so aligned for an
        // AtomicU64, which SLOTS numbers fill exactly; any bits are a valid one. They stay mapped
        // until `drop`, which the borrow of `self` keeps away, and the seals keep the file from
        // shrinking below them. Nothing in this process refers to them but as atomics; a write of
        // another process, or by the descriptor, is outside of what the memory model speaks of and
        // at the level of the machine an ordinary aligned store.
        unsafe { page.as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping of this length for this value alone, and no reference
        // into it outlives the value.
        let unmapped = unsafe { libc::munmap(self.0.as_ptr().cast(), BYTES) };
        // It fails for an address or length that no mapping can have.
        debug_assert_eq!(unmapped, 0);
    }
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access is atomic.
unsafe impl Send for Mapped {}

// SAFETY: as for Send.
unsafe impl Sync for Mapped {}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::{in_child, spawn};

    use nix::sys::wait::{WaitStatus, waitpid};

    #[test]
    fn both_sides_see_what_the_other_wrote() {
        let page = Page::new().unwrap();
        assert_eq!(page.read::<3>().unwrap(), [0; 3]);
        page.write(1, u64::MAX).unwrap();
        let mapped = page.map().unwrap();
        assert_eq!((mapped.get(0), mapped.get(1), mapped.get(SLOTS - 1)), (0, u64::MAX, 0));
        mapped.set(2, 7);
        mapped.set(SLOTS - 1, 9);
        assert_eq!(page.read::<3>().unwrap(), [0, u64::MAX, 7]);
        assert_eq!(page.read::<SLOTS>().unwrap()[SLOTS - 1], 9);
    }

    #[test]
    fn a_mapping_survives_the_fork_and_its_descriptor() {
        let page = Page::new().unwrap();
        let theirs = Page::from_descriptor(page.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mapped = theirs.map().unwrap();
        drop(theirs);
        let child = spawn(|| {
            crate::stdio::close_others().unwrap();
            mapped.set(3, 42);
        });
        drop(mapped);
        assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 0)));
        assert_eq!(page.read::<4>().unwrap()[3], 42);
    }

    #[test]
    fn the_size_stays_as_it_is() {
        let page = Page::new().unwrap();
        for size in [0, 8, 1 << 20] {
            assert_eq!(ftruncate(&page, size), Err(Errno::EPERM), "{size}");
        }
        // Some kernels write what fits, others nothing at all.
        assert!(matches!(pwrite(&page, &[0; 16], 4088), Ok(8) | Err(Errno::EPERM)));
        assert_eq!(fstat(&page).unwrap().st_size, 4096);
        assert_eq!(pwrite(&page, &[0; 8], 4096), Err(Errno::EPERM));
        fcntl(&page, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap_err();
    }

    #[test]
    fn slots_beyond_the_page_are_errors() {
        let page = Page::new().unwrap();
        page.write(SLOTS - 1, 1).unwrap();
        for slot in [SLOTS, usize::MAX] {
            assert_eq!(page.write(slot, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let read = page.read::<{ SLOTS + 1 }>();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_a_sealed_page_of_this_size_is_taken() {
        let sealable =
            || memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let unsealed = sealable();
        ftruncate(&unsealed, 4096).unwrap();
        let larger = sealable();
        ftruncate(&larger, 8192).unwrap();
        fcntl(&larger, FcntlArg::F_ADD_SEALS(seals())).unwrap();
        let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
        let pipe = nix::unistd::pipe().unwrap().0;
        for (name, descriptor) in
            [("unsealed", unsealed), ("larger", larger), ("file", file), ("pipe", pipe)]
        {
            let refused = Page::from_descriptor(descriptor).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name}: {refused}");
        }
        Page::from_descriptor(Page::new().unwrap().0).unwrap();
    }

    #[test]
    fn a_mapping_goes_with_its_value() {
        in_child(|| {
            // Other tests may have had theirs mapped when this process was forked.
            let mapped = || {
                let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
                maps.matches("hybrid-gauge").count()
            };
            let before = mapped();
            let page = Page::new().unwrap().map().unwrap();
            assert_eq!(mapped(), before + 1);
            drop(page);
            assert_eq!(mapped(), before);
        });
    }
}
