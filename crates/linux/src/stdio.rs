//! The three descriptors that a container's first process is given.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FileStat, SFlag, fstat, major, minor};
use nix::unistd::{Uid, dup2_stderr, dup2_stdout, fchown};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// Copies descriptors that are themselves 0, 1 or 2: libcontainer puts the
/// three in their places one by one and closes each original.
pub(crate) fn above_standard(stdio: [OwnedFd; 3]) -> io::Result<[OwnedFd; 3]> {
    let [stdin, stdout, stderr] = stdio.map(sys::stdio::above_standard);
    Ok([stdin?, stdout?, stderr?])
}

/// Gives the pipes and FIFOs to the container's user, in the host's number, so that it can
/// open `/dev/stdout` again. Files and devices are the host's and stay as they are.
pub(crate) fn give_to(stdio: &[OwnedFd; 3], owner: u32) -> io::Result<()> {
    for fd in stdio {
        let found = fstat(fd)?;
        if found.st_uid == owner || kind(&found) != SFlag::S_IFIFO {
            continue;
        }
        match fchown(fd, Some(Uid::from_raw(owner)), None) {
            // A file system without owners or a read-only one: writing works
            // through the descriptor, opening again may not.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The host's number of the container's user; none if only the kernel knows.
pub(crate) fn host_uid(spec: &Spec) -> Option<u32> {
    let inside = spec.process().as_ref()?.user().uid();
    let linux = spec.linux().as_ref()?;
    let user = |it: &&oci_spec::runtime::LinuxNamespace| it.typ() == LinuxNamespaceType::User;
    let Some(namespace) = linux.namespaces().iter().flatten().find(user) else {
        return Some(inside);
    };
    if namespace.path().is_some() {
        return None;
    }
    linux.uid_mappings().iter().flatten().find_map(|range| {
        let offset = inside.checked_sub(range.container_id())?;
        (offset < range.size()).then(|| range.host_id() + offset)
    })
}

/// Makes the output of a container whose output is /dev/null writable:
/// libcontainer opens the container's own /dev/null for reading only.
pub(crate) fn reopen_null_output() -> io::Result<()> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    if is_read_only_null(&stdout)? {
        dup2_stdout(writable_null()?)?;
    }
    if is_read_only_null(&stderr)? {
        dup2_stderr(writable_null()?)?;
    }
    Ok(())
}

fn writable_null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

fn is_read_only_null(fd: &impl AsFd) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    Ok(flags & OFlag::O_ACCMODE == OFlag::O_RDONLY && is_null(&fstat(fd)?))
}

fn is_null(found: &FileStat) -> bool {
    kind(found) == SFlag::S_IFCHR && (major(found.st_rdev), minor(found.st_rdev)) == (1, 3)
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{
        LinuxBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder, ProcessBuilder, SpecBuilder,
        UserBuilder,
    };

    use super::*;

    #[test]
    fn the_user_is_found_through_the_mappings_of_a_user_namespace() {
        let owner = |uid: u32, mapped: bool| {
            let user = UserBuilder::default().uid(uid).build().unwrap();
            let process = ProcessBuilder::default().user(user).build().unwrap();
            let mut linux = LinuxBuilder::default().build().unwrap();
            let namespace = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User);
            let range = LinuxIdMappingBuilder::default()
                .container_id(0u32)
                .host_id(100_000u32)
                .size(1000u32)
                .build()
                .unwrap();
            if mapped {
                linux.set_namespaces(Some(vec![namespace.build().unwrap()]));
                linux.set_uid_mappings(Some(vec![range]));
            } else {
                linux.set_namespaces(None);
            }
            host_uid(&SpecBuilder::default().process(process).linux(linux).build().unwrap())
        };
        assert_eq!(owner(33, false), Some(33));
        assert_eq!(owner(33, true), Some(100_033));
        assert_eq!(owner(1000, true), None);
    }

    #[test]
    fn only_pipes_are_given_away() {
        const OWNER: u32 = 12_345;
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: giving away needs root");
            return;
        }
        let (_reader, pipe) = nix::unistd::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        let device = File::options().write(true).open("/dev/full").unwrap();
        let stdio = [file.into(), pipe, device.into()];
        give_to(&stdio, OWNER).unwrap();
        let owners = stdio.map(|fd| fstat(&fd).unwrap().st_uid);
        assert_eq!(owners, [0, OWNER, 0]);
    }

    #[test]
    fn null_opened_for_reading_is_told_from_other_files() {
        assert!(is_read_only_null(&File::open("/dev/null").unwrap()).unwrap());
        assert!(!is_read_only_null(&writable_null().unwrap()).unwrap());
        assert!(!is_read_only_null(&File::open("/dev/zero").unwrap()).unwrap());
    }
}
