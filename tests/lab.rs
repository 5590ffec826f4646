//! The daemons that the tests of one file share, and the words their checks are written in.
//!
//! A daemon lives while any test uses it: one that stayed in a static would outlive the test process, since nothing
//! drops those. Tests that run side by side therefore meet in one daemon, and the last one ends it.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use testkit::catalogue;
use testkit::command::Output;
use testkit::containerd::{Daemon, Release, Run};
use testkit::image::{Archive, Image};
use testkit::leftovers::Census;

/// The releases that take wasm layers.
pub const LAYERED: [Release; 2] = [Release::V1_7, Release::V2_1];

/// How long anything may take that normally takes a fraction of a second.
pub const PATIENCE: Duration = Duration::from_secs(20);

static LABS: [Mutex<Weak<Lab>>; 3] = [const { Mutex::new(Weak::new()) }; 3];

/// A daemon with the shim under test, and what has been imported into it.
#[derive(Debug)]
pub struct Lab {
    daemon: Daemon,
    imported: Mutex<BTreeSet<String>>,
    quiet: Mutex<()>,
}

impl Deref for Lab {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

/// Returns the daemon of a release; none, with the reason on standard error, where no daemon can run.
///
/// # Panics
/// When the daemon does not start.
pub fn lab(release: Release) -> Option<Arc<Lab>> {
    if !testkit::ready() {
        return None;
    }
    let place = match release {
        Release::V1_6 => &LABS[0],
        Release::V1_7 => &LABS[1],
        Release::V2_1 => &LABS[2],
    };
    let mut shared = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lab) = shared.upgrade() {
        return Some(lab);
    }
    let lab = Arc::new(Lab {
        daemon: must(Daemon::start(release)),
        imported: Mutex::default(),
        quiet: Mutex::default(),
    });
    *shared = Arc::downgrade(&lab);
    Some(lab)
}

/// Runs a check on the daemon of each release.
pub fn on_each(releases: &[Release], check: impl Fn(&Lab)) {
    for release in releases {
        if let Some(lab) = lab(*release) {
            check(&lab);
        }
    }
}

/// Returns the value, or fails the test with the whole chain of causes.
///
/// # Panics
/// On an error.
#[track_caller]
pub fn must<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}

impl Lab {
    /// Imports an image, unless this daemon has it, and returns it.
    ///
    /// # Panics
    /// When the image cannot be built or imported.
    #[track_caller]
    pub fn image(&self, archive: Result<Archive>) -> Archive {
        let archive = must(archive);
        let mut imported = self.imported.lock().unwrap_or_else(PoisonError::into_inner);
        if !imported.contains(&archive.name) {
            must(self.import(&archive));
            imported.insert(archive.name.clone());
        }
        archive
    }

    /// Writes and imports an image that only one test uses.
    ///
    /// # Panics
    /// When the image cannot be built or imported.
    #[track_caller]
    pub fn build(&self, image: Image) -> Archive {
        self.image(catalogue::keep(image))
    }

    /// Prepares a run of an image under an id of its own.
    pub fn start(&self, image: &Archive, name: &str) -> Run {
        self.run(image, &self.unique(name))
    }

    /// Prepares a run on a folder in place of an image: containerd then knows of no image.
    pub fn start_in(&self, rootfs: &Path, id: &str) -> Run {
        let folder = Archive {
            path: PathBuf::new(),
            name: rootfs.display().to_string(),
            digest: String::new(),
            platforms: Vec::new(),
        };
        self.run(&folder, id).flags(["--rootfs"])
    }

    /// Makes an empty folder of this name for a test.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch()?.join(name);
        std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Runs the plain wasm image: the positive control of whatever was refused before.
    ///
    /// # Panics
    /// When that does not work.
    #[track_caller]
    pub fn still_runs(&self) {
        let hello = self.image(match self.release().takes_wasm_layers() {
            true => catalogue::hello_wasm(),
            false => catalogue::hello_file(),
        });
        let output = must(self.start(&hello, "control").output());
        assert_ran(&output, 0, "hello from wasm\n");
    }

    /// Keeps other tests that ask for quiet out, and counts what exists.
    ///
    /// # Panics
    /// When the machine cannot be counted.
    pub fn quiet(&self) -> Quiet<'_> {
        let alone = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        // Another test's shim may still be on its way out; one that stays is counted, and is that test's failure.
        let deadline = std::time::Instant::now() + Duration::from_secs(3);
        while !self.shims().is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        Quiet { lab: self, before: must(Census::of(self)), _alone: alone }
    }
}

/// A time in which nobody else uses the daemon.
#[derive(Debug)]
pub struct Quiet<'lab> {
    lab: &'lab Lab,
    before: Census,
    _alone: MutexGuard<'lab, ()>,
}

impl Quiet<'_> {
    /// Fails the test unless all that has come since is gone again.
    ///
    /// # Panics
    /// When something is left behind.
    #[track_caller]
    pub fn nothing_left(&self) {
        must(self.before.settles(|| Census::of(self.lab), PATIENCE));
    }
}

/// Checks that a container ran to this exit code, and how its standard output starts.
///
/// # Panics
/// With the whole output when it did not.
#[track_caller]
pub fn assert_ran(output: &Output, code: i32, start: &str) {
    assert_eq!(output.status, Some(code), "{}", output.report());
    assert!(output.stdout.starts_with(start), "expected {start:?}: {}", output.report());
}

/// Checks that a container was refused at once, with these words in what the client shows, and never ran.
///
/// # Panics
/// With the whole output when it was not.
#[track_caller]
pub fn assert_refused<'a>(output: &Output, words: impl IntoIterator<Item = &'a str>) {
    assert_eq!(output.status, Some(1), "not refused: {}", output.report());
    assert_eq!(output.stdout, "", "it ran: {}", output.report());
    for word in words {
        assert!(output.stderr.contains(word), "no {word:?}: {}", output.report());
    }
    for word in ["panicked", "RUST_BACKTRACE", "context deadline exceeded", "ttrpc: closed"] {
        assert!(!output.stderr.contains(word), "{word:?} is no clear error: {}", output.report());
    }
    assert!(output.took < PATIENCE, "it took too long: {}", output.report());
}
