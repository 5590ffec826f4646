//! The five capability sets of a process: given up, or cut down to a list.

use std::io;

use nix::sys::prctl;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// Gives up every capability in every set: bounding, ambient, inheritable, permitted, effective.
///
/// # Errors
/// `PermissionDenied` when the bounding set is not empty and the caller may not empty it; an
/// error when the kernel reports that one capability is left.
pub fn drop_all_capabilities() -> io::Result<()> {
    // After `become_user` it is empty, and looking is the check of what that did.
    if bounding_set()?.bits != 0 {
        drop_bounding_set()?;
    }
    clear_ambient()?;
    set(Sets::default())?;
    // The ambient set is not asked: the kernel keeps it within the permitted and the inheritable one.
    if held()? == Sets::default() {
        Ok(())
    } else {
        Err(io::Error::other("a capability is still held after all were dropped"))
    }
}

/// Says whether a change away from uid 0 leaves the permitted capabilities as they are, for
/// [`set_capabilities`] to choose from. The effective ones go in any case.
///
/// # Errors
/// What prctl(2) says.
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    Ok(prctl::set_keepcaps(keep)?)
}

/// Makes every set of capabilities what the runtime spec lists: none where it lists nothing.
///
/// An inheritable capability is passed over unless it is listed as ambient too, as runc does for
/// a further process of a container: alone it only serves to come back by a file that has it. So
/// is a capability that this kernel does not know, and an ambient one that is not permitted and
/// inheritable as well: there is no such thing.
///
/// # Errors
/// `PermissionDenied` for a capability that the caller is not permitted, or that is to be
/// inheritable and not in the bounding set; an error when the kernel reports others than asked.
pub fn set_capabilities(asked: Option<&LinuxCapabilities>) -> io::Result<()> {
    let bits = |list: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        asked.and_then(|asked| list(asked).as_ref()).into_iter().flatten().copied().map(bit).sum()
    };
    let bounding: u64 = bits(LinuxCapabilities::bounding);
    let ambient: u64 = bits(LinuxCapabilities::ambient);
    // To cut down the bounding set takes a capability, which a change of user has made ineffective.
    let now = held()?;
    if now.effective != now.permitted {
        set(Sets { effective: now.permitted, ..now })?;
    }
    let found = bounding_set()?;
    for capability in 0..found.known {
        if found.bits & !bounding & (1 << capability) != 0 {
            number(libc::PR_CAPBSET_DROP, capability, 0)?;
        }
    }
    let known = u64::MAX >> (64 - found.known);
    let wanted = Sets {
        effective: bits(LinuxCapabilities::effective) & known,
        permitted: bits(LinuxCapabilities::permitted) & known,
        inheritable: bits(LinuxCapabilities::inheritable) & ambient & known,
    };
    clear_ambient()?;
    set(wanted)?;
    let ambient = ambient & wanted.permitted & wanted.inheritable;
    for capability in (0..found.known).filter(|it| ambient & (1 << it) != 0) {
        number(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability)?;
    }
    if held()? == wanted && bounding_set()?.bits & !bounding == 0 {
        Ok(())
    } else {
        Err(io::Error::other("other capabilities are held than those that were set"))
    }
}

/// Empties the bounding set, so that not even root's exec gives a capability back.
pub(super) fn drop_bounding_set() -> io::Result<()> {
    let found = bounding_set()?;
    (0..found.known)
        .filter(|capability| found.bits & (1 << capability) != 0)
        .try_for_each(|capability| number(libc::PR_CAPBSET_DROP, capability, 0).map(drop))
}

struct BoundingSet {
    bits: u64,
    /// How many capabilities the kernel knows.
    known: libc::c_int,
}

fn bounding_set() -> io::Result<BoundingSet> {
    let mut bits = 0;
    for capability in 0..64 {
        match number(libc::PR_CAPBSET_READ, capability, 0) {
            Ok(is_in) => bits |= u64::from(is_in == 1) << capability,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(BoundingSet { bits, known: capability });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(BoundingSet { bits, known: 64 })
}

fn clear_ambient() -> io::Result<()> {
    number(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0).map(drop)
}

fn number(option: libc::c_int, second: libc::c_int, third: libc::c_int) -> io::Result<i32> {
    // The kernel reads whole words; unused arguments must be 0.
    let (second, third) = (libc::c_long::from(second), libc::c_long::from(third));
    let unused: libc::c_long = 0;
    // SAFETY: the options used in this file take numbers only, so no memory is touched.
    match unsafe { libc::prctl(option, second, third, unused, unused) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

/// The three sets that capget(2) and capset(2) know, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

const VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`; version 3 takes two of them, for 64 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set(sets: Sets) -> io::Result<()> {
    let half = |shift: u32| {
        let cut = |bits: u64| u32::try_from((bits >> shift) & u64::from(u32::MAX));
        let [effective, permitted, inheritable] =
            [sets.effective, sets.permitted, sets.inheritable].map(cut);
        Ok::<_, std::num::TryFromIntError>(Words {
            effective: effective?,
            permitted: permitted?,
            inheritable: inheritable?,
        })
    };
    let words = [half(0), half(32)];
    let [Ok(low), Ok(high)] = words else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let words = [low, high];
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: header and data have the kernel's layout for version 3, the data are two structures
    // as that version demands, and both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn held() -> io::Result<Sets> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut words = [Words::default(); 2];
    // SAFETY: as in `set`, and the kernel may write the two structures.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = words;
    let joined = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Sets {
        effective: joined(low.effective, high.effective),
        permitted: joined(low.permitted, high.permitted),
        inheritable: joined(low.inheritable, high.inheritable),
    })
}

/// The kernel's number of a capability, as a bit (linux/capability.h).
fn bit(capability: Capability) -> u64 {
    let number = match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    };
    1 << number
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    use super::*;
    use crate::forked::in_child;
    use crate::privileges::{become_user, take_identity};

    const KILL: u64 = 1 << 5;
    const CHOWN: u64 = 1;
    const CHECKPOINT_RESTORE: u64 = 1 << 40;

    fn as_root(body: impl FnOnce()) {
        if nix::unistd::geteuid().is_root() {
            in_child(body);
        } else {
            eprintln!("SKIPPED: needs root to change its capabilities");
        }
    }

    /// What the kernel's own report says of one set.
    fn reported(set: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find(|line| line.starts_with(set)).expect("the set");
        u64::from_str_radix(line.split_whitespace().nth(1).expect("bits"), 16).expect("hex")
    }

    fn sets() -> [u64; 5] {
        ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"].map(reported)
    }

    fn caps(list: &[Capability]) -> Capabilities {
        list.iter().copied().collect()
    }

    fn listed(
        bounding: &[Capability],
        permitted: &[Capability],
        inheritable: &[Capability],
        ambient: &[Capability],
    ) -> LinuxCapabilities {
        LinuxCapabilitiesBuilder::default()
            .bounding(caps(bounding))
            .effective(caps(permitted))
            .permitted(caps(permitted))
            .inheritable(caps(inheritable))
            .ambient(caps(ambient))
            .build()
            .expect("capabilities")
    }

    #[test]
    fn every_set_is_what_is_listed_and_none_inheritable_that_is_not_ambient() {
        use Capability::{CheckpointRestore, Chown, Kill};

        let table = [
            (
                listed(&[Kill, CheckpointRestore], &[Kill], &[], &[]),
                [KILL | CHECKPOINT_RESTORE, KILL, KILL, 0, 0],
            ),
            (listed(&[Kill], &[Kill], &[Kill], &[Kill]), [KILL, KILL, KILL, KILL, KILL]),
            (listed(&[], &[Chown], &[], &[]), [0, CHOWN, CHOWN, 0, 0]),
            (listed(&[Kill], &[Kill], &[Kill], &[]), [KILL, KILL, KILL, 0, 0]),
            (
                listed(&[Kill, Chown], &[Kill, Chown], &[Kill, Chown], &[Kill]),
                [KILL | CHOWN, KILL | CHOWN, KILL | CHOWN, KILL, KILL],
            ),
            // What is ambient must be inheritable too, and is not made so.
            (
                listed(&[Kill, Chown], &[Kill, Chown], &[Chown], &[Kill, Chown]),
                [KILL | CHOWN, KILL | CHOWN, KILL | CHOWN, CHOWN, CHOWN],
            ),
        ];
        for (asked, expected) in table {
            as_root(|| {
                set_capabilities(Some(&asked)).expect("set");
                assert_eq!(sets(), expected, "{asked:?}");
            });
        }
        as_root(|| {
            assert_ne!(sets(), [0; 5]);
            set_capabilities(None).expect("set");
            assert_eq!(sets(), [0; 5]);
        });
    }

    #[test]
    fn capabilities_outlive_a_change_of_user_where_that_is_asked() {
        use Capability::Kill;

        let asked = listed(&[Kill], &[Kill], &[], &[]);
        as_root(|| {
            keep_capabilities(true).expect("keep");
            take_identity(1234, 567, &[]).expect("become");
            keep_capabilities(false).expect("no more");
            set_capabilities(Some(&asked)).expect("set");
            assert_eq!(sets(), [KILL, KILL, KILL, 0, 0]);
        });
        as_root(|| {
            take_identity(1234, 567, &[]).expect("become");
            assert_eq!(reported("CapPrm"), 0);
            set_capabilities(Some(&asked)).expect_err("they are gone");
        });
    }

    #[test]
    fn what_is_not_permitted_cannot_be_taken() {
        use Capability::{Chown, Kill};

        as_root(|| {
            set_capabilities(Some(&listed(&[Kill], &[Kill], &[], &[]))).expect("set");
            for asked in [listed(&[], &[Chown], &[], &[]), listed(&[Kill], &[], &[Chown], &[Chown])]
            {
                let error = set_capabilities(Some(&asked)).expect_err("not permitted");
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{asked:?}");
            }
        });
    }

    #[test]
    fn no_set_keeps_any() {
        as_root(|| {
            assert_ne!(reported("CapEff"), 0);
            drop_all_capabilities().expect("drop");
            assert_eq!(sets(), [0; 5]);
            drop_all_capabilities().expect("nothing left to drop");
        });
        as_root(|| {
            become_user(1234, 567, &[]).expect("become");
            drop_all_capabilities().expect("drop");
            assert_eq!(sets(), [0; 5]);
        });
    }
}
