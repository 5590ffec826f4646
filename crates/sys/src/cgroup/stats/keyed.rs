//! A file of lines with a name and a number.

use std::path::Path;

use super::super::error::Result;
use super::super::files::unreadable;

/// What a file such as `memory.stat` says, under the kernel's own names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyed(Vec<(String, u64)>);

impl Keyed {
    /// Returns the number of this name; kernels differ in what they count.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, number)| *number)
    }

    /// Returns the number of this name, 0 where the kernel does not count it.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.get(name).unwrap_or_default()
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        let entry = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        };
        let entries = text.lines().map(|line| entry(line).ok_or_else(|| unreadable(path, line)));
        entries.collect::<Result<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_name_and_a_number() {
        let path = Path::new("memory.stat");
        let keyed = Keyed::parse(path, "anon 4096\nfile 0").unwrap();
        assert_eq!(
            (keyed.get("anon"), keyed.get("file"), keyed.get("x")),
            (Some(4096), Some(0), None)
        );
        assert_eq!(keyed.count("x"), 0);
        for text in ["anon", "anon x", "anon -1", "anon 1\n\nfile 1"] {
            let refused = Keyed::parse(path, text).unwrap_err().to_string();
            assert!(refused.contains("memory.stat reads"), "{refused}");
        }
    }
}
