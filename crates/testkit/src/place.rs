//! Where things are: the repository, the scratch folder below its target folder, and the shim under test.
//!
//! Everything testkit downloads, builds or runs lives below [`scratch`], except sockets and state, whose paths must be
//! short enough for a Unix socket address.

use std::path::{Path, PathBuf};

/// Names an other shim binary than the repository's own release build.
pub const SHIM_VARIABLE: &str = "HYBRID_TEST_SHIM";

/// Returns the repository's top folder.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate is two levels below the repository").to_path_buf()
}

/// Returns the folder that holds all testkit makes: `target/testkit`.
pub fn scratch() -> PathBuf {
    repository().join("target/testkit")
}

/// Returns the shim under test: `$HYBRID_TEST_SHIM`, or the release build of this repository.
pub fn shim() -> PathBuf {
    std::env::var_os(SHIM_VARIABLE)
        .map(PathBuf::from)
        .unwrap_or_else(|| repository().join("target/release/containerd-shim-hybrid-v1"))
}

/// Returns the folder of the guests' sources.
pub fn guests() -> PathBuf {
    repository().join("test-images")
}

/// Returns the containerd configuration shipped for a containerd line, such as `1.7` or `2.x`.
pub fn runtime_config(line: &str) -> PathBuf {
    repository().join(format!("runtime-configs/containerd-{line}.toml"))
}
