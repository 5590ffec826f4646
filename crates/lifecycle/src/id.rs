//! The name of a container.

use std::fmt;

/// The longest id, in bytes: containerd's own bound.
pub const LONGEST: usize = 76;

/// A container id that is safe as the name of a folder, a cgroup and a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

/// Why a text is not a container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "container id {0:?} is refused: expected 1 to {LONGEST} letters, digits, `.`, `_` or `-`, the first a letter or digit"
)]
pub struct InvalidId(String);

impl TryFrom<&str> for ContainerId {
    type Error = InvalidId;

    fn try_from(raw: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_safe = raw.len() <= LONGEST
            && raw.bytes().all(allowed)
            && raw.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if is_safe {
            Ok(Self(raw.to_owned()))
        } else {
            Err(InvalidId(raw.chars().take(LONGEST).collect()))
        }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl ContainerId {
    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_are_safe_as_names_pass() {
        let long = "x".repeat(LONGEST + 1);
        for id in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            "a:b",
            "a+b",
            "-a",
            ".a",
            "a\0b",
            "\u{e9}",
            long.as_str(),
        ] {
            assert!(ContainerId::try_from(id).is_err(), "{id:?}");
        }
        for id in ["a", "7", "default-web_1.2", "record.json", &long[1..]] {
            assert_eq!(ContainerId::try_from(id).map(String::from).as_deref(), Ok(id));
        }
    }

    #[test]
    fn a_refusal_names_no_more_than_the_longest_id() {
        let refused = ContainerId::try_from("/".repeat(5000).as_str()).unwrap_err();
        assert!(refused.to_string().len() < 300, "{refused}");
    }
}
