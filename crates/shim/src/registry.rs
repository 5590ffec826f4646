//! The containers of this shim by id.
//!
//! An id is reserved before anything is made for it, so that of two creates of
//! one id the second is turned away at the door; dropping the reservation frees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::Task;
use lifecycle::ContainerId;

/// The containers of this shim.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<HashMap<String, Slot>>>);

#[derive(Debug)]
enum Slot {
    Reserved,
    Filled(Arc<Task>),
}

/// An id that is taken and not filled yet.
#[derive(Debug)]
pub(crate) struct Reservation {
    registry: Registry,
    id: String,
}

impl Registry {
    /// Takes an id; `None` when it is taken already.
    pub(crate) fn reserve(&self, id: &ContainerId) -> Option<Reservation> {
        let mut slots = self.lock();
        if slots.contains_key(id.as_str()) {
            return None;
        }
        slots.insert(id.as_str().to_owned(), Slot::Reserved);
        Some(Reservation { registry: self.clone(), id: id.as_str().to_owned() })
    }

    /// Puts the created container into its reserved place.
    pub(crate) fn fill(&self, mut reservation: Reservation, task: Arc<Task>) {
        let id = std::mem::take(&mut reservation.id);
        self.lock().insert(id, Slot::Filled(task));
    }

    /// Finds a container.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Task>> {
        match self.lock().get(id)? {
            Slot::Filled(task) => Some(Arc::clone(task)),
            Slot::Reserved => None,
        }
    }

    /// Forgets a container that is deleted.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Tells whether no container is left or on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.id.is_empty() {
            self.registry.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_id_is_refused_until_its_reservation_is_dropped() {
        let registry = Registry::default();
        let id = ContainerId::try_from("one").expect("a good id");
        let reservation = registry.reserve(&id).expect("free");
        assert!(registry.reserve(&id).is_none());
        assert!(registry.get("one").is_none());
        drop(reservation);
        assert!(registry.is_empty());
        assert!(registry.reserve(&id).is_some());
    }
}
