//! Reads a TOML table key by key, so that errors can name the key, what was
//! found and what was expected, and no key is left unread.

use image::quoted::Quoted;
use toml::{Table, Value};

/// The longest document that is read, in bytes.
pub(crate) const MAX_DOCUMENT: usize = 64 << 10;

/// Why a TOML document cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TableError {
    /// Longer than is read.
    #[error("{what} have {size} bytes; at most {MAX_DOCUMENT} are read")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its length in bytes.
        size: usize,
    },
    /// Not TOML.
    #[error("{what} are not TOML")]
    NotToml {
        /// Which document.
        what: &'static str,
        /// What the reader met.
        source: toml::de::Error,
    },
    /// A key that means nothing.
    #[error("{what} have the unknown key {}; known are {known}{hint}", Quoted(key))]
    UnknownKey {
        /// Which document.
        what: &'static str,
        /// The key.
        key: String,
        /// The keys that mean something.
        known: String,
        /// What to do instead, for a key of another runtime.
        hint: &'static str,
    },
    /// A value nothing could be read from.
    #[error("{what} have {key} = {}; expected {expected}", Quoted(found))]
    Value {
        /// Which document.
        what: &'static str,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// A table whose keys are taken one after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    what: &'static str,
    table: Table,
    known: Vec<&'static str>,
}

impl Reader {
    /// Reads a document; `what` names it in errors, in the plural.
    pub(crate) fn of(what: &'static str, text: &str) -> Result<Self, TableError> {
        if text.len() > MAX_DOCUMENT {
            return Err(TableError::TooLarge { what, size: text.len() });
        }
        let table = text.parse().map_err(|source| TableError::NotToml { what, source })?;
        Ok(Self { what, table, known: Vec::new() })
    }

    /// Takes a key, if it is there, and reads its value by `read`.
    pub(crate) fn take<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, TableError> {
        self.known.push(key);
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        match read(&value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.unusable(key, &value, expected)),
        }
    }

    /// Takes a table inside this one; an absent one is empty.
    pub(crate) fn table(
        &mut self,
        key: &'static str,
        what: &'static str,
    ) -> Result<Self, TableError> {
        let table = self.take(key, "a table", |value| value.as_table().cloned())?;
        Ok(Self { what, table: table.unwrap_or_default(), known: Vec::new() })
    }

    /// Refuses the first key that was not taken; `hint` says more about it.
    pub(crate) fn finish(self, hint: impl Fn(&str) -> &'static str) -> Result<(), TableError> {
        match self.table.into_iter().next() {
            None => Ok(()),
            Some((key, _value)) => Err(TableError::UnknownKey {
                what: self.what,
                hint: hint(&key),
                key,
                known: self.known.join(", "),
            }),
        }
    }

    fn unusable(&self, key: &str, found: &Value, expected: &'static str) -> TableError {
        let found = match found {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        TableError::Value { what: self.what, key: key.to_owned(), found, expected }
    }
}

/// For tables that nobody takes for another runtime's.
pub(crate) fn no_hint(_key: &str) -> &'static str {
    ""
}
