//! The two kinds of containers, for tests that hold for both.
//!
//! With [`RUNTIME_VARIABLE`](testkit::containerd::RUNTIME_VARIABLE) set to runc's shim, the tests are run against that:
//! what they then say of Linux is what users of runc are used to. Nobody else runs wasm.

use anyhow::Result;
use testkit::command::Output;
use testkit::containerd::{HYBRID, runtime};
use testkit::image::{Archive, Files, Image, Layer};
use testkit::{catalogue, guest};

use crate::lab::{Lab, must};

/// Guests that are programs of the wasm image, by the names of their files.
const TEXT_GUESTS: [&str; 9] =
    ["cat", "hello", "exit", "loop", "memory-hog", "read-file", "sleeper", "trap", "write-file"];
const C_GUESTS: [&str; 1] = ["console"];

/// What a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Linux,
    Wasm,
}

impl Kind {
    /// Returns both; Linux alone where another runtime than ours is asked.
    pub fn all() -> &'static [Self] {
        if runtime() == HYBRID { &[Self::Linux, Self::Wasm] } else { &[Self::Linux] }
    }

    /// Returns the image with every program of this kind: busybox, or an ordinary image with modules beside each other.
    ///
    /// # Errors
    /// When a guest cannot be built.
    pub fn programs(self) -> Result<Archive> {
        match self {
            Self::Linux => catalogue::busybox(),
            Self::Wasm => modules(),
        }
    }

    /// Returns the words that sleep for a long time.
    pub fn sleeper(self) -> Vec<String> {
        match self {
            Self::Linux => words(&["sleep", "1000"]),
            Self::Wasm => words(&["/sleeper.wasm"]),
        }
    }

    /// Returns the words that end with a code.
    pub fn exit(self, code: i32) -> Vec<String> {
        match self {
            Self::Linux => words(&["sh", "-c", &format!("exit {code}")]),
            Self::Wasm => words(&["/exit.wasm", &code.to_string()]),
        }
    }

    /// Returns the words that copy their input to their output.
    pub fn cat(self) -> Vec<String> {
        match self {
            Self::Linux => words(&["cat"]),
            Self::Wasm => words(&["/cat.wasm"]),
        }
    }

    /// Returns an image that takes memory until it is refused; a Linux one is busybox.
    ///
    /// # Errors
    /// When a guest cannot be built.
    pub fn image_of_hog(self) -> Result<Archive> {
        match self {
            Self::Linux => catalogue::busybox(),
            Self::Wasm => catalogue::guest_image("memory-hog"),
        }
    }

    /// Returns the words that compute for ever.
    pub fn burner(self) -> Vec<String> {
        match self {
            Self::Linux => words(&["sh", "-c", "while :; do :; done"]),
            Self::Wasm => words(&["/loop.wasm"]),
        }
    }
}

/// Starts a container with every program of its kind, whose init sleeps, and returns its id.
///
/// # Panics
/// When it does not start.
#[track_caller]
pub fn standing(lab: &Lab, kind: Kind, name: &str, flags: &[&str]) -> String {
    let image = lab.image(kind.programs());
    let id = lab.unique(name);
    let run = lab.run(&image, &id).detach().flags(["--null-io"]).flags(flags.iter().copied());
    must(run.args(kind.sleeper()).output().and_then(Output::ok));
    id
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn modules() -> Result<Archive> {
    let mut files = Files::new().directory("/tmp", 0o1777);
    for name in TEXT_GUESTS {
        files = files.executable(&format!("/{name}.wasm"), guest::wat(name)?);
    }
    for name in C_GUESTS {
        files = files.executable(&format!("/{name}.wasm"), guest::c(name)?);
    }
    let image = Image::new("docker.io/hybrid/modules:1").layer(Layer::tar_gzip(files));
    catalogue::keep(image.command(["/sleeper.wasm"]))
}
