//! Which manifests of an index are worth reading.

use oci_spec::image::{Descriptor, ImageIndex};

use crate::annotations::Wanted;
use crate::digest::Digest;
use crate::media_type::{self, Kind};
use crate::platform::{self, Platform};

use super::{MAX_MANIFESTS, ManifestError, check_count, digest_of};

/// A manifest (or a further index) that an index lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The platform it is listed under, if the index says.
    pub platform: Option<Platform>,
    /// Its name in the content store.
    pub digest: Digest,
    /// Its length in bytes, as the index states it.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

impl Candidate {
    /// Says that this is an index itself.
    pub fn is_index(&self) -> bool {
        media_type::kind(&self.media_type) == Kind::Index
    }

    fn kind(&self) -> Option<platform::Kind> {
        self.platform.as_ref().map(Platform::kind)
    }
}

/// Returns the entries that can be images: attestations and foreign artefacts
/// are left out.
pub(super) fn of(index: &ImageIndex) -> Result<Vec<Candidate>, ManifestError> {
    check_count("index", "manifests", index.manifests().len(), MAX_MANIFESTS)?;
    let mut candidates = Vec::new();
    for descriptor in index.manifests() {
        let kind = media_type::kind(descriptor.media_type().as_ref());
        let platform = platform_of(descriptor);
        let is_attestation = platform.as_ref().is_some_and(Platform::is_attestation);
        if matches!(kind, Kind::Index | Kind::Manifest) && !is_attestation {
            candidates.push(Candidate {
                platform,
                digest: digest_of("manifest", descriptor)?,
                size: descriptor.size(),
                media_type: descriptor.media_type().as_ref().to_owned(),
            });
        }
    }
    Ok(candidates)
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let platform = descriptor.platform().as_ref()?;
    let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
    Platform::stated(&os, &architecture, platform.variant().as_deref())
}

/// Returns the candidates that may be the container's image, the likeliest
/// first; those that are not in the content store were not pulled and can be skipped.
///
/// The runtime is not told which platform its user chose. `wanted` is what the
/// rootfs or a hint tells about it (see [`crate::detect::wanted`]): the other
/// side's candidates are left out, unless there are only those. Of the Linux ones
/// those of `host_architecture` (see [`platform::host_architecture`]) stand
/// for all if there are any.
pub fn choose<'a>(
    candidates: &'a [Candidate],
    wanted: Wanted,
    host_architecture: &str,
) -> Vec<&'a Candidate> {
    let of_kind = |kind| candidates.iter().filter(move |candidate| candidate.kind() == kind);
    let wasm: Vec<_> = of_kind(Some(platform::Kind::Wasm)).collect();
    let unsaid: Vec<_> = of_kind(None).collect();
    let all_linux: Vec<_> = of_kind(Some(platform::Kind::Linux)).collect();
    let host_linux: Vec<_> = all_linux
        .iter()
        .copied()
        .filter(|candidate| {
            candidate.platform.as_ref().is_some_and(|p| p.architecture == host_architecture)
        })
        .collect();
    let linux = if host_linux.is_empty() { all_linux } else { host_linux };
    let chosen = match wanted {
        Wanted::Wasm if !wasm.is_empty() => [wasm, unsaid].concat(),
        Wanted::Linux if !linux.is_empty() => [linux, unsaid].concat(),
        Wanted::Wasm | Wanted::Linux | Wanted::Auto => [linux, wasm, unsaid].concat(),
    };
    if chosen.is_empty() { candidates.iter().collect() } else { chosen }
}
