//! The private containerd with all that the shims under test are shown: images, container records, bundles.
//!
//! A bundle is what containerd itself would make: the spec comes from the container's own record, the root file system
//! from its own snapshot. Bundles are where containerd has them, so that the daemon's end clears them as well.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use containerd_shim::protos::types::mount::Mount;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testkit::catalogue;
use testkit::containerd::{Daemon, Release};
use testkit::image::Archive;

use crate::contestant::{Contestant, Picture, Work};

/// The annotation that both shims share a server by.
const GROUP: &str = "io.containerd.runc.v2.group";
/// How much of a shim's log an error shows.
const LOG_LINES: usize = 10;

/// A running containerd with the images.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) daemon: Daemon,
    busybox: Archive,
    hello: Archive,
    sleeper: Archive,
}

/// A container that containerd knows, ready to be created in a shim.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Lab {
    /// Starts containerd and imports the images.
    pub(crate) fn start() -> Result<Self> {
        let lab = Self {
            daemon: Daemon::start(Release::V1_7)?,
            busybox: catalogue::busybox()?,
            hello: catalogue::hello_wasm()?,
            sleeper: catalogue::guest_image("sleeper")?,
        };
        for archive in [&lab.busybox, &lab.hello, &lab.sleeper] {
            lab.daemon.import(archive)?;
        }
        Ok(lab)
    }

    pub(crate) fn archive(&self, picture: Picture) -> &Archive {
        match picture {
            Picture::Busybox => &self.busybox,
            Picture::HelloModule => &self.hello,
            Picture::SleeperModule => &self.sleeper,
        }
    }

    /// Returns the folder that is the daemon's, and so its shims', whole PATH.
    pub(crate) fn bin(&self) -> PathBuf {
        self.daemon.address().with_file_name("bin")
    }

    /// Writes a container's record into containerd and makes its bundle.
    pub(crate) fn container(
        &self,
        contestant: Contestant,
        work: Work,
        group: &str,
    ) -> Result<Bundle> {
        let id = self.daemon.unique(contestant.tag());
        self.record(contestant, work, &id, group)
            .and_then(|()| self.bundle(&id))
            .with_context(|| format!("preparing container {id}"))
    }

    /// Removes a container's bundle, record and snapshot.
    pub(crate) fn remove(&self, bundle: &Bundle) -> Result<()> {
        fs::remove_dir_all(&bundle.path)
            .with_context(|| format!("removing {}", bundle.path.display()))?;
        self.daemon.ctr(["containers", "rm", &bundle.id])?.ok()?;
        Ok(())
    }

    /// Does `ctr containers create`, outside any group when its name is empty.
    pub(crate) fn record(
        &self,
        contestant: Contestant,
        work: Work,
        id: &str,
        group: &str,
    ) -> Result<()> {
        let (picture, arguments) = contestant.workload(work);
        let archive = self.archive(picture);
        let mut words = vec!["containers", "create", "--runtime", contestant.runtime()];
        let annotation = format!("{GROUP}={group}");
        if !group.is_empty() {
            words.extend(["--annotation", &annotation]);
        }
        words.extend([archive.name.as_str(), id]);
        words.extend(arguments);
        self.daemon.ctr(words)?.ok()?;
        Ok(())
    }

    fn bundle(&self, id: &str) -> Result<Bundle> {
        let path = self.daemon.bundle(id);
        for folder in [path.join("rootfs"), path.join("work")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&folder)
                .with_context(|| format!("making {}", folder.display()))?;
        }
        let spec = self.daemon.ctr(["containers", "info", "--spec", id])?.ok()?;
        fs::write(path.join("config.json"), spec.stdout).context("writing config.json")?;
        let log = drain(&path.join("log"))?;
        let rootfs = path.join("rootfs").display().to_string();
        let mounts = self.daemon.ctr(["snapshots", "mounts", &rootfs, id])?.ok()?;
        let rootfs = mounts.lines().into_iter().map(mount).collect::<Result<_>>()?;
        Ok(Bundle { id: id.to_owned(), path, rootfs, log })
    }
}

impl Bundle {
    /// Returns the end of what the shim that was started from this bundle has logged, for an error.
    pub(crate) fn log(&self) -> String {
        let bytes = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("the shim's log ends with:\n{end}")
    }
}

/// Makes the FIFO that a shim logs to and collects what comes, as containerd does.
fn drain(path: &Path) -> Result<Arc<Mutex<Vec<u8>>>> {
    mkfifo(path, Mode::S_IRWXU).with_context(|| format!("making {}", path.display()))?;
    // Open both ways, so that neither this nor a shim's opening waits for the other.
    let mut fifo = File::options().read(true).write(true).open(path).context("opening a log")?;
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = fifo.read(&mut buffer) {
            sink.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
    });
    Ok(bytes)
}

/// Reads one line of `ctr snapshots mounts`: `mount -t TYPE SOURCE TARGET -o OPTION,OPTION`.
fn mount(line: &str) -> Result<Mount> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["mount", "-t", kind, source, _target, "-o", options] = words.as_slice() else {
        anyhow::bail!("not a mount command: {line:?}");
    };
    Ok(Mount {
        type_: (*kind).to_owned(),
        source: (*source).to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_command_is_read_back() {
        let line = "mount -t overlay overlay /b/rootfs -o index=off,workdir=/w,lowerdir=/l";
        let read = mount(line).unwrap();
        assert_eq!((read.type_.as_str(), read.source.as_str()), ("overlay", "overlay"));
        assert_eq!(read.options, ["index=off", "workdir=/w", "lowerdir=/l"]);
        assert!(mount("umount /b/rootfs").is_err());
    }
}
