//! The media types of image documents and layers, OCI's, Docker's and wasm's.

/// The layer type the wasm OCI artefact guidance names for a core module.
pub const WASM_CONTENT_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The registered media type of wasm.
pub const WASM: &str = "application/wasm";
/// The layer type the Bytecode Alliance uses for components.
pub const WASM_COMPONENT_LAYER: &str =
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
/// All layer types that hold a wasm module or component.
pub const WASM_LAYERS: [&str; 3] = [WASM_CONTENT_LAYER, WASM, WASM_COMPONENT_LAYER];

/// What a document or layer of this media type holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An OCI index or a Docker manifest list.
    Index,
    /// An OCI or Docker manifest.
    Manifest,
    /// A container image's config, OCI or Docker.
    ImageConfig,
    /// A wasm artefact's config.
    WasmConfig,
    /// The `{}` that stands where an artefact has no config.
    EmptyConfig,
    /// An artefact that names a wasm and an OCI runtime at once.
    HybridArtefact,
    /// A wasm module or component.
    WasmLayer,
    /// Files in a tar archive, compressed or not.
    TarLayer,
    /// Says wasm in its name, but is none of [`WASM_LAYERS`].
    UnknownWasm,
    /// Anything else.
    Other,
}

/// Returns what `media_type` holds. Compared exactly, as containerd does.
pub fn kind(media_type: &str) -> Kind {
    match media_type {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => Kind::Index,
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => Kind::Manifest,
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json" => Kind::ImageConfig,
        "application/vnd.wasm.config.v0+json" | "application/vnd.wasm.config.v1+json" => {
            Kind::WasmConfig
        }
        "application/vnd.oci.empty.v1+json" => Kind::EmptyConfig,
        "application/vnd.hybrid.manifest.v1+json" => Kind::HybridArtefact,
        WASM_CONTENT_LAYER | WASM | WASM_COMPONENT_LAYER => Kind::WasmLayer,
        other if TAR_LAYERS.iter().any(|prefix| other.starts_with(prefix)) => Kind::TarLayer,
        other if other.contains("wasm") => Kind::UnknownWasm,
        _ => Kind::Other,
    }
}

/// Compression and encryption are suffixes (`+gzip`, `.gzip`, `+zstd`, `+encrypted`).
const TAR_LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_type_has_its_kind() {
        let table = [
            ("application/vnd.oci.image.index.v1+json", Kind::Index),
            ("application/vnd.docker.distribution.manifest.list.v2+json", Kind::Index),
            ("application/vnd.oci.image.manifest.v1+json", Kind::Manifest),
            ("application/vnd.docker.distribution.manifest.v2+json", Kind::Manifest),
            ("application/vnd.oci.image.config.v1+json", Kind::ImageConfig),
            ("application/vnd.docker.container.image.v1+json", Kind::ImageConfig),
            ("application/vnd.wasm.config.v0+json", Kind::WasmConfig),
            ("application/vnd.wasm.config.v1+json", Kind::WasmConfig),
            ("application/vnd.oci.empty.v1+json", Kind::EmptyConfig),
            ("application/vnd.hybrid.manifest.v1+json", Kind::HybridArtefact),
            ("application/vnd.wasm.content.layer.v1+wasm", Kind::WasmLayer),
            ("application/wasm", Kind::WasmLayer),
            ("application/vnd.bytecodealliance.wasm.component.layer.v0+wasm", Kind::WasmLayer),
            ("application/vnd.oci.image.layer.v1.tar", Kind::TarLayer),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Kind::TarLayer),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Kind::TarLayer),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Kind::TarLayer),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Kind::TarLayer),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Kind::TarLayer),
            ("application/vnd.wasm.content.layer.v2+wasm", Kind::UnknownWasm),
            ("application/vnd.module.wasm.precompiled", Kind::UnknownWasm),
            ("application/vnd.in-toto+json", Kind::Other),
            ("", Kind::Other),
        ];
        for (media_type, expected) in table {
            assert_eq!(kind(media_type), expected, "{media_type}");
        }
    }
}
