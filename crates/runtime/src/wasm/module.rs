//! The module of a guest: its digest, and where its bytes are.

use std::fs::File;
use std::path::PathBuf;

use image::Digest;
use image::detect::Source;

use crate::error::Error;
use crate::probe;
use crate::spec::Image;

/// The module of a guest.
pub(super) struct Module {
    pub(super) digest: Digest,
    bytes: Bytes,
}

enum Bytes {
    Layer {
        size: u64,
    },
    File(File),
    /// Nobody will ask: the keeper runs its native code already.
    Spared,
}

impl Module {
    /// The module that the container's own guest runs.
    pub(super) fn running(digest: Digest) -> Self {
        Self { digest, bytes: Bytes::Spared }
    }

    pub(super) async fn locate(rootfs: PathBuf, source: &Source) -> Result<Self, Error> {
        match source {
            Source::Layer { digest, size } => {
                Ok(Self { digest: *digest, bytes: Bytes::Layer { size: *size } })
            }
            Source::File { path } => {
                let (digest, file) = probe::module_file(rootfs, path.into()).await?;
                Ok(Self { digest, bytes: Bytes::File(file) })
            }
        }
    }

    pub(super) async fn bytes(&self, image: &dyn Image) -> Result<File, Error> {
        match &self.bytes {
            Bytes::Layer { size } => image.layer(&self.digest, *size).await,
            Bytes::File(file) => file.try_clone().map_err(|error| {
                Error::Runtime(format!("cannot duplicate the module's descriptor: {error}"))
            }),
            Bytes::Spared => Err(Error::Runtime(format!(
                "the keeper has no native code any more of module {}, which runs",
                self.digest
            ))),
        }
    }
}
