//! What one guest may take: linear memory and tables, counted over all of its instances, and what
//! it may have the host keep for it.

use wasmtime::{ResourceLimiter, Store};
use wasmtime_wasi::WasiView;

use crate::gauge::Recorder;

pub use settings::Limits;
pub use settings::limits::Limit;

/// Table elements a module may declare in all. They are part of its size, like its code: a Go
/// program declares one for each of its functions.
const MAX_DECLARED_TABLE_ELEMENTS: usize = 1_000_000;

/// Resources that the host keeps for a guest at a time: descriptors, streams, things to wait for.
/// What one call copies the engine bounds itself, to 128 MiB, which are the guest's own as well.
const MAX_RESOURCES: usize = 2_048;

/// Bytes of one collection of HTTP header fields that a guest makes: the host keeps them, so with
/// as many as there may be resources they take no more than 32 MiB.
pub(crate) const MAX_FIELDS_BYTES: usize = 16 << 10;

/// Random bytes that one call gives; they are made in the host's memory before they are the guest's.
pub(crate) const MAX_RANDOM_BYTES: u64 = 16 << 20;

const MAX_TABLES: usize = 1_000;
const MAX_MEMORIES: usize = 100;

/// Counts what a store has taken and refuses what goes beyond its limits.
///
/// The limit on memory is the gauge's, which the server may change meanwhile; the one on tables is
/// fixed.
#[derive(Debug)]
pub(crate) struct Meter {
    gauge: Recorder,
    memory_taken: usize,
    refused: Option<Refused>,
    table_limit: usize,
    instances: usize,
    declared_table_elements: usize,
    table_elements: usize,
    phase: Phase,
}

/// A limit has kept a guest from something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Which limit: that on memory or on tables.
    pub(crate) limit: Limit,
    /// Its value when it did.
    pub(crate) most: u64,
    /// What the guest would have had.
    pub(crate) wanted: u64,
}

/// Whether tables are being made as declared, or grown by the running guest.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Instantiating,
    Running,
}

impl Meter {
    pub(crate) fn new(limits: &Limits, gauge: Recorder) -> Self {
        Self {
            gauge,
            memory_taken: 0,
            refused: None,
            table_limit: usize::try_from(limits.table_elements).unwrap_or(usize::MAX),
            instances: usize::try_from(limits.instances).unwrap_or(usize::MAX),
            declared_table_elements: 0,
            table_elements: 0,
            phase: Phase::Instantiating,
        }
    }

    /// Ends the time in which tables may appear at their declared size.
    pub(crate) fn instantiated(&mut self) {
        self.phase = Phase::Running;
        self.gauge.instantiated();
    }

    /// Tells of the last growth that a limit has refused.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let after = self.memory_taken.saturating_add(desired.saturating_sub(current));
        let (limit, wanted) = (self.gauge.memory_limit(), in_words(after));
        // To grow by nothing is to ask for the size, and a limit that was lowered below what there
        // is does not make that fail.
        if wanted > limit && desired > current {
            self.refused = Some(Refused { limit: Limit::Memory, most: limit, wanted });
            self.gauge.memory_refused();
            return Ok(false);
        }
        // Never given back: should the host fail to provide what was just granted, it stays
        // charged. A refund on failure could be provoked by the guest for an earlier success.
        self.memory_taken = after;
        self.gauge.memory(wanted);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let granted = if self.phase == Phase::Instantiating && current == 0 {
            self.declared_table_elements = self.declared_table_elements.saturating_add(desired);
            self.declared_table_elements <= MAX_DECLARED_TABLE_ELEMENTS
        } else {
            desired <= self.table_limit || desired == current
        };
        if granted {
            // Never given back, as with memory.
            let more = desired.saturating_sub(current);
            self.table_elements = self.table_elements.saturating_add(more);
            self.gauge.table_elements(in_words(self.table_elements));
        } else if self.phase == Phase::Running {
            let (most, wanted) = (in_words(self.table_limit), in_words(desired));
            self.refused = Some(Refused { limit: Limit::TableElements, most, wanted });
        }
        Ok(granted)
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// Bounds what a guest may have the host's functions keep for it.
pub(crate) fn bound_the_host<T: WasiView>(store: &mut Store<T>) {
    store.data_mut().ctx().table.set_max_capacity(MAX_RESOURCES);
}

fn in_words(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::gauge::Gauge;

    /// A meter for 1000 bytes and 10 elements.
    fn meter() -> (Meter, Gauge) {
        let gauge = Gauge::new(1000).unwrap();
        let recorder = Recorder::map(gauge.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let limits = Limits { table_elements: 10, ..Limits::default() };
        (Meter::new(&limits, recorder), gauge)
    }

    #[test]
    fn memories_are_counted_together() {
        let (mut meter, gauge) = meter();
        assert!(meter.memory_growing(0, 600, None).unwrap());
        assert!(!meter.memory_growing(0, 600, None).unwrap());
        let refused = Refused { limit: Limit::Memory, most: 1000, wanted: 1200 };
        assert_eq!(meter.refused(), Some(refused));
        assert!(meter.memory_growing(0, 400, None).unwrap());
        assert!(!meter.memory_growing(600, 601, None).unwrap());
        let stats = gauge.read().unwrap();
        assert_eq!((stats.memory, stats.memory_peak, stats.memory_refused), (1000, 1000, 2));
    }

    #[test]
    fn a_failed_growth_gives_nothing_back() {
        let (mut meter, _gauge) = meter();
        assert!(meter.memory_growing(0, 1000, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("beyond the type's limits")).unwrap();
        assert!(!meter.memory_growing(0, 1, None).unwrap());
    }

    #[test]
    fn a_refused_growth_costs_nothing() {
        let (mut meter, gauge) = meter();
        assert!(!meter.memory_growing(0, 900, Some(800)).unwrap());
        assert_eq!(meter.refused(), None, "that limit is the module's own");
        assert!(!meter.memory_growing(0, 1001, None).unwrap());
        assert_eq!(gauge.read().unwrap().memory, 0);
        assert!(meter.memory_growing(0, 1000, None).unwrap());
    }

    #[test]
    fn a_limit_that_changes_is_obeyed_from_then_on() {
        let (mut meter, gauge) = meter();
        assert!(!meter.memory_growing(0, 1500, None).unwrap());
        gauge.set_memory_limit(2000).unwrap();
        assert!(meter.memory_growing(0, 1500, None).unwrap());
        gauge.set_memory_limit(100).unwrap();
        assert!(!meter.memory_growing(1500, 1501, None).unwrap());
        assert!(meter.memory_growing(1500, 1500, None).unwrap(), "what it has it keeps");
        assert_eq!(gauge.read().unwrap().memory, 1500);
    }

    #[test]
    fn declared_tables_may_be_larger_than_grown_ones() {
        let (mut meter, gauge) = meter();
        assert!(meter.table_growing(0, 5000, None).unwrap());
        meter.instantiated();
        assert!(!meter.table_growing(5000, 5001, None).unwrap());
        assert!(meter.table_growing(5000, 5000, None).unwrap(), "that asks for the size");
        assert!(meter.table_growing(2, 10, None).unwrap());
        assert!(!meter.table_growing(10, 11, None).unwrap());
        let refused = Refused { limit: Limit::TableElements, most: 10, wanted: 11 };
        assert_eq!(meter.refused(), Some(refused));
        assert!(!meter.table_growing(0, 5000, None).unwrap());
        assert_eq!(gauge.read().unwrap().table_elements, 5008);
    }

    #[test]
    fn declared_tables_are_bounded_in_sum() {
        let (mut meter, _gauge) = meter();
        assert!(meter.table_growing(0, 900_000, None).unwrap());
        assert!(!meter.table_growing(0, 900_000, None).unwrap());
    }
}
