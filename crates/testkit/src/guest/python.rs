//! Python guests: components that hold CPython, made by componentize-py.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Source, built};
use crate::apt::retry;
use crate::command::Invocation;
use crate::{place, toolchain};

const NAME: &str = "python";
/// The interpreter whose `venv` module `testkit install` brings; another in the PATH may lack it.
const PYTHON: &str = "/usr/bin/python3";
const TIMEOUT: Duration = Duration::from_secs(600);

/// Makes the component from a copy of the program, since the compiled form of its modules is left beside them.
const BUILD: &str = include_str!("python-build.sh");

/// Returns the command component of the Python program `tour`.
pub fn python() -> Result<Vec<u8>> {
    let sources = place::guests().join(NAME);
    let files = ["tour.py", "tour.wit", "requirements.txt"];
    let source = Source {
        kind: NAME,
        name: "tour",
        files: files.iter().map(|file| sources.join(file)).collect(),
        toolchain,
    };
    built(&source, |output| {
        let folder = output.parent().expect("the output is in a folder");
        Invocation::new("sh").args(["-euc", BUILD, "sh"]).args([
            &toolchain::folder(NAME),
            &sources,
            folder,
        ])
    })
}

fn toolchain() -> Result<()> {
    let requirements = place::guests().join(NAME).join("requirements.txt");
    let versions = fs::read_to_string(&requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    toolchain::ensure(NAME, &versions, |folder| install(&requirements, folder))
}

fn install(requirements: &Path, folder: &Path) -> Result<()> {
    Invocation::new(PYTHON)
        .args(["-m", "venv"])
        .arg(folder)
        .timeout(TIMEOUT)
        .run()?
        .ok()
        .context("making a place for componentize-py; `testkit install` brings python3-venv")?;
    retry("fetching componentize-py from the Python package index", || {
        Invocation::new(folder.join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--require-hashes",
                "--only-binary=:all:",
                "--requirement",
            ])
            .arg(requirements)
            .timeout(TIMEOUT)
            .run()?
            .ok()
    })?;
    Ok(())
}
