//! A copy of this program that nobody can write to, not even through /proc/PID/exe.
//!
//! A container that shares no user namespace with the host could open the runtime's binary
//! through its /proc/PID/exe and wait until it may write (CVE-2019-5736). So the program runs
//! itself from a read-only overlay over the folder it lies in: the pages are those of the
//! original, nothing is copied, and the overlay has no upper layer, so it cannot be made writable.
//! It is never attached to a mount namespace. Where the kernel cannot do that, the program is
//! copied into a sealed memfd, at the price of its size in memory.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::mkdtemp;

use crate::mount::Tree;

const SELF: &str = "/proc/self/exe";

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Opens the program that is running, in a form that can be executed but never written.
///
/// Once it runs from there, the link /proc/self/exe can still be executed, but its text names no
/// file on the host, and the thread's name is the kernel's choice until
/// [`crate::process::set_name`].
///
/// # Errors
/// When neither an overlay nor a sealed copy can be made.
pub fn seal() -> io::Result<OwnedFd> {
    match seal_by_overlay() {
        Ok(sealed) => Ok(sealed),
        Err(error) => {
            log::warn!("no overlay to run from, copying the program into memory: {error}");
            seal_by_copy()
        }
    }
}

fn seal_by_overlay() -> io::Result<OwnedFd> {
    let running = File::open(SELF)?;
    let path = std::fs::read_link(SELF)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("the program has no path"));
    };
    let folder = File::open(folder)?;
    let below = openat(&folder, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if identity(&running.metadata()?) != identity(&File::from(below).metadata()?) {
        return Err(io::Error::other("another file has taken the program's path"));
    }
    // An overlay that has no upper layer must have two lower ones. The folder goes by descriptor:
    // its path could be too long for a mount option, or change meanwhile.
    let empty = EmptyFolder::make()?;
    let tree = Tree::overlay_of(&[&by_descriptor(&folder), &empty.0])?;
    let sealed = openat(&tree, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let sealed = File::from(sealed);
    // Device numbers differ between an overlay and its layers; the rest is the lower file's.
    if contents(&running.metadata()?) != contents(&sealed.metadata()?) {
        return Err(io::Error::other("the overlay shows another file at the program's path"));
    }
    Ok(sealed.into())
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn contents(metadata: &Metadata) -> (u64, i64, i64, i64, i64) {
    (
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

fn by_descriptor(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A folder that exists for as long as it takes to make an overlay of it, which then keeps it.
struct EmptyFolder(PathBuf);

impl EmptyFolder {
    fn make() -> io::Result<Self> {
        let folder = mkdtemp("/run/hybrid-empty-XXXXXX")
            .or_else(|_errno| mkdtemp(&std::env::temp_dir().join("hybrid-empty-XXXXXX")))?;
        Ok(Self(folder))
    }
}

impl Drop for EmptyFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            log::warn!("cannot remove the empty folder {}: {error}", self.0.display());
        }
    }
}

fn seal_by_copy() -> io::Result<OwnedFd> {
    let mut running = File::open(SELF)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Since Linux 6.3 a memfd must say that it is for execution; before, it must not.
    let executable = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let copy = memfd_create(c"sealed", flags | executable)
        .or_else(|_errno| memfd_create(c"sealed", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut running, &mut copy)?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;
    use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};
    use nix::unistd::fexecve;
    use std::ffi::CString;
    use std::io::Write;
    use std::path::Path;

    const PROBE: &str = "sealed_exe::tests::inside_a_sealed_program";

    /// Says whether this process runs from what [`seal`] makes.
    fn is_sealed() -> io::Result<bool> {
        let exe = File::open(SELF)?;
        let seals = fcntl(&exe, FcntlArg::F_GET_SEALS).unwrap_or(0);
        if SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Ok(true);
        }
        // A file in our overlay: never attached, so its path is one component below a root that is
        // nowhere; and the file system itself, not just a mount of it, refuses writers. An ordinary
        // overlay answers "text file busy" to that.
        let is_overlay = fstatfs(&exe)?.filesystem_type() == OVERLAYFS_SUPER_MAGIC;
        let is_detached = std::fs::read_link(SELF)?.parent() == Some(Path::new("/"));
        let refusal = File::options().write(true).open(SELF).err();
        let is_read_only = refusal.is_some_and(|error| error.raw_os_error() == Some(libc::EROFS));
        Ok(is_overlay && is_detached && is_read_only)
    }

    /// Replaces this process by the program behind `sealed`; returns only if that fails.
    fn exec(sealed: OwnedFd, argv: &[CString]) -> nix::errno::Errno {
        let Err(errno) = fexecve(sealed, argv, &[] as &[CString]);
        errno
    }

    fn dev_null() -> OwnedFd {
        File::options().read(true).write(true).open("/dev/null").expect("null").into()
    }

    fn writable(path: &str) -> io::Result<()> {
        let mut file = File::options().write(true).open(path)?;
        file.write_all(b"overwritten")
    }

    #[test]
    #[ignore = "the sealing tests run it inside a sealed copy of this program"]
    fn inside_a_sealed_program() {
        assert!(is_sealed().expect("is_sealed"));
        let error = writable(SELF).expect_err("the sealed program was written to");
        assert!(
            matches!(error.raw_os_error(), Some(libc::EROFS | libc::EPERM | libc::ETXTBSY)),
            "{error}"
        );
    }

    /// Runs the probe from `sealed`, then tries to write to the program now that it does not run.
    fn survives_an_attack(sealed: OwnedFd) {
        let original = std::fs::read(SELF).expect("read");
        let kept = sealed.try_clone().expect("clone");
        in_child(|| {
            crate::signal::reset_for_child().expect("reset");
            let quiet = [(); 3].map(|()| dev_null());
            crate::stdio::install(quiet).expect("stdio");
            let argv = ["probe", "--ignored", "--exact", PROBE]
                .map(|arg| CString::new(arg).expect("argument"));
            let error = exec(sealed, &argv);
            panic!("exec failed: {error}");
        });
        let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
        let error = writable(&path).expect_err("the program was written to after it ended");
        assert!(matches!(error.raw_os_error(), Some(libc::EROFS | libc::EPERM)), "{error}");
        assert!(std::fs::read(&path).expect("read") == original);
        assert!(std::fs::read(SELF).expect("read") == original);
    }

    #[test]
    fn the_overlay_runs_and_cannot_be_written_to() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make an overlay");
            return;
        }
        survives_an_attack(seal_by_overlay().expect("overlay"));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!mounts.contains("hybrid-empty"), "the overlay was attached somewhere");
    }

    #[test]
    fn the_copy_in_memory_runs_and_cannot_be_written_to() {
        survives_an_attack(seal_by_copy().expect("copy"));
    }

    #[test]
    fn an_ordinary_program_is_not_sealed() {
        assert!(!is_sealed().expect("is_sealed"));
    }

    #[test]
    fn an_unsealed_program_can_be_written_to_once_it_has_ended() {
        // The control of the tests above: the same attack on a plain copy succeeds.
        let path = std::env::temp_dir().join(format!("unsealed-{}", std::process::id()));
        std::fs::copy(SELF, &path).expect("copy");
        let attacked = writable(path.to_str().expect("text"));
        std::fs::remove_file(&path).expect("remove");
        attacked.expect("a plain file can be written to");
    }
}
