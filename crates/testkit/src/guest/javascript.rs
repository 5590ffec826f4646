//! JavaScript guests: components that hold a JavaScript engine, made by componentize-js.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Source, built};
use crate::apt::retry;
use crate::command::Invocation;
use crate::{place, toolchain};

const NAME: &str = "js";
const TIMEOUT: Duration = Duration::from_secs(600);

/// Puts the world beside the WASI interfaces that come with the tools, and makes the component.
const BUILD: &str = include_str!("javascript-build.sh");

/// Returns the command component of the JavaScript program `tour`.
pub fn javascript_command() -> Result<Vec<u8>> {
    // A command serves nobody: without these, it imports nothing of HTTP.
    javascript("tour", &["command", "--disable", "http", "fetch-event"])
}

/// Returns the HTTP component of the JavaScript program `server`.
pub fn javascript_server() -> Result<Vec<u8>> {
    javascript("server", &["server"])
}

fn javascript(name: &str, world: &[&str]) -> Result<Vec<u8>> {
    let sources = place::guests().join(NAME);
    let files = [format!("{name}.js"), format!("{name}.wit"), "package-lock.json".to_owned()];
    let source = Source {
        kind: NAME,
        name,
        files: files.iter().map(|file| sources.join(file)).collect(),
        toolchain,
    };
    built(&source, |output| {
        let folder = output.parent().expect("the output is in a folder");
        Invocation::new("sh")
            .args(["-euc", BUILD, "sh"])
            .args([&toolchain::folder(NAME), &sources, folder])
            .arg(name)
            .args(world)
    })
}

fn toolchain() -> Result<()> {
    let sources = place::guests().join(NAME);
    let lock = sources.join("package-lock.json");
    let versions =
        fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
    toolchain::ensure(NAME, &versions, |folder| install(&sources, folder))
}

fn install(sources: &Path, folder: &Path) -> Result<()> {
    for file in ["package.json", "package-lock.json"] {
        fs::copy(sources.join(file), folder.join(file))
            .with_context(|| format!("copying {file} of the JavaScript guests"))?;
    }
    // Takes the versions and checksums of the lock file, as `npm ci` does; but that one also wants every optional
    // package for foreign platforms in the lock file, of which a mirror may lack some.
    retry("fetching componentize-js from npm's registry", || {
        Invocation::new("npm")
            .args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"])
            .arg("--loglevel=error")
            .directory(folder)
            .timeout(TIMEOUT)
            .run()
            .context("`testkit install` brings npm")?
            .ok()
    })?;
    Ok(())
}
