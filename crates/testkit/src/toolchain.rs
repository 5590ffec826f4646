//! Compilers that are no Debian packages of this machine: each in a folder below the scratch folder, made once.
//!
//! A folder is made anew when its recipe has changed. Several tests may ask at once: one makes it, the others wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::place;

/// Returns where the toolchain of this name is, or will be.
pub(crate) fn folder(name: &str) -> PathBuf {
    place::scratch().join("toolchains").join(name)
}

/// Makes the toolchain in its folder, unless it is there and was made by this recipe.
pub(crate) fn ensure(
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let folder = folder(name);
    let stamp = folder.with_extension("recipe");
    let current = || fs::read_to_string(&stamp).is_ok_and(|made| made == recipe);
    if current() {
        return Ok(());
    }
    let parent = folder.parent().context("a toolchain's folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let lock = File::create(folder.with_extension("lock")).context("opening a lock")?;
    lock.lock().context("waiting for another who makes the same toolchain")?;
    if current() {
        return Ok(());
    }
    let started = Instant::now();
    eprintln!("testkit: making the {name} toolchain, a minute or some ...");
    // What is left of an attempt that failed, or of an older recipe.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    make(&folder)?;
    fs::write(&stamp, recipe).with_context(|| format!("writing {}", stamp.display()))?;
    eprintln!("testkit: the {name} toolchain took {:.0} s", started.elapsed().as_secs_f32());
    Ok(())
}
