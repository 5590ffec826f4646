//! Which of several images a container was made from.
//!
//! The runtime is not told what platform its user chose of an index, but the
//! rootfs was unpacked from that choice, so it is the first witness:
//!
//! 1. a rootfs with files in it came from an image with layers of files, an empty one from an
//!    image without;
//! 2. the pod's hint, else the entrypoint's bytes (ELF or script: Linux), else an
//!    empty rootfs (wasm, whose layers are never unpacked) name the side;
//! 3. argv[0] points to the image whose own first argument it is;
//! 4. a wasm file or a `.wasm` name points to wasm, anything else to Linux;
//! 5. the first in the index's order.
//!
//! Each witness only narrows: one that would leave no image is not heard.

use std::path::Path;

use crate::annotations::Wanted;
use crate::binary::Binary;
use crate::entrypoint::{self, Extension};

use super::{Facts, FileFacts, ImageFacts, Rootfs};

/// Returns which side of an index a rootfs was unpacked from, as far as it
/// can tell; for [`crate::manifest::choose`], before any manifest is read.
pub fn wanted(entrypoint: Option<&FileFacts>, rootfs: Rootfs) -> Wanted {
    match (entrypoint.map(|file| file.binary), rootfs) {
        (Some(Binary::Elf | Binary::Script), _) => Wanted::Linux,
        (None, Rootfs::Empty) => Wanted::Wasm,
        (Some(_) | None, _) => Wanted::Auto,
    }
}

/// Returns the place in [`Facts::images`] of the image the container was made from.
pub fn choose(facts: &Facts) -> Option<usize> {
    let mut left: Vec<usize> = (0..facts.images.len()).collect();
    let has_files = facts.entrypoint.is_some() || facts.rootfs == Rootfs::Filled;
    narrow(facts, &mut left, |image| (image.tar_layers > 0) == has_files);
    match side(facts) {
        Wanted::Wasm => narrow(facts, &mut left, ImageFacts::is_wasm),
        Wanted::Linux => narrow(facts, &mut left, |image| !image.is_wasm()),
        Wanted::Auto => {}
    }
    if let Some(argv0) = facts.argv0.as_deref() {
        narrow(facts, &mut left, |image| image.argv0() == Some(argv0));
    }
    let looks_wasm = looks_wasm(facts);
    narrow(facts, &mut left, |image| image.is_wasm() == looks_wasm);
    left.first().copied()
}

fn side(facts: &Facts) -> Wanted {
    match facts.hint.map(|hint| hint.wanted) {
        Some(side @ (Wanted::Wasm | Wanted::Linux)) => side,
        Some(Wanted::Auto) | None => wanted(facts.entrypoint.as_ref(), facts.rootfs),
    }
}

fn looks_wasm(facts: &Facts) -> bool {
    match (&facts.entrypoint, &facts.argv0) {
        (Some(file), _) => file.binary.is_runnable_wasm() || file.extension() == Extension::Wasm,
        (None, Some(argv0)) => entrypoint::extension(Path::new(argv0)) == Extension::Wasm,
        (None, None) => true,
    }
}

fn narrow(facts: &Facts, left: &mut Vec<usize>, fits: impl Fn(&ImageFacts) -> bool) {
    let is_fit = |index: &usize| facts.images.get(*index).is_some_and(&fits);
    if left.iter().any(is_fit) {
        left.retain(is_fit);
    }
}
