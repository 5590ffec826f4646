//! Brings what tests need from the distribution: compilers for guests, CNI plugins, a static busybox.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::retry;
use crate::command::Invocation;

const TIMEOUT: Duration = Duration::from_secs(900);

/// Package names, and why each is needed.
const NEEDED: [(&str, &str); 15] = [
    ("clang", "compiles C guests to wasm"),
    ("lld", "links C guests"),
    ("wasi-libc", "the C library of wasm guests"),
    ("libclang-rt-14-dev-wasm32", "the compiler's own library for wasm"),
    ("mmdebstrap", "makes a root with the compiler of Rust guests"),
    ("python3-venv", "a place for the compiler of Python guests"),
    ("libc6-dev", "builds the static pause program"),
    ("libseccomp-dev", "the shim's seccomp filters"),
    ("protobuf-compiler", "generates the client of containerd's API"),
    ("busybox-static", "the Linux test image"),
    ("containernetworking-plugins", "pod networks"),
    ("tmux", "a person's terminal"),
    ("iproute2", "removes the bridges of test networks"),
    ("curl", "asks test servers in both versions of HTTP"),
    ("wrk", "sends requests to the servers that benches measure"),
];

/// Brings the compiler of JavaScript guests. Other distributors' Node.js has it within and keeps Debian's out.
const NPM: (&str, &str) = ("npm", "brings the compiler of JavaScript guests");

/// Installs what is missing, saying what and why.
pub fn install() -> Result<()> {
    let mut needed = NEEDED.to_vec();
    if Invocation::new("npm").arg("--version").run().is_err() {
        needed.push(NPM);
    }
    ensure(&needed)
}

/// Installs those of `needed` that are missing; each comes with its reason.
pub(crate) fn ensure(needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<(&str, &str)> =
        needed.iter().copied().filter(|(package, _)| !is_installed(package)).collect();
    if missing.is_empty() {
        println!("all {} packages are installed already", needed.len());
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
        bail!("missing packages need root to install: apt-get install {}", names.join(" "));
    }
    for (package, reason) in &missing {
        println!("installing {package}: {reason}");
    }
    retry("apt-get update", || apt_get(["update"]))?;
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(missing.iter().map(|(package, _)| *package));
    retry("apt-get install", || apt_get(&args))?;
    match missing.iter().find(|(package, _)| !is_installed(package)) {
        Some((package, _)) => bail!("apt-get succeeded, but {package} is not installed"),
        None => Ok(()),
    }
}

fn is_installed(package: &str) -> bool {
    Invocation::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .run()
        .is_ok_and(|output| output.success() && output.stdout == "installed")
}

fn apt_get(args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Result<()> {
    Invocation::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .timeout(TIMEOUT)
        .echo()
        .run()?
        .ok()
        .context("running apt-get")?;
    Ok(())
}
