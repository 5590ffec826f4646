//! What a container has used, in the same units for both cgroup versions.

use std::path::Path;

use super::files::{keyed, read, read_number, read_optional, unreadable};
use super::{Cgroup, Folder, Result};

/// What a container has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time; `None` without the controller.
    pub cpu: Option<CpuStats>,
    /// Memory; `None` without the controller.
    pub memory: Option<MemoryStats>,
    /// Processes; `None` without the controller.
    pub pids: Option<PidStats>,
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

/// Version 1 says "no limit" with a number near the largest there is.
const V1_NO_LIMIT: u64 = 1 << 62;

impl Cgroup {
    /// Reads what the container has used. A controller that the host does not
    /// have, or a cgroup that is gone, gives `None`.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats { cpu: self.cpu_stats()?, memory: self.memory_stats()?, pids: self.pid_stats()? })
    }

    /// Returns how many processes of the cgroup the kernel has killed for want
    /// of memory; 0 when the cgroup is gone or memory is not counted.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        self.counted("memory").map_or(Ok(0), Folder::oom_kills)
    }

    /// The folder whose hierarchy has this controller, if the cgroup exists there.
    fn counted(&self, controller: &str) -> Option<&Folder> {
        let mut folders = self.folders.iter();
        folders.find(|folder| folder.hierarchy.holds(controller) && folder.path.is_dir())
    }

    fn cpu_stats(&self) -> Result<Option<CpuStats>> {
        let Some(folder) = self.counted("cpu").or_else(|| self.counted("cpuacct")) else {
            return Ok(None);
        };
        let path = folder.path.join("cpu.stat");
        let text = read_optional(&path)?.unwrap_or_default();
        let get = |key| keyed(&path, &text, key).map(Option::unwrap_or_default);
        let mut stats = CpuStats {
            periods: get("nr_periods")?,
            throttled_periods: get("nr_throttled")?,
            ..CpuStats::default()
        };
        if folder.hierarchy.is_v2() {
            stats.usage_ns = get("usage_usec")?.saturating_mul(1_000);
            stats.user_ns = get("user_usec")?.saturating_mul(1_000);
            stats.system_ns = get("system_usec")?.saturating_mul(1_000);
            stats.throttled_ns = get("throttled_usec")?.saturating_mul(1_000);
        } else {
            stats.throttled_ns = get("throttled_time")?;
            self.cpu_account(&mut stats)?;
        }
        Ok(Some(stats))
    }

    fn cpu_account(&self, stats: &mut CpuStats) -> Result<()> {
        let Some(folder) = self.counted("cpuacct") else { return Ok(()) };
        let number = |file| read_number(&folder.path.join(file)).map(Option::unwrap_or_default);
        stats.usage_ns = number("cpuacct.usage")?;
        stats.user_ns = number("cpuacct.usage_user")?;
        stats.system_ns = number("cpuacct.usage_sys")?;
        Ok(())
    }

    fn memory_stats(&self) -> Result<Option<MemoryStats>> {
        match self.counted("memory") {
            None => Ok(None),
            Some(folder) if folder.hierarchy.is_v2() => folder.memory_v2(),
            Some(folder) => folder.memory_v1().map(Some),
        }
    }

    fn pid_stats(&self) -> Result<Option<PidStats>> {
        let Some(folder) = self.counted("pids") else { return Ok(None) };
        let path = folder.path.join("pids.current");
        let Some(text) = read_optional(&path)? else { return Ok(None) };
        let current = text.parse().map_err(|_| unreadable(&path, &text))?;
        Ok(Some(PidStats { current, limit: read_number(&folder.path.join("pids.max"))? }))
    }
}

impl Folder {
    fn memory_v1(&self) -> Result<MemoryStats> {
        let number = |file| read_number(&self.path.join(file)).map(Option::unwrap_or_default);
        let limit = |file| -> Result<Option<u64>> {
            match read_optional(&self.path.join(file))? {
                Some(_) => Ok(Some(number(file)?).filter(|bytes| *bytes < V1_NO_LIMIT)),
                None => Ok(None),
            }
        };
        let path = self.path.join("memory.stat");
        let text = read(&path)?;
        let get = |key| keyed(&path, &text, key).map(Option::unwrap_or_default);
        Ok(MemoryStats {
            usage: number("memory.usage_in_bytes")?,
            peak: Some(number("memory.max_usage_in_bytes")?),
            limit: limit("memory.limit_in_bytes")?,
            anonymous: get("total_rss")?,
            file: get("total_cache")?,
            inactive_file: get("total_inactive_file")?,
            swap_usage: keyed(&path, &text, "total_swap")?,
            swap_limit: limit("memory.memsw.limit_in_bytes")?,
            page_faults: get("total_pgfault")?,
            major_page_faults: get("total_pgmajfault")?,
            limit_hits: number("memory.failcnt")?,
            oom_kills: self.oom_kills()?,
        })
    }

    fn memory_v2(&self) -> Result<Option<MemoryStats>> {
        if !self.path.join("memory.current").exists() {
            return Ok(None);
        }
        let optional = |file| -> Result<Option<u64>> {
            let path = self.path.join(file);
            if path.exists() { read_number(&path) } else { Ok(None) }
        };
        let path = self.path.join("memory.stat");
        let text = read(&path)?;
        let get = |key| keyed(&path, &text, key).map(Option::unwrap_or_default);
        Ok(Some(MemoryStats {
            usage: optional("memory.current")?.unwrap_or_default(),
            peak: optional("memory.peak")?,
            limit: optional("memory.max")?,
            anonymous: get("anon")?,
            file: get("file")?,
            inactive_file: get("inactive_file")?,
            swap_usage: optional("memory.swap.current")?,
            swap_limit: optional("memory.swap.max")?,
            page_faults: get("pgfault")?,
            major_page_faults: get("pgmajfault")?,
            limit_hits: self.event("max")?,
            oom_kills: self.oom_kills()?,
        }))
    }

    fn event(&self, key: &str) -> Result<u64> {
        line_of(&self.path.join("memory.events"), key)
    }

    fn oom_kills(&self) -> Result<u64> {
        match self.hierarchy.is_v2() {
            true => self.event("oom_kill"),
            false => line_of(&self.path.join("memory.oom_control"), "oom_kill"),
        }
    }
}

fn line_of(path: &Path, key: &str) -> Result<u64> {
    let text = read_optional(path)?.unwrap_or_default();
    Ok(keyed(path, &text, key)?.unwrap_or_default())
}
