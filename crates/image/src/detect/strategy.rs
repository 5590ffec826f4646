//! The four ways to tell what a container is, each usable alone.

use std::fmt;
use std::path::Path;

use crate::annotations::{Annotations, Declared, Wanted};
use crate::binary::Binary;
use crate::entrypoint::{self, Extension};
use crate::platform;
use crate::quoted::Quoted;

use super::{Facts, FileFacts, ImageFacts, Refusal};

/// A way to tell what a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// What the pod says outright.
    RuntimeHint,
    /// What the image's (and the pod's) annotations and labels say.
    ImageAnnotation,
    /// What the image's layer types and platform say.
    ImageMediaType,
    /// What the entrypoint's first bytes say, and its name where they say nothing.
    FileExtension,
}

/// One of the two ways to run a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The Linux path.
    Linux,
    /// The wasm engine.
    Wasm,
}

/// What a strategy found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its opinion, if it has one.
    pub says: Option<Side>,
    /// What it looked at and saw, in words.
    pub saw: String,
}

impl Strategy {
    /// All strategies, in the order they are asked.
    pub const ALL: [Self; 4] =
        [Self::RuntimeHint, Self::ImageAnnotation, Self::ImageMediaType, Self::FileExtension];

    /// Asks this strategy alone about a container made from `image`.
    pub fn ask(self, facts: &Facts, image: Option<&ImageFacts>) -> Result<Finding, Refusal> {
        match self {
            Self::RuntimeHint => Ok(runtime_hint(facts)),
            Self::ImageAnnotation => image_annotation(facts, image),
            Self::ImageMediaType => Ok(image_media_type(image)),
            Self::FileExtension => file_extension(facts, image),
        }
    }
}

fn finding(says: Option<Side>, saw: impl Into<String>) -> Finding {
    Finding { says, saw: saw.into() }
}

/// Asks the pod's hint.
pub fn runtime_hint(facts: &Facts) -> Finding {
    let Some(hint) = facts.hint else { return finding(None, "none") };
    let says = match hint.wanted {
        Wanted::Wasm => Some(Side::Wasm),
        Wanted::Linux => Some(Side::Linux),
        Wanted::Auto => None,
    };
    finding(says, hint.to_string())
}

/// Asks the annotations and labels: some keys say by their presence that this is wasm.
///
/// Values that cannot be read are refused, whoever runs the container.
pub fn image_annotation(facts: &Facts, image: Option<&ImageFacts>) -> Result<Finding, Refusal> {
    let annotations = effective(facts, image);
    let mut readings = vec![(Declared::read(&annotations)?, annotations)];
    for layer in image.iter().flat_map(|image| &image.wasm_layers) {
        let of_layer = layer.annotations.replaced_by(&facts.pod);
        readings.push((Declared::read(&of_layer)?, of_layer));
    }
    let said = readings.iter().find_map(|(declared, annotations)| {
        let key = declared.says_wasm?;
        annotations.get(key).map(|entry| (key, entry))
    });
    Ok(match said {
        Some((key, entry)) => finding(
            Some(Side::Wasm),
            format!("{key} is {} in {}", Quoted(&entry.value), entry.origin),
        ),
        None => finding(None, "none says wasm"),
    })
}

/// Returns the image's annotations with the pod's in their place.
pub(super) fn effective(facts: &Facts, image: Option<&ImageFacts>) -> Annotations {
    match image {
        Some(image) => image.annotations.replaced_by(&facts.pod),
        None => facts.pod.clone(),
    }
}

/// Asks the image's layer types and platform.
///
/// A linux platform is no opinion: before wasm had layer types of its own, modules were
/// shipped as files of linux images, and still are.
pub fn image_media_type(image: Option<&ImageFacts>) -> Finding {
    let Some(image) = image else {
        return finding(None, "no image is known for the container");
    };
    let platform =
        image.platform.as_ref().map_or("no platform".to_owned(), |p| format!("platform {p}"));
    let saw = match image.wasm_layers.as_slice() {
        [] => format!("{platform}, {} layers of files, none of wasm", image.tar_layers),
        [layer, ..] => format!(
            "{platform}, {} wasm layers, the first of type {}, {} layers of files",
            image.wasm_layers.len(),
            layer.media_type,
            image.tar_layers
        ),
    };
    let by_platform = image.platform.as_ref().map(platform::Platform::kind);
    let is_wasm = !image.wasm_layers.is_empty() || by_platform == Some(platform::Kind::Wasm);
    finding(is_wasm.then_some(Side::Wasm), saw)
}

/// Asks the entrypoint's bytes, then its name.
///
/// Refuses what cannot be the program of any container: an ELF file or script that is
/// named as wasm, wasm that is no wasm, native code made ahead of time. In an image with wasm
/// layers the file is not the program, and only ELF and scripts count.
pub fn file_extension(facts: &Facts, image: Option<&ImageFacts>) -> Result<Finding, Refusal> {
    let Some(file) = &facts.entrypoint else {
        return Ok(missing(facts.argv0.as_deref()));
    };
    let saw = format!("{:?} is {}", file.path, file.binary.describe());
    let has_layers = image.is_some_and(|image| !image.wasm_layers.is_empty());
    let says = match judge(file) {
        Ok(says) => says,
        Err(_refusal) if has_layers => None,
        Err(refusal) => return Err(refusal),
    };
    Ok(finding(says, saw))
}

fn missing(argv0: Option<&str>) -> Finding {
    match argv0 {
        None => finding(None, "the container has no arguments"),
        Some(argv0) => {
            let is_wasm = entrypoint::extension(Path::new(argv0)) == Extension::Wasm;
            let saw = format!("{} is not in the rootfs", Quoted(argv0));
            finding(is_wasm.then_some(Side::Wasm), saw)
        }
    }
}

fn judge(file: &FileFacts) -> Result<Option<Side>, Refusal> {
    let path = || file.path.clone();
    match (file.binary, file.extension()) {
        (Binary::Elf | Binary::Script, Extension::Other) => Ok(Some(Side::Linux)),
        (Binary::Elf | Binary::Script, _) => {
            Err(Refusal::NamedWasm { path: path(), binary: file.binary })
        }
        (Binary::CoreModule | Binary::Component, _) => Ok(Some(Side::Wasm)),
        (Binary::Precompiled, _) | (_, Extension::Cwasm) => {
            Err(Refusal::Precompiled { path: path() })
        }
        (Binary::OtherWasm, _) => Err(Refusal::WasmVersion { path: path() }),
        (Binary::WasmText, _) | (_, Extension::Wat) => Err(Refusal::TextForm { path: path() }),
        (Binary::Empty | Binary::NotAFile | Binary::Unknown, Extension::Wasm) => {
            Err(Refusal::NotWasm { path: path(), binary: file.binary })
        }
        (Binary::Empty | Binary::NotAFile | Binary::Unknown, Extension::Other) => Ok(None),
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RuntimeHint => "runtime hint",
            Self::ImageAnnotation => "image annotation",
            Self::ImageMediaType => "image media type",
            Self::FileExtension => "entrypoint file",
        })
    }
}
