//! The data itself: one bucket of keys and values, bounded, shared by all instances of a guest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that all keys and values together may have.
const MOST_BYTES: usize = 16 << 20;

/// Charged for each entry beside its bytes, so that empty ones are not for nothing.
const ENTRY_BYTES: usize = 64;

/// Keys in one answer of [`Store::keys`].
const KEYS_AT_ONCE: usize = 1000;

/// The entries of one container. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    values: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

/// What cannot be done with the store.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the store is full: keys and values have at most {MOST_BYTES} bytes together")]
    Full,
    #[error("the answer would have more than {MOST_BYTES} bytes; ask for fewer keys")]
    TooLarge,
    #[error("the value of key `{0}` is not a decimal number of 64 bits")]
    NotANumber(String),
    #[error("the value of key `{0}` cannot be incremented beyond 64 bits")]
    Overflow(String),
}

impl Store {
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.entries().values.get(key).cloned()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries().values.contains_key(key)
    }

    /// Returns each key's value, where it has one.
    pub(crate) fn get_all(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let entries = self.entries();
        let found: Vec<_> = keys.iter().map(|key| entries.values.get(key)).collect();
        // A key may be named any number of times, and its value is copied for each.
        let bytes: usize = found.iter().flatten().map(|value| value.len()).sum();
        if bytes > MOST_BYTES {
            return Err(StoreError::TooLarge);
        }
        Ok(found.into_iter().map(|value| value.cloned()).collect())
    }

    /// Sets all of these or none.
    pub(crate) fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        let mut entries = self.entries();
        let fresh: BTreeMap<String, Vec<u8>> = pairs.into_iter().collect();
        let freed: usize = fresh
            .keys()
            .filter_map(|key| entries.values.get(key).map(|old| size_of(key, old)))
            .sum();
        let taken: usize = fresh.iter().map(|(key, value)| size_of(key, value)).sum();
        let bytes = entries.bytes - freed + taken;
        if bytes > MOST_BYTES {
            return Err(StoreError::Full);
        }
        entries.bytes = bytes;
        entries.values.extend(fresh);
        Ok(())
    }

    /// Removes what there is of these.
    pub(crate) fn delete(&self, keys: &[String]) {
        let mut entries = self.entries();
        for key in keys {
            if let Some(old) = entries.values.remove(key) {
                entries.bytes -= size_of(key, &old);
            }
        }
    }

    /// Adds to a decimal number, which is 0 where there is none yet, and returns the sum.
    pub(crate) fn increment(&self, key: String, delta: u64) -> Result<u64, StoreError> {
        let mut entries = self.entries();
        let old = entries.values.get(&key);
        let number: u64 = match old {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| StoreError::NotANumber(key.clone()))?,
        };
        let sum = number.checked_add(delta).ok_or_else(|| StoreError::Overflow(key.clone()))?;
        let value = sum.to_string().into_bytes();
        let freed = old.map_or(0, |old| size_of(&key, old));
        let bytes = entries.bytes - freed + size_of(&key, &value);
        if bytes > MOST_BYTES {
            return Err(StoreError::Full);
        }
        entries.bytes = bytes;
        entries.values.insert(key, value);
        Ok(sum)
    }

    /// Lists keys in their order, from the one numbered `first`, and the number to go on with if
    /// there are more.
    pub(crate) fn keys(&self, first: u64) -> (Vec<String>, Option<u64>) {
        let entries = self.entries();
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let keys: Vec<String> =
            entries.values.keys().skip(first).take(KEYS_AT_ONCE).cloned().collect();
        let next = first.saturating_add(keys.len());
        let more = next < entries.values.len();
        (keys, more.then(|| u64::try_from(next).unwrap_or(u64::MAX)))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_of(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &[u8]) -> Vec<(String, Vec<u8>)> {
        vec![(key.to_owned(), value.to_owned())]
    }

    #[test]
    fn clones_share_what_is_set() {
        let store = Store::default();
        let other = store.clone();
        store.set(pair("a", b"1")).unwrap();
        assert_eq!(other.get("a").as_deref(), Some(&b"1"[..]));
        other.delete(&["a".to_owned(), "b".to_owned()]);
        assert!(!store.has("a") && store.get("a").is_none());
    }

    #[test]
    fn what_is_over_the_bound_changes_nothing() {
        let store = Store::default();
        store.set(pair("a", b"old")).unwrap();
        let much = vec![0; MOST_BYTES];
        assert_eq!(store.set(pair("a", &much)), Err(StoreError::Full));
        assert_eq!(store.get("a").as_deref(), Some(&b"old"[..]));
        let half = vec![0; MOST_BYTES / 2];
        store.set(pair("b", &half)).unwrap();
        // In its own place it fits, beside the other it does not.
        store.set(pair("b", &half)).unwrap();
        assert_eq!(store.set(pair("c", &half)), Err(StoreError::Full));
        store.delete(&["b".to_owned()]);
        store.set(pair("c", &half)).unwrap();
    }

    #[test]
    fn entries_without_bytes_are_bounded_too() {
        let store = Store::default();
        let many = (0..MOST_BYTES / ENTRY_BYTES + 1).map(|at| (at.to_string(), Vec::new()));
        assert_eq!(store.set(many.collect()), Err(StoreError::Full));
        assert_eq!(store.keys(0), (Vec::new(), None));
    }

    #[test]
    fn one_key_named_often_does_not_multiply() {
        let store = Store::default();
        store.set(pair("a", &vec![7; 1 << 20])).unwrap();
        let names = |count: usize| vec!["a".to_owned(); count];
        assert_eq!(store.get_all(&names(3)).unwrap().len(), 3);
        assert_eq!(store.get_all(&names(17)), Err(StoreError::TooLarge));
    }

    #[test]
    fn numbers_are_counted_up() {
        let store = Store::default();
        assert_eq!(store.increment("n".to_owned(), 3), Ok(3));
        assert_eq!(store.increment("n".to_owned(), 4), Ok(7));
        assert_eq!(store.get("n").as_deref(), Some(&b"7"[..]));
        assert!(matches!(store.increment("n".to_owned(), u64::MAX), Err(StoreError::Overflow(_))));
        store.set(pair("t", b"text")).unwrap();
        assert!(matches!(store.increment("t".to_owned(), 1), Err(StoreError::NotANumber(_))));
    }

    #[test]
    fn keys_come_in_pages() {
        let store = Store::default();
        let many = (0..KEYS_AT_ONCE + 5).map(|at| (format!("{at:06}"), Vec::new()));
        store.set(many.collect()).unwrap();
        let (first, next) = store.keys(0);
        assert_eq!((first.len(), next), (KEYS_AT_ONCE, Some(KEYS_AT_ONCE as u64)));
        let (rest, end) = store.keys(next.unwrap());
        assert_eq!((rest.len(), rest[0].as_str(), end), (5, "001000", None));
        assert_eq!(store.keys(u64::MAX), (Vec::new(), None));
    }
}
