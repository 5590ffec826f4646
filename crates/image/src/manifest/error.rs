//! Why a document of an image cannot be used.

use crate::annotations::AnnotationError;
use crate::digest::InvalidDigest;
use crate::media_type::WASM_LAYERS;
use crate::quoted::Quoted;

use super::{MAX_DEPTH, MAX_DOCUMENT};

/// Says what is wrong with an index, a manifest or a config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The descriptor points to something that is no image.
    #[error(
        "the image's target has media type {}; expected an OCI or Docker manifest or index",
        Quoted(media_type)
    )]
    NotAnImage {
        /// The descriptor's media type.
        media_type: String,
    },
    /// Longer than is read.
    #[error("the image's {what} has {size} bytes; at most {MAX_DOCUMENT} are read")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// More entries than are read.
    #[error("the image's {what} lists {count} {of}; at most {limit} are read")]
    TooMany {
        /// Which document.
        what: &'static str,
        /// What it lists.
        of: &'static str,
        /// How many.
        count: usize,
        /// How many are read.
        limit: usize,
    },
    /// An index in an index in an index.
    #[error(
        "the image's index has more than {MAX_DEPTH} index above it; push the inner index by itself"
    )]
    TooDeep,
    /// Not JSON of the expected form.
    #[error("the image's {what} cannot be read as the OCI image spec has it")]
    NotReadable {
        /// Which document.
        what: &'static str,
        /// What the reader met.
        source: Cause,
    },
    /// Not the second version of the format.
    #[error("the image's document has schema version {}; expected 2", version.map_or("none".to_owned(), |version| version.to_string()))]
    Schema {
        /// The version it states.
        version: Option<u32>,
    },
    /// The document calls itself something else than its descriptor does.
    #[error(
        "the image's document calls itself {} but its descriptor calls it {}",
        Quoted(own),
        Quoted(expected)
    )]
    TypesDiffer {
        /// The descriptor's media type.
        expected: String,
        /// The document's own.
        own: String,
    },
    /// Could be read in two ways.
    #[error("the image's document has the fields of an index and of a manifest at once")]
    IndexAndManifest,
    /// A blob without a digest that can be checked.
    #[error("the image's {what} has an unusable digest")]
    Digest {
        /// Which blob.
        what: &'static str,
        /// What is wrong with it.
        source: InvalidDigest,
    },
    /// A layer that says wasm in a way nobody here understands.
    #[error("the image's layer {number} has media type {}; wasm layers have {}", Quoted(media_type), WASM_LAYERS.join(", "))]
    UnknownWasmLayer {
        /// Its place in the manifest, from 0.
        number: usize,
        /// Its media type.
        media_type: String,
    },
    /// An artefact with a wasm and an OCI side.
    #[error(
        "the image is a hybrid artefact, which is not run; push its wasm and its linux image as one index"
    )]
    HybridArtefact,
    /// Annotations or labels that cannot be used.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
}

/// What a JSON reader met: one bounded, escaped line. The readers quote the
/// document, whose text is a stranger's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Quoted(.0))]
pub struct Cause(String);

impl Cause {
    pub(super) fn of(error: &serde_json::Error) -> Self {
        Self(error.to_string())
    }
}
