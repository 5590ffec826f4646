//! What an image or a pod asks a wasm guest to be allowed, typed.
//!
//! Two forms mean the same and may stand together:
//!
//! ```text
//! com.wasm.capabilities.filesystem        read:/data,write:/tmp
//! com.wasm.capabilities.filesystem.read   /data
//! com.wasm.capabilities.filesystem.write  /tmp
//!
//! com.wasm.capabilities.network           outbound_https
//! com.wasm.capabilities.network.hosts     *.example.com
//! ```
//!
//! This module reads; it grants nothing. The pod's word replaces the image's: a
//! long key that key, a short key all that it covers. So a pod that says `filesystem =
//! read:/data` also takes away what the image wanted to write.

mod error;
mod host;
mod path;
mod read;

use std::path::Path;

use image::annotations::{self, Annotations, Origin};

pub use error::{CapabilityError, NotGranted};
pub use host::HostPattern;
pub use path::GuestPath;

/// The most entries of one list.
pub const MAX_ENTRIES: usize = 64;

/// Everything that is asked for. What nobody asks for is empty or has the
/// default; a guest with an empty request still has its private `/tmp`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Files.
    pub files: Files,
    /// Network.
    pub network: Network,
}

/// The files that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Folders to read.
    pub read: Vec<GuestPath>,
    /// Folders to read and write.
    pub write: Vec<GuestPath>,
    /// Open files at a time; 100 by default.
    pub max_files: u32,
    /// Bytes per file; 10 MiB by default.
    pub max_size: u64,
}

/// The network that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Protocols to use towards any host.
    pub outbound: Vec<Protocol>,
    /// Hosts to reach; none by default.
    pub hosts: Vec<HostPattern>,
    /// Ports to reach there; 80 and 443 by default.
    pub ports: Vec<u16>,
    /// Connections at a time; 10 by default.
    pub max_connections: u32,
    /// The annotation that asks for a network at all, if one does.
    pub asked_by: Option<Asked>,
}

/// A protocol of the short form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `outbound_http`
    Http,
    /// `outbound_https`
    Https,
}

/// An annotation that asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Where it was found.
    pub origin: Origin,
}

impl Default for Files {
    fn default() -> Self {
        Self { read: Vec::new(), write: Vec::new(), max_files: 100, max_size: 10 << 20 }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            outbound: Vec::new(),
            hosts: Vec::new(),
            ports: vec![80, 443],
            max_connections: 10,
            asked_by: None,
        }
    }
}

impl Files {
    /// Returns the first folder to write that is neither one of `granted` nor below one, so
    /// that a caller that gives out no more than those can refuse it by name.
    pub fn writes_beyond(&self, granted: &[impl AsRef<Path>]) -> Option<&GuestPath> {
        let is_within = |path: &GuestPath| granted.iter().any(|it| path.as_path().starts_with(it));
        self.write.iter().find(|path| !is_within(path))
    }
}

impl Request {
    /// Checks that no network is asked for, which this build never grants.
    pub fn without_network(&self) -> Result<(), NotGranted> {
        match &self.network.asked_by {
            None => Ok(()),
            Some(asked) => {
                Err(NotGranted { key: asked.key, value: asked.value.clone(), origin: asked.origin })
            }
        }
    }
}

/// Reads the capabilities among the annotations of an image and of its pod.
pub fn parse(image: &Annotations, pod: &Annotations) -> Result<Request, CapabilityError> {
    let files = Scope { image, pod, short: annotations::FILESYSTEM };
    let network = Scope { image, pod, short: annotations::NETWORK };
    Ok(Request { files: files_of(&files)?, network: network_of(&network)? })
}

/// Where to look for the keys of one capability.
struct Scope<'a> {
    image: &'a Annotations,
    pod: &'a Annotations,
    short: &'static str,
}

impl Scope<'_> {
    /// Returns the long and the short annotation that speak about `long`, from the one
    /// side that is to be heard.
    fn speaking(&self, long: &'static str) -> Vec<Asked> {
        let of = |annotations: &Annotations| -> Vec<Asked> {
            let keys = [long, self.short].into_iter();
            keys.filter_map(|key| asked(annotations, key)).collect()
        };
        let by_pod = of(self.pod);
        if by_pod.is_empty() { of(self.image) } else { by_pod }
    }

    /// Returns the annotation with this key, the pod's before the image's.
    fn alone(&self, key: &'static str) -> Option<Asked> {
        asked(self.pod, key).or_else(|| asked(self.image, key))
    }

    /// Returns the short annotation that is to be heard.
    fn short(&self) -> Option<Asked> {
        self.alone(self.short)
    }
}

fn asked(annotations: &Annotations, key: &'static str) -> Option<Asked> {
    let entry = annotations.get(key)?;
    Some(Asked { key, value: entry.value.clone(), origin: entry.origin })
}

fn files_of(scope: &Scope<'_>) -> Result<Files, CapabilityError> {
    let default = Files::default();
    let (mut read, mut write) = (Vec::new(), Vec::new());
    for asked in scope.speaking(annotations::FILESYSTEM_READ) {
        read.extend(match asked.key {
            annotations::FILESYSTEM => read::short_paths(&asked)?.read,
            _ => read::paths(&asked)?,
        });
    }
    for asked in scope.speaking(annotations::FILESYSTEM_WRITE) {
        write.extend(match asked.key {
            annotations::FILESYSTEM => read::short_paths(&asked)?.write,
            _ => read::paths(&asked)?,
        });
    }
    let max_files = scope.alone(annotations::FILESYSTEM_MAX_FILES);
    let max_size = scope.alone(annotations::FILESYSTEM_MAX_SIZE);
    Ok(Files {
        read: read::once(read),
        write: read::once(write),
        max_files: max_files.map_or(Ok(default.max_files), |asked| read::count(&asked))?,
        max_size: max_size.map_or(Ok(default.max_size), |asked| read::size(&asked))?,
    })
}

fn network_of(scope: &Scope<'_>) -> Result<Network, CapabilityError> {
    let default = Network::default();
    let speaking = scope.speaking(annotations::NETWORK_HOSTS);
    let long = speaking.iter().find(|asked| asked.key == annotations::NETWORK_HOSTS);
    let hosts = long.map_or(Ok(Vec::new()), read::hosts)?;
    // The pod's hosts alone leave the image's protocols as they are.
    let short = scope.short();
    let outbound = short.as_ref().map_or(Ok(Vec::new()), read::protocols)?;
    let asked_by = long.cloned().or_else(|| short.filter(|_| !outbound.is_empty()));
    let ports = scope.alone(annotations::NETWORK_PORTS);
    let max_connections = scope.alone(annotations::NETWORK_MAX_CONNECTIONS);
    Ok(Network {
        outbound,
        hosts,
        ports: ports.map_or(Ok(default.ports), |asked| read::ports(&asked))?,
        max_connections: max_connections
            .map_or(Ok(default.max_connections), |asked| read::count(&asked))?,
        asked_by,
    })
}

#[cfg(test)]
mod tests;
