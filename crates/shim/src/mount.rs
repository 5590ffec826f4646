//! Mounting what containerd describes: a type, a source, and options in fstab's
//! words.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use containerd_shim::protos::types::mount::Mount;
use nix::mount::{MsFlags, mount as mount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{SysconfVar, sysconf};

/// The option that lists an overlay's layers, which can be many.
const LAYERS: &str = "lowerdir=";

/// The flags that belong to a mount and not to its file system: a bind mount takes
/// them only when it is mounted once more.
const OF_THE_MOUNT: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// How mount(2) is to be called.
#[derive(Debug)]
struct Call {
    flags: MsFlags,
    propagation: MsFlags,
    /// What the file system itself is told.
    data: Vec<String>,
}

/// What one option means.
enum Meaning {
    Set(MsFlags),
    Clear(MsFlags),
    Propagate(MsFlags),
    /// Nothing that mount(2) knows: the file system is told.
    Data,
}

/// Mounts `mount` at `target`, an absolute path.
pub(crate) fn mount(mount: &Mount, target: &Path) -> anyhow::Result<()> {
    let context = || {
        let Mount { type_, source, .. } = mount;
        format!("cannot mount {type_} {source:?} at {}", target.display())
    };
    ensure!(
        matches!(mount.target.as_str(), "" | "/"),
        "a mount below the root filesystem ({}) is not supported",
        mount.target
    );
    let call = Call::from_options(&mount.options).with_context(context)?;
    let page = page_size()?;
    if call.fits(page) {
        return call.make(mount, target).with_context(context);
    }
    let Some((folder, call)) = call.seen_from_common_folder().filter(|(_, call)| call.fits(page))
    else {
        bail!("{}: its options are longer than the {page} bytes of a page", context());
    };
    mount_from(&folder, &call, mount, target).with_context(context)
}

/// Mounts with `folder` as the working directory: of a thread of its own, for no
/// other must be moved there.
fn mount_from(folder: &Path, call: &Call, mount: &Mount, target: &Path) -> anyhow::Result<()> {
    let work = || {
        unshare(CloneFlags::CLONE_FS).context("cannot get a working directory of its own")?;
        nix::unistd::chdir(folder).with_context(|| format!("cannot enter {}", folder.display()))?;
        call.make(mount, target)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work);
        let done = thread.context("cannot start the thread that mounts")?.join();
        done.unwrap_or_else(|_| bail!("the thread that mounts has panicked"))
    })
}

fn page_size() -> anyhow::Result<usize> {
    let page = sysconf(SysconfVar::PAGE_SIZE).context("cannot tell the size of a page")?;
    page.and_then(|page| usize::try_from(page).ok()).context("pages have no size")
}

impl Call {
    fn from_options(options: &[String]) -> anyhow::Result<Self> {
        let (flags, propagation) = (MsFlags::empty(), MsFlags::empty());
        let mut call = Self { flags, propagation, data: Vec::new() };
        for option in options {
            match meaning(option)? {
                Meaning::Set(flags) => call.flags |= flags,
                Meaning::Clear(flags) => call.flags -= flags,
                Meaning::Propagate(how) => call.propagation = how,
                Meaning::Data => call.data.push(option.clone()),
            }
        }
        Ok(call)
    }

    /// Whether the kernel takes so long a text, which it wants to end within a page.
    fn fits(&self, page: usize) -> bool {
        self.data.iter().map(|option| option.len() + 1).sum::<usize>() <= page
    }

    /// Shortens the names of an overlay's layers by the folder all of them are below.
    fn seen_from_common_folder(&self) -> Option<(PathBuf, Self)> {
        let at = self.data.iter().position(|option| option.starts_with(LAYERS))?;
        let layers: Vec<&Path> =
            self.data[at].strip_prefix(LAYERS)?.split(':').map(Path::new).collect();
        let folder = layers.first()?.ancestors().skip(1).find(|folder| {
            folder.is_absolute() && layers.iter().all(|layer| layer.starts_with(folder))
        })?;
        let names: Option<Vec<&str>> = layers
            .iter()
            .map(|layer| layer.strip_prefix(folder).ok()?.to_str().filter(|name| !name.is_empty()))
            .collect();
        let mut data = self.data.clone();
        data[at] = format!("{LAYERS}{}", names?.join(":"));
        Some((folder.to_owned(), Self { data, ..*self }))
    }

    fn make(&self, mount: &Mount, target: &Path) -> anyhow::Result<()> {
        let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let (source, kind) = (given(&mount.source), given(&mount.type_));
        let (source, kind) = (source.as_deref(), kind.as_deref());
        let data = given(&self.data.join(","));
        let call = |source, kind, flags, data| {
            mount2::<str, Path, str, str>(source, target, kind, flags, data)
        };
        call(source, kind, self.flags, data.as_deref())?;
        if self.flags.contains(MsFlags::MS_BIND) && self.flags.intersects(OF_THE_MOUNT) {
            call(None, None, self.flags | MsFlags::MS_REMOUNT, None)
                .context("the bind mount does not take its flags")?;
        }
        if !self.propagation.is_empty() {
            call(None, None, self.propagation, None)
                .context("the mount does not take its propagation")?;
        }
        Ok(())
    }
}

fn meaning(option: &str) -> anyhow::Result<Meaning> {
    use Meaning::{Clear, Data, Propagate, Set};
    Ok(match option {
        "defaults" => Set(MsFlags::empty()),
        "ro" => Set(MsFlags::MS_RDONLY),
        "rw" => Clear(MsFlags::MS_RDONLY),
        "bind" => Set(MsFlags::MS_BIND),
        "rbind" => Set(MsFlags::MS_BIND | MsFlags::MS_REC),
        "remount" => Set(MsFlags::MS_REMOUNT),
        "nosuid" => Set(MsFlags::MS_NOSUID),
        "suid" => Clear(MsFlags::MS_NOSUID),
        "nodev" => Set(MsFlags::MS_NODEV),
        "dev" => Clear(MsFlags::MS_NODEV),
        "noexec" => Set(MsFlags::MS_NOEXEC),
        "exec" => Clear(MsFlags::MS_NOEXEC),
        "relatime" => Set(MsFlags::MS_RELATIME),
        "norelatime" => Clear(MsFlags::MS_RELATIME),
        "strictatime" => Set(MsFlags::MS_STRICTATIME),
        "nostrictatime" => Clear(MsFlags::MS_STRICTATIME),
        "noatime" => Set(MsFlags::MS_NOATIME),
        "atime" => Clear(MsFlags::MS_NOATIME),
        "nodiratime" => Set(MsFlags::MS_NODIRATIME),
        "diratime" => Clear(MsFlags::MS_NODIRATIME),
        "sync" => Set(MsFlags::MS_SYNCHRONOUS),
        "async" => Clear(MsFlags::MS_SYNCHRONOUS),
        "dirsync" => Set(MsFlags::MS_DIRSYNC),
        "mand" => Set(MsFlags::MS_MANDLOCK),
        "nomand" => Clear(MsFlags::MS_MANDLOCK),
        "private" => Propagate(MsFlags::MS_PRIVATE),
        "rprivate" => Propagate(MsFlags::MS_PRIVATE | MsFlags::MS_REC),
        "slave" => Propagate(MsFlags::MS_SLAVE),
        "rslave" => Propagate(MsFlags::MS_SLAVE | MsFlags::MS_REC),
        "shared" => Propagate(MsFlags::MS_SHARED),
        "rshared" => Propagate(MsFlags::MS_SHARED | MsFlags::MS_REC),
        "unbindable" => Propagate(MsFlags::MS_UNBINDABLE),
        "runbindable" => Propagate(MsFlags::MS_UNBINDABLE | MsFlags::MS_REC),
        "loop" => bail!(
            "the option `loop` is refused: this shim mounts no image files, so choose a \
             snapshotter that gives folders or devices"
        ),
        _ => Data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(options: &[&str]) -> Call {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Call::from_options(&options).expect("mountable")
    }

    #[test]
    fn options_become_flags_and_the_file_system_gets_the_rest() {
        let flags = |options: &[&str]| call(options).flags;
        assert_eq!(
            flags(&["rbind", "ro"]),
            MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
        );
        assert_eq!(flags(&["ro", "noexec", "rw", "exec", "defaults"]), MsFlags::empty());
        let mixed = call(&["nosuid", "size=1m", "rslave", "mode=755"]);
        assert_eq!(mixed.flags, MsFlags::MS_NOSUID);
        assert_eq!(mixed.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        assert_eq!(mixed.data, ["size=1m", "mode=755"]);
    }

    #[test]
    fn loop_devices_are_refused_in_a_sentence() {
        let error = Call::from_options(&["ro".to_owned(), "loop".to_owned()]).expect_err("refused");
        assert!(error.to_string().contains("snapshotter"), "{error}");
    }

    #[test]
    fn layers_are_named_from_their_common_folder() {
        let all =
            call(&["workdir=/s/9/w", "lowerdir=/s/1/fs:/s/22/fs:/s/3/fs", "upperdir=/s/9/fs"]);
        let (folder, short) = all.seen_from_common_folder().expect("shortened");
        assert_eq!(folder, Path::new("/s"));
        assert_eq!(short.data, ["workdir=/s/9/w", "lowerdir=1/fs:22/fs:3/fs", "upperdir=/s/9/fs"]);
        for odd in ["lowerdir=a:b", "lowerdir=/s/1::/s/2", "size=1m"] {
            assert!(call(&[odd]).seen_from_common_folder().is_none(), "{odd}");
        }
    }

    /// A mount made for a test, and undone after it.
    struct Made(tempfile::TempDir);

    impl Made {
        fn target(&self) -> PathBuf {
            self.0.path().join("rootfs")
        }
    }

    impl Drop for Made {
        fn drop(&mut self) {
            crate::rootfs::unmount(&self.target()).expect("unmounted");
        }
    }

    /// A folder with an empty `rootfs`; none where nothing can be mounted.
    fn folder() -> Option<Made> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to mount");
            return None;
        }
        // Not /tmp: an overlay on an overlay may be refused.
        let made = Made(tempfile::tempdir_in("/dev/shm").expect("a folder"));
        std::fs::create_dir(made.target()).expect("a target");
        Some(made)
    }

    #[test]
    fn a_read_only_bind_mount_is_read_only() {
        for (options, writable) in [(vec!["rbind", "ro"], false), (vec!["rbind", "rw"], true)] {
            let Some(made) = folder() else { return };
            let source = made.0.path().join("source");
            std::fs::create_dir(&source).expect("a source");
            let described = Mount {
                type_: "bind".to_owned(),
                source: source.to_string_lossy().into_owned(),
                options: options.iter().map(ToString::to_string).collect(),
                ..Mount::default()
            };
            mount(&described, &made.target()).expect("mounted");
            let written = std::fs::write(made.target().join("file"), "x");
            assert_eq!(written.is_ok(), writable, "{options:?}: {written:?}");
        }
    }

    #[test]
    fn an_overlay_of_more_layers_than_fit_in_a_page_is_mounted() {
        let Some(made) = folder() else { return };
        let before = std::env::current_dir().expect("a working directory");
        let layers: Vec<String> = (0..60)
            .map(|number| {
                let layer = made.0.path().join(format!("{number:0>60}"));
                std::fs::create_dir(&layer).expect("a layer");
                std::fs::write(layer.join(format!("from-{number}")), "x").expect("a file");
                layer.to_string_lossy().into_owned()
            })
            .collect();
        let lowerdir = format!("{LAYERS}{}", layers.join(":"));
        assert!(lowerdir.len() > page_size().expect("a size"));
        let short = call(&[&lowerdir]).seen_from_common_folder().expect("shortened").1;
        eprintln!("{} bytes become {}", lowerdir.len(), short.data[0].len());
        let described = Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![lowerdir],
            ..Mount::default()
        };
        mount(&described, &made.target()).expect("mounted");
        for number in [0, 59] {
            assert!(made.target().join(format!("from-{number}")).exists());
        }
        assert_eq!(std::env::current_dir().expect("a working directory"), before);
    }
}
