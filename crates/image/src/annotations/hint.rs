//! The pod's explicit word on who runs the container.

use std::fmt;

use super::{AnnotationError, OCI_HANDLER, Origin, RUNTIME_HINT, unusable};

/// Whom a hint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The wasm engine.
    Wasm,
    /// The Linux path.
    Linux,
    /// Whoever detection finds, even where the operator turned detection off.
    Auto,
}

/// A hint and the annotation that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Whom it names.
    pub wanted: Wanted,
    /// [`RUNTIME_HINT`] or [`OCI_HANDLER`].
    pub key: &'static str,
}

impl Hint {
    /// Reads the hint among the annotations of a container's OCI spec.
    ///
    /// Both annotations at once are refused unless they mean the same.
    pub fn of_pod<'a>(
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Option<Self>, AnnotationError> {
        let (mut hint, mut handler) = (None, None);
        for (key, value) in annotations {
            match key.as_str() {
                RUNTIME_HINT => hint = Some((value, parse_hint(value)?)),
                OCI_HANDLER => handler = Some((value, parse_handler(value)?)),
                _ => {}
            }
        }
        match (hint, handler) {
            (Some((hint, wanted)), Some((handler, other))) if wanted != other => {
                Err(AnnotationError::TwoHints { hint: hint.clone(), handler: handler.clone() })
            }
            (Some((_, wanted)), _) => Ok(Some(Self { wanted, key: RUNTIME_HINT })),
            (None, Some((_, wanted))) => Ok(Some(Self { wanted, key: OCI_HANDLER })),
            (None, None) => Ok(None),
        }
    }
}

fn parse_hint(value: &str) -> Result<Wanted, AnnotationError> {
    match value {
        "wasm" => Ok(Wanted::Wasm),
        "linux" => Ok(Wanted::Linux),
        "auto" => Ok(Wanted::Auto),
        _ => Err(unusable(RUNTIME_HINT, Origin::Pod, value, "expected wasm, linux or auto")),
    }
}

/// Other runtimes choose a virtual machine or another engine by this key; a
/// pod that asks for one must not silently get less isolation than it asked for.
fn parse_handler(value: &str) -> Result<Wanted, AnnotationError> {
    match value {
        "wasm" | "wasmtime" => Ok(Wanted::Wasm),
        _ => Err(unusable(
            OCI_HANDLER,
            Origin::Pod,
            value,
            "this handler is not built in; expected wasm or wasmtime",
        )),
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = match self.wanted {
            Wanted::Wasm => "wasm",
            Wanted::Linux => "linux",
            Wanted::Auto => "auto",
        };
        write!(f, "{wanted} by the pod's annotation {}", self.key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(found: &[(&str, &str)]) -> Result<Option<Hint>, AnnotationError> {
        let found: BTreeMap<String, String> =
            found.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        Hint::of_pod(&found)
    }

    #[test]
    fn either_annotation_gives_the_hint() {
        let hint = |wanted, key| Some(Hint { wanted, key });
        let table = [
            (vec![], None),
            (vec![("other", "wasm")], None),
            (vec![(RUNTIME_HINT, "wasm")], hint(Wanted::Wasm, RUNTIME_HINT)),
            (vec![(RUNTIME_HINT, "linux")], hint(Wanted::Linux, RUNTIME_HINT)),
            (vec![(RUNTIME_HINT, "auto")], hint(Wanted::Auto, RUNTIME_HINT)),
            (vec![(OCI_HANDLER, "wasm")], hint(Wanted::Wasm, OCI_HANDLER)),
            (vec![(OCI_HANDLER, "wasmtime")], hint(Wanted::Wasm, OCI_HANDLER)),
            (vec![(RUNTIME_HINT, "wasm"), (OCI_HANDLER, "wasm")], hint(Wanted::Wasm, RUNTIME_HINT)),
        ];
        for (found, expected) in table {
            assert_eq!(of(&found).unwrap(), expected, "{found:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let table = [
            (vec![(RUNTIME_HINT, "")], RUNTIME_HINT),
            (vec![(RUNTIME_HINT, "Wasm")], RUNTIME_HINT),
            (vec![(RUNTIME_HINT, "oci")], RUNTIME_HINT),
            (vec![(OCI_HANDLER, "krun")], "not built in"),
            (vec![(OCI_HANDLER, "wasmedge")], "not built in"),
            (vec![(RUNTIME_HINT, "linux"), (OCI_HANDLER, "wasm")], "give one of them"),
        ];
        for (found, part) in table {
            let refused = of(&found).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
