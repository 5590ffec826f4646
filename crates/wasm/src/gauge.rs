//! What a running guest tells of itself, and the one thing it is told: its memory limit.
//!
//! ```text
//! server                    keeper                      guest's process
//! Gauge   --descriptor-->   Recorder (maps it)  --fork-->   the same mapping
//! .read()                   where the code is from          phases, memory, tables, fuel
//! .set_memory_limit()                                       obeys it at the next growth
//! ```
//!
//! Telling costs the guest a store to memory and the server one system call. The guest's process
//! can write to the whole page, so that what is read here is its own word: for people and
//! dashboards, never for a decision. What really holds the container is its cgroup.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use sys::shared::{Mapped, Page};

/// Where each number is on the page.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Slot {
    MemoryLimit,
    Memory,
    MemoryPeak,
    GrowthsRefused,
    TableElements,
    Instances,
    Metered,
    Fuel,
    Code,
    CompileNanos,
    /// The moments are nanoseconds of the monotonic clock, which is the same for every process:
    /// no guest gets a time namespace.
    Taken,
    Cloned,
    Sandboxed,
    Started,
    Instantiated,
    Count,
}

const SLOTS: usize = Slot::Count as usize;

/// The server's side: it reads, and sets the limit.
#[derive(Debug)]
pub struct Gauge(Page);

/// What a guest has told so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStats {
    /// Bytes of linear memory, of all memories together.
    pub memory: u64,
    /// The most bytes of linear memory so far.
    pub memory_peak: u64,
    /// The most that the next growth may reach.
    pub memory_limit: u64,
    /// How often more memory was refused because of that limit.
    pub memory_refused: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Instances of the program that were made.
    pub instances: u64,
    /// How much was computed, in the engine's fuel; `None` where that is not counted. It is of the
    /// guest's last call into the host (a write, a read, a look at the clock) or of its end: while
    /// it only computes, the number stands still.
    pub fuel_consumed: Option<u64>,
    /// Where its native code came from; `None` until the keeper has it.
    pub code: Option<CodeOrigin>,
    /// How long its module was compiled for it; zero unless it was.
    pub compile: Duration,
    /// How far it has come.
    pub phases: Phases,
}

/// Where native code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeOrigin {
    /// The keeper had it mapped, for an earlier guest.
    Warm,
    /// It was mapped from the node's cache.
    Cached,
    /// It was compiled for this guest.
    Compiled,
}

/// What a guest reached when, counted from the moment the keeper took its order; `None` for what it
/// has not reached yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Its process runs.
    pub cloned: Option<Duration>,
    /// Its sandbox stands.
    pub sandboxed: Option<Duration>,
    /// It was told to start.
    pub started: Option<Duration>,
    /// Its module is instantiated: from here on it runs its own code.
    pub instantiated: Option<Duration>,
}

impl Gauge {
    /// Makes the gauge of a guest that may take so much linear memory, in bytes.
    ///
    /// # Errors
    /// As [`Page::new`].
    pub fn new(memory_limit: u64) -> io::Result<Self> {
        let gauge = Self(Page::new()?);
        gauge.set_memory_limit(memory_limit)?;
        Ok(gauge)
    }

    /// Reads what the guest has told. Nonsense is handed on as it is.
    ///
    /// # Errors
    /// What pread(2) says.
    pub fn read(&self) -> io::Result<GuestStats> {
        let numbers = self.0.read::<SLOTS>()?;
        let number = |slot: Slot| numbers[slot as usize];
        let since_taken = |slot: Slot| {
            let nanos = number(slot).saturating_sub(number(Slot::Taken));
            (number(slot) != 0).then_some(Duration::from_nanos(nanos))
        };
        Ok(GuestStats {
            memory: number(Slot::Memory),
            memory_peak: number(Slot::MemoryPeak),
            memory_limit: number(Slot::MemoryLimit),
            memory_refused: number(Slot::GrowthsRefused),
            table_elements: number(Slot::TableElements),
            instances: number(Slot::Instances),
            fuel_consumed: (number(Slot::Metered) != 0).then_some(number(Slot::Fuel)),
            code: CodeOrigin::of_number(number(Slot::Code)),
            compile: Duration::from_nanos(number(Slot::CompileNanos)),
            phases: Phases {
                cloned: since_taken(Slot::Cloned),
                sandboxed: since_taken(Slot::Sandboxed),
                started: since_taken(Slot::Started),
                instantiated: since_taken(Slot::Instantiated),
            },
        })
    }

    /// Sets the most linear memory that the guest may have. It is obeyed at the next growth: what
    /// the guest has already is not taken away.
    ///
    /// # Errors
    /// What pwrite(2) says.
    pub fn set_memory_limit(&self, bytes: u64) -> io::Result<()> {
        self.0.write(Slot::MemoryLimit as usize, bytes)
    }
}

impl AsFd for Gauge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl CodeOrigin {
    fn number(self) -> u64 {
        match self {
            Self::Warm => 1,
            Self::Cached => 2,
            Self::Compiled => 3,
        }
    }

    fn of_number(number: u64) -> Option<Self> {
        [Self::Warm, Self::Cached, Self::Compiled].into_iter().find(|each| each.number() == number)
    }
}

/// The other side: the keeper maps it when it takes the order, and the clone inherits the mapping.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mapped>);

impl Recorder {
    /// Maps a [`Gauge`]'s descriptor, and notes this moment as the one that [`Phases`] count from.
    ///
    /// # Errors
    /// `InvalidInput` for a descriptor of anything else, and what mmap(2) says.
    pub fn map(descriptor: OwnedFd) -> io::Result<Self> {
        let recorder = Self(Arc::new(Page::from_descriptor(descriptor)?.map()?));
        recorder.reached(Slot::Taken);
        Ok(recorder)
    }

    /// Notes where the guest's native code came from.
    pub fn code(&self, origin: CodeOrigin) {
        self.set(Slot::Code, origin.number());
    }

    /// Notes that the module was compiled for this guest, and for how long.
    pub fn compiled(&self, took: Duration) {
        self.code(CodeOrigin::Compiled);
        self.set(Slot::CompileNanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn cloned(&self) {
        self.reached(Slot::Cloned);
    }

    pub(crate) fn sandboxed(&self) {
        self.reached(Slot::Sandboxed);
    }

    pub(crate) fn started(&self) {
        self.reached(Slot::Started);
    }

    pub(crate) fn instantiated(&self) {
        self.reached(Slot::Instantiated);
        self.set(Slot::Instances, self.get(Slot::Instances).saturating_add(1));
    }

    pub(crate) fn memory_limit(&self) -> u64 {
        self.get(Slot::MemoryLimit)
    }

    pub(crate) fn memory(&self, bytes: u64) {
        self.set(Slot::Memory, bytes);
        self.set(Slot::MemoryPeak, self.get(Slot::MemoryPeak).max(bytes));
    }

    pub(crate) fn memory_refused(&self) {
        self.set(Slot::GrowthsRefused, self.get(Slot::GrowthsRefused).saturating_add(1));
    }

    pub(crate) fn table_elements(&self, elements: u64) {
        self.set(Slot::TableElements, elements);
    }

    pub(crate) fn fuel(&self, consumed: u64) {
        self.set(Slot::Fuel, consumed);
        self.set(Slot::Metered, 1);
    }

    fn reached(&self, moment: Slot) {
        self.set(moment, now());
    }

    fn get(&self, slot: Slot) -> u64 {
        self.0.get(slot as usize)
    }

    fn set(&self, slot: Slot, number: u64) {
        self.0.set(slot as usize, number);
    }
}

/// Nanoseconds of the monotonic clock, never 0.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(limit: u64) -> (Gauge, Recorder) {
        let gauge = Gauge::new(limit).unwrap();
        let recorder = Recorder::map(gauge.as_fd().try_clone_to_owned().unwrap()).unwrap();
        (gauge, recorder)
    }

    #[test]
    fn a_new_gauge_says_nothing_but_its_limit() {
        let stats = Gauge::new(7 << 20).unwrap().read().unwrap();
        assert_eq!((stats.memory, stats.memory_peak, stats.memory_limit), (0, 0, 7 << 20));
        assert_eq!((stats.fuel_consumed, stats.code), (None, None));
        assert_eq!(stats.phases, Phases::default());
    }

    #[test]
    fn what_is_recorded_can_be_read() {
        let (gauge, recorder) = pair(100);
        recorder.memory(60);
        recorder.memory(50);
        recorder.memory_refused();
        recorder.table_elements(9);
        recorder.fuel(0);
        recorder.compiled(Duration::from_millis(35));
        recorder.cloned();
        recorder.sandboxed();
        recorder.instantiated();
        let stats = gauge.read().unwrap();
        assert_eq!((stats.memory, stats.memory_peak, stats.memory_refused), (50, 60, 1));
        assert_eq!((stats.table_elements, stats.instances, stats.fuel_consumed), (9, 1, Some(0)));
        assert_eq!(stats.code, Some(CodeOrigin::Compiled));
        assert_eq!(stats.compile, Duration::from_millis(35));
        let Phases { cloned, sandboxed, started, instantiated } = stats.phases;
        assert!(cloned.is_some() && cloned <= sandboxed && sandboxed <= instantiated);
        assert_eq!(started, None);
    }

    #[test]
    fn the_limit_is_told_while_the_guest_runs() {
        let (gauge, recorder) = pair(100);
        assert_eq!(recorder.memory_limit(), 100);
        gauge.set_memory_limit(200).unwrap();
        assert_eq!(recorder.memory_limit(), 200);
    }

    #[test]
    fn nonsense_is_read_and_nothing_worse() {
        let (gauge, recorder) = pair(100);
        for slot in 0..sys::shared::SLOTS {
            recorder.0.set(slot, u64::MAX);
        }
        let stats = gauge.read().unwrap();
        assert_eq!((stats.memory, stats.code), (u64::MAX, None));
        assert_eq!(stats.phases.cloned, Some(Duration::ZERO));
        recorder.instantiated();
        recorder.memory_refused();
        assert_eq!(gauge.read().unwrap().instances, u64::MAX);
        gauge.set_memory_limit(5).unwrap();
        assert_eq!(gauge.read().unwrap().memory_limit, 5);
    }
}
