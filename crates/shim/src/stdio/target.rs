//! What containerd's request names as an output: a FIFO, a file, or a logging binary.
//!
//! The forms are those of runc's shim. What it would take for something else than was
//! meant (`file://var/log/x` is `/log/x` to it) is refused.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// No path was given: `/dev/null`.
    Nowhere,
    /// A path, or `fifo:///path`.
    Fifo(PathBuf),
    /// `file:///path`.
    File(PathBuf),
    /// `binary:///path?name=value`.
    Program(Program),
}

/// A logging binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Each name of the query, followed by its value.
    pub(super) args: Vec<String>,
    pub(super) readiness: Readiness,
}

/// How a logging binary tells that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// `binary://`: it closes descriptor 5.
    Closes,
    /// `binary-v2://`: it writes to descriptor 5 first, which one that failed does not.
    Writes,
}

impl Target {
    /// Reads one output of a request.
    ///
    /// # Errors
    /// A sentence that names the text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Nowhere);
        }
        if text.starts_with('/') {
            return Ok(Self::Fifo(text.into()));
        }
        let refused = |why: &str| format!("the output {text:?} is refused: {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            refused("expected an absolute path, or fifo://, file:// or binary:// before one")
        })?;
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decoded(path);
        if !path.starts_with(b"/") {
            return Err(refused("expected three slashes, as in file:///path, and no host"));
        }
        let path = PathBuf::from(OsString::from_vec(path.into_owned()));
        let program = |readiness| {
            let args = arguments(query);
            Self::Program(Program { path: path.clone(), args, readiness })
        };
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "binary" => Ok(program(Readiness::Closes)),
            "binary-v2" => Ok(program(Readiness::Writes)),
            _ => Err(refused(&format!(
                "{scheme}:// is none of fifo://, file://, binary:// and binary-v2://"
            ))),
        }
    }

    /// Whether a logging binary is to read it.
    pub(super) fn is_program(&self) -> bool {
        matches!(self, Self::Program(_))
    }
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode_str(text).into()
}

/// Of a name that comes twice the first value counts, as for runc's shim, whose order
/// of the names is a random one; here it is theirs.
fn arguments(query: &str) -> Vec<String> {
    let mut seen = HashSet::new();
    form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| seen.insert(name.clone()))
        .flat_map(|(name, value)| [name.into_owned(), value.into_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &str, args: &[&str], readiness: Readiness) -> Target {
        let args = args.iter().map(ToString::to_string).collect();
        Target::Program(Program { path: path.into(), args, readiness })
    }

    #[test]
    fn outputs_are_read_as_runcs_shim_reads_them() {
        let nerdctl = "binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fn";
        for (text, target) in [
            ("", Target::Nowhere),
            ("/run/fifo/a-stdout", Target::Fifo("/run/fifo/a-stdout".into())),
            // A path alone is taken as it is.
            ("/run/a%20b?c#d", Target::Fifo("/run/a%20b?c#d".into())),
            ("/run/a://b", Target::Fifo("/run/a://b".into())),
            ("fifo:///run/a", Target::Fifo("/run/a".into())),
            ("file:///var/log/a%20b.log", Target::File("/var/log/a b.log".into())),
            ("file:///var/log/a?x=y#z", Target::File("/var/log/a".into())),
            (
                nerdctl,
                program(
                    "/usr/bin/nerdctl",
                    &["_NERDCTL_INTERNAL_LOGGING", "/var/lib/n"],
                    Readiness::Closes,
                ),
            ),
            ("binary-v2:///bin/l", program("/bin/l", &[], Readiness::Writes)),
            (
                "binary:///bin/l?b=1&a=2&b=3&c&d=x+y%3D",
                program("/bin/l", &["b", "1", "a", "2", "c", "", "d", "x y="], Readiness::Closes),
            ),
        ] {
            assert_eq!(Target::parse(text), Ok(target), "{text}");
        }
    }

    #[test]
    fn what_is_no_output_is_refused_by_name() {
        for (text, why) in [
            ("run/a-stdout", "expected an absolute path"),
            ("npipe:////./pipe/a", "npipe:// is none of"),
            ("s3://bucket/a", "no host"),
            ("://a", "no host"),
            ("file://var/log/a", "three slashes"),
            ("file://", "three slashes"),
            ("binary://?a=b", "three slashes"),
            ("FILE:///a", "FILE:// is none of"),
        ] {
            let refusal = Target::parse(text).expect_err(text);
            assert!(refusal.contains(why) && refusal.contains(text), "{refusal}");
        }
    }
}
