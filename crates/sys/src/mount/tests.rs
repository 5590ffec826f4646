//! Trees in a mount namespace of their own; needs root.

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;

use super::*;
use crate::forked::in_child;
use crate::namespace::{Template, unshare};
use crate::path::{open_directory, open_in_root, open_reference};
use crate::process::SingleThreaded;

/// Runs `body` in a child whose mounts are its own and whose `/mnt` is a tmpfs.
fn with_private_mounts(body: impl FnOnce(&Path)) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to mount");
        return;
    }
    in_child(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let here = open_directory(Path::new("/")).unwrap();
        Tree::tmpfs(None, 0o755, None).unwrap().attach(here.as_fd(), Path::new("/mnt")).unwrap();
        body(Path::new("/mnt"));
    });
}

fn raw(error: &io::Error) -> Option<i32> {
    error.raw_os_error()
}

fn tree_of(path: &Path) -> Tree {
    Tree::clone_of_fd(open_reference(path).unwrap().as_fd()).unwrap()
}

#[test]
fn a_clone_leaves_out_what_is_mounted_below_its_source() {
    with_private_mounts(|scratch| {
        let source = scratch.join("source");
        std::fs::create_dir_all(source.join("proc")).unwrap();
        std::fs::write(source.join("file"), "data").unwrap();
        nix::mount::mount(
            Some("proc"),
            &source.join("proc"),
            Some("proc"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        assert!(source.join("proc/self").exists());

        let tree = tree_of(&source);
        let open = |path: &str| open_in_root(tree.as_fd(), Path::new(path), OFlag::O_RDONLY);
        assert!(open("file").is_ok());
        assert_eq!(raw(&open("proc/self").unwrap_err()), Some(libc::ENOENT));
    });
}

#[test]
fn restrictions_hold_for_the_tree_and_not_for_its_source() {
    with_private_mounts(|scratch| {
        std::fs::write(scratch.join("file"), "data").unwrap();
        let tree = tree_of(scratch);
        tree.restrict(MountFlags::RDONLY.with(MountFlags::GUEST)).unwrap();
        let write = || open_in_root(tree.as_fd(), Path::new("file"), OFlag::O_RDWR);
        assert_eq!(raw(&write().unwrap_err()), Some(libc::EROFS));
        std::fs::write(scratch.join("file"), "changed").unwrap();
    });
}

#[test]
fn a_tmpfs_keeps_to_its_size() {
    with_private_mounts(|_| {
        let tree = Tree::tmpfs(Some(8192), 0o700, None).unwrap();
        let make = |name: &str| {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
            std::fs::File::from(open_in_root(tree.as_fd(), Path::new(name), flags).unwrap())
        };
        use std::io::Write;
        make("small").write_all(&[0; 4096]).unwrap();
        let full = make("large").write_all(&[0; 65536]).unwrap_err();
        assert_eq!(raw(&full), Some(libc::ENOSPC));
    });
}

#[test]
fn a_single_file_is_attached_over_another() {
    with_private_mounts(|scratch| {
        std::fs::write(scratch.join("one"), "one").unwrap();
        std::fs::write(scratch.join("two"), "two").unwrap();
        let target = open_reference(&scratch.join("two")).unwrap();
        tree_of(&scratch.join("one")).attach_on(target.as_fd()).unwrap();
        assert_eq!(std::fs::read_to_string(scratch.join("two")).unwrap(), "one");
    });
}

#[test]
fn an_overlay_shows_both_directories_and_cannot_be_written() {
    with_private_mounts(|scratch| {
        let (upper, lower, target) =
            (scratch.join("upper"), scratch.join("lower"), scratch.join("target"));
        for folder in [&upper, &lower, &target] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(upper.join("same"), "upper").unwrap();
        std::fs::write(lower.join("same"), "lower").unwrap();
        std::fs::write(lower.join("other"), "lower").unwrap();
        let tree = Tree::overlay_of(&[&upper, &lower]).unwrap();
        let here = open_directory(Path::new("/")).unwrap();
        tree.attach(here.as_fd(), &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("same")).unwrap(), "upper");
        assert_eq!(std::fs::read_to_string(target.join("other")).unwrap(), "lower");
        let error = std::fs::write(target.join("new"), "").unwrap_err();
        assert_eq!(raw(&error), Some(libc::EROFS));
        assert_eq!(raw(&Tree::overlay_of(&[&upper]).unwrap_err()), Some(libc::EINVAL));
    });
}

#[test]
fn after_the_pivot_the_old_root_is_out_of_reach() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to mount");
        return;
    }
    in_child(|| {
        let single = SingleThreaded::prove().unwrap();
        Template::new(&single).unwrap().enter().unwrap();
        let tree = Tree::tmpfs(None, 0o755, None).unwrap();
        let root = tree.as_fd().try_clone_to_owned().unwrap();
        let here = open_directory(Path::new("/")).unwrap();
        tree.attach(here.as_fd(), Path::new("/new")).unwrap();
        pivot_into_fd(root.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir("/").unwrap().count(), 0);
        std::fs::write("/mine", "x").unwrap();
        assert!(!Path::new("/../new").exists());
    });
}
