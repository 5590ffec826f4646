//! Turns the guests' sources under `test-images/` into modules.
//!
//! Built modules are kept in the scratch folder under the hash of what they were built from, so each source is compiled
//! once, and a changed source is never confused with its older build.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::command::Invocation;
use crate::place;

mod javascript;
mod python;
mod rust;

pub use javascript::{javascript_command, javascript_server};
pub use python::python;
pub use rust::{rust_component, rust_module, rust_notes, rust_server};

const COMPILE_TIMEOUT: Duration = Duration::from_secs(300);

/// What a guest is built from.
struct Source<'a> {
    /// The language.
    kind: &'a str,
    name: &'a str,
    files: Vec<PathBuf>,
    /// Brings the compiler, if it is no package of this machine.
    toolchain: fn() -> Result<()>,
}

impl<'a> Source<'a> {
    /// A guest whose compiler `testkit install` has brought.
    fn new(kind: &'a str, name: &'a str, files: impl Into<Vec<PathBuf>>) -> Self {
        Self { kind, name, files: files.into(), toolchain: || Ok(()) }
    }
}

/// Returns the module written as text in `test-images/wat/<name>.wat`.
pub fn wat(name: &str) -> Result<Vec<u8>> {
    let path = place::guests().join(format!("wat/{name}.wat"));
    wat::parse_file(&path).with_context(|| format!("assembling {}", path.display()))
}

/// Returns the module that `source` describes.
pub fn text(source: &str) -> Result<Vec<u8>> {
    wat::parse_str(source).context("assembling a module")
}

/// Returns the module of the C program `test-images/c/<name>.c`.
pub fn c(name: &str) -> Result<Vec<u8>> {
    let source = place::guests().join(format!("c/{name}.c"));
    built(&Source::new("c", name, [source.clone()]), |output| {
        Invocation::new("clang")
            .args(["--target=wasm32-wasi", "--sysroot=/usr", "-O2", "-Wall", "-Werror", "-o"])
            .args([output, &source])
    })
}

/// Returns the module of the Go program `test-images/go/<name>/`.
pub fn go(name: &str) -> Result<Vec<u8>> {
    let folder = place::guests().join("go").join(name);
    let files = [folder.join("main.go"), folder.join("go.mod")];
    built(&Source::new("go", name, files), |output| {
        Invocation::new("go")
            // Without the state of the repository, which is no part of the program.
            .args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
            .arg(output)
            .arg(".")
            .directory(&folder)
            .env("GOOS", "wasip1")
            .env("GOARCH", "wasm")
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
    })
}

/// Returns a small static Linux program compiled from `test-images/c/<name>.c`.
pub fn native(name: &str) -> Result<Vec<u8>> {
    let source = place::guests().join(format!("c/{name}.c"));
    built(&Source::new("native", name, [source.clone()]), |output| {
        Invocation::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-static", "-s", "-o"])
            .args([output, &source])
    })
}

/// Looks a build up by the hash of its sources, or makes it.
fn built(source: &Source<'_>, compiler: impl FnOnce(&Path) -> Invocation) -> Result<Vec<u8>> {
    let Source { kind, name, .. } = source;
    let mut hash = Sha256::new();
    for file in &source.files {
        let content = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    }
    let folder = place::scratch().join("guests");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let partial = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(&folder)
        .context("making a folder to build in")?;
    let output = partial.path().join("module");
    // The command line counts as well; the output's name is always the same while it is hashed.
    let invocation = compiler(&output).timeout(COMPILE_TIMEOUT);
    let line = invocation.line().replace(&output.display().to_string(), "module");
    hash.update(line.replace(&partial.path().display().to_string(), "partial"));
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let kept = folder.join(format!("{kind}-{name}-{digest}"));
    if !kept.exists() {
        (source.toolchain)().with_context(|| format!("bringing the compiler of {kind} guests"))?;
        invocation.run()?.ok().with_context(|| {
            format!("building the {kind} guest {name}; `testkit install` brings compilers")
        })?;
        fs::rename(&output, &kept).with_context(|| format!("keeping {}", kept.display()))?;
    }
    fs::read(&kept).with_context(|| format!("reading {}", kept.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_guest_assembles() {
        let folder = place::guests().join("wat");
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let module = wat(name).unwrap_or_else(|error| panic!("{error:#}"));
            assert!(module.starts_with(b"\0asm"), "{name}");
            count += 1;
        }
        assert!(count >= 10, "only {count} guests found");
    }

    #[test]
    fn c_and_go_guests_build() {
        for module in [c("files"), go("hello")] {
            assert!(module.unwrap().starts_with(b"\0asm"));
        }
    }
}
