//! What the operator decides of the store of compiled modules.

use serde::{Deserialize, Serialize};
use toml::Value;

use crate::quantity::{number, size};

/// How large the store may become unless the node file says otherwise.
pub const DEFAULT_SIZE: u64 = 2 << 30;
const LEAST_SIZE: u64 = 1 << 20;

/// Whether compiled modules are kept for the next start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caching {
    /// On the node, for every container of the same module.
    #[default]
    On,
    /// By no one but the shim that has compiled it.
    Off,
}

/// What `cache_enabled` is expected to be.
pub(crate) const EXPECTED_CACHING: &str = "true or false";

/// Reads `cache_enabled`.
pub(crate) fn caching(value: &Value) -> Option<Caching> {
    Some(if value.as_bool()? { Caching::On } else { Caching::Off })
}

/// What `cache_size` is expected to be.
pub(crate) const EXPECTED_SIZE: &str =
    "bytes, at least 1MiB, as a number or as text like \"512MiB\"";

/// Reads `cache_size`.
pub(crate) fn size_of(value: &Value) -> Option<u64> {
    let bytes = number(value).or_else(|| value.as_str().and_then(size))?;
    (bytes >= LEAST_SIZE).then_some(bytes)
}
