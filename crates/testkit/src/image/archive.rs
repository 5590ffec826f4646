//! The blobs of an image and the archive file they are written to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::media_type;

/// An image archive on disk.
#[derive(Debug, Clone)]
pub struct Archive {
    pub path: PathBuf,
    /// The image's full name, as containerd stores it.
    pub name: String,
    /// The digest of the manifest, or of the index for an image of several platforms.
    pub digest: String,
    /// The platforms in the order the image lists them, each `os/architecture[/variant]`.
    pub platforms: Vec<String>,
}

impl AsRef<str> for Archive {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

/// Content by digest.
#[derive(Debug, Default)]
pub(super) struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Stores `bytes` and returns their descriptor.
    pub(super) fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": digest,
            "size": bytes.len(),
        });
        self.0.insert(digest, bytes);
        descriptor
    }

    pub(super) fn add_json(&mut self, media_type: &str, document: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(document).context("writing JSON")?;
        Ok(self.add(media_type, bytes))
    }

    /// Reads a stored document back by its descriptor.
    #[cfg(test)]
    pub(super) fn json(&self, descriptor: &Value) -> Result<Value> {
        let digest = descriptor["digest"].as_str().context("no digest")?;
        Ok(serde_json::from_slice(&self.0[digest])?)
    }

    /// Writes the archive whose only entry point is `top`, and names it `name`.
    pub(super) fn write(
        self,
        folder: &Path,
        name: &str,
        mut top: Value,
        platforms: Vec<String>,
    ) -> Result<Archive> {
        let digest = top["digest"].as_str().unwrap_or_default().to_owned();
        top["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": [top],
        });
        let path = folder.join(format!("{}.tar", name.replace(['/', ':', '@'], "_")));
        self.write_tar(&path, &index).with_context(|| format!("writing {}", path.display()))?;
        Ok(Archive { path, name: name.to_owned(), digest, platforms })
    }

    fn write_tar(self, path: &Path, index: &Value) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Several tests may build the same image at once: whoever is last puts equal bytes in place.
        let file = tempfile::NamedTempFile::new_in(folder)?;
        let mut builder = Builder::new(file);
        append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut builder, "index.json", &serde_json::to_vec(index)?)?;
        for (digest, bytes) in &self.0 {
            append(&mut builder, &format!("blobs/{}", digest.replace(':', "/")), bytes)?;
        }
        builder.into_inner()?.persist(path)?;
        Ok(())
    }
}

fn append(builder: &mut Builder<tempfile::NamedTempFile>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, path, bytes)?;
    Ok(())
}

/// Returns `sha256:<hex>` of the bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
