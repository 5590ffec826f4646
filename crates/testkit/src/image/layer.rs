//! One layer of an image: a wasm module as it is, or files in a tar.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

use super::archive::digest;
use super::{Files, media_type};

#[derive(Debug, Clone)]
enum Content {
    Module(Vec<u8>),
    Tar(Files),
    TarGzip(Files),
}

/// One layer, before it has a digest.
#[derive(Debug, Clone)]
pub struct Layer {
    content: Content,
    media_type: String,
    annotations: BTreeMap<String, String>,
}

/// A layer's bytes, and the digest of its unpacked tar if it is one.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) bytes: Vec<u8>,
    pub(super) diff_id: Option<String>,
}

impl Layer {
    /// Holds a module under the media type that the project's documents name.
    pub fn wasm(module: impl Into<Vec<u8>>) -> Self {
        Self::wasm_as(module, media_type::WASM_CONTENT)
    }

    /// Holds a module, or whatever bytes, under any media type.
    pub fn wasm_as(module: impl Into<Vec<u8>>, media_type: &str) -> Self {
        Self::of(Content::Module(module.into()), media_type)
    }

    pub fn tar(files: Files) -> Self {
        Self::of(Content::Tar(files), media_type::TAR)
    }

    pub fn tar_gzip(files: Files) -> Self {
        Self::of(Content::TarGzip(files), media_type::TAR_GZIP)
    }

    /// Adds an annotation to the layer's descriptor.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    fn of(content: Content, media_type: &str) -> Self {
        Self { content, media_type: media_type.to_owned(), annotations: BTreeMap::new() }
    }

    pub(super) fn media_type(&self) -> &str {
        &self.media_type
    }

    pub(super) fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    pub(super) fn build(&self) -> Result<Built> {
        match &self.content {
            Content::Module(module) => Ok(Built { bytes: module.clone(), diff_id: None }),
            Content::Tar(files) => {
                let tar = files.tar()?;
                Ok(Built { diff_id: Some(digest(&tar)), bytes: tar })
            }
            Content::TarGzip(files) => {
                let tar = files.tar()?;
                Ok(Built { diff_id: Some(digest(&tar)), bytes: gzip(&tar)? })
            }
        }
    }
}

/// Compresses without a name or time in the header, so that equal input gives equal output.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    encoder.write_all(bytes).context("compressing a layer")?;
    encoder.finish().context("compressing a layer")
}
