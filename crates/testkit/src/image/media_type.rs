//! The media types images are built with.

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The wasm layer the project's documents name.
pub const WASM_CONTENT: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The wasm layer of CNCF's wasm artefacts.
pub const WASM: &str = "application/wasm";
/// The wasm layer of Bytecode Alliance components.
pub const WASM_COMPONENT: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";

/// Every wasm layer type seen in registries.
pub const WASM_LAYERS: [&str; 3] = [WASM_CONTENT, WASM, WASM_COMPONENT];

/// The configuration type the project's documents name.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v1+json";
