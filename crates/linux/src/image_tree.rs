//! Facts and folders of the image's tree that the first process needs: its home
//! and its working directory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use oci_spec::runtime::Spec;
use sys::path::{open_directory, open_in_root};

use crate::check::is_bind;
use crate::resolve::View;

/// How much of the image's passwd file is read, in bytes.
const MAX_PASSWD: u64 = 4 * 1024 * 1024;

/// Returns the home that the image's /etc/passwd gives to `uid`.
///
/// The file is a stranger's: a FIFO, a device or a folder is as good as none,
/// and only its first 4 MiB count.
pub(crate) fn home_of(rootfs: &Path, uid: u32) -> Option<String> {
    let root = open_directory(rootfs).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    // Looked at by reference first, since opening a device can have effects.
    let reference = open_in_root(root.as_fd(), Path::new("etc/passwd"), OFlag::O_PATH).ok()?;
    if !File::from(reference).metadata().ok()?.is_file() {
        return None;
    }
    let file = File::from(open_in_root(root.as_fd(), Path::new("etc/passwd"), flags).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let lines = BufReader::new(file.take(MAX_PASSWD)).lines().map_while(Result::ok);
    home_in(lines, uid)
}

fn home_in(mut lines: impl Iterator<Item = String>, uid: u32) -> Option<String> {
    lines.find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let found: u32 = fields.get(2)?.parse().ok()?;
        let home = fields.get(5).filter(|home| found == uid && !home.is_empty())?;
        (!home.contains('\0')).then(|| (*home).to_owned())
    })
}

/// Makes the working directory if it is missing, with mode 0755, as runc does:
/// in the tree that will be mounted where it lies.
///
/// # Errors
/// Those of mkdirat(2); a tree that is not a directory on the host, such as a
/// tmpfs of the spec, is left alone.
pub(crate) fn make(spec: &Spec, rootfs: &Path) -> io::Result<()> {
    let Some(process) = spec.process().as_ref() else {
        return Ok(());
    };
    let loops = |_| io::Error::from(Errno::ELOOP);
    let mut view = View::of_root(rootfs);
    for mount in spec.mounts().iter().flatten() {
        let target = view.resolve(mount.destination()).map_err(loops)?;
        let source = if is_bind(mount) { mount.source().clone() } else { None };
        view.mount(target, source);
    }
    let resolved = view.resolve(process.cwd()).map_err(loops)?;
    match view.on_host(&resolved) {
        Some((tree, rest)) => make_below(open_directory(tree)?, &rest),
        None => Ok(()),
    }
}

fn make_below(tree: OwnedFd, rest: &Path) -> io::Result<()> {
    if open_in_root(tree.as_fd(), rest, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok() {
        return Ok(());
    }
    let mut folder = tree;
    for component in rest.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        match mkdirat(&folder, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // The path was resolved: a symlink that is here now was put in its way.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        folder = open_in_root(folder.as_fd(), Path::new(name), flags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::unistd::mkfifo;
    use oci_spec::runtime::{MountBuilder, ProcessBuilder, SpecBuilder};

    use super::*;

    #[test]
    fn the_home_is_the_first_entry_of_the_user() {
        let passwd =
            ["# no entry", "root:x:0:0:root:/root:/bin/sh", "web:x:33:33::/srv:/x", "b:x:33"];
        let lines = || passwd.iter().map(|line| (*line).to_owned());
        assert_eq!(home_in(lines(), 0).as_deref(), Some("/root"));
        assert_eq!(home_in(lines(), 33).as_deref(), Some("/srv"));
        assert_eq!(home_in(lines(), 34), None);
    }

    #[test]
    fn a_passwd_file_that_is_none_is_not_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let passwd = scratch.path().join("etc/passwd");
        fs::create_dir(scratch.path().join("etc")).unwrap();
        assert_eq!(home_of(scratch.path(), 0), None);
        mkfifo(&passwd, Mode::S_IRWXU).unwrap();
        assert_eq!(home_of(scratch.path(), 0), None);
        fs::remove_file(&passwd).unwrap();
        symlink("/dev/zero", &passwd).unwrap();
        assert_eq!(home_of(scratch.path(), 0), None);
        fs::remove_file(&passwd).unwrap();
        fs::write(&passwd, "root:x:0:0::/root:/bin/sh\n").unwrap();
        assert_eq!(home_of(scratch.path(), 0).as_deref(), Some("/root"));
    }

    #[test]
    fn the_working_directory_is_made_where_it_will_be_seen() {
        let scratch = tempfile::tempdir().unwrap();
        let (rootfs, volume) = (scratch.path().join("rootfs"), scratch.path().join("volume"));
        fs::create_dir_all(&rootfs).unwrap();
        fs::create_dir_all(&volume).unwrap();
        symlink("/inside", rootfs.join("link")).unwrap();
        let made_for = |cwd: &str| {
            let mount = MountBuilder::default()
                .typ("bind")
                .source(volume.clone())
                .destination("/vol")
                .build()
                .unwrap();
            let process = ProcessBuilder::default().cwd(cwd).build().unwrap();
            let spec = SpecBuilder::default().process(process).mounts(vec![mount]).build().unwrap();
            make(&spec, &rootfs).unwrap();
        };
        made_for("/a/b/../c");
        assert!(rootfs.join("a/c").is_dir());
        made_for("/link/deep");
        assert!(rootfs.join("inside/deep").is_dir());
        made_for("/vol/x/y");
        assert!(volume.join("x/y").is_dir());
        assert!(!rootfs.join("vol").exists());
        made_for("/../../escape");
        assert!(rootfs.join("escape").is_dir());
    }
}
