//! Other programs that benches measure beside this shim, built once below the scratch folder.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::Invocation;
use crate::toolchain;

/// The release of the engine that the shim is built with.
const WASMTIME: &str = "wasmtime-cli@48.0.8";
/// What of it takes part in serving and compiling.
const FEATURES: &str = "run,serve,compile,cranelift,parallel-compilation,pooling-allocator,component-model,component-model-async,gc,gc-drc,\
                        addr2line,demangle,backtrace";
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Returns the `wasmtime` tool, building it if need be (some minutes).
pub fn wasmtime() -> Result<PathBuf> {
    let recipe = format!("{WASMTIME} {FEATURES}");
    toolchain::ensure("wasmtime", &recipe, |folder| {
        Invocation::new("cargo")
            .args([
                "install",
                "--locked",
                "--quiet",
                "--no-default-features",
                "--features",
                FEATURES,
            ])
            .arg("--root")
            .arg(folder)
            .arg("--target-dir")
            .arg(folder.join("build"))
            .arg(WASMTIME)
            .timeout(TIMEOUT)
            .run()?
            .ok()
            .context("building wasmtime")?;
        std::fs::remove_dir_all(folder.join("build")).context("removing what it was built from")
    })?;
    Ok(toolchain::folder("wasmtime").join("bin/wasmtime"))
}
