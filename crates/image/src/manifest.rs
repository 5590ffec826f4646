//! Reads the documents of an image: index, manifest, config.
//!
//! ```text
//! images.Get -> target --parse--> Index --choose--> candidate --+
//!                          |        (at most one index below another)
//!                          +----> Manifest <----parse-----------+
//!                                    | config
//!                                    v
//!                              parse_config -> facts -> ImageFacts
//! ```
//!
//! Each document is a stranger's: at most 4 MiB, at most 128 entries, never an
//! index and a manifest at once.

mod config;
mod error;
mod index;

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::annotations::{Annotations, Origin, TITLE};
use crate::detect::{ImageFacts, LayerFacts};
use crate::digest::Digest;
use crate::media_type::{self, Kind};
use crate::platform::{self, Platform};

pub use config::{Config, parse_config};
pub use error::{Cause, ManifestError};
pub use index::{Candidate, choose};

/// The largest index, manifest or config that is read, in bytes. containerd
/// itself stops at 8 MiB; real ones have a few kilobytes.
pub const MAX_DOCUMENT: usize = 4 << 20;
/// The most layers a manifest may have, which is overlayfs's practical limit.
pub const MAX_LAYERS: usize = 128;
/// The most manifests an index may list.
pub const MAX_MANIFESTS: usize = 128;
/// How many indexes may stand above an index.
pub const MAX_DEPTH: usize = 1;
/// The longest title a layer may be known by, in bytes: that of a file name.
const MAX_TITLE: usize = 255;

/// What an image's name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A list of manifests, one per platform.
    Index(Vec<Candidate>),
    /// One image.
    Manifest(Box<Manifest>),
}

/// A blob that a manifest points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name in the content store.
    pub digest: Digest,
    /// Its length in bytes, as the manifest states it.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// One image: where its config is, and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The config to read next, unless it [`Manifest::has_no_config`].
    pub config: Blob,
    config_annotations: HashMap<String, String>,
    annotations: HashMap<String, String>,
    layers: Vec<Descriptor>,
}

impl Manifest {
    /// Says that the image is an artefact without a config: there is nothing to
    /// read, and [`Config::default`] stands for it.
    pub fn has_no_config(&self) -> bool {
        media_type::kind(&self.config.media_type) == Kind::EmptyConfig
    }
}

/// Reads an index or manifest that a descriptor of `media_type` points to, with `depth`
/// indexes above it.
pub fn parse(bytes: &[u8], media_type: &str, depth: usize) -> Result<Document, ManifestError> {
    check_size("document", bytes.len())?;
    match media_type::kind(media_type) {
        Kind::Index if depth > MAX_DEPTH => Err(ManifestError::TooDeep),
        Kind::Index => {
            check_shape(bytes, media_type)?;
            let index: ImageIndex = read_json("index", bytes)?;
            index::of(&index).map(Document::Index)
        }
        Kind::Manifest => {
            check_shape(bytes, media_type)?;
            let manifest: ImageManifest = read_json("manifest", bytes)?;
            manifest_of(manifest).map(|manifest| Document::Manifest(Box::new(manifest)))
        }
        Kind::HybridArtefact => Err(ManifestError::HybridArtefact),
        Kind::ImageConfig
        | Kind::WasmConfig
        | Kind::EmptyConfig
        | Kind::WasmLayer
        | Kind::TarLayer
        | Kind::UnknownWasm
        | Kind::Other => Err(ManifestError::NotAnImage { media_type: media_type.to_owned() }),
    }
}

/// Returns what detection needs to know of one image.
///
/// `name` and `digest` are the image's; `listed` is the platform under which an
/// index lists it. Index and config may differ on it: wasm wins, because builders often
/// leave the build machine's platform in the config.
pub fn facts(
    name: &str,
    digest: Digest,
    listed: Option<Platform>,
    manifest: &Manifest,
    config: &Config,
) -> Result<ImageFacts, ManifestError> {
    let mut annotations = Annotations::default();
    annotations.add(Origin::Manifest, &manifest.annotations)?;
    annotations.add(Origin::ConfigDescriptor, &manifest.config_annotations)?;
    annotations.add(Origin::Label, &config.labels)?;
    let stated = config.platform.clone();
    let says_wasm = |platform: &Platform| platform.kind() == platform::Kind::Wasm;
    let platform = match (listed, stated) {
        (Some(listed), Some(stated)) if says_wasm(&stated) && !says_wasm(&listed) => Some(stated),
        (listed, stated) => listed.or(stated),
    };
    let mut facts = ImageFacts {
        name: name.to_owned(),
        digest,
        platform,
        config_media_type: manifest.config.media_type.clone(),
        labels: config.labels.clone(),
        annotations,
        wasm_layers: Vec::new(),
        tar_layers: 0,
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        chain_id: config.chain_id(),
    };
    for (number, layer) in manifest.layers.iter().enumerate() {
        add_layer(&mut facts, number, layer)?;
    }
    Ok(facts)
}

fn add_layer(
    facts: &mut ImageFacts,
    number: usize,
    layer: &Descriptor,
) -> Result<(), ManifestError> {
    let media_type = layer.media_type().as_ref();
    match media_type::kind(media_type) {
        Kind::TarLayer => facts.tar_layers += 1,
        Kind::WasmLayer => facts.wasm_layers.push(wasm_layer(number, layer)?),
        Kind::UnknownWasm => {
            let media_type = media_type.to_owned();
            return Err(ManifestError::UnknownWasmLayer { number, media_type });
        }
        // Signatures, bills of material and the like: not part of the program.
        Kind::Index
        | Kind::Manifest
        | Kind::ImageConfig
        | Kind::WasmConfig
        | Kind::EmptyConfig
        | Kind::HybridArtefact
        | Kind::Other => {}
    }
    Ok(())
}

fn wasm_layer(number: usize, layer: &Descriptor) -> Result<LayerFacts, ManifestError> {
    let digest = digest_of("layer", layer)?;
    let mut facts = LayerFacts::new(digest, layer.size(), layer.media_type().as_ref());
    if let Some(annotations) = layer.annotations() {
        facts.annotations.add(Origin::Layer(number), annotations)?;
        facts.title = annotations.get(TITLE).filter(|title| is_file_name(title)).cloned();
    }
    Ok(facts)
}

/// Says that a title can stand as argv[0] and in a message.
fn is_file_name(title: &str) -> bool {
    !title.is_empty() && title.len() <= MAX_TITLE && !title.chars().any(char::is_control)
}

fn manifest_of(manifest: ImageManifest) -> Result<Manifest, ManifestError> {
    let kind_of_artefact =
        manifest.artifact_type().as_ref().map(|artefact| media_type::kind(artefact.as_ref()));
    if kind_of_artefact == Some(Kind::HybridArtefact) {
        return Err(ManifestError::HybridArtefact);
    }
    check_count("manifest", "layers", manifest.layers().len(), MAX_LAYERS)?;
    let config = manifest.config();
    let blob = Blob {
        digest: digest_of("config", config)?,
        size: config.size(),
        media_type: config.media_type().as_ref().to_owned(),
    };
    if blob.size > MAX_DOCUMENT as u64 {
        return Err(ManifestError::TooLarge { what: "config", size: blob.size });
    }
    Ok(Manifest {
        config: blob,
        config_annotations: config.annotations().clone().unwrap_or_default(),
        annotations: manifest.annotations().clone().unwrap_or_default(),
        layers: manifest.layers().clone(),
    })
}

/// The fields that tell an index from a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// Refuses a document that could be read as an index by one program and as a
/// manifest by another: what was pulled and checked must be what runs.
fn check_shape(bytes: &[u8], media_type: &str) -> Result<(), ManifestError> {
    let shape: Shape = read_json("document", bytes)?;
    if shape.schema_version != Some(2) {
        return Err(ManifestError::Schema { version: shape.schema_version });
    }
    if let Some(own) = shape.media_type.filter(|own| own != media_type) {
        return Err(ManifestError::TypesDiffer { expected: media_type.to_owned(), own });
    }
    if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
        return Err(ManifestError::IndexAndManifest);
    }
    Ok(())
}

fn read_json<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ManifestError::NotReadable { what, source: Cause::of(&error) })
}

fn digest_of(what: &'static str, descriptor: &Descriptor) -> Result<Digest, ManifestError> {
    let raw: &str = descriptor.digest().as_ref();
    raw.parse().map_err(|source| ManifestError::Digest { what, source })
}

fn check_size(what: &'static str, size: usize) -> Result<(), ManifestError> {
    if size > MAX_DOCUMENT {
        return Err(ManifestError::TooLarge { what, size: size as u64 });
    }
    Ok(())
}

fn check_count(
    what: &'static str,
    of: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), ManifestError> {
    if count > limit {
        return Err(ManifestError::TooMany { what, of, count, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
