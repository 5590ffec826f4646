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
        Invocation::new(toolchain::folder(NAME).join("bin/componentize-py"))
            .arg("--wit-path")
            .arg(sources.join("tour.wit"))
            .args(["--world", "command", "componentize", "tour", "--python-path"])
            .arg(&sources)
            .arg("--output")
            .arg(output)
            // Nothing is left beside the sources.
            .env("PYTHONDONTWRITEBYTECODE", "1")
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
