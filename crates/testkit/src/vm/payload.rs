//! The disk with all that the checks use: binaries, images, the crates' own tests and the script.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::root::{disk_of, remove};
use super::{Scope, folder};
use crate::command::Invocation;
use crate::containerd::Release;
use crate::image::Archive;
use crate::{catalogue, clients, place};

const BUILD_TIMEOUT: Duration = Duration::from_secs(1800);
const CHECK: &str = include_str!("check.sh");
const SUITE: &str = include_str!("suite.sh");
/// What the end-to-end tests write while they run, in MiB.
const ROOM: u64 = 3000;

/// Crates whose own tests run in the machine as well, since what they do depends on the kernel; and which of their
/// test programs.
const TESTED: [(&str, &[&str]); 4] = [
    ("sys", &["--lib"]),
    ("wasm", &["--lib"]),
    ("linux", &["--test", "containers"]),
    ("runtime", &["--test", "containers"]),
];

/// Without CRI, which would want a network.
const CONTAINERD_CONFIG: &str = r#"
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
"#;

/// Fills and returns the payload disk.
pub(super) fn disk(scope: &Scope) -> Result<PathBuf> {
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
        let (_, program) = tests_of(package, target)?
            .pop()
            .with_context(|| format!("cargo built no test program of {package}"))?;
        copy(&program, &tree.join("tests").join(package))?;
    }
    if let Scope::Suite(only) = scope {
        add_suite(&tree, only)?;
    }
    fs::write(tree.join("check.sh"), CHECK).context("writing the script")?;
    fs::write(tree.join("containerd.toml"), CONTAINERD_CONFIG).context("writing the config")?;
    let disk = folder()?.join("payload.img");
    let room = if *scope == Scope::Smoke { 32 } else { ROOM };
    disk_of(&tree, &disk, &format!("{}M", room + mebibytes(&tree)?))?;
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

/// Adds the end-to-end tests, and what they find in the repository's folders: in the machine these have the same paths.
fn add_suite(tree: &Path, only: &[String]) -> Result<()> {
    for folder in ["suite", "repository/target/testkit"] {
        let path = tree.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    }
    for (name, program) in tests_of("end-to-end", &["--tests"])? {
        if only.is_empty() || only.contains(&name) {
            copy(&program, &tree.join("suite").join(name))?;
        }
    }
    crate::fetch()?;
    clients::crictl()?;
    catalogue::all()?;
    let repository = tree.join("repository");
    fs::create_dir(repository.join("tests")).context("making a folder for the clients")?;
    for name in ["test-images", "runtime-configs", "tests/clients"] {
        copy_folder(&place::repository().join(name), &repository.join(name))?;
    }
    for entry in fs::read_dir(place::scratch()).context("listing the scratch folder")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = ["containerd-", "runc-", "bin", "images", "guests"];
        if wanted.iter().any(|prefix| name.starts_with(prefix)) {
            copy_folder(&entry.path(), &repository.join("target/testkit").join(name))?;
        }
    }
    let place = format!("{}\n", place::repository().display());
    fs::write(tree.join("repository.path"), place).context("writing the repository's path")?;
    fs::write(tree.join("suite.sh"), SUITE).context("writing the script")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    Invocation::new("/bin/cp").args(["-a", "-T", "--"]).args([from, to]).run()?.ok()?;
    Ok(())
}

/// Builds a crate's test programs, if need be, and returns their names and paths.
fn tests_of(package: &str, target: &[&str]) -> Result<Vec<(String, PathBuf)>> {
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
    let programs = messages.filter(|message: &Value| message["profile"]["test"] == true);
    Ok(programs
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.into()))
        })
        .collect())
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
