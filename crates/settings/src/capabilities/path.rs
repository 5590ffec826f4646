//! A path that a guest asks for, inside its own root.

use std::fmt;
use std::path::Path;

/// The longest path, in bytes (Linux's PATH_MAX).
const MAX_LENGTH: usize = 4096;
/// What the kernel shows here is not the container's to give.
const KERNELS: [&str; 3] = ["proc", "sys", "dev"];

/// An absolute path without `.`, `..`, doubled slashes or escapes, and not in
/// `/proc`, `/sys` or `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPath(String);

impl GuestPath {
    /// Reads a path; the error says what is wrong with it. One slash at the end is dropped.
    pub fn parse(raw: &str) -> Result<Self, &'static str> {
        let inner = raw.strip_prefix('/').ok_or("a path must be absolute")?;
        if raw.len() > MAX_LENGTH {
            return Err("a path has at most 4096 bytes");
        }
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.is_empty() && raw == "/" {
            return Ok(Self("/".to_owned()));
        }
        for part in inner.split('/') {
            check_part(part)?;
        }
        let first = inner.split('/').next().unwrap_or_default();
        if KERNELS.contains(&first) {
            return Err("/proc, /sys and /dev are the kernel's and are never granted");
        }
        Ok(Self(format!("/{inner}")))
    }

    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        Err("a path has no two slashes in a row")
    } else if matches!(part, "." | "..") {
        Err("a path has no . or .. in it")
    } else if part.trim() != part {
        Err("a path's names have no blanks at their ends")
    } else if part.chars().any(char::is_control) {
        Err("a path has no control characters")
    } else if has_escape(part) {
        Err("a path is written as it is, without %-escapes")
    } else if part.contains('\\') {
        Err("a path has no backslashes")
    } else {
        Ok(())
    }
}

/// Says that a percent sign and two hex digits are in it, which another reader
/// might decode to `.` or `/`.
fn has_escape(part: &str) -> bool {
    part.as_bytes().windows(3).any(|three| {
        three[0] == b'%' && three[1].is_ascii_hexdigit() && three[2].is_ascii_hexdigit()
    })
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_absolute_paths_are_taken() {
        let table = [
            ("/", "/"),
            ("/data", "/data"),
            ("/data/", "/data"),
            ("/a/b c/d", "/a/b c/d"),
            ("/...", "/..."),
            ("/100%", "/100%"),
            ("/a%zz", "/a%zz"),
            ("/process", "/process"),
            ("/a/proc", "/a/proc"),
            ("/données", "/données"),
        ];
        for (raw, expected) in table {
            assert_eq!(GuestPath::parse(raw).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn everything_that_could_mean_another_path_is_refused() {
        let long = format!("/{}", "a".repeat(MAX_LENGTH));
        for raw in [
            "",
            "data",
            "./data",
            "../data",
            "/..",
            "/../x",
            "/a/..",
            "/a/../b",
            "/.",
            "/a/./b",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/%2e%2e/x",
            "/a%2Fb",
            "/a\0b",
            "/a\nb",
            "/a\\b",
            "/ ",
            "/a /b",
            "/proc",
            "/proc/",
            "/proc/self/mem",
            "/sys",
            "/sys/fs/cgroup",
            "/dev",
            "/dev/null",
            &long,
        ] {
            assert!(GuestPath::parse(raw).is_err(), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_stays_where_it_says(raw in "(/?[a.% ]{0,3}){0,5}|\\PC{0,20}") {
            if let Ok(path) = GuestPath::parse(&raw) {
                prop_assert!(path.as_path().is_absolute());
                prop_assert!(!path.as_path().components().any(|part| part.as_os_str() == ".."));
                prop_assert_eq!(GuestPath::parse(&path.to_string()), Ok(path));
            }
        }
    }
}
