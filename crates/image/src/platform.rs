//! The platform an image is built for: operating system, architecture, variant.
//!
//! Wasm platforms are written in several ways, some with the two words
//! swapped (`wasi/wasm`, `wasip1/wasm`, `wasi/wasm32`, `wasm32/wasi`); all of
//! them mean the same here.

use std::fmt;

const WASM_ARCHITECTURES: [&str; 2] = ["wasm", "wasm32"];
const WASM_SYSTEMS: [&str; 3] = ["wasi", "wasip1", "wasip2"];

/// The platform of a manifest, as its index or its config states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`, `wasip1`, ...
    pub os: String,
    /// `amd64`, `wasm`, ...
    pub architecture: String,
    /// `v8` of `linux/arm64/v8`.
    pub variant: Option<String>,
}

/// Returns the architecture this program was built for, in the words of images.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Who can run a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any architecture of Linux.
    Linux,
    /// Wasm with WASI, in any of its spellings.
    Wasm,
    /// Something this runtime does not run, for example `windows/amd64`.
    Other,
}

impl Platform {
    /// Returns the platform with these words; `None` when both are empty,
    /// which is how documents write "not stated".
    pub fn stated(os: &str, architecture: &str, variant: Option<&str>) -> Option<Self> {
        let stated = !(os.is_empty() && architecture.is_empty());
        stated.then(|| Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.filter(|variant| !variant.is_empty()).map(str::to_owned),
        })
    }

    /// Returns who can run this platform.
    pub fn kind(&self) -> Kind {
        let (os, architecture) = (self.os.as_str(), self.architecture.as_str());
        let wasm = |os: &str, architecture: &str| {
            WASM_SYSTEMS.contains(&os) && WASM_ARCHITECTURES.contains(&architecture)
        };
        if wasm(os, architecture) || wasm(architecture, os) {
            Kind::Wasm
        } else if os == "linux" {
            Kind::Linux
        } else {
            Kind::Other
        }
    }

    /// Says that this is no platform at all: the `unknown/unknown` under which
    /// image builders store attestations.
    pub fn is_attestation(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    /// Writes `os/architecture[/variant]`, escaped: the words are a stranger's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", variant.escape_debug()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_wasm_is_wasm_and_nothing_near_it() {
        let table = [
            ("wasi", "wasm", Kind::Wasm),
            ("wasip1", "wasm", Kind::Wasm),
            ("wasip2", "wasm", Kind::Wasm),
            ("wasi", "wasm32", Kind::Wasm),
            ("wasip1", "wasm32", Kind::Wasm),
            ("wasip2", "wasm32", Kind::Wasm),
            ("wasm32", "wasi", Kind::Wasm),
            ("wasm", "wasip1", Kind::Wasm),
            ("linux", "amd64", Kind::Linux),
            ("linux", "arm64", Kind::Linux),
            ("linux", "wasm", Kind::Linux),
            ("js", "wasm", Kind::Other),
            ("wasi", "amd64", Kind::Other),
            ("wasi", "wasi", Kind::Other),
            ("wasm", "wasm", Kind::Other),
            ("wasi", "wasm64", Kind::Other),
            ("windows", "amd64", Kind::Other),
            ("", "", Kind::Other),
        ];
        for (os, architecture, kind) in table {
            let platform =
                Platform { os: os.into(), architecture: architecture.into(), variant: None };
            assert_eq!(platform.kind(), kind, "{platform}");
        }
    }

    #[test]
    fn empty_words_state_nothing() {
        assert_eq!(Platform::stated("", "", None), None);
        let arm = Platform::stated("linux", "arm64", Some("v8")).unwrap();
        assert_eq!(arm.to_string(), "linux/arm64/v8");
        let plain = Platform::stated("linux", "amd64", Some("")).unwrap();
        assert_eq!(plain.to_string(), "linux/amd64");
    }
}
