//! What an image's annotations declare about its program.

use super::{
    ARCHITECTURE, AnnotationError, Annotations, COMPONENT_MODEL, Entry, LABEL_RUNTIME, OS,
    RUNTIME_ENGINE, RUNTIME_REQUIRED, RUNTIME_VERSION, WIT_WORLD, unusable,
};
use crate::requirement::{Engine, Requirement, Unreadable, parse_versions};

const ARCHITECTURES: [&str; 8] = [
    "wasm",
    "wasm32",
    "wasm32-wasi",
    "wasm32-wasip1",
    "wasm32-wasip2",
    "wasm-wasi",
    "wasm32/wasi",
    "wasi/wasm",
];
const SYSTEMS: [&str; 3] = ["wasi", "wasip1", "wasip2"];

/// The typed reading of the annotations that describe, not those that ask
/// for capabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// The engines that must all be met: of [`RUNTIME_REQUIRED`], of
    /// [`RUNTIME_ENGINE`] with [`RUNTIME_VERSION`], of the label.
    pub required: Vec<(&'static str, Requirement)>,
    /// [`COMPONENT_MODEL`].
    pub component_model: Option<bool>,
    /// [`WIT_WORLD`].
    pub world: Option<String>,
    /// The first key that says "this is wasm", if one does.
    pub says_wasm: Option<&'static str>,
}

/// The keys whose presence says "this is wasm", the strongest first.
const SAY_WASM: [&str; 5] = [RUNTIME_REQUIRED, ARCHITECTURE, OS, RUNTIME_ENGINE, LABEL_RUNTIME];

impl Declared {
    /// Reads them; a value that means nothing is refused.
    pub fn read(annotations: &Annotations) -> Result<Self, AnnotationError> {
        expect_one_of(annotations, ARCHITECTURE, &ARCHITECTURES)?;
        expect_one_of(annotations, OS, &SYSTEMS)?;
        Ok(Self {
            required: required(annotations)?,
            component_model: component_model(annotations)?,
            world: annotations.get(WIT_WORLD).map(|entry| entry.value.clone()),
            says_wasm: SAY_WASM.into_iter().find(|key| annotations.get(key).is_some()),
        })
    }
}

fn required(
    annotations: &Annotations,
) -> Result<Vec<(&'static str, Requirement)>, AnnotationError> {
    let mut required = Vec::new();
    if let Some(entry) = annotations.get(RUNTIME_REQUIRED) {
        required.push((RUNTIME_REQUIRED, read(RUNTIME_REQUIRED, entry, Requirement::parse)?));
    }
    if let Some(entry) = annotations.get(LABEL_RUNTIME) {
        required.push((LABEL_RUNTIME, read(LABEL_RUNTIME, entry, Requirement::parse)?));
    }
    let engine = annotations.get(RUNTIME_ENGINE);
    let versions = annotations
        .get(RUNTIME_VERSION)
        .map(|entry| read(RUNTIME_VERSION, entry, parse_versions))
        .transpose()?;
    match (engine, versions) {
        (None, None) => {}
        (Some(entry), versions) => {
            let engine = read(RUNTIME_ENGINE, entry, Engine::parse)?;
            let versions = versions.unwrap_or_default();
            required.push((RUNTIME_ENGINE, Requirement { engine, versions }));
        }
        // A version without a name can only mean the engine that is built in.
        (None, Some(versions)) => {
            required.push((RUNTIME_VERSION, Requirement { engine: Engine::Wasmtime, versions }));
        }
    }
    Ok(required)
}

fn component_model(annotations: &Annotations) -> Result<Option<bool>, AnnotationError> {
    let Some(entry) = annotations.get(COMPONENT_MODEL) else { return Ok(None) };
    match entry.value.as_str() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        _ => Err(unusable(COMPONENT_MODEL, entry.origin, &entry.value, "expected true or false")),
    }
}

fn expect_one_of(
    annotations: &Annotations,
    key: &str,
    known: &[&str],
) -> Result<(), AnnotationError> {
    match annotations.get(key) {
        Some(entry) if !known.contains(&entry.value.as_str()) => {
            let reason = format!("expected one of {}", known.join(", "));
            Err(unusable(key, entry.origin, &entry.value, reason))
        }
        Some(_) | None => Ok(()),
    }
}

fn read<T>(
    key: &str,
    entry: &Entry,
    parse: impl Fn(&str) -> Result<T, Unreadable>,
) -> Result<T, AnnotationError> {
    parse(&entry.value)
        .map_err(|reason| unusable(key, entry.origin, &entry.value, reason.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::annotations::Origin;

    fn declared(found: &[(&str, &str)]) -> Result<Declared, AnnotationError> {
        let found: BTreeMap<String, String> =
            found.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut annotations = Annotations::default();
        annotations.add(Origin::Manifest, &found)?;
        Declared::read(&annotations)
    }

    #[test]
    fn nothing_declared_says_nothing() {
        assert_eq!(declared(&[]).unwrap(), Declared::default());
    }

    #[test]
    fn the_documented_example_reads_in_full() {
        let read = declared(&[
            (RUNTIME_REQUIRED, "wasmtime >= 16.0.0"),
            (ARCHITECTURE, "wasm32-wasi"),
            (OS, "wasi"),
            (COMPONENT_MODEL, "true"),
            (WIT_WORLD, "http-server"),
        ])
        .unwrap();
        assert_eq!(read.says_wasm, Some(RUNTIME_REQUIRED));
        assert_eq!(read.component_model, Some(true));
        assert_eq!(read.world.as_deref(), Some("http-server"));
        assert!(read.required.iter().all(|(_, requirement)| requirement.check().is_ok()));
    }

    #[test]
    fn which_keys_say_wasm() {
        let table = [
            (vec![(ARCHITECTURE, "wasm32-wasi")], Some(ARCHITECTURE)),
            (vec![(OS, "wasi")], Some(OS)),
            (vec![(RUNTIME_ENGINE, "wasmtime")], Some(RUNTIME_ENGINE)),
            (vec![(LABEL_RUNTIME, "wasmtime")], Some(LABEL_RUNTIME)),
            (vec![(RUNTIME_VERSION, "16.0.0")], None),
            (vec![(WIT_WORLD, "x")], None),
            (vec![(COMPONENT_MODEL, "false")], None),
        ];
        for (found, says) in table {
            assert_eq!(declared(&found).unwrap().says_wasm, says, "{found:?}");
        }
    }

    #[test]
    fn engine_and_version_make_one_requirement() {
        let read = declared(&[(RUNTIME_ENGINE, "wasmtime"), (RUNTIME_VERSION, ">= 99")]).unwrap();
        assert_eq!(read.required.len(), 1);
        assert!(read.required[0].1.check().is_err());
        let alone = declared(&[(RUNTIME_VERSION, "16.0.0")]).unwrap();
        assert!(alone.required[0].1.check().is_ok());
    }

    #[test]
    fn values_that_mean_nothing_are_refused_by_key() {
        let table = [
            (RUNTIME_REQUIRED, "v8"),
            (RUNTIME_ENGINE, "v8"),
            (RUNTIME_VERSION, "new"),
            (ARCHITECTURE, "amd64"),
            (OS, "linux"),
            (COMPONENT_MODEL, "yes"),
            (LABEL_RUNTIME, "spidermonkey"),
        ];
        for (key, value) in table {
            let refused = declared(&[(key, value)]).unwrap_err().to_string();
            assert!(refused.contains(key) && refused.contains("expected"), "{refused}");
        }
    }
}
