//! Landlock: a second wall behind the mounts.
//!
//! The sandbox's mount namespace already holds nothing but the grants; where
//! the kernel has Landlock, the process gives up every right to anything else
//! for good, so that a flaw in one wall is not enough.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest Landlock this is written for; older kernels enforce what they know.
const WRITTEN_FOR: ABI = ABI::V6;

/// What may be done below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read files and list directories.
    Read,
    /// Also write, make, rename and remove files and directories. Device
    /// nodes, sockets and FIFOs cannot be made, nothing can be executed.
    ReadWrite,
}

/// What the kernel made of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LandlockStatus {
    /// All of it is enforced.
    Enforced,
    /// A kernel of this older Landlock version enforces what it knows.
    InPart {
        /// The version, as landlock(7) counts.
        abi: u32,
    },
    /// The kernel has no Landlock, or it is switched off.
    NotInKernel,
}

/// Why the restriction could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel refused a rule.
    #[error("restrict the process with landlock")]
    Refused(#[from] RulesetError),
    /// The kernel could not be asked what it has.
    #[error("ask the kernel for its landlock version")]
    Unknown(#[source] io::Error),
    /// The kernel has more than it put to use.
    #[error("landlock version {abi} is in the kernel, and the restriction was not made in full")]
    Withheld {
        /// The version, as landlock(7) counts.
        abi: u32,
    },
}

/// Asks for the kernel's Landlock version, as landlock(7) counts; `None` where it has none or it is
/// switched off. Changes nothing.
///
/// # Errors
/// What landlock_create_ruleset(2) says beyond that, such as EPERM under a filter.
pub fn abi() -> io::Result<Option<u32>> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let no_attributes = std::ptr::null::<libc::c_void>();
    let no_size: libc::size_t = 0;
    // SAFETY: with this flag the kernel demands a null pointer and size 0, and touches no memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            no_attributes,
            no_size,
            CREATE_RULESET_VERSION,
        )
    };
    match u32::try_from(answer) {
        Ok(version) => Ok(Some(version)),
        Err(_negative) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP)) => {
                Ok(None)
            }
            error => Err(error),
        },
    }
}

/// Takes from this thread, and all it starts, every file right that `grants`
/// does not name, and signals and abstract sockets to processes outside. Sets
/// `no_new_privs`.
///
/// # Errors
/// When the kernel has Landlock and refuses, or enforces less than [`abi`] promises.
pub fn restrict_to(grants: &[(BorrowedFd<'_>, Access)]) -> Result<LandlockStatus, LandlockError> {
    let promised = abi().map_err(LandlockError::Unknown)?;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WRITTEN_FOR))?
        .scope(Scope::from_all(WRITTEN_FOR))?
        .create()?;
    for (directory, access) in grants {
        rules = rules.add_rule(PathBeneath::new(*directory, rights(*access)))?;
    }
    let status = rules.restrict_self()?;
    judge(promised, status.ruleset)
}

fn rights(access: Access) -> landlock::BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::Read => read,
        Access::ReadWrite => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::Refer
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
        }
    }
}

/// Older kernels may enforce in part; one that knows all this is written for must enforce all.
fn judge(promised: Option<u32>, made: RulesetStatus) -> Result<LandlockStatus, LandlockError> {
    match (promised, made) {
        (None, _) => Ok(LandlockStatus::NotInKernel),
        (Some(_), RulesetStatus::FullyEnforced) => Ok(LandlockStatus::Enforced),
        (Some(abi), RulesetStatus::PartiallyEnforced) if abi < WRITTEN_FOR as u32 => {
            Ok(LandlockStatus::InPart { abi })
        }
        (Some(abi), RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced) => {
            Err(LandlockError::Withheld { abi })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::path::open_directory;

    #[test]
    fn only_the_granted_directory_can_be_read_where_the_kernel_has_landlock() {
        // A thread of its own: the restriction lasts for the thread's life.
        let outcome = std::thread::spawn(|| {
            let etc = open_directory(Path::new("/etc")).unwrap();
            let status = restrict_to(&[(etc.as_fd(), Access::Read)]).unwrap();
            let granted = std::fs::read("/etc/passwd").is_ok();
            let other = std::fs::read_dir("/usr").is_ok();
            (status, granted, other)
        });
        match outcome.join().unwrap() {
            (LandlockStatus::Enforced | LandlockStatus::InPart { .. }, granted, other) => {
                assert!(abi().unwrap().is_some());
                assert!(granted);
                assert!(!other);
            }
            (LandlockStatus::NotInKernel, granted, other) => {
                eprintln!("SKIPPED: this kernel has no landlock");
                assert_eq!(abi().unwrap(), None);
                assert!(granted && other);
            }
        }
    }

    #[test]
    fn less_than_the_kernel_promises_is_an_error_and_less_than_all_is_told() {
        use RulesetStatus::{FullyEnforced, NotEnforced, PartiallyEnforced};
        let newest = WRITTEN_FOR as u32;
        let judged = |promised, made| judge(promised, made).ok();
        let table = [
            (None, NotEnforced, Some(LandlockStatus::NotInKernel)),
            (Some(newest), FullyEnforced, Some(LandlockStatus::Enforced)),
            (Some(newest + 1), FullyEnforced, Some(LandlockStatus::Enforced)),
            (Some(3), PartiallyEnforced, Some(LandlockStatus::InPart { abi: 3 })),
            (Some(newest), PartiallyEnforced, None),
            (Some(3), NotEnforced, None),
            (Some(newest), NotEnforced, None),
        ];
        for (promised, made, expected) in table {
            let shown = format!("{promised:?} {made:?}");
            assert_eq!(judged(promised, made), expected, "{shown}");
        }
    }
}
