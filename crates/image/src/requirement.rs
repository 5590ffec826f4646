//! The engine an image asks for: `com.wasm.runtime.required` and its kin.
//!
//! A version that stands alone is a minimum: images are written against the
//! engine of their day, and Wasmtime keeps running old modules.

use std::fmt;

use semver::{Comparator, Op, Version, VersionReq};

use crate::quoted::Quoted;

/// The version of the engine that is built in.
pub const EMBEDDED_WASMTIME: Version = Version::new(48, 0, 8);

/// A wasm engine that the annotations can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Built in.
    Wasmtime,
    /// Known by name, not built in.
    WasmEdge,
    /// Known by name, not built in.
    Wasmer,
}

/// An engine and the versions of it that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Which engine.
    pub engine: Engine,
    /// Which versions; any, if none was named.
    pub versions: VersionReq,
}

/// Why the built-in engine cannot serve an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Another engine is asked for.
    #[error("engine {0} is not built in; expected wasmtime")]
    NotBuiltIn(Engine),
    /// Another version is asked for.
    #[error("wasmtime {wanted} is asked for, but wasmtime {EMBEDDED_WASMTIME} is built in")]
    Version {
        /// The versions the image would take.
        wanted: VersionReq,
    },
}

/// Why a text names no engine or version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not one of the engine names.
    #[error("engine {} is not known; expected wasmtime, wasmedge or wasmer", Quoted(.0))]
    Engine(String),
    /// Not a version or a comparison with one.
    #[error("version {} cannot be read; expected for example \">= 16.0.0\"", Quoted(.0))]
    Version(String),
}

impl Engine {
    /// Reads an engine's name, in any case of letters.
    pub fn parse(raw: &str) -> Result<Self, Unreadable> {
        match raw.to_ascii_lowercase().as_str() {
            "wasmtime" => Ok(Self::Wasmtime),
            "wasmedge" => Ok(Self::WasmEdge),
            "wasmer" => Ok(Self::Wasmer),
            _ => Err(Unreadable::Engine(raw.to_owned())),
        }
    }
}

impl Requirement {
    /// Reads `ENGINE`, `ENGINE VERSION` or `ENGINE COMPARISON[, COMPARISON...]`,
    /// for example `wasmtime >= 16.0.0`.
    pub fn parse(raw: &str) -> Result<Self, Unreadable> {
        let raw = raw.trim();
        let end = raw.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(raw.len());
        let (engine, versions) = raw.split_at(end);
        let engine = Engine::parse(engine)?;
        Ok(Self { engine, versions: parse_versions(versions)? })
    }

    /// Checks that the built-in engine will do.
    pub fn check(&self) -> Result<(), Unmet> {
        match self.engine {
            Engine::WasmEdge | Engine::Wasmer => Err(Unmet::NotBuiltIn(self.engine)),
            Engine::Wasmtime if self.versions.matches(&EMBEDDED_WASMTIME) => Ok(()),
            Engine::Wasmtime => Err(Unmet::Version { wanted: self.versions.clone() }),
        }
    }
}

/// Reads a list of comparisons; nothing at all means any version.
pub fn parse_versions(raw: &str) -> Result<VersionReq, Unreadable> {
    let raw = raw.trim();
    if raw.is_empty() {
        return Ok(VersionReq::STAR);
    }
    let unreadable = || Unreadable::Version(raw.to_owned());
    let mut versions = VersionReq::parse(raw).map_err(|_source| unreadable())?;
    let is_bare = raw.starts_with(|c: char| c.is_ascii_digit());
    if let ([Comparator { op: op @ Op::Caret, .. }], true) =
        (versions.comparators.as_mut_slice(), is_bare)
    {
        *op = Op::GreaterEq;
    }
    Ok(versions)
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wasmtime => "wasmtime",
            Self::WasmEdge => "wasmedge",
            Self::Wasmer => "wasmer",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requirements_are_met_or_not() {
        let table = [
            ("wasmtime", true),
            ("wasmtime >= 16.0.0", true),
            ("wasmtime>=16.0.0", true),
            ("Wasmtime >=16", true),
            ("wasmtime 16.0.0", true),
            ("wasmtime 49", false),
            ("wasmtime ^48", true),
            ("wasmtime ^16.0.0", false),
            ("wasmtime ~48.0.1", true),
            ("wasmtime = 48.0.8", true),
            ("wasmtime = 48.0.7", false),
            ("wasmtime > 16, < 60", true),
            ("wasmtime < 48", false),
            ("wasmtime *", true),
            ("wasmedge >= 0.13", false),
            ("wasmer", false),
        ];
        for (raw, is_met) in table {
            let requirement = Requirement::parse(raw).unwrap();
            assert_eq!(requirement.check().is_ok(), is_met, "{raw}: {requirement:?}");
        }
    }

    #[test]
    fn an_unmet_requirement_names_both_sides() {
        let unmet = Requirement::parse("wasmtime >= 99.0.0").unwrap().check().unwrap_err();
        assert_eq!(
            unmet.to_string(),
            "wasmtime >=99.0.0 is asked for, but wasmtime 48.0.8 is built in"
        );
        let unmet = Requirement::parse("wasmedge").unwrap().check().unwrap_err();
        assert_eq!(unmet.to_string(), "engine wasmedge is not built in; expected wasmtime");
    }

    #[test]
    fn anything_else_is_unreadable() {
        for raw in
            ["", " ", "v8", "wasmtime >=", "wasmtime sixteen", "wasmtime >= 16.0.0 x", ">= 16"]
        {
            assert!(Requirement::parse(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn the_embedded_version_is_the_one_the_workspace_locks() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{EMBEDDED_WASMTIME}\"\n");
        assert!(lock.contains(&entry), "Cargo.lock has another wasmtime than {EMBEDDED_WASMTIME}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(raw in "\\PC{0,60}") {
            let _requirement = Requirement::parse(&raw);
        }

        #[test]
        fn reading_near_a_requirement_never_panics(raw in "wasmtime ?[<>=^~*]{0,2} ?[0-9.,x+-]{0,12}") {
            let _requirement = Requirement::parse(&raw);
        }
    }
}
