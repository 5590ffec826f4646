//! Builds OCI images as archives (`oci-layout` in a tar file) that `ctr images import` and `docker load` take.
//!
//! The same description always gives the same bytes: times are zero, names are sorted, JSON has a fixed order. A wasm
//! layer is not listed in `rootfs.diff_ids`, because containerd counts the tar layers alone there.

mod archive;
mod files;
mod layer;
pub mod media_type;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

pub use archive::Archive;
use archive::Blobs;
pub use files::Files;
pub use layer::Layer;

/// One image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    platform: String,
    layers: Vec<Layer>,
    runtime: RuntimeDefaults,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    config_annotations: BTreeMap<String, String>,
    config_media_type: String,
    diff_ids: Option<Vec<String>>,
}

/// The `config` object of the image configuration.
#[derive(Debug, Clone, Default)]
struct RuntimeDefaults {
    entrypoint: Vec<String>,
    command: Vec<String>,
    env: Vec<String>,
    user: Option<String>,
    working_dir: Option<String>,
}

impl Image {
    /// Starts an image without layers for `linux/amd64`. The name needs its registry: `docker.io/hybrid/hello:1`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            platform: "linux/amd64".to_owned(),
            layers: Vec::new(),
            runtime: RuntimeDefaults::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            config_annotations: BTreeMap::new(),
            config_media_type: media_type::OCI_CONFIG.to_owned(),
            diff_ids: None,
        }
    }

    /// Returns the image's full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets `os/architecture[/variant]`.
    pub fn platform(mut self, platform: &str) -> Self {
        self.platform = platform.to_owned();
        self
    }

    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.runtime.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets `Cmd`.
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.runtime.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Adds one `KEY=value`.
    pub fn env(mut self, pair: &str) -> Self {
        self.runtime.env.push(pair.to_owned());
        self
    }

    pub fn user(mut self, user: &str) -> Self {
        self.runtime.user = Some(user.to_owned());
        self
    }

    pub fn working_dir(mut self, path: &str) -> Self {
        self.runtime.working_dir = Some(path.to_owned());
        self
    }

    /// Adds a label to the image configuration.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation to the manifest.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation to the manifest's config descriptor, where capabilities are asked for.
    pub fn config_annotation(mut self, key: &str, value: &str) -> Self {
        self.config_annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn config_media_type(mut self, media_type: &str) -> Self {
        self.config_media_type = media_type.to_owned();
        self
    }

    /// Replaces the computed `rootfs.diff_ids`, to build an image that lies.
    pub fn diff_ids(mut self, digests: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.diff_ids = Some(digests.into_iter().map(Into::into).collect());
        self
    }

    /// Writes the image as an archive into `folder`; the file is named after the image.
    pub fn write_to(&self, folder: &Path) -> Result<Archive> {
        let mut blobs = Blobs::default();
        let manifest = self.store(&mut blobs)?;
        blobs.write(folder, &self.name, manifest, vec![self.platform.clone()])
    }

    /// Stores layers, configuration and manifest; returns the manifest's descriptor.
    fn store(&self, blobs: &mut Blobs) -> Result<Value> {
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let built =
                layer.build().with_context(|| format!("building a layer of {}", self.name))?;
            diff_ids.extend(built.diff_id);
            let mut descriptor = blobs.add(layer.media_type(), built.bytes);
            annotate(&mut descriptor, layer.annotations());
            descriptors.push(descriptor);
        }
        let config = self.configuration(self.diff_ids.as_ref().unwrap_or(&diff_ids));
        let mut config = blobs.add_json(&self.config_media_type, &config)?;
        annotate(&mut config, &self.config_annotations);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": config,
            "layers": descriptors,
        });
        annotate(&mut manifest, &self.annotations);
        let mut descriptor = blobs.add_json(media_type::OCI_MANIFEST, &manifest)?;
        descriptor["platform"] = platform_object(&self.platform);
        Ok(descriptor)
    }

    fn configuration(&self, diff_ids: &[String]) -> Value {
        let mut config = Map::new();
        let runtime = &self.runtime;
        for (key, words) in
            [("Entrypoint", &runtime.entrypoint), ("Cmd", &runtime.command), ("Env", &runtime.env)]
        {
            if !words.is_empty() {
                config.insert(key.to_owned(), json!(words));
            }
        }
        for (key, text) in [("User", &runtime.user), ("WorkingDir", &runtime.working_dir)] {
            if let Some(text) = text {
                config.insert(key.to_owned(), json!(text));
            }
        }
        if !self.labels.is_empty() {
            config.insert("Labels".to_owned(), json!(self.labels));
        }
        let mut document = platform_object(&self.platform);
        document["config"] = Value::Object(config);
        document["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        document
    }
}

/// Several images under one name, of which the runtime's platform picks one.
#[derive(Debug, Clone)]
pub struct Index {
    name: String,
    images: Vec<Image>,
    annotations: BTreeMap<String, String>,
}

impl Index {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), images: Vec::new(), annotations: BTreeMap::new() }
    }

    pub fn image(mut self, image: Image) -> Self {
        self.images.push(image);
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Writes all images and the index as one archive into `folder`.
    pub fn write_to(&self, folder: &Path) -> Result<Archive> {
        let mut blobs = Blobs::default();
        let manifests =
            self.images.iter().map(|image| image.store(&mut blobs)).collect::<Result<Vec<_>>>()?;
        let mut index = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": manifests,
        });
        annotate(&mut index, &self.annotations);
        let descriptor = blobs.add_json(media_type::OCI_INDEX, &index)?;
        let platforms = self.images.iter().map(|image| image.platform.clone()).collect();
        blobs.write(folder, &self.name, descriptor, platforms)
    }
}

/// Adds the annotations to a descriptor or manifest, if there are any.
fn annotate(object: &mut Value, annotations: &BTreeMap<String, String>) {
    if !annotations.is_empty() {
        object["annotations"] = json!(annotations);
    }
}

/// Splits `os/architecture[/variant]` into the fields both configurations and descriptors have.
fn platform_object(platform: &str) -> Value {
    let mut parts = platform.splitn(3, '/');
    let os = parts.next().unwrap_or_default();
    let architecture = parts.next().unwrap_or_default();
    let mut object = json!({"architecture": architecture, "os": os});
    if let Some(variant) = parts.next() {
        object["variant"] = json!(variant);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Image {
        let files = Files::new().directory("/data", 0o755).file("/data/note.txt", "note", 0o644);
        Image::new(name)
            .platform("wasip1/wasm")
            .layer(Layer::wasm(*b"\0asm\x01\0\0\0").annotation("k", "v"))
            .layer(Layer::tar_gzip(files))
            .entrypoint(["/app.wasm"])
            .config_annotation("com.wasm.capabilities.filesystem", "read:/data")
    }

    #[test]
    fn the_same_description_gives_the_same_digest() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = example("docker.io/hybrid/x:1").write_to(first.path()).unwrap();
        let two = example("docker.io/hybrid/x:1").write_to(second.path()).unwrap();
        assert_eq!(one.digest, two.digest);
        assert_eq!(std::fs::read(one.path).unwrap(), std::fs::read(two.path).unwrap());
    }

    #[test]
    fn only_tar_layers_have_diff_ids() {
        let mut blobs = Blobs::default();
        let descriptor = example("x").store(&mut blobs).unwrap();
        let manifest = blobs.json(&descriptor).unwrap();
        let config = blobs.json(&manifest["config"]).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
        assert_eq!(
            (config["os"].as_str(), config["architecture"].as_str()),
            (Some("wasip1"), Some("wasm"))
        );
        assert_eq!(manifest["layers"][0]["annotations"]["k"], "v");
        assert_eq!(
            manifest["config"]["annotations"]["com.wasm.capabilities.filesystem"],
            "read:/data"
        );
    }

    #[test]
    fn an_index_names_every_platform() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Index::new("docker.io/hybrid/multi:1")
            .image(example("a"))
            .image(Image::new("b").platform("linux/arm64/v8"))
            .write_to(folder.path())
            .unwrap();
        assert_eq!(archive.platforms, ["wasip1/wasm", "linux/arm64/v8"]);
    }
}
