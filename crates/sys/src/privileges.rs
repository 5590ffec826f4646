//! Giving up power: users, capabilities, resource limits, and the way back to any of them.
//!
//! In this order: [`set_rlimits`], [`become_user`], [`drop_all_capabilities`], [`no_new_privs`].
//! A process that keeps some capabilities: [`keep_capabilities`], [`take_identity`],
//! [`set_capabilities`].

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

mod capabilities;

pub use capabilities::{drop_all_capabilities, keep_capabilities, set_capabilities};

use capabilities::drop_bounding_set;

/// Makes sure that no exec can ever raise the privileges of this process again.
///
/// # Errors
/// What prctl(2) says.
pub fn no_new_privs() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Says whether other processes of the same user may trace this one and read its /proc files.
///
/// # Errors
/// What prctl(2) says.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    Ok(prctl::set_dumpable(dumpable)?)
}

/// Leaves the session keyring that was inherited for a new, empty one: what the host keeps in its
/// own is no business of a container. A kernel without keyrings has nothing to leave.
///
/// # Errors
/// What keyctl(2) says.
pub fn leave_session_keyring() -> io::Result<()> {
    let unnamed = std::ptr::null::<libc::c_char>();
    // SAFETY: this operation takes a name, for which null is "none", and writes no memory of ours.
    let keyring =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, unnamed) };
    match io::Error::last_os_error() {
        _ if keyring >= 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// Becomes a user with exactly these groups, for good.
///
/// The capability bounding set is emptied first: once the user has changed, nobody here could.
/// A change away from uid 0 takes the other capabilities with it.
///
/// # Errors
/// `InvalidInput` for the id 4294967295, which the kernel reads as "no change"; `PermissionDenied`
/// where the caller may not; an error when the kernel reports other ids than those asked for.
pub fn become_user(uid: u32, gid: u32, additional_gids: &[u32]) -> io::Result<()> {
    refuse_minus_one(uid, gid, additional_gids)?;
    drop_bounding_set()?;
    take_identity(uid, gid, additional_gids)
}

/// Becomes a user with exactly these groups. The capabilities are what [`keep_capabilities`] has
/// made of them.
///
/// # Errors
/// As [`become_user`].
pub fn take_identity(uid: u32, gid: u32, additional_gids: &[u32]) -> io::Result<()> {
    refuse_minus_one(uid, gid, additional_gids)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let mut groups: Vec<Gid> = additional_gids.iter().copied().map(Gid::from_raw).collect();
    // A user namespace may forbid the call; it is not needed where it would change nothing.
    if groups != getgroups()? {
        setgroups(&groups)?;
    }
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;

    let (uids, gids, mut found) = (getresuid()?, getresgid()?, getgroups()?);
    groups.sort_unstable_by_key(|gid| gid.as_raw());
    found.sort_unstable_by_key(|gid| gid.as_raw());
    let is_user = [uids.real, uids.effective, uids.saved] == [uid; 3];
    let is_group = [gids.real, gids.effective, gids.saved] == [gid; 3];
    if is_user && is_group && groups == found {
        Ok(())
    } else {
        Err(io::Error::other(format!("still not only user {uid} and group {gid}")))
    }
}

fn refuse_minus_one(uid: u32, gid: u32, additional_gids: &[u32]) -> io::Result<()> {
    if [uid, gid].iter().chain(additional_gids).any(|id| *id == u32::MAX) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not the id of a user or group", u32::MAX),
        ));
    }
    Ok(())
}

/// Why a resource limit of the runtime spec was not set.
#[derive(Debug, thiserror::Error)]
pub enum RlimitError {
    /// The spec contradicts itself.
    #[error("{name}: the soft limit {soft} is above the hard limit {hard}")]
    SoftAboveHard {
        /// The spec's name, as in `RLIMIT_NOFILE`.
        name: PosixRlimitType,
        /// The soft limit asked for, in the unit of that resource.
        soft: u64,
        /// The hard limit asked for.
        hard: u64,
    },
    /// The kernel said no: to raise a hard limit takes CAP_SYS_RESOURCE.
    #[error("cannot set {name} to soft {soft} and hard {hard}")]
    Refused {
        /// The spec's name, as in `RLIMIT_NOFILE`.
        name: PosixRlimitType,
        /// The soft limit asked for, in the unit of that resource.
        soft: u64,
        /// The hard limit asked for.
        hard: u64,
        /// What setrlimit(2) said.
        source: io::Error,
    },
}

/// Sets the resource limits of the runtime spec (config.md, "POSIX process", `rlimits`).
///
/// # Errors
/// At the first limit that cannot be set; those before it stay set.
pub fn set_rlimits(limits: &[PosixRlimit]) -> Result<(), RlimitError> {
    for limit in limits {
        let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        if soft > hard {
            return Err(RlimitError::SoftAboveHard { name, soft, hard });
        }
        setrlimit(resource(name), soft, hard).map_err(|errno| RlimitError::Refused {
            name,
            soft,
            hard,
            source: errno.into(),
        })?;
    }
    Ok(())
}

/// Raises the hard limits that [`set_rlimits`] would raise, and changes nothing else: to be called
/// where the caller still may, when the limits themselves are to be set later.
///
/// # Errors
/// At the first limit that cannot be raised.
pub fn raise_rlimits(limits: &[PosixRlimit]) -> Result<(), RlimitError> {
    for limit in limits {
        let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        let refused =
            |errno: nix::Error| RlimitError::Refused { name, soft, hard, source: errno.into() };
        let (soft_now, hard_now) = getrlimit(resource(name)).map_err(refused)?;
        if hard > hard_now {
            setrlimit(resource(name), soft_now, hard).map_err(refused)?;
        }
    }
    Ok(())
}

fn resource(name: PosixRlimitType) -> Resource {
    match name {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;
    use nix::sys::resource::getrlimit;
    use oci_spec::runtime::PosixRlimitBuilder;

    fn as_root(body: impl FnOnce()) {
        if nix::unistd::geteuid().is_root() {
            in_child(body);
        } else {
            eprintln!("SKIPPED: needs root to give up its privileges");
        }
    }

    fn status(field: &str) -> String {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("field");
        line.split_once(':').expect("colon").1.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn limit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
        PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard).build().expect("limit")
    }

    #[test]
    fn the_user_changes_for_good_and_takes_all_capabilities_along() {
        as_root(|| {
            become_user(1234, 567, &[89, 7]).expect("become");
            assert_eq!(status("Uid"), "1234 1234 1234 1234");
            assert_eq!(status("Gid"), "567 567 567 567");
            assert_eq!(status("Groups"), "7 89");
            drop_all_capabilities().expect("drop");
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(status(set), "0000000000000000", "{set}");
            }
            become_user(0, 0, &[]).expect_err("there is no way back");
        });
    }

    #[test]
    fn root_without_capabilities_cannot_become_another_user() {
        as_root(|| {
            become_user(0, 0, &[]).expect("root may be root");
            drop_all_capabilities().expect("drop");
            let error = become_user(1, 1, &[]).expect_err("no CAP_SETUID");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn minus_one_is_nobodys_id() {
        as_root(|| {
            for (uid, gid, more) in [(u32::MAX, 1, 1), (1, u32::MAX, 1), (1, 1, u32::MAX)] {
                let error = become_user(uid, gid, &[more]).expect_err("-1");
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert_eq!(status("Uid"), "0 0 0 0");
            }
        });
    }

    #[test]
    fn limits_are_set_as_the_spec_has_them() {
        in_child(|| {
            set_rlimits(&[
                limit(PosixRlimitType::RlimitNofile, 50, 60),
                limit(PosixRlimitType::RlimitFsize, 4096, 8192),
            ])
            .expect("lowering is always allowed");
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("get"), (50, 60));
            assert_eq!(getrlimit(Resource::RLIMIT_FSIZE).expect("get"), (4096, 8192));
        });
    }

    #[test]
    fn hard_limits_can_be_raised_ahead_of_time() {
        as_root(|| {
            set_rlimits(&[limit(PosixRlimitType::RlimitNofile, 50, 60)]).expect("lower");
            let later = [limit(PosixRlimitType::RlimitNofile, 10, 20)];
            raise_rlimits(&later).expect("nothing to raise");
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("get"), (50, 60));
            set_rlimits(&later).expect("lower");
            assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).expect("get"), (10, 20));
            drop_all_capabilities().expect("drop");
            let error = raise_rlimits(&[limit(PosixRlimitType::RlimitNofile, 1, 21)])
                .expect_err("raising takes CAP_SYS_RESOURCE");
            assert_eq!(error.to_string(), "cannot set RLIMIT_NOFILE to soft 1 and hard 21");
        });
    }

    #[test]
    fn the_session_keyring_is_left_behind() {
        as_root(|| {
            let serial = || {
                // SAFETY: this operation takes numbers only: the session keyring, never made anew.
                unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_GET_KEYRING_ID, -3, 0) }
            };
            let before = serial();
            leave_session_keyring().expect("leave");
            assert!(before == -1 || serial() != before);
        });
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_named() {
        as_root(|| {
            set_rlimits(&[limit(PosixRlimitType::RlimitNofile, 50, 60)]).expect("lower");
            drop_all_capabilities().expect("drop");
            let error = set_rlimits(&[limit(PosixRlimitType::RlimitNofile, 50, 61)])
                .expect_err("raising takes CAP_SYS_RESOURCE");
            assert_eq!(error.to_string(), "cannot set RLIMIT_NOFILE to soft 50 and hard 61");
            let error = set_rlimits(&[limit(PosixRlimitType::RlimitCore, 2, 1)])
                .expect_err("soft above hard");
            assert!(matches!(error, RlimitError::SoftAboveHard { soft: 2, hard: 1, .. }));
        });
    }

    #[test]
    fn new_privileges_and_tracing_can_be_renounced() {
        in_child(|| {
            assert_eq!(status("NoNewPrivs"), "0");
            no_new_privs().expect("set");
            assert_eq!(status("NoNewPrivs"), "1");
            set_dumpable(false).expect("set");
            assert!(!prctl::get_dumpable().expect("get"));
            set_dumpable(true).expect("set");
            assert!(prctl::get_dumpable().expect("get"));
        });
    }
}
