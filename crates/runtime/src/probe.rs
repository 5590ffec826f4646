//! Collects what detection decides on: the bundle's annotations, the image's
//! documents, the first bytes of the entrypoint.
//!
//! The root filesystem is a stranger's: every path in it is resolved inside it,
//! and nothing but a regular file is opened for reading.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::annotations::{Annotations, Hint};
use image::binary::PEEK;
use image::detect::{self, Facts, FileFacts, MAX_MODULE, Rootfs, Route, Source};
use image::digest::Hasher;
use image::{Digest, entrypoint};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use sys::error::chain;
use sys::path::{open_directory, open_in_root};

use crate::error::Error;
use crate::handle::blocking;
use crate::spec::{ContainerSpec, Detection};

const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "sandbox";

/// Decides who must run a container, and says so in the log.
///
/// # Errors
/// Says what contradicts what, or what could not be looked at.
pub(crate) async fn route(
    spec: &ContainerSpec,
    detection: Detection,
) -> Result<(Facts, detect::Decision), Error> {
    let facts = facts(spec, detection).await?;
    let decision =
        detect::detect(&facts).map_err(|refusal| Error::ImageInspection(chain(&refusal)))?;
    log::info!("container {} runs as {decision}", spec.id);
    Ok((facts, decision))
}

async fn facts(spec: &ContainerSpec, detection: Detection) -> Result<Facts, Error> {
    let empty = std::collections::HashMap::new();
    let annotations = spec.oci.annotations().as_ref().unwrap_or(&empty);
    let refused = |error: image::annotations::AnnotationError| Error::InvalidSpec(chain(&error));
    let sandbox = annotations.get(CONTAINER_TYPE).is_some_and(|kind| kind == SANDBOX);
    if sandbox {
        return Ok(Facts { sandbox, ..Facts::default() });
    }
    let hint = Hint::of_pod(annotations).map_err(refused)?;
    let pod = Annotations::of_pod(annotations).map_err(refused)?;
    let process = spec.process()?;
    let argv0 = process.args().iter().flatten().next().cloned();
    let candidates = argv0.as_deref().map_or_else(Vec::new, |argv0| {
        let path = entrypoint::path_variable(spec.environment());
        entrypoint::candidates(argv0, path, &process.cwd().to_string_lossy())
    });
    let root = spec.rootfs()?;
    let (entrypoint, rootfs) =
        blocking("look into the root filesystem", move || look_into(&root, &candidates)).await?;
    let images = spec.image.facts(detect::wanted(entrypoint.as_ref(), rootfs)).await?;
    Ok(Facts {
        sandbox,
        hint,
        auto_detect: detection == Detection::Auto,
        pod,
        images: images.to_vec(),
        argv0,
        entrypoint,
        rootfs,
    })
}

fn look_into(root: &Path, candidates: &[PathBuf]) -> io::Result<(Option<FileFacts>, Rootfs)> {
    let directory = open_directory(root)?;
    let rootfs = match std::fs::read_dir(root)?.next() {
        Some(entry) => entry.map(|_| Rootfs::Filled)?,
        None => Rootfs::Empty,
    };
    for path in candidates {
        let found = match open_in_root(directory.as_fd(), path, OFlag::O_PATH) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        let facts = if File::from(found).metadata()?.is_file() {
            let mut first = Vec::with_capacity(PEEK);
            let limit = u64::try_from(PEEK).unwrap_or(u64::MAX);
            open_file(&directory, path)?.take(limit).read_to_end(&mut first)?;
            FileFacts::regular(path, &first)
        } else {
            FileFacts::irregular(path)
        };
        return Ok((Some(facts), rootfs));
    }
    Ok((None, rootfs))
}

/// Finds the module among the files that an exec may mean, and returns its path
/// inside the root.
///
/// # Errors
/// [`Error::InvalidSpec`] when there is none, or it is no module.
pub(crate) async fn guest_file(
    root: PathBuf,
    named: &str,
    candidates: Vec<PathBuf>,
) -> Result<PathBuf, Error> {
    let look = move || look_into(&root, &candidates).map(|(found, _)| found);
    match blocking("look into the root filesystem", look).await? {
        Some(found) if found.binary.is_runnable_wasm() => Ok(found.path),
        Some(found) => Err(Error::InvalidSpec(format!(
            "{} is {}: a wasm container can run wasm modules alone",
            found.path.display(),
            found.binary.describe()
        ))),
        None => Err(Error::InvalidSpec(format!(
            "{named:?} is neither a file of the container nor the title of a wasm layer of its image: \
             name a module, or give --invoke and a function of the one that runs"
        ))),
    }
}

/// Opens the module a route names and returns its digest.
///
/// # Errors
/// [`Error::InvalidSpec`] for what is no regular file or is too large.
pub(crate) async fn module_file(root: PathBuf, path: PathBuf) -> Result<(Digest, File), Error> {
    let shown = path.display().to_string();
    let opened = blocking("read the module", move || read_module(&root, &path)).await?;
    opened.ok_or_else(|| {
        Error::InvalidSpec(format!(
            "the module {shown} is not a regular file of at most {MAX_MODULE} bytes"
        ))
    })
}

/// Opens and hashes a module; `None` for what can't be one.
fn read_module(root: &Path, path: &Path) -> io::Result<Option<(Digest, File)>> {
    let mut file = open_file(&open_directory(root)?, path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.size() > MAX_MODULE {
        return Ok(None);
    }
    let digest = digest_of(&mut file)?;
    file.rewind()?;
    Ok(Some((digest, file)))
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&piece[..read]),
        }
    }
}

/// Opens a file for reading without ever waiting for a writer.
fn open_file(root: &OwnedFd, path: &Path) -> io::Result<File> {
    open_in_root(root.as_fd(), path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .map(File::from)
}

fn is_absent(error: &io::Error) -> bool {
    const ABSENT: [Errno; 4] = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::ENAMETOOLONG];
    error.raw_os_error().is_some_and(|code| ABSENT.contains(&Errno::from_raw(code)))
}

/// The module of a container that is to run as wasm whatever detection thinks.
pub(crate) async fn wasm_source(spec: &ContainerSpec) -> Result<(Facts, Source), Error> {
    let (facts, decision) = route(spec, Detection::Auto).await?;
    match decision.route {
        Route::Wasm(source) => Ok((facts, source)),
        Route::Linux => Err(Error::InvalidRuntimeType(format!(
            "container {} is to run as wasm, and its image is not: {decision}",
            spec.id
        ))),
    }
}
