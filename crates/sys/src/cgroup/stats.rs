//! What a container has used.
//!
//! Every file is read once, into the counters of its version, which keep the kernel's
//! names and units; [`Stats`] is the part of them that both versions have, in the
//! same units.
//!
//! A controller that the host does not have, or that is not handed down to the cgroup,
//! is left out. A counter of one that is there and cannot be read is an error.

use std::path::Path;
use std::sync::OnceLock;

use super::Cgroup;
use super::error::{CgroupError, Result};
use super::files::{read, read_number, read_optional, unreadable};
use super::folder::Folder;

mod keyed;
pub mod v1;
pub mod v2;

pub use keyed::Keyed;

/// What a container has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time; `None` without the controller.
    pub cpu: Option<CpuStats>,
    /// Memory; `None` without the controller.
    pub memory: Option<MemoryStats>,
    /// Processes; `None` without the controller.
    pub pids: Option<PidStats>,
    /// All that was read; `None` when the cgroup is gone.
    pub counters: Option<Counters>,
}

/// All that the kernel counts, as it counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counters {
    /// On a host with version 1.
    V1(Box<v1::Counters>),
    /// On a host with version 2 alone.
    V2(Box<v2::Counters>),
}

/// Processor time, all in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// In all.
    pub usage_ns: u64,
    /// Of it in user mode.
    pub user_ns: u64,
    /// Of it in the kernel.
    pub system_ns: u64,
    /// Quota periods that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// How long processes were held back.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was ever in use; `None` where the kernel does not say.
    pub peak: Option<u64>,
    /// The limit; `None` when there is none.
    pub limit: Option<u64>,
    /// Memory of the processes themselves.
    pub anonymous: u64,
    /// Page cache.
    pub file: u64,
    /// Page cache that can be dropped at once: the working set is
    /// `usage - inactive_file`.
    pub inactive_file: u64,
    /// Swap in use; `None` where the kernel does not say.
    pub swap_usage: Option<u64>,
    /// The limit on swap (version 1: on memory plus swap); `None` when there
    /// is none.
    pub swap_limit: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidStats {
    /// Now.
    pub current: u64,
    /// At most; `None` when there is no limit.
    pub limit: Option<u64>,
}

/// The use of one RDMA device, or its limits; `u32::MAX` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Its name.
    pub device: String,
    /// Handles.
    pub hca_handles: u32,
    /// Objects.
    pub hca_objects: u32,
}

/// RDMA devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// At most.
    pub limit: Vec<RdmaEntry>,
}

impl Cgroup {
    /// Reads what the container has used. A cgroup that is gone has used nothing.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        if !self.exists() {
            return Ok(Stats::default());
        }
        match self.is_unified() {
            true => Ok(v2::Counters::of(self)?.into()),
            false => Ok(v1::Counters::of(self)?.into()),
        }
    }

    /// Reads from the folder of a controller. `None` without the controller, and when
    /// the cgroup has gone meanwhile.
    fn counted_by<T>(
        &self,
        controller: &str,
        read: impl FnOnce(&Folder) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let Some(folder) = self.counted(controller) else { return Ok(None) };
        match read(folder) {
            Err(CgroupError::File { .. }) if !folder.is_there() => Ok(None),
            other => other,
        }
    }
}

/// Reads `pids.current` and `pids.max`, the same in both versions.
fn pids(folder: &Folder) -> Result<Option<PidStats>> {
    let path = folder.path.join("pids.current");
    let Some(text) = read_optional(&path)? else { return Ok(None) };
    let current = text.parse().map_err(|_| unreadable(&path, &text))?;
    Ok(Some(PidStats { current, limit: read_number(&folder.path.join("pids.max"))? }))
}

/// Reads `rdma.current` and `rdma.max`, the same in both versions.
fn rdma(folder: &Folder) -> Result<Option<Rdma>> {
    let path = folder.path.join("rdma.current");
    let Some(current) = read_optional(&path)? else { return Ok(None) };
    let current = rdma_entries(&path, &current)?;
    let path = folder.path.join("rdma.max");
    let limit = rdma_entries(&path, &read(&path)?)?;
    Ok(Some(Rdma { current, limit }))
}

fn rdma_entries(path: &Path, text: &str) -> Result<Vec<RdmaEntry>> {
    text.lines().map(|line| rdma_entry(line).ok_or_else(|| unreadable(path, line))).collect()
}

/// `mlx5_0 hca_handle=2 hca_object=max`
fn rdma_entry(line: &str) -> Option<RdmaEntry> {
    let mut words = line.split_whitespace();
    let mut entry = RdmaEntry { device: words.next()?.to_owned(), ..RdmaEntry::default() };
    for word in words {
        let (key, value) = word.split_once('=')?;
        let value = if value == "max" { u32::MAX } else { value.parse().ok()? };
        match key {
            "hca_handle" => entry.hca_handles = value,
            "hca_object" => entry.hca_objects = value,
            _ => {}
        }
    }
    Some(entry)
}

/// The sizes of huge pages on this host as cgroup files name them, such as `2MB`.
/// Found once per process: the processor has them.
fn huge_page_sizes() -> &'static [String] {
    static FOUND: OnceLock<Vec<String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        // A kernel without huge pages has no such folder.
        let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
            return Vec::new();
        };
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
        let names = entries.flatten().filter_map(name);
        let mut kilobytes: Vec<u64> = names.filter_map(|name| huge_page_kilobytes(&name)).collect();
        kilobytes.sort_unstable();
        kilobytes.into_iter().map(huge_page_name).collect()
    })
}

/// `hugepages-2048kB`
fn huge_page_kilobytes(folder: &str) -> Option<u64> {
    folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
}

fn huge_page_name(kilobytes: u64) -> String {
    match kilobytes {
        gigabytes if gigabytes >= 1 << 20 => format!("{}GB", gigabytes >> 20),
        megabytes if megabytes >= 1 << 10 => format!("{}MB", megabytes >> 10),
        kilobytes => format!("{kilobytes}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_named_as_the_kernel_names_their_files() {
        let table = [
            ("hugepages-64kB", "64KB"),
            ("hugepages-2048kB", "2MB"),
            ("hugepages-1048576kB", "1GB"),
        ];
        for (folder, name) in table {
            assert_eq!(huge_page_kilobytes(folder).map(huge_page_name).as_deref(), Some(name));
        }
        assert_eq!(huge_page_kilobytes("free"), None);
    }

    #[test]
    fn an_rdma_device_has_numbers_and_limits() {
        let entry = |device: &str, hca_handles, hca_objects| {
            Some(RdmaEntry { device: device.to_owned(), hca_handles, hca_objects })
        };
        let table = [
            ("mlx4_0 hca_handle=2 hca_object=2000", entry("mlx4_0", 2, 2000)),
            ("ocrdma1 hca_handle=max hca_object=max", entry("ocrdma1", u32::MAX, u32::MAX)),
            ("x hca_handle=two", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(rdma_entry(line), expected, "{line}");
        }
    }
}
