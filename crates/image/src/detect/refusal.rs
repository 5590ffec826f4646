//! Why nobody can be told to run a container.

use std::path::PathBuf;

use crate::annotations::AnnotationError;
use crate::binary::Binary;
use crate::digest::Digest;
use crate::quoted::Quoted;
use crate::requirement::Unmet;

use super::MAX_MODULE;

/// A refusal: what was looked at, where, what was expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An annotation cannot be used.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// Only wasm could run it, and nobody may choose that.
    #[error(
        "the container is wasm ({because}), but auto_detect is off; give the pod the annotation com.wasm.runtime.hint=wasm, or turn auto_detect on"
    )]
    AutoDetectOff {
        /// What says wasm.
        because: String,
    },
    /// Something says wasm, but the program is native.
    #[error("the container is wasm by its description ({because}), but its entrypoint {path:?} is {}; correct the description, or name another entrypoint", binary.describe())]
    BytesSayLinux {
        /// What says wasm.
        because: String,
        /// The entrypoint's file.
        path: PathBuf,
        /// What its bytes say.
        binary: Binary,
    },
    /// The pod says Linux, but the program is wasm.
    #[error("the hint says linux ({hint}), but the program is wasm ({found}); remove the hint")]
    HintedLinux {
        /// The hint.
        hint: String,
        /// What says wasm.
        found: String,
    },
    /// A native program with the name of a module.
    #[error("entrypoint {path:?} is named as wasm but is {}; expected the wasm magic number \\0asm at its start: give the file its right name or its right content", binary.describe())]
    NamedWasm {
        /// The entrypoint's file.
        path: PathBuf,
        /// What its bytes say.
        binary: Binary,
    },
    /// Native code that came with the image.
    #[error(
        "entrypoint {path:?} is precompiled native code, which is never run from an image; ship the .wasm file it was made from, this node compiles it"
    )]
    Precompiled {
        /// The entrypoint's file.
        path: PathBuf,
    },
    /// A wasm header of another version, or half of one.
    #[error(
        "entrypoint {path:?} starts with the wasm magic number, but its version is neither that of a core module (1) nor of a component (13, layer 1); rebuild it with current tools, or check that it is complete"
    )]
    WasmVersion {
        /// The entrypoint's file.
        path: PathBuf,
    },
    /// Wasm as text.
    #[error(
        "entrypoint {path:?} is wasm in text form; compile it first, for example with `wasm-tools parse`"
    )]
    TextForm {
        /// The entrypoint's file.
        path: PathBuf,
    },
    /// Called wasm, but is not.
    #[error("entrypoint {path:?} is {} and does not start with the wasm magic number \\0asm; expected a core module or a component", binary.describe())]
    NotWasm {
        /// The entrypoint's file.
        path: PathBuf,
        /// What its bytes say.
        binary: Binary,
    },
    /// Wasm without a module.
    #[error("the container is wasm ({because}), but there is no module: {} has no wasm layer, and {}", image_words(image.as_ref()), argv0_words(argv0.as_ref()))]
    NoModule {
        /// What says wasm.
        because: String,
        /// The container's first argument.
        argv0: Option<String>,
        /// The image's name.
        image: Option<String>,
    },
    /// Several modules, none of them named.
    #[error("the image has {count} wasm layers, and none has the title {}; name one of them as the first argument: {}", Quoted(name), if titles.is_empty() { "none has a title (org.opencontainers.image.title)" } else { titles })]
    ManyLayers {
        /// The file name in argv[0].
        name: String,
        /// The layers' titles, quoted.
        titles: String,
        /// How many wasm layers there are.
        count: usize,
    },
    /// A layer of no bytes.
    #[error("the image's wasm layer {digest} is empty; build the image again")]
    EmptyLayer {
        /// The layer.
        digest: Digest,
    },
    /// A layer of too many bytes.
    #[error("the image's wasm layer {digest} has {size} bytes; at most {MAX_MODULE} are run")]
    LargeLayer {
        /// The layer.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
    /// Another engine than the one built in is asked for.
    #[error("the engine that annotation {key} asks for is not here")]
    Unmet {
        /// The annotation or label.
        key: &'static str,
        /// What is asked for and what is built in.
        source: Unmet,
    },
    /// The image says component and is a module, or the other way round.
    #[error("annotation {key} is {declared}, but entrypoint {path:?} is {}; correct one of them", binary.describe())]
    ComponentModel {
        /// The annotation.
        key: &'static str,
        /// Its value.
        declared: bool,
        /// The entrypoint's file.
        path: PathBuf,
        /// What its bytes say.
        binary: Binary,
    },
    /// An image of another system.
    #[error("image {} is for {platform}; expected linux or wasi", Quoted(name))]
    Platform {
        /// The image's name.
        name: String,
        /// Its platform.
        platform: String,
    },
}

fn image_words(image: Option<&String>) -> String {
    image.map_or("the container record names no image, so it".to_owned(), |name| {
        format!("image {}", Quoted(name))
    })
}

fn argv0_words(argv0: Option<&String>) -> String {
    argv0.map_or("the container has no arguments that could name a file".to_owned(), |argv0| {
        format!("{} is not in the rootfs", Quoted(argv0))
    })
}
