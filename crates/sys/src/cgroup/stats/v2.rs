//! The counters of version 2: one folder, in which a controller's files are there once
//! it was handed down.

use std::path::Path;

use super::super::Cgroup;
use super::super::error::Result;
use super::super::files::{keyed, read, read_number, read_optional, unreadable};
use super::super::folder::Folder;
use super::{CpuStats, Keyed, MemoryStats, PidStats, Rdma, Stats, huge_page_sizes, pids, rdma};

/// All that version 2 counts; what is `None` has no controller here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<PidStats>,
    /// What went to and from block devices.
    pub io: Option<Io>,
    /// Huge pages, by their size.
    pub huge_pages: Vec<HugePages>,
    /// RDMA devices.
    pub rdma: Option<Rdma>,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// `cpu.stat`: times in microseconds.
    pub stat: Keyed,
    /// Time spent waiting for a processor.
    pub pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `memory.stat`.
    pub stat: Keyed,
    /// `memory.events`.
    pub events: Keyed,
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was ever in use; `None` before Linux 5.19.
    pub peak: Option<u64>,
    /// The limit; `u64::MAX` for none.
    pub limit: u64,
    /// Swap in use; `None` where it is not counted.
    pub swap_usage: Option<u64>,
    /// The most swap that was ever in use; `None` where it is not counted.
    pub swap_peak: Option<u64>,
    /// The limit on swap alone, `u64::MAX` for none; `None` where it is not counted.
    pub swap_limit: Option<u64>,
    /// Time spent waiting for memory.
    pub pressure: Option<Pressure>,
}

/// What went to and from block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// By device.
    pub devices: Vec<IoDevice>,
    /// Time spent waiting for devices.
    pub pressure: Option<Pressure>,
}

/// What went to and from one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoDevice {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Operations that read.
    pub reads: u64,
    /// Operations that wrote.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size, such as `2MB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The limit; `u64::MAX` for none.
    pub limit: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

/// Time that processes spent waiting; `None` where the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Some of them.
    pub some: Option<Waiting>,
    /// All of them at once.
    pub full: Option<Waiting>,
}

/// How long processes waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Of the last 10 s, in hundredths of a per cent.
    pub of_10_s: u32,
    /// Of the last minute, in hundredths of a per cent.
    pub of_60_s: u32,
    /// Of the last five minutes, in hundredths of a per cent.
    pub of_300_s: u32,
    /// In all, in microseconds.
    pub total: u64,
}

impl Counters {
    pub(super) fn of(cgroup: &Cgroup) -> Result<Self> {
        Ok(Self {
            cpu: cgroup.counted_by("cpu", cpu)?,
            memory: cgroup.counted_by("memory", memory)?,
            pids: cgroup.counted_by("pids", pids)?,
            io: cgroup.counted_by("io", io)?,
            huge_pages: cgroup.counted_by("hugetlb", huge_pages)?.unwrap_or_default(),
            rdma: cgroup.counted_by("rdma", rdma)?,
        })
    }
}

impl From<Counters> for Stats {
    fn from(counters: Counters) -> Self {
        let cpu = counters.cpu.as_ref().map(|cpu| {
            let nanoseconds = |name| cpu.stat.count(name).saturating_mul(1_000);
            CpuStats {
                usage_ns: nanoseconds("usage_usec"),
                user_ns: nanoseconds("user_usec"),
                system_ns: nanoseconds("system_usec"),
                periods: cpu.stat.count("nr_periods"),
                throttled_periods: cpu.stat.count("nr_throttled"),
                throttled_ns: nanoseconds("throttled_usec"),
            }
        });
        let memory = counters.memory.as_ref().map(MemoryStats::from);
        let pids = counters.pids.clone();
        Self { cpu, memory, pids, counters: Some(super::Counters::V2(Box::new(counters))) }
    }
}

impl From<&Memory> for MemoryStats {
    fn from(memory: &Memory) -> Self {
        Self {
            usage: memory.usage,
            peak: memory.peak,
            limit: Some(memory.limit).filter(|bytes| *bytes != u64::MAX),
            anonymous: memory.stat.count("anon"),
            file: memory.stat.count("file"),
            inactive_file: memory.stat.count("inactive_file"),
            swap_usage: memory.swap_usage,
            swap_limit: memory.swap_limit.filter(|bytes| *bytes != u64::MAX),
            page_faults: memory.stat.count("pgfault"),
            major_page_faults: memory.stat.count("pgmajfault"),
            limit_hits: memory.events.count("max"),
            oom_kills: memory.events.count("oom_kill"),
        }
    }
}

fn keyed_file(folder: &Folder, file: &str) -> Result<Keyed> {
    let path = folder.path.join(file);
    Keyed::parse(&path, &read(&path)?)
}

fn number(folder: &Folder, file: &str) -> Result<u64> {
    Ok(read_number(&folder.path.join(file))?.unwrap_or(u64::MAX))
}

fn number_if_counted(folder: &Folder, file: &str) -> Result<Option<u64>> {
    match folder.path.join(file).exists() {
        true => number(folder, file).map(Some),
        false => Ok(None),
    }
}

/// Time is counted even without the controller.
fn cpu(folder: &Folder) -> Result<Option<Cpu>> {
    Ok(Some(Cpu {
        stat: keyed_file(folder, "cpu.stat")?,
        pressure: pressure(&folder.path.join("cpu.pressure"))?,
    }))
}

fn memory(folder: &Folder) -> Result<Option<Memory>> {
    let Some(usage) = number_if_counted(folder, "memory.current")? else { return Ok(None) };
    Ok(Some(Memory {
        stat: keyed_file(folder, "memory.stat")?,
        events: keyed_file(folder, "memory.events")?,
        usage,
        peak: number_if_counted(folder, "memory.peak")?,
        limit: number(folder, "memory.max")?,
        swap_usage: number_if_counted(folder, "memory.swap.current")?,
        swap_peak: number_if_counted(folder, "memory.swap.peak")?,
        swap_limit: number_if_counted(folder, "memory.swap.max")?,
        pressure: pressure(&folder.path.join("memory.pressure"))?,
    }))
}

fn io(folder: &Folder) -> Result<Option<Io>> {
    let path = folder.path.join("io.stat");
    let Some(text) = read_optional(&path)? else { return Ok(None) };
    let device = |line: &str| io_device(line).ok_or_else(|| unreadable(&path, line));
    // A device that was only given a limit has a line without counters.
    let lines = text.lines().filter(|line| line.contains('='));
    Ok(Some(Io {
        devices: lines.map(device).collect::<Result<_>>()?,
        pressure: pressure(&folder.path.join("io.pressure"))?,
    }))
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn io_device(line: &str) -> Option<IoDevice> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut device =
        IoDevice { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoDevice::default() };
    for word in words {
        let (key, value) = word.split_once('=')?;
        let counter = match key {
            "rbytes" => &mut device.read_bytes,
            "wbytes" => &mut device.written_bytes,
            "rios" => &mut device.reads,
            "wios" => &mut device.writes,
            // Others may hold more than numbers, as those of io.cost do.
            _ => continue,
        };
        *counter = value.parse().ok()?;
    }
    Some(device)
}

fn huge_pages(folder: &Folder) -> Result<Option<Vec<HugePages>>> {
    let counted = |size: &&String| folder.path.join(format!("hugetlb.{size}.current")).exists();
    let of_size = |size: &String| {
        let number = |name: &str| number(folder, &format!("hugetlb.{size}.{name}"));
        let events = folder.path.join(format!("hugetlb.{size}.events"));
        let text = read(&events)?;
        Ok(HugePages {
            page_size: size.clone(),
            usage: number("current")?,
            limit: number("max")?,
            limit_hits: keyed(&events, &text, "max")?.unwrap_or_default(),
        })
    };
    huge_page_sizes().iter().filter(counted).map(of_size).collect::<Result<_>>().map(Some)
}

fn pressure(path: &Path) -> Result<Option<Pressure>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // A kernel started with psi=0 has the file and refuses to read it.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(super::super::error::failed("read", path, error)),
    };
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (who, rest) = line.split_once(' ').ok_or_else(|| unreadable(path, line))?;
        let waiting = waiting(rest).ok_or_else(|| unreadable(path, line))?;
        match who {
            "some" => pressure.some = Some(waiting),
            "full" => pressure.full = Some(waiting),
            _ => {}
        }
    }
    Ok(Some(pressure))
}

/// `avg10=0.12 avg60=0.00 avg300=0.00 total=345`
fn waiting(text: &str) -> Option<Waiting> {
    let mut waiting = Waiting::default();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=')?;
        match key {
            "avg10" => waiting.of_10_s = hundredths(value)?,
            "avg60" => waiting.of_60_s = hundredths(value)?,
            "avg300" => waiting.of_300_s = hundredths(value)?,
            "total" => waiting.total = value.parse().ok()?,
            _ => {}
        }
    }
    Some(waiting)
}

/// `12.34`; the kernel always writes two digits.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    let part = (part.len() == 2).then_some(part)?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_io_stat_is_a_device() {
        let device = IoDevice {
            major: 254,
            minor: 0,
            read_bytes: 4096,
            written_bytes: 512,
            reads: 2,
            writes: 1,
        };
        let line = "254:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0 cost.usage=x";
        assert_eq!(io_device(line), Some(device));
        for line in ["254:0 rbytes=x", "254 rbytes=1", "x:0 rbytes=1", ""] {
            assert_eq!(io_device(line), None, "{line}");
        }
    }

    #[test]
    fn pressure_is_kept_to_the_digit() {
        let seen = waiting("avg10=1.07 avg60=0.50 avg300=100.00 total=345");
        let expected = Waiting { of_10_s: 107, of_60_s: 50, of_300_s: 10_000, total: 345 };
        assert_eq!(seen, Some(expected));
        for text in ["avg10=1", "avg10=1.7", "avg10=x.00", "total=-1", "avg10"] {
            assert_eq!(waiting(text), None, "{text}");
        }
    }
}
