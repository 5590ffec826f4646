//! The files of a tar layer, in a fixed order and with fixed times.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// What one path of a layer is.
#[derive(Debug, Clone)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
    Fifo,
}

/// The files of a layer by path. Missing parent folders are added when the tar is written.
#[derive(Debug, Clone, Default)]
pub struct Files {
    entries: BTreeMap<String, Entry>,
    owner: (u64, u64),
}

impl Files {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.with(path, Entry::Directory { mode })
    }

    pub fn file(self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.with(path, Entry::File { mode, content: content.into() })
    }

    pub fn executable(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.file(path, content, 0o755)
    }

    /// Adds a symbolic link.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.with(path, Entry::Link { target: target.to_owned() })
    }

    /// Adds a named pipe, for images that try to make a reader hang.
    pub fn fifo(self, path: &str) -> Self {
        self.with(path, Entry::Fifo)
    }

    /// Makes everything belong to this user and group; without it, to root.
    pub fn owner(mut self, user: u32, group: u32) -> Self {
        self.owner = (user.into(), group.into());
        self
    }

    fn with(mut self, path: &str, entry: Entry) -> Self {
        self.entries.insert(path.trim_matches('/').to_owned(), entry);
        self
    }

    /// Returns the tar file's bytes.
    pub(super) fn tar(&self) -> Result<Vec<u8>> {
        let mut complete = self.entries.clone();
        for path in self.entries.keys() {
            for (at, _) in path.match_indices('/') {
                complete.entry(path[..at].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
            }
        }
        let mut builder = Builder::new(Vec::new());
        for (path, entry) in &complete {
            self.append(&mut builder, path, entry)
                .with_context(|| format!("adding {path} to a layer"))?;
        }
        builder.into_inner().context("finishing a layer")
    }

    fn append(&self, builder: &mut Builder<Vec<u8>>, path: &str, entry: &Entry) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_mtime(0);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_size(0);
        match entry {
            Entry::Directory { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
                builder.append_data(&mut header, format!("{path}/"), &[][..])?;
            }
            Entry::File { mode, content } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_slice())?;
            }
            Entry::Link { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, target)?;
            }
            Entry::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                header.set_mode(0o644);
                builder.append_data(&mut header, path, &[][..])?;
            }
        }
        Ok(())
    }
}
