//! Rust guests: modules and components, built by a newer Debian's compiler in a root of its own.
//!
//! Debian packages the standard library for wasm, but not in the release these tests run on. The root has all that a
//! build takes: crates are brought into it beforehand, at the versions of `Cargo.lock`, and a build in it has no network.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Source, built};
use crate::apt::{mirror, retry};
use crate::command::Invocation;
use crate::{place, toolchain};

const NAME: &str = "rust";
const SUITE: &str = "forky";
const PACKAGES: &str = "rustc,cargo,lld,libstd-rust-dev-wasm32,gcc,libc6-dev,wasm-tools";
const TIMEOUT: Duration = Duration::from_secs(900);

/// Builds a program inside the root.
const BUILD: &str = include_str!("rust-build.sh");
/// Stands in for the linker of the wasip2 target.
const LINK: &str = include_str!("rust-link.sh");

/// Returns the core module (WASI preview 1) of the Rust program `tour`.
pub fn rust_module() -> Result<Vec<u8>> {
    rust("module", ["tour.rs"], ["wasm32-wasip1", "--bin=tour", "tour.wasm"])
}

/// Returns the command component (WASI preview 2) of the Rust program `tour`.
pub fn rust_component() -> Result<Vec<u8>> {
    rust("component", ["tour.rs"], ["wasm32-wasip2", "--bin=tour", "tour.wasm"])
}

/// Returns the command component of the Rust program `notes`.
pub fn rust_notes() -> Result<Vec<u8>> {
    let files = ["notes.rs", "wit/notes.wit", "wit/deps/config.wit", "wit/deps/keyvalue.wit"];
    rust("notes", files, ["wasm32-wasip2", "--bin=notes", "notes.wasm"])
}

/// Returns the HTTP component of the Rust library `server`.
pub fn rust_server() -> Result<Vec<u8>> {
    rust("server", ["server.rs"], ["wasm32-wasip2", "--lib", "server.wasm"])
}

fn rust<const N: usize>(name: &str, files: [&str; N], how: [&str; 3]) -> Result<Vec<u8>> {
    let sources = place::guests().join("rust");
    let root = toolchain::folder(NAME);
    let files = files.into_iter().chain(["Cargo.toml", "Cargo.lock"]);
    let source = Source {
        kind: NAME,
        name,
        files: files.map(|file| sources.join(file)).collect(),
        toolchain,
    };
    built(&source, |output| {
        let folder = output.parent().expect("the output is in a folder");
        // Namespaces of its own: what is mounted for the build is gone with it, and there is no network in it.
        Invocation::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-euc", BUILD, "sh"])
            .args([&root, &sources, &crates(), folder])
            .args(how)
    })
}

/// Where the crates are that guests depend on.
fn crates() -> PathBuf {
    toolchain::folder("rust-crates")
}

fn toolchain() -> Result<()> {
    let recipe = format!("{SUITE} {PACKAGES}\n{LINK}");
    toolchain::ensure(NAME, &recipe, make_root)?;
    let manifest = place::guests().join("rust/Cargo.toml");
    let lock = manifest.with_extension("lock");
    let versions =
        fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
    toolchain::ensure("rust-crates", &versions, |folder| vendor(&manifest, folder))
}

fn make_root(root: &Path) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "building Rust guests needs root: their compiler is in a root file system of its own"
    );
    let mirror = mirror()?;
    retry("fetching Debian's Rust compiler from its mirror", || {
        Invocation::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=essential"])
            .arg(format!("--include={PACKAGES}"))
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(SUITE)
            .arg(root)
            .arg(format!("deb {mirror} {SUITE} main"))
            .timeout(TIMEOUT)
            .run()?
            .ok()
    })?;
    for folder in ["source", "crates", "output"] {
        let path = root.join("guest").join(folder);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    let link = root.join("guest/link");
    fs::write(&link, LINK).with_context(|| format!("writing {}", link.display()))?;
    fs::set_permissions(&link, Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", link.display()))
}

/// Brings the sources of all crates, by this machine's own cargo, whose registry and network are set up.
fn vendor(manifest: &Path, folder: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    retry("fetching the crates of the Rust guests from the registry", || {
        Invocation::new(PathBuf::from(&cargo))
            .args(["vendor", "--locked", "--quiet", "--manifest-path"])
            .args([manifest, folder])
            .timeout(TIMEOUT)
            .run()?
            .ok()
    })?;
    Ok(())
}
