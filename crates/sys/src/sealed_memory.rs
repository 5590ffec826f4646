//! Files in memory that nobody can change any more: a memfd, written once and sealed.
//!
//! Whoever receives one may read or map it without fear that its bytes or its size change under
//! it. Only a memfd has seals to tell of, so asking for them also keeps out every other kind of
//! file, and with it what could block a reader.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Makes a file of these bytes; `name` is what /proc shows of it.
///
/// # Errors
/// What memfd_create(2), write(2) and fcntl(2) say.
pub fn holding(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut memory = File::from(memfd_create(name, flags)?);
    memory.write_all(bytes)?;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(memory)
}

/// Tells whether a descriptor is of a file that [`holding`] has made, or an equal one.
///
/// # Errors
/// What fcntl(2) says.
pub fn is_sealed(descriptor: impl AsFd) -> io::Result<bool> {
    match fcntl(descriptor, FcntlArg::F_GET_SEALS) {
        Ok(found) => Ok(SealFlag::from_bits_retain(found).contains(SEALS)),
        Err(Errno::EINVAL) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_sealed_stays_as_it_is() {
        let memory = holding(c"test", b"content").unwrap();
        assert!(is_sealed(&memory).unwrap());
        assert!(memory.write_all_at(b"x", 0).is_err());
        assert!(memory.write_all_at(b"x", 7).is_err());
        assert!(memory.set_len(1).is_err());
        let mut read = [0; 7];
        memory.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"content");
    }

    #[test]
    fn what_could_change_is_not_sealed() {
        assert!(!is_sealed(File::open("/dev/null").unwrap()).unwrap());
        let open = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(!is_sealed(&open).unwrap());
        fcntl(&open, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(!is_sealed(&open).unwrap(), "its seals could not be relied on");
    }
}
