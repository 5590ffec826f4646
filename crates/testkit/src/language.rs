//! The languages whose programs are run as containers, and the images of these.
//!
//! Each has a program `tour` that does the same things in the same words; two have an HTTP server as well. What they do
//! is in `test-images/README.md`.

use anyhow::Result;

use crate::catalogue::{self, keep};
use crate::guest;
use crate::image::Archive;

/// A language, and the kind of program that it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    C,
    Go,
    RustModule,
    RustComponent,
    JavaScript,
    Python,
}

impl Language {
    pub const ALL: [Self; 6] =
        [Self::C, Self::Go, Self::RustModule, Self::RustComponent, Self::JavaScript, Self::Python];

    /// Returns the name as its program greets with it.
    pub fn name(self) -> &'static str {
        match self {
            Self::C => "C",
            Self::Go => "Go",
            Self::RustModule | Self::RustComponent => "Rust",
            Self::JavaScript => "JavaScript",
            Self::Python => "Python",
        }
    }

    /// Returns the program `tour`.
    pub fn tour(self) -> Result<Vec<u8>> {
        match self {
            Self::C => guest::c("tour"),
            Self::Go => guest::go("tour"),
            Self::RustModule => guest::rust_module(),
            Self::RustComponent => guest::rust_component(),
            Self::JavaScript => guest::javascript_command(),
            Self::Python => guest::python(),
        }
    }

    /// The program in a wasm layer, beside a tar layer with `/data/note.txt`.
    pub fn layer_image(self) -> Result<Archive> {
        keep(catalogue::mixed_image(&format!("tour-{}", self.slug()), self.tour()?))
    }

    /// The program as the file `/app.wasm` of an ordinary image, beside `/data/note.txt`.
    pub fn file_image(self) -> Result<Archive> {
        keep(catalogue::file_image(&format!("tour-{}-file", self.slug()), self.tour()?))
    }

    fn slug(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Go => "go",
            Self::RustModule => "rust-module",
            Self::RustComponent => "rust-component",
            Self::JavaScript => "js",
            Self::Python => "python",
        }
    }
}

/// A language that HTTP servers are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerLanguage {
    Rust,
    JavaScript,
}

impl ServerLanguage {
    pub const ALL: [Self; 2] = [Self::Rust, Self::JavaScript];

    /// Returns the name as its program greets with it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::JavaScript => "JavaScript",
        }
    }

    /// Returns the program `server`: a component that exports `wasi:http/incoming-handler`.
    pub fn server(self) -> Result<Vec<u8>> {
        match self {
            Self::Rust => guest::rust_server(),
            Self::JavaScript => guest::javascript_server(),
        }
    }

    /// The program alone in a wasm layer.
    pub fn image(self) -> Result<Archive> {
        let name = match self {
            Self::Rust => "server-rust",
            Self::JavaScript => "server-js",
        };
        keep(catalogue::module_image(name, self.server()?))
    }
}

/// The Rust program `notes`, which uses `wasi:config` and `wasi:keyvalue`, alone in a wasm layer.
pub fn notes_image() -> Result<Archive> {
    keep(catalogue::module_image("notes", guest::rust_notes()?))
}

/// Writes every image of these, for `testkit images`.
pub fn images() -> Result<Vec<Archive>> {
    let tours = Language::ALL
        .into_iter()
        .flat_map(|language| [language.layer_image(), language.file_image()]);
    let servers = ServerLanguage::ALL.into_iter().map(ServerLanguage::image);
    tours.chain(servers).chain([notes_image()]).collect()
}
