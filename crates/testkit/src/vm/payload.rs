//! The disk with all that the checks use: binaries, images, the crates' own tests and the script.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::folder;
use super::root::{disk_of, remove};
use crate::command::Invocation;
use crate::containerd::Release;
use crate::image::Archive;
use crate::{catalogue, clients, place};

const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);
const CHECK: &str = include_str!("check.sh");

/// Crates whose own tests run in the machine as well, since what they do depends on the kernel; and which of their
/// test programs.
const TESTED: [(&str, &[&str]); 3] =
    [("sys", &["--lib"]), ("wasm", &["--lib"]), ("linux", &["--test", "containers"])];

/// Without CRI, which would want a network.
const CONTAINERD_CONFIG: &str = r#"
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
"#;

/// Fills and returns the payload disk.
pub(super) fn disk() -> Result<PathBuf> {
    let tree = folder()?.join("payload");
    remove(&tree)?;
    for child in ["bin", "images", "tests"] {
        let path = tree.join(child);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    let containerd = Release::V1_7.fetch()?;
    for program in ["containerd", "ctr", "containerd-shim-runc-v2"] {
        copy(&containerd.join(program), &tree.join("bin").join(program))?;
    }
    let shim = place::shim();
    if !shim.exists() {
        bail!("{} is missing; build it with `cargo build --release -p shim`", shim.display());
    }
    copy(&shim, &tree.join("bin/containerd-shim-hybrid-v1"))?;
    copy(&clients::nerdctl()?, &tree.join("bin/nerdctl"))?;
    for image in images()? {
        let name = image.path.file_name().context("an image without a file name")?;
        copy(&image.path, &tree.join("images").join(name))?;
    }
    for (package, target) in TESTED {
        copy(&tests_of(package, target)?, &tree.join("tests").join(package))?;
    }
    fs::write(tree.join("check.sh"), CHECK).context("writing the script")?;
    fs::write(tree.join("containerd.toml"), CONTAINERD_CONFIG).context("writing the config")?;
    let disk = folder()?.join("payload.img");
    disk_of(&tree, &disk, &format!("{}M", 32 + mebibytes(&tree)?))?;
    remove(&tree)?;
    Ok(disk)
}

fn images() -> Result<Vec<Archive>> {
    Ok(vec![
        catalogue::hello_wasm()?,
        catalogue::guest_image("sleeper")?,
        catalogue::guest_image("memory-hog")?,
        catalogue::busybox()?,
    ])
}

/// Builds a crate's test program, if need be, and returns its path.
fn tests_of(package: &str, target: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Invocation::new(PathBuf::from(cargo))
        .args(["test", "--release", "--locked", "--no-run", "--message-format=json", "-p", package])
        .args(target)
        .directory(place::repository())
        .timeout(BUILD_TIMEOUT)
        .run()?
        .ok()
        .with_context(|| format!("building the tests of {package}"))?;
    let messages = built.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
    messages
        .filter(|message: &Value| message["profile"]["test"] == true)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no test program of {package}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// The size of a folder of folders of files.
fn mebibytes(tree: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(tree).with_context(|| format!("listing {}", tree.display()))? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => mebibytes(&entry.path())? << 20,
            false => entry.metadata()?.len(),
        };
    }
    Ok((bytes >> 20) + 1)
}
