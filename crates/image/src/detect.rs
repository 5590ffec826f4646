//! Decides who must run a container: facts in, one route or a refusal out.
//!
//! A pod's sandbox is always Linux. Otherwise four strategies are asked, and
//! the first that has an opinion decides:
//!
//! 1. **runtime hint**: the pod's annotation `com.wasm.runtime.hint` or `run.oci.handler`;
//! 2. **image annotation**: `com.wasm.runtime.required`, `com.wasm.architecture`, ...;
//! 3. **image media type**: a wasm layer, or a wasm platform. A linux platform is
//!    no opinion: a `.wasm` file in an ordinary linux image is usual;
//! 4. **file extension**: the entrypoint's bytes, and its name where they say nothing.
//!
//! If none has one, it is Linux, whose path then tells what is missing. The bytes
//! have the last word: a choice that the bytes of the program contradict is
//! refused, not carried out, and so is native code that an image brought along.
//! With `auto_detect = false` only the first strategy may choose wasm; a program
//! that could only run as wasm is then refused with that reason.
//!
//! Which module runs: the image's only wasm layer; among several, the one whose title is
//! the file name of argv[0]; without a layer, the entrypoint's file. A file
//! that exists under the name in argv[0] goes before layers that all have other titles.

mod choose;
mod module;
mod refusal;
pub mod strategy;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use crate::annotations::{AnnotationError, Annotations, Hint, Wanted};
use crate::binary::{self, Binary};
use crate::digest::Digest;
use crate::entrypoint::{self, Extension};
use crate::platform::{self, Platform};

pub use choose::{choose, wanted};
pub use refusal::Refusal;
pub use strategy::{Finding, Side, Strategy};

/// The largest module that is run, in bytes.
pub const MAX_MODULE: u64 = 512 << 20;

/// Everything that detection looks at.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The container is a pod's sandbox (pause).
    pub sandbox: bool,
    /// The pod's explicit word.
    pub hint: Option<Hint>,
    /// The operator's setting of that name.
    pub auto_detect: bool,
    /// The pod's annotations under our prefix; they replace the image's.
    pub pod: Annotations,
    /// The images the container's image name may mean: one, none where the container
    /// record names no image, or several of an index, in the order of
    /// [`crate::manifest::choose`].
    pub images: Vec<ImageFacts>,
    /// The container's first argument.
    pub argv0: Option<String>,
    /// The file in the rootfs that it means, if there is one.
    pub entrypoint: Option<FileFacts>,
    /// What the rootfs looks like.
    pub rootfs: Rootfs,
}

/// Whether a rootfs holds anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rootfs {
    /// No entries at all: nothing was unpacked.
    Empty,
    /// Some entries.
    #[default]
    Filled,
}

/// One image, as its manifest and config describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The name the container record gives it.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its platform, if index or config state one.
    pub platform: Option<Platform>,
    /// The media type of its config.
    pub config_media_type: String,
    /// All labels of its config.
    pub labels: HashMap<String, String>,
    /// The annotations under our prefix, of manifest, config descriptor and labels.
    pub annotations: Annotations,
    /// Its wasm layers, in the manifest's order.
    pub wasm_layers: Vec<LayerFacts>,
    /// How many layers of files it has.
    pub tar_layers: usize,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// The name of its unpacked files, by which snapshots made from it are known; none
    /// without layers of files.
    pub chain_id: Option<Digest>,
}

/// One wasm layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFacts {
    /// Its name in the content store.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// Its file name (`org.opencontainers.image.title`).
    pub title: Option<String>,
    /// Its annotations under our prefix.
    pub annotations: Annotations,
}

/// The file in the rootfs that argv[0] means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Its absolute path inside the rootfs.
    pub path: PathBuf,
    /// What its bytes say.
    pub binary: Binary,
}

/// Who runs the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The Linux path.
    Linux,
    /// The wasm engine, with this module.
    Wasm(Source),
}

/// Where the module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A layer, as a blob in the content store.
    Layer {
        /// Its name there.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
    /// A file in the rootfs.
    File {
        /// Its absolute path inside the rootfs.
        path: PathBuf,
    },
}

/// What settled the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The container is a pod's sandbox.
    Sandbox,
    /// This strategy was the first with an opinion.
    Strategy(Strategy),
    /// Nothing had an opinion.
    Default,
}

/// One thing that was looked at, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Who looked.
    pub strategy: Strategy,
    /// What it saw, in words.
    pub saw: String,
}

/// The route, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who runs the container.
    pub route: Route,
    /// What settled it.
    pub decided_by: DecidedBy,
    /// The image the container was made from, as an index into [`Facts::images`].
    pub image: Option<usize>,
    /// What was looked at, in the order of the strategies.
    pub looked_at: Vec<Observation>,
}

/// Returns who must run a container with these facts.
pub fn detect(facts: &Facts) -> Result<Decision, Refusal> {
    if facts.sandbox {
        return Ok(Decision {
            route: Route::Linux,
            decided_by: DecidedBy::Sandbox,
            image: None,
            looked_at: Vec::new(),
        });
    }
    let chosen = choose(facts);
    let image = chosen.and_then(|index| facts.images.get(index));
    let mut looked_at = Vec::new();
    let mut first = None;
    for strategy in Strategy::ALL {
        let finding = strategy.ask(facts, image)?;
        if let (None, Some(side)) = (first, finding.says) {
            first = Some((strategy, side));
        }
        looked_at.push(Observation { strategy, saw: finding.saw });
    }
    let route = match first {
        Some((strategy, Side::Wasm)) => {
            if !may_choose_wasm(facts) {
                return Err(Refusal::AutoDetectOff { because: saw(&looked_at, strategy) });
            }
            module::wasm_route(facts, image, &looked_at, strategy)?
        }
        Some((Strategy::RuntimeHint, Side::Linux)) => {
            module::check_linux_hint(facts, image, &looked_at)?;
            Route::Linux
        }
        Some((_, Side::Linux)) | None => {
            check_platform(image)?;
            Route::Linux
        }
    };
    let decided_by =
        first.map_or(DecidedBy::Default, |(strategy, _)| DecidedBy::Strategy(strategy));
    Ok(Decision { route, decided_by, image: chosen, looked_at })
}

fn may_choose_wasm(facts: &Facts) -> bool {
    facts.auto_detect
        || facts.hint.is_some_and(|hint| matches!(hint.wanted, Wanted::Wasm | Wanted::Auto))
}

/// Refuses to run as Linux what its image says is for another system.
fn check_platform(image: Option<&ImageFacts>) -> Result<(), Refusal> {
    let Some((image, platform)) = image.and_then(|i| i.platform.as_ref().map(|p| (i, p))) else {
        return Ok(());
    };
    match platform.kind() {
        platform::Kind::Linux | platform::Kind::Wasm => Ok(()),
        platform::Kind::Other => {
            Err(Refusal::Platform { name: image.name.clone(), platform: platform.to_string() })
        }
    }
}

fn saw(looked_at: &[Observation], strategy: Strategy) -> String {
    looked_at
        .iter()
        .find(|observation| observation.strategy == strategy)
        .map_or_else(String::new, |observation| observation.saw.clone())
}

impl ImageFacts {
    /// Returns the image's own first argument: that of its entrypoint, else of its
    /// default arguments.
    pub fn argv0(&self) -> Option<&str> {
        self.entrypoint.first().or_else(|| self.cmd.first()).map(String::as_str)
    }

    /// Says that this is a wasm image by its platform or its layers.
    pub fn is_wasm(&self) -> bool {
        let by_platform = self.platform.as_ref().is_some_and(|p| p.kind() == platform::Kind::Wasm);
        by_platform || !self.wasm_layers.is_empty()
    }

    /// Returns the image's annotations together with those of the layer that
    /// runs; the two must not differ on a key.
    pub fn annotations_for(&self, source: &Source) -> Result<Annotations, AnnotationError> {
        match source {
            Source::File { .. } => Ok(self.annotations.clone()),
            Source::Layer { digest, .. } => {
                let layer = self.wasm_layers.iter().find(|layer| layer.digest == *digest);
                match layer {
                    Some(layer) => self.annotations.joined(&layer.annotations),
                    None => Ok(self.annotations.clone()),
                }
            }
        }
    }
}

impl LayerFacts {
    /// Describes a layer without annotations.
    pub fn new(digest: Digest, size: u64, media_type: &str) -> Self {
        Self {
            digest,
            size,
            media_type: media_type.to_owned(),
            title: None,
            annotations: Annotations::default(),
        }
    }
}

impl FileFacts {
    /// Describes a regular file by its first [`binary::PEEK`] bytes.
    pub fn regular(path: impl Into<PathBuf>, first_bytes: &[u8]) -> Self {
        Self { path: path.into(), binary: binary::identify(first_bytes) }
    }

    /// Describes something that is no regular file: a directory, a FIFO.
    pub fn irregular(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), binary: Binary::NotAFile }
    }

    /// Returns what the file's name says.
    pub fn extension(&self) -> Extension {
        entrypoint::extension(&self.path)
    }
}

impl fmt::Display for Decision {
    /// Writes one line for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, decided by {}", self.route, self.decided_by)?;
        for (number, observation) in self.looked_at.iter().enumerate() {
            let before = if number == 0 { "; looked at" } else { "," };
            write!(f, "{before} {observation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.strategy, self.saw)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux => f.write_str("linux"),
            Self::Wasm(Source::Layer { digest, size }) => {
                write!(f, "wasm layer {digest} of {size} bytes")
            }
            Self::Wasm(Source::File { path }) => write!(f, "wasm file {path:?}"),
        }
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox => f.write_str("the container being a pod's sandbox"),
            Self::Strategy(strategy) => write!(f, "{strategy}"),
            Self::Default => f.write_str("default, since nothing says wasm"),
        }
    }
}

#[cfg(test)]
mod tests;
