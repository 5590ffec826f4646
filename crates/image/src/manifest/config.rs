//! Reads the config of an image.
//!
//! A container image's config and a wasm artefact's have the fields that matter
//! here in common, but the latter has no rootfs, and old ones have no platform;
//! so only these fields are read, all of them optional.

use std::collections::HashMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::media_type::{self, Kind};
use crate::platform::Platform;

use super::{MAX_LAYERS, ManifestError, check_count, check_size, read_json};

/// What an image's config says; nothing, for an artefact without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The platform it states.
    pub platform: Option<Platform>,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// The default arguments behind the entrypoint.
    pub cmd: Vec<String>,
    /// The digests of its unpacked layers of files, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Returns the name of the file system that all its layers make together, as
    /// snapshots are named after it (OCI image specification, "Layer ChainID"); none for
    /// an image without layers of files.
    pub fn chain_id(&self) -> Option<Digest> {
        let mut layers = self.diff_ids.iter();
        let lowest = *layers.next()?;
        Some(layers.fold(lowest, |below, layer| Digest::of(format!("{below} {layer}").as_bytes())))
    }
}

#[derive(Deserialize)]
struct Raw {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    config: Option<RawExecution>,
    rootfs: Option<RawRootfs>,
}

#[derive(Default, Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawExecution {
    labels: Option<HashMap<String, String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

/// Reads a config blob of `media_type`.
///
/// An unknown media type is some artefact's own: it says nothing about platform
/// or entrypoint, so nothing is read from it.
pub fn parse_config(bytes: &[u8], media_type: &str) -> Result<Config, ManifestError> {
    check_size("config", bytes.len())?;
    match media_type::kind(media_type) {
        Kind::ImageConfig | Kind::WasmConfig => {}
        Kind::Index
        | Kind::Manifest
        | Kind::EmptyConfig
        | Kind::HybridArtefact
        | Kind::WasmLayer
        | Kind::TarLayer
        | Kind::UnknownWasm
        | Kind::Other => return Ok(Config::default()),
    }
    let raw: Raw = read_json("config", bytes)?;
    let execution = raw.config.unwrap_or_default();
    let rootfs = raw.rootfs.unwrap_or_default();
    check_count("config", "diff_ids", rootfs.diff_ids.len(), MAX_LAYERS)?;
    let diff_ids = rootfs.diff_ids.iter().map(|raw| raw.parse());
    let diff_ids = diff_ids
        .collect::<Result<_, _>>()
        .map_err(|source| ManifestError::Digest { what: "diff_id", source })?;
    Ok(Config {
        platform: Platform::stated(
            raw.os.as_deref().unwrap_or_default(),
            raw.architecture.as_deref().unwrap_or_default(),
            raw.variant.as_deref(),
        ),
        labels: execution.labels.unwrap_or_default(),
        entrypoint: execution.entrypoint.unwrap_or_default(),
        cmd: execution.cmd.unwrap_or_default(),
        diff_ids,
    })
}
