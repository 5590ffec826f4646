//! The containerd releases tests run against, each from the Debian suite that has it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::Suite;
use crate::place;

/// A containerd line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    V1_6,
    V1_7,
    V2_1,
}

impl Release {
    /// Every release, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_6, Self::V1_7, Self::V2_1];

    /// Returns the Debian suite that has this release.
    pub fn suite(self) -> &'static str {
        match self {
            Self::V1_6 => "bookworm",
            Self::V1_7 => "trixie",
            Self::V2_1 => "forky",
        }
    }

    /// Returns the name of the shipped configuration for this release.
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.x",
        }
    }

    /// Says whether wasm layers can be imported: 1.6 knows tar layers alone.
    pub fn takes_wasm_layers(self) -> bool {
        self != Self::V1_6
    }

    /// Returns the folder with this release's binaries, fetching it first if need be.
    pub fn fetch(self) -> Result<PathBuf> {
        let folder = place::scratch().join(format!("containerd-{}", self.suite()));
        fetched(self.suite(), "containerd", &folder)?;
        Ok(folder.join("usr/bin"))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        })
    }
}

/// Returns runc, the peer's runtime. Newer suites' builds need a newer C library than Debian 12 has.
pub fn runc() -> Result<PathBuf> {
    let folder = place::scratch().join("runc-bookworm");
    fetched("bookworm", "runc", &folder)?;
    Ok(folder.join("usr/sbin/runc"))
}

/// Unpacks a package into `folder` once, whoever asks first: tests of several processes may ask at the same time.
fn fetched(suite: &str, package: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(place::scratch()).context("making the scratch folder")?;
    let lock = fs::File::create(place::scratch().join("fetch.lock")).context("opening a lock")?;
    lock.lock().context("waiting for another fetch")?;
    if folder.exists() {
        return Ok(());
    }
    Suite::open(suite)?
        .unpack(package, folder)
        .with_context(|| format!("fetching {package} of Debian {suite}"))
}
