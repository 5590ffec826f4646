//! What containerd knows of a container's image, over its gRPC API.
//!
//! The shim is given a bundle and no image: the container's record names one,
//! the name leads to a digest, the digest to documents in the content store.
//! What a digest leads to never changes, so it is read once per shim.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::mem::{Discriminant, discriminant};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{
    Container, GetContainerRequest, GetImageRequest, ReadContentRequest,
};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Status};
use containerd_client::with_namespace;
use image::Digest;
use image::annotations::Wanted;
use image::detect::{ImageFacts, MAX_MODULE};
use image::digest::Hasher;
use image::manifest::{self, Candidate, Config, Document, Manifest, ManifestError};
use image::platform::{self, Platform};
use nix::sys::memfd::{MFdFlags, memfd_create};
use runtime::Error;
use runtime::spec::Image;
use tokio::sync::OnceCell;

/// The label by which CRI knows its containers.
const CRI_KIND: &str = "io.cri-containerd.kind";

/// containerd may take this long for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// containerd sends content in pieces of at most this many bytes.
const LARGEST_MESSAGE: usize = 32 << 20;

/// What a digest was found to lead to, for each side that was wanted of it.
type Known = HashMap<(Digest, Discriminant<Wanted>), Arc<Vec<ImageFacts>>>;

/// containerd, as seen from one namespace.
#[derive(Debug)]
pub(crate) struct Containerd {
    address: String,
    namespace: String,
    channel: OnceCell<Channel>,
    known: Mutex<Known>,
}

/// The image of one container.
#[derive(Debug)]
pub(crate) struct ContainerImage {
    containerd: Arc<Containerd>,
    container: String,
    named: Arc<OnceCell<Option<Named>>>,
}

/// What containerd's records say that a container is made from.
#[derive(Debug)]
struct Named {
    record: Container,
    /// What the image's name means; none when the name is gone.
    target: Option<Target>,
    made_from: Option<MadeFrom>,
}

/// A blob that is not in the content store, or an error on the way to it.
enum Missing {
    NotHere,
    Failed(Error),
}

/// What an image's name means.
#[derive(Debug)]
struct Target {
    digest: Digest,
    media_type: String,
    /// When the name was given this meaning: seconds and nanoseconds since 1970.
    set_at: Option<(i64, i32)>,
}

impl Target {
    /// Says whether the name was given its meaning after the container was made.
    ///
    /// Not asked of CRI's containers: they are made and started in one go, while
    /// another pod's pull of the same image may renew its name at any moment.
    fn set_after(&self, record: &Container) -> bool {
        if record.labels.contains_key(CRI_KIND) {
            return false;
        }
        let made_at = record.created_at.as_ref().map(|at| (at.seconds, at.nanos));
        self.set_at > made_at
    }
}

/// The parent of a container's snapshot; empty for one made from no files.
#[derive(Debug)]
struct MadeFrom(String);

impl MadeFrom {
    /// Says whether a container of this image has such a snapshot. The name goes
    /// on after the image's own where the files were handed to other users.
    fn fits(&self, image: &ImageFacts) -> bool {
        match &image.chain_id {
            None => self.0.is_empty(),
            Some(chain_id) => self.0.starts_with(&chain_id.to_string()),
        }
    }
}

impl ContainerImage {
    /// Begins to look the image up, beside whatever else a create has to do. Must be
    /// called within a tokio runtime.
    pub(crate) fn look_up(containerd: &Arc<Containerd>, container: &str) -> Self {
        let image = Self {
            containerd: Arc::clone(containerd),
            container: container.to_owned(),
            named: Arc::default(),
        };
        let (named, containerd, container) =
            (Arc::clone(&image.named), Arc::clone(containerd), container.to_owned());
        tokio::spawn(async move {
            // Whoever needs the answer asks again, and hears why there is none.
            if let Err(error) = named.get_or_try_init(|| containerd.named(&container)).await {
                log::debug!("the image of container {container} is not known yet: {error}");
            }
        });
        image
    }
}

#[async_trait]
impl Image for ContainerImage {
    async fn facts(&self, wanted: Wanted) -> Result<Arc<Vec<ImageFacts>>, Error> {
        let ask = || self.containerd.named(&self.container);
        match self.named.get_or_try_init(ask).await? {
            Some(named) => self.containerd.facts(&self.container, named, wanted).await,
            None => Ok(Arc::default()),
        }
    }

    async fn layer(&self, digest: &Digest, size: u64) -> Result<File, Error> {
        self.containerd.layer(digest, size).await
    }
}

impl Containerd {
    /// Names a containerd by its gRPC socket; connects at the first question.
    pub(crate) fn new(address: String, namespace: String) -> Self {
        Self { address, namespace, channel: OnceCell::new(), known: Mutex::default() }
    }

    /// What a container is made from; none where its record names no image.
    async fn named(&self, container: &str) -> Result<Option<Named>, Error> {
        let Some(record) = self.container(container).await? else {
            return Ok(None);
        };
        let (target, made_from) =
            tokio::try_join!(self.image_target(&record.image), self.made_from(&record))?;
        Ok(Some(Named { record, target, made_from }))
    }

    async fn facts(
        &self,
        container: &str,
        Named { record, target, made_from }: &Named,
        wanted: Wanted,
    ) -> Result<Arc<Vec<ImageFacts>>, Error> {
        let Some(target) = target else {
            // Removed between the create and now: the root filesystem remains.
            log::info!(
                "image {} of container {container} is not in containerd any more",
                record.image
            );
            return Ok(Arc::default());
        };
        let images = self.images(&record.image, target, wanted).await?;
        let Some(made_from) = made_from else {
            return Ok(images);
        };
        let its_own: Vec<ImageFacts> =
            images.iter().filter(|image| made_from.fits(image)).cloned().collect();
        // A wasm layer is in no snapshot, so only the times can tell whether the
        // name still means what it meant.
        if its_own.iter().any(|image| !image.wasm_layers.is_empty()) && target.set_after(record) {
            return Err(Error::ImageInspection(format!(
                "image {} was set anew after container {container} was made from it, so the module it \
                 means now may be another one: make the container again",
                record.image
            )));
        }
        if its_own.is_empty() {
            log::info!(
                "image {} is not what container {container} was made from: only its files count",
                record.image
            );
        }
        Ok(Arc::new(its_own))
    }

    /// What an image's digest leads to, read once.
    async fn images(
        &self,
        name: &str,
        target: &Target,
        wanted: Wanted,
    ) -> Result<Arc<Vec<ImageFacts>>, Error> {
        let key = (target.digest, discriminant(&wanted));
        if let Some(facts) = self.known().get(&key) {
            return Ok(Arc::clone(facts));
        }
        let read = self.read_image(name, &target.digest, &target.media_type, wanted).await?;
        let facts = Arc::new(read);
        self.known().insert(key, Arc::clone(&facts));
        Ok(facts)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container's record, if it names an image: Docker's do not.
    async fn container(&self, id: &str) -> Result<Option<Container>, Error> {
        let request = GetContainerRequest { id: id.to_owned() };
        let request = with_namespace!(request, self.namespace);
        let mut client = ContainersClient::new(self.channel().await?);
        let record = match self.within(client.get(request)).await? {
            Ok(response) => response.into_inner().container,
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(self.failed(&format!("container {id}"), &status)),
        };
        Ok(record.filter(|record| !record.image.is_empty()))
    }

    async fn image_target(&self, name: &str) -> Result<Option<Target>, Error> {
        let request = GetImageRequest { name: name.to_owned() };
        let request = with_namespace!(request, self.namespace);
        let mut client = ImagesClient::new(self.channel().await?);
        let image = match self.within(client.get(request)).await? {
            Ok(response) => response.into_inner().image,
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(self.failed(&format!("image {name}"), &status)),
        };
        let Some((image, target)) = image.and_then(|mut image| {
            let target = image.target.take()?;
            Some((image, target))
        }) else {
            return Ok(None);
        };
        let digest = target.digest.parse::<Digest>().map_err(|error| {
            Error::ImageInspection(format!("image {name} has a target that is no digest: {error}"))
        })?;
        let set_at = image.updated_at.map(|at| (at.seconds, at.nanos));
        Ok(Some(Target { digest, media_type: target.media_type, set_at }))
    }

    /// What the container's snapshot was made from; none where it has no snapshot.
    async fn made_from(&self, record: &Container) -> Result<Option<MadeFrom>, Error> {
        if record.snapshot_key.is_empty() {
            return Ok(None);
        }
        let key = record.snapshot_key.clone();
        let request = StatSnapshotRequest { snapshotter: record.snapshotter.clone(), key };
        let request = with_namespace!(request, self.namespace);
        let mut client = SnapshotsClient::new(self.channel().await?);
        match self.within(client.stat(request)).await? {
            Ok(response) => Ok(response.into_inner().info.map(|info| MadeFrom(info.parent))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.failed(&format!("snapshot {}", record.snapshot_key), &status)),
        }
    }

    /// Reads the manifests that an image's digest leads to. Those of an index
    /// that were not pulled are skipped.
    async fn read_image(
        &self,
        name: &str,
        digest: &Digest,
        media_type: &str,
        wanted: Wanted,
    ) -> Result<Vec<ImageFacts>, Error> {
        let bytes = self.document(digest).await.map_err(Missing::into_error)?;
        let mut found = Vec::new();
        let mut rest = match parse(name, &bytes, media_type, 0)? {
            Document::Manifest(manifest) => {
                return Ok(vec![self.read_manifest(name, digest, None, &manifest).await?]);
            }
            Document::Index(candidates) => below(&candidates, wanted, 1),
        };
        while let Some((candidate, depth)) = rest.pop() {
            let bytes = match self.document(&candidate.digest).await {
                Ok(bytes) => bytes,
                Err(Missing::NotHere) => continue,
                Err(Missing::Failed(error)) => return Err(error),
            };
            match parse(name, &bytes, &candidate.media_type, depth)? {
                Document::Manifest(manifest) => {
                    let listed = candidate.platform;
                    found.push(
                        self.read_manifest(name, &candidate.digest, listed, &manifest).await?,
                    );
                }
                Document::Index(inner) => rest.extend(below(&inner, wanted, depth + 1)),
            }
        }
        if found.is_empty() {
            return Err(Error::ImageInspection(format!(
                "image {name} is an index and none of the platforms it lists is in the content \
                 store: pull or import it with the platform that is to run"
            )));
        }
        Ok(found)
    }

    async fn read_manifest(
        &self,
        name: &str,
        digest: &Digest,
        listed: Option<Platform>,
        manifest: &Manifest,
    ) -> Result<ImageFacts, Error> {
        let unreadable = |error| unreadable(name, error);
        let config = if manifest.has_no_config() {
            Config::default()
        } else {
            let bytes =
                self.document(&manifest.config.digest).await.map_err(Missing::into_error)?;
            manifest::parse_config(&bytes, &manifest.config.media_type).map_err(unreadable)?
        };
        manifest::facts(name, *digest, listed, manifest, &config).map_err(unreadable)
    }

    /// Reads a small blob.
    async fn document(&self, digest: &Digest) -> Result<Vec<u8>, Missing> {
        let mut bytes = Vec::new();
        self.read(digest, manifest::MAX_DOCUMENT as u64, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(bytes)
    }

    async fn layer(&self, digest: &Digest, size: u64) -> Result<File, Error> {
        if size > MAX_MODULE {
            return Err(Error::InvalidSpec(format!(
                "the wasm layer {digest} has {size} bytes: a module may have at most {MAX_MODULE}"
            )));
        }
        let in_memory = |error: std::io::Error| {
            Error::Runtime(format!("cannot hold layer {digest} in memory: {error}"))
        };
        let mut file = memfd_create("hybrid-module", MFdFlags::MFD_CLOEXEC)
            .map(File::from)
            .map_err(|errno| in_memory(errno.into()))?;
        self.read(digest, MAX_MODULE, |piece| file.write_all(piece).map_err(in_memory))
            .await
            .map_err(Missing::into_error)?;
        file.rewind().map_err(in_memory)?;
        Ok(file)
    }

    /// Streams a blob and verifies it.
    async fn read(
        &self,
        digest: &Digest,
        limit: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Missing> {
        let request = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let request = with_namespace!(request, self.namespace);
        let mut client =
            ContentClient::new(self.channel().await?).max_decoding_message_size(LARGEST_MESSAGE);
        let what = format!("content {digest}");
        let mut stream = match self.within(client.read(request)).await? {
            Ok(response) => response.into_inner(),
            Err(status) => return Err(self.missing(&what, &status)),
        };
        let (mut hasher, mut length) = (Hasher::new(), 0_u64);
        loop {
            match self.within(stream.message()).await? {
                Ok(Some(message)) => {
                    length += message.data.len() as u64;
                    if length > limit {
                        return Err(Missing::Failed(Error::ImageInspection(format!(
                            "{what} is longer than {limit} bytes"
                        ))));
                    }
                    hasher.update(&message.data);
                    take(&message.data)?;
                }
                Ok(None) => break,
                Err(status) => return Err(self.missing(&what, &status)),
            }
        }
        if hasher.finish() == *digest {
            Ok(())
        } else {
            Err(Missing::Failed(Error::ImageInspection(format!(
                "{what} does not match its digest"
            ))))
        }
    }

    async fn channel(&self) -> Result<Channel, Error> {
        self.channel
            .get_or_try_init(|| async {
                let connected = self.within(containerd_client::connect(&self.address)).await?;
                connected.map_err(|error| {
                    Error::Unavailable(format!(
                        "containerd at {} does not answer: {error}",
                        self.address
                    ))
                })
            })
            .await
            .cloned()
    }

    async fn within<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| {
            Error::Unavailable(format!(
                "containerd at {} did not answer within {} s",
                self.address,
                PATIENCE.as_secs()
            ))
        })
    }

    fn failed(&self, what: &str, status: &Status) -> Error {
        let message =
            format!("cannot ask containerd at {} about {what}: {}", self.address, status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Error::Unavailable(message),
            _ => Error::ImageInspection(message),
        }
    }

    fn missing(&self, what: &str, status: &Status) -> Missing {
        if status.code() == Code::NotFound {
            Missing::NotHere
        } else {
            Missing::Failed(self.failed(what, status))
        }
    }
}

fn parse(name: &str, bytes: &[u8], media_type: &str, depth: usize) -> Result<Document, Error> {
    manifest::parse(bytes, media_type, depth).map_err(|error| unreadable(name, error))
}

fn unreadable(name: &str, error: ManifestError) -> Error {
    Error::ImageInspection(format!("image {name}: {error}"))
}

/// The candidates worth reading, the likeliest last, where they are popped from.
fn below(candidates: &[Candidate], wanted: Wanted, depth: usize) -> Vec<(Candidate, usize)> {
    manifest::choose(candidates, wanted, platform::host_architecture())
        .into_iter()
        .rev()
        .map(|candidate| (candidate.clone(), depth))
        .collect()
}

impl From<Error> for Missing {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Missing {
    fn into_error(self) -> Error {
        match self {
            Self::NotHere => Error::ImageInspection(
                "a document of the image is not in containerd's content store: pull it again"
                    .to_owned(),
            ),
            Self::Failed(error) => error,
        }
    }
}
