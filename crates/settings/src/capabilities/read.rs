//! Reads the values of the capability annotations.

use image::quoted::Quoted;

use crate::quantity::{self, digits};

use super::error::unreadable;
use super::{Asked, CapabilityError, GuestPath, HostPattern, MAX_ENTRIES, Protocol};

/// The largest count of files or connections.
const MOST: u32 = 1_000_000;

/// The two lists of the short file form.
#[derive(Debug, Default)]
pub(super) struct ShortPaths {
    pub(super) read: Vec<GuestPath>,
    pub(super) write: Vec<GuestPath>,
}

/// Reads `read:/data,write:/tmp`, or `none`.
pub(super) fn short_paths(asked: &Asked) -> Result<ShortPaths, CapabilityError> {
    let mut paths = ShortPaths::default();
    if asked.value == "none" {
        return Ok(paths);
    }
    for entry in entries(asked)? {
        match entry.split_once(':') {
            Some(("read", raw)) => paths.read.push(path(asked, raw)?),
            Some(("write", raw)) => paths.write.push(path(asked, raw)?),
            Some(_) | None => {
                let reason = format!("{} is neither read:PATH nor write:PATH", Quoted(entry));
                return Err(unreadable(asked, reason));
            }
        }
    }
    Ok(paths)
}

/// Reads `/data,/srv`.
pub(super) fn paths(asked: &Asked) -> Result<Vec<GuestPath>, CapabilityError> {
    entries(asked)?.into_iter().map(|entry| path(asked, entry)).collect()
}

/// Reads `*.example.com,192.0.2.1`.
pub(super) fn hosts(asked: &Asked) -> Result<Vec<HostPattern>, CapabilityError> {
    let read = |entry| HostPattern::parse(entry).map_err(|reason| wrong(asked, entry, reason));
    entries(asked)?.into_iter().map(read).collect()
}

/// Reads `80,443`.
pub(super) fn ports(asked: &Asked) -> Result<Vec<u16>, CapabilityError> {
    let read = |entry: &str| match digits(entry).and_then(|port| u16::try_from(port).ok()) {
        Some(port) if port > 0 => Ok(port),
        Some(_) | None => Err(wrong(asked, entry, "a port is a number from 1 to 65535")),
    };
    entries(asked)?.into_iter().map(read).collect::<Result<_, _>>().map(once)
}

/// Reads `outbound_https,outbound_http`, or `none`.
pub(super) fn protocols(asked: &Asked) -> Result<Vec<Protocol>, CapabilityError> {
    if asked.value == "none" {
        return Ok(Vec::new());
    }
    let read = |entry| match entry {
        "outbound_http" => Ok(Protocol::Http),
        "outbound_https" => Ok(Protocol::Https),
        _ => Err(wrong(asked, entry, "expected outbound_http, outbound_https, or none alone")),
    };
    entries(asked)?.into_iter().map(read).collect::<Result<_, _>>().map(once)
}

/// Reads a count of files or connections.
pub(super) fn count(asked: &Asked) -> Result<u32, CapabilityError> {
    match digits(&asked.value).and_then(|count| u32::try_from(count).ok()) {
        Some(count) if (1..=MOST).contains(&count) => Ok(count),
        Some(_) | None => Err(unreadable(asked, "expected a number from 1 to 1000000")),
    }
}

/// Reads a number of bytes.
pub(super) fn size(asked: &Asked) -> Result<u64, CapabilityError> {
    match quantity::size(&asked.value) {
        Some(size) if size > 0 => Ok(size),
        Some(_) | None => Err(unreadable(
            asked,
            "expected a number of bytes of at least 1, alone or followed by KiB, MiB or GiB",
        )),
    }
}

/// Drops what is listed a second time.
pub(super) fn once<T: PartialEq>(entries: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(entries.len());
    for entry in entries {
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    kept
}

fn path(asked: &Asked, raw: &str) -> Result<GuestPath, CapabilityError> {
    GuestPath::parse(raw).map_err(|reason| wrong(asked, raw, reason))
}

fn wrong(asked: &Asked, entry: &str, reason: &str) -> CapabilityError {
    unreadable(asked, format!("{} cannot be used: {reason}", Quoted(entry)))
}

/// Splits at commas; blanks around an entry are dropped.
fn entries(asked: &Asked) -> Result<Vec<&str>, CapabilityError> {
    let entries: Vec<&str> = asked.value.split(',').map(str::trim).collect();
    if entries.len() > MAX_ENTRIES {
        return Err(unreadable(asked, "it lists more than 64 entries"));
    }
    if entries.iter().any(|entry| entry.is_empty()) {
        return Err(unreadable(asked, "one of its entries, between commas, is empty"));
    }
    Ok(entries)
}
