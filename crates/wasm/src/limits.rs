//! What one guest may take: linear memory and tables, counted over all of its instances.

use wasmtime::ResourceLimiter;

pub use settings::Limits;

/// Table elements a module may declare in all. They are part of its size, like its code: a Go
/// program declares one for each of its functions.
const MAX_DECLARED_TABLE_ELEMENTS: usize = 1_000_000;

const MAX_INSTANCES: usize = 1_000;
const MAX_TABLES: usize = 1_000;
const MAX_MEMORIES: usize = 100;

/// Counts what a store has taken and refuses what goes beyond its limits.
#[derive(Debug)]
pub(crate) struct Meter {
    memory_limit: usize,
    memory_taken: usize,
    table_limit: usize,
    declared_table_elements: usize,
    phase: Phase,
}

/// Whether tables are being made as declared, or grown by the running guest.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Instantiating,
    Running,
}

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory_limit: usize::try_from(limits.memory).unwrap_or(usize::MAX),
            memory_taken: 0,
            table_limit: usize::try_from(limits.table_elements).unwrap_or(usize::MAX),
            declared_table_elements: 0,
            phase: Phase::Instantiating,
        }
    }

    /// Ends the time in which tables may appear at their declared size.
    pub(crate) fn instantiated(&mut self) {
        self.phase = Phase::Running;
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let after = self.memory_taken.saturating_add(desired.saturating_sub(current));
        if maximum.is_some_and(|maximum| desired > maximum) || after > self.memory_limit {
            return Ok(false);
        }
        // Never given back: should the host fail to provide what was just granted, it stays
        // charged. A refund on failure could be provoked by the guest for an earlier success.
        self.memory_taken = after;
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
        if self.phase == Phase::Instantiating && current == 0 {
            self.declared_table_elements = self.declared_table_elements.saturating_add(desired);
            return Ok(self.declared_table_elements <= MAX_DECLARED_TABLE_ELEMENTS);
        }
        Ok(desired <= self.table_limit)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter::new(&Limits { memory: 1000, table_elements: 10, fuel: None })
    }

    #[test]
    fn memories_are_counted_together() {
        let mut meter = meter();
        assert!(meter.memory_growing(0, 600, None).unwrap());
        assert!(!meter.memory_growing(0, 600, None).unwrap());
        assert!(meter.memory_growing(0, 400, None).unwrap());
        assert!(!meter.memory_growing(600, 601, None).unwrap());
    }

    #[test]
    fn a_failed_growth_gives_nothing_back() {
        let mut meter = meter();
        assert!(meter.memory_growing(0, 1000, None).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("beyond the type's limits")).unwrap();
        assert!(!meter.memory_growing(0, 1, None).unwrap());
    }

    #[test]
    fn a_refused_growth_costs_nothing() {
        let mut meter = meter();
        assert!(!meter.memory_growing(0, 900, Some(800)).unwrap());
        assert!(!meter.memory_growing(0, 1001, None).unwrap());
        assert!(meter.memory_growing(0, 1000, None).unwrap());
    }

    #[test]
    fn declared_tables_may_be_larger_than_grown_ones() {
        let mut meter = meter();
        assert!(meter.table_growing(0, 5000, None).unwrap());
        meter.instantiated();
        assert!(!meter.table_growing(5000, 5001, None).unwrap());
        assert!(meter.table_growing(2, 10, None).unwrap());
        assert!(!meter.table_growing(10, 11, None).unwrap());
        assert!(!meter.table_growing(0, 5000, None).unwrap());
    }

    #[test]
    fn declared_tables_are_bounded_in_sum() {
        let mut meter = meter();
        assert!(meter.table_growing(0, 900_000, None).unwrap());
        assert!(!meter.table_growing(0, 900_000, None).unwrap());
    }
}
