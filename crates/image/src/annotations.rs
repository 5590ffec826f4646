//! The annotations that say something about wasm: names, places, checks.
//!
//! All keys under `com.wasm.` are listed here. One that is not, or whose value
//! is empty, too long or not plain text, is refused: a typing error in a
//! security setting must not pass as "nothing said". Keys outside the prefix are
//! other people's and are left alone, but for `run.oci.handler`.

mod declared;
mod hint;
mod http;
mod workload;

use std::collections::BTreeMap;
use std::fmt;

use crate::quoted::Quoted;

pub use declared::Declared;
pub use hint::{Hint, Wanted};
pub use http::{HTTP_ADDRESS, HTTP_CONCURRENCY, HTTP_DEADLINE, HTTP_GRACE, HTTP_QUEUE, HTTP_REUSE};
pub use workload::{
    CONFIG, ENGINE_OPTIMIZATION, ENGINE_P3, ENGINE_PROPOSALS, LIMITS_DEADLINE, LIMITS_FUEL,
    LIMITS_INSTANCES, LIMITS_MEMORY, LIMITS_STACK, LIMITS_TABLE_ELEMENTS, MAX_CONFIG_NAME,
};

/// The prefix that is ours.
pub const PREFIX: &str = "com.wasm.";
/// The longest value that is read, in bytes.
pub const MAX_VALUE: usize = 4096;

/// Pod annotation: `wasm`, `linux` or `auto`.
pub const RUNTIME_HINT: &str = "com.wasm.runtime.hint";
/// The engine an image needs, for example `wasmtime >= 16.0.0`; says "this is wasm".
pub const RUNTIME_REQUIRED: &str = "com.wasm.runtime.required";
/// The engine's name alone.
pub const RUNTIME_ENGINE: &str = "com.wasm.runtime.engine";
/// The engine's version alone.
pub const RUNTIME_VERSION: &str = "com.wasm.runtime.version";
/// For example `wasm32-wasi`; says "this is wasm".
pub const ARCHITECTURE: &str = "com.wasm.architecture";
/// For example `wasi`.
pub const OS: &str = "com.wasm.os";
/// `true` for a component, `false` for a core module.
pub const COMPONENT_MODEL: &str = "com.wasm.component.model";
/// The world a component targets, for example `http-server`.
pub const WIT_WORLD: &str = "com.wasm.wit.world";
/// Label of an image config: the engine.
pub const LABEL_RUNTIME: &str = "com.wasm.runtime";
/// Label of an image config: its author's version text.
pub const LABEL_VERSION: &str = "com.wasm.version";
/// Label of an image config: its author's component text.
pub const LABEL_COMPONENT: &str = "com.wasm.component";
/// Short form of the file capabilities.
pub const FILESYSTEM: &str = "com.wasm.capabilities.filesystem";
/// Paths to read.
pub const FILESYSTEM_READ: &str = "com.wasm.capabilities.filesystem.read";
/// Paths to write.
pub const FILESYSTEM_WRITE: &str = "com.wasm.capabilities.filesystem.write";
/// Open files at a time.
pub const FILESYSTEM_MAX_FILES: &str = "com.wasm.capabilities.filesystem.max_files";
/// Bytes per file.
pub const FILESYSTEM_MAX_SIZE: &str = "com.wasm.capabilities.filesystem.max_size";
/// Short form of the network capabilities.
pub const NETWORK: &str = "com.wasm.capabilities.network";
/// Host patterns.
pub const NETWORK_HOSTS: &str = "com.wasm.capabilities.network.hosts";
/// Ports.
pub const NETWORK_PORTS: &str = "com.wasm.capabilities.network.ports";
/// Connections at a time.
pub const NETWORK_MAX_CONNECTIONS: &str = "com.wasm.capabilities.network.max_connections";
/// Pod annotation of other runtimes: which handler runs the container.
pub const OCI_HANDLER: &str = "run.oci.handler";
/// Layer annotation of the OCI image spec: the file name of a layer.
pub const TITLE: &str = "org.opencontainers.image.title";

/// Every key under [`PREFIX`], in the order of the documentation; beside them there is a key under
/// [`CONFIG`] for each name that an author chooses.
pub const KNOWN: [&str; 35] = [
    RUNTIME_HINT,
    RUNTIME_REQUIRED,
    RUNTIME_ENGINE,
    RUNTIME_VERSION,
    ARCHITECTURE,
    OS,
    COMPONENT_MODEL,
    WIT_WORLD,
    LABEL_RUNTIME,
    LABEL_VERSION,
    LABEL_COMPONENT,
    FILESYSTEM,
    FILESYSTEM_READ,
    FILESYSTEM_WRITE,
    FILESYSTEM_MAX_FILES,
    FILESYSTEM_MAX_SIZE,
    NETWORK,
    NETWORK_HOSTS,
    NETWORK_PORTS,
    NETWORK_MAX_CONNECTIONS,
    LIMITS_MEMORY,
    LIMITS_TABLE_ELEMENTS,
    LIMITS_INSTANCES,
    LIMITS_STACK,
    LIMITS_FUEL,
    LIMITS_DEADLINE,
    ENGINE_OPTIMIZATION,
    ENGINE_PROPOSALS,
    ENGINE_P3,
    HTTP_ADDRESS,
    HTTP_DEADLINE,
    HTTP_CONCURRENCY,
    HTTP_QUEUE,
    HTTP_REUSE,
    HTTP_GRACE,
];

/// Where an annotation was found, from the least to the most particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A label in the image's config.
    Label,
    /// An annotation of the image's manifest.
    Manifest,
    /// An annotation of the manifest's config descriptor.
    ConfigDescriptor,
    /// An annotation of the manifest's layer of this number, from 0.
    Layer(usize),
    /// An annotation of the container's OCI spec, which the pod's owner gives.
    Pod,
}

/// One annotation and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its text, never empty, without control characters.
    pub value: String,
    /// Where it was found.
    pub origin: Origin,
}

/// The checked annotations under [`PREFIX`], each key once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(BTreeMap<String, Entry>);

/// Why annotations cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A key under our prefix that means nothing.
    #[error(
        "{} of {origin} is not a known annotation; known are {}, {CONFIG}NAME",
        Quoted(key),
        KNOWN.join(", ")
    )]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stood.
        origin: Origin,
    },
    /// A key under [`CONFIG`] whose name cannot be one.
    #[error(
        "{} of {origin} is not a known annotation: after {CONFIG} comes a name of 1 to \
         {MAX_CONFIG_NAME} letters, digits, dots, underscores and hyphens",
        Quoted(key)
    )]
    ConfigName {
        /// The key.
        key: String,
        /// Where it stood.
        origin: Origin,
    },
    /// A value nothing could be read from.
    #[error("annotation {key} of {origin} has the value {}: {reason}", Quoted(value))]
    Value {
        /// The key.
        key: String,
        /// Where it stood.
        origin: Origin,
        /// Its value.
        value: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// One key with two values.
    #[error("annotation {key} is {} in {} but {} in {}; give it once", Quoted(&first.value), first.origin, Quoted(&second.value), second.origin)]
    TwoValues {
        /// The key.
        key: String,
        /// One of the two.
        first: Entry,
        /// The other.
        second: Entry,
    },
    /// Something only the pod may say, said by the image.
    #[error(
        "annotation {key} of {origin} belongs to the pod, not to the image; an image says what it is by {RUNTIME_REQUIRED}"
    )]
    NotTheImages {
        /// The key.
        key: String,
        /// Where it stood.
        origin: Origin,
    },
    /// Two hints that cannot both be followed.
    #[error(
        "annotation {RUNTIME_HINT} is {} but {OCI_HANDLER} is {}; give one of them",
        Quoted(hint),
        Quoted(handler)
    )]
    TwoHints {
        /// Value of [`RUNTIME_HINT`].
        hint: String,
        /// Value of [`OCI_HANDLER`].
        handler: String,
    },
}

impl Annotations {
    /// Adds those of `found` that stand under [`PREFIX`].
    ///
    /// The same key with the same value from two places is fine; with two
    /// values it is refused.
    pub fn add<'a>(
        &mut self,
        origin: Origin,
        found: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<(), AnnotationError> {
        for (key, value) in found {
            if !key.starts_with(PREFIX) {
                continue;
            }
            check(key, value, origin)?;
            self.put(key, Entry { value: value.clone(), origin })?;
        }
        Ok(())
    }

    /// Returns these and `others`, which must agree on the keys they share.
    pub fn joined(&self, others: &Self) -> Result<Self, AnnotationError> {
        let mut joined = self.clone();
        for (key, entry) in others.iter() {
            joined.put(key, entry.clone())?;
        }
        Ok(joined)
    }

    fn put(&mut self, key: &str, second: Entry) -> Result<(), AnnotationError> {
        match self.0.get(key) {
            Some(first) if first.value != second.value => {
                let (key, first) = (key.to_owned(), first.clone());
                return Err(AnnotationError::TwoValues { key, first, second });
            }
            Some(_) => {}
            None => {
                self.0.insert(key.to_owned(), second);
            }
        }
        Ok(())
    }

    /// Reads the annotations of a container's OCI spec.
    pub fn of_pod<'a>(
        found: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, AnnotationError> {
        let mut annotations = Self::default();
        annotations.add(Origin::Pod, found)?;
        Ok(annotations)
    }

    /// Returns the annotation with this key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    /// Returns all, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// Says that there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns these with each key that `over` has replaced by its value there.
    #[must_use]
    pub fn replaced_by(&self, over: &Self) -> Self {
        let mut merged = self.0.clone();
        merged.extend(over.0.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        Self(merged)
    }
}

fn check(key: &str, value: &str, origin: Origin) -> Result<(), AnnotationError> {
    match key.strip_prefix(CONFIG) {
        Some(name) if !workload::is_config_name(name) => {
            return Err(AnnotationError::ConfigName { key: key.to_owned(), origin });
        }
        None if !KNOWN.contains(&key) => {
            return Err(AnnotationError::UnknownKey { key: key.to_owned(), origin });
        }
        Some(_) | None => {}
    }
    if key == RUNTIME_HINT && origin != Origin::Pod {
        return Err(AnnotationError::NotTheImages { key: key.to_owned(), origin });
    }
    match unreadable(value) {
        None => Ok(()),
        Some(reason) => Err(unusable(key, origin, value, reason)),
    }
}

/// Returns what is wrong with a value of any key.
fn unreadable(value: &str) -> Option<&'static str> {
    if value.trim().is_empty() {
        Some("it is empty; leave the annotation out or give it a value")
    } else if value.len() > MAX_VALUE {
        Some("it is longer than 4096 bytes")
    } else if value.chars().any(char::is_control) {
        Some("it holds a control character; expected one line of plain text")
    } else if value.chars().any(is_invisible) {
        Some("it holds an invisible or direction-changing character; expected plain text")
    } else {
        None
    }
}

/// Says that a character shows nothing, or turns the text beside it around, so
/// that a reader sees another value than the machine.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn unusable(key: &str, origin: Origin, value: &str, reason: impl Into<String>) -> AnnotationError {
    AnnotationError::Value {
        key: key.to_owned(),
        origin,
        value: value.to_owned(),
        reason: reason.into(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label => f.write_str("the image config's labels"),
            Self::Manifest => f.write_str("the image manifest"),
            Self::ConfigDescriptor => f.write_str("the manifest's config descriptor"),
            Self::Layer(number) => write!(f, "the manifest's layer {number}"),
            Self::Pod => f.write_str("the pod"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn of_manifest(found: &[(&str, &str)]) -> Result<Annotations, AnnotationError> {
        let mut annotations = Annotations::default();
        annotations.add(Origin::Manifest, &pairs(found))?;
        Ok(annotations)
    }

    #[test]
    fn every_known_key_is_ours_and_taken_with_a_plain_value() {
        for key in KNOWN {
            assert!(key.starts_with(PREFIX), "{key}");
            assert!(Annotations::of_pod(&pairs(&[(key, "x")])).is_ok(), "{key}");
        }
    }

    #[test]
    fn keys_of_others_are_left_alone() {
        let annotations = of_manifest(&[
            ("org.opencontainers.image.title", "\0"),
            ("com.wasmcloud.x", ""),
            (ARCHITECTURE, "wasm32-wasi"),
        ])
        .unwrap();
        assert_eq!(annotations.iter().count(), 1);
        assert_eq!(annotations.get(ARCHITECTURE).unwrap().origin, Origin::Manifest);
    }

    #[test]
    fn an_unknown_key_under_the_prefix_is_refused_by_name() {
        let refused = of_manifest(&[("com.wasm.capabilities.netwrok", "x")]).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.starts_with("\"com.wasm.capabilities.netwrok\" of the image manifest"),
            "{text}"
        );
        assert!(text.contains("com.wasm.capabilities.network.hosts"), "{text}");
    }

    #[test]
    fn configuration_has_names_of_its_authors_choice() {
        let longest = format!("{CONFIG}{}", "n".repeat(MAX_CONFIG_NAME));
        for key in ["com.wasm.config.a", "com.wasm.config.db.URL_2-x", &longest] {
            assert_eq!(of_manifest(&[(key, "x")]).unwrap().get(key).unwrap().value, "x");
        }
        let long = format!("{longest}n");
        for key in ["com.wasm.config.", "com.wasm.config.a b", "com.wasm.config.ä", &long] {
            let refused = of_manifest(&[(key, "x")]).unwrap_err();
            assert!(matches!(refused, AnnotationError::ConfigName { .. }), "{refused}");
            assert!(refused.to_string().contains("a name of 1 to 64 letters"), "{refused}");
        }
        let refused = of_manifest(&[("com.wasm.config", "x")]).unwrap_err();
        assert!(matches!(refused, AnnotationError::UnknownKey { .. }), "{refused}");
    }

    #[test]
    fn values_that_are_no_plain_text_are_refused() {
        let long = "x".repeat(MAX_VALUE + 1);
        let huge = "x".repeat(1 << 20);
        for value in
            ["", " ", "a\0", "a\r\nb", "\u{1b}[31m", "a\u{202e}b", "\u{feff}a", &long, &huge]
        {
            let refused = of_manifest(&[(ARCHITECTURE, value)]).unwrap_err().to_string();
            assert!(refused.contains(ARCHITECTURE), "{refused}");
            assert!(refused.len() < 800, "the error is bounded");
            assert!(!refused.contains(['\n', '\0', '\u{202e}']), "the error is one plain line");
        }
        let longest = "x".repeat(MAX_VALUE);
        assert!(of_manifest(&[(ARCHITECTURE, &longest)]).is_ok());
    }

    #[test]
    fn two_places_may_agree_but_not_differ() {
        let mut annotations = of_manifest(&[(OS, "wasi")]).unwrap();
        annotations.add(Origin::ConfigDescriptor, &pairs(&[(OS, "wasi")])).unwrap();
        let refused = annotations.add(Origin::Label, &pairs(&[(OS, "linux")])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "annotation com.wasm.os is \"wasi\" in the image manifest but \"linux\" in the image config's labels; give it once"
        );
    }

    #[test]
    fn an_image_cannot_hint() {
        let refused = of_manifest(&[(RUNTIME_HINT, "wasm")]).unwrap_err();
        assert!(matches!(refused, AnnotationError::NotTheImages { .. }), "{refused}");
        assert!(Annotations::of_pod(&pairs(&[(RUNTIME_HINT, "wasm")])).is_ok());
    }

    #[test]
    fn the_pod_replaces_key_by_key() {
        let image = of_manifest(&[(OS, "wasi"), (WIT_WORLD, "a")]).unwrap();
        let pod = Annotations::of_pod(&pairs(&[(WIT_WORLD, "b")])).unwrap();
        let merged = image.replaced_by(&pod);
        assert_eq!(merged.get(OS).unwrap().value, "wasi");
        assert_eq!(
            merged.get(WIT_WORLD).unwrap(),
            &Entry { value: "b".into(), origin: Origin::Pod }
        );
    }

    proptest! {
        #[test]
        fn reading_never_panics(key in "com\\.wasm\\.\\PC{0,20}", value in any::<String>()) {
            let _read = Annotations::of_pod(&BTreeMap::from([(key, value)]));
        }
    }
}
