//! One line of a log file, as CRI has it:
//! `2016-10-06T00:17:09.669794202Z stdout F text`.
//!
//! `F` marks the end of a line of the container's output, and `P` a part of one that
//! goes on.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{LogEntry, Output};

/// Whether a piece of output ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Newline,
    None,
}

/// Appends one line to a buffer; the text has no newline.
pub(super) fn write(into: &mut Vec<u8>, at: &str, source: Output, ending: Ending, text: &[u8]) {
    let source = match source {
        Output::Stdout => " stdout ",
        Output::Stderr => " stderr ",
    };
    let tag = match ending {
        Ending::Newline => "F ",
        Ending::None => "P ",
    };
    into.extend_from_slice(at.as_bytes());
    into.extend_from_slice(source.as_bytes());
    into.extend_from_slice(tag.as_bytes());
    into.extend_from_slice(text);
    into.push(b'\n');
}

/// Returns a time as a line begins with it.
pub(super) fn timestamp(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// A line that was taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    at: &'a str,
    pub(super) source: Output,
    pub(super) ending: Ending,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line apart, which comes without its newline.
    ///
    /// # Errors
    /// Says what it should have.
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, String> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let mut field = || fields.next().and_then(|field| std::str::from_utf8(field).ok());
        let at = field().ok_or("it should begin with a time")?;
        let source = match field() {
            Some("stdout") => Output::Stdout,
            Some("stderr") => Output::Stderr,
            other => return Err(expected("stdout or stderr after the time", other)),
        };
        let tags = field();
        let ending = match tags.map(|tags| tags.split(':').next().unwrap_or(tags)) {
            Some("F") => Ending::Newline,
            Some("P") => Ending::None,
            _ => return Err(expected("F or P after the output's name", tags)),
        };
        let text = fields.next().ok_or("it ends before the text")?;
        Ok(Self { at, source, ending, text })
    }

    /// Returns what the container wrote, and when.
    ///
    /// # Errors
    /// Says which time can't be read.
    pub(super) fn entry(&self) -> Result<LogEntry, String> {
        let at = DateTime::parse_from_rfc3339(self.at)
            .map_err(|_| expected("a time of RFC 3339 at the beginning", Some(self.at)))?;
        let mut bytes = self.text.to_vec();
        if self.ending == Ending::Newline {
            bytes.push(b'\n');
        }
        Ok(LogEntry { at: at.into(), source: self.source, bytes })
    }
}

fn expected(what: &str, found: Option<&str>) -> String {
    const SHOWN: usize = 40;
    let found: String = found.unwrap_or_default().chars().take(SHOWN).collect();
    format!("it should have {what}, and has {found:?}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn lines_are_read_as_cri_writes_them() {
        let at = UNIX_EPOCH + Duration::new(1_475_713_029, 669_794_202);
        let at_second = UNIX_EPOCH + Duration::from_secs(1_475_713_029);
        for (line, expected) in [
            ("2016-10-06T00:17:09.669794202Z stdout F text", (at, Output::Stdout, "text\n")),
            ("2016-10-06T00:17:09.669794202Z stderr P text", (at, Output::Stderr, "text")),
            ("2016-10-06T02:17:09+02:00 stdout F:x  a b ", (at_second, Output::Stdout, " a b \n")),
            ("2016-10-06T00:17:09Z stdout F ", (at_second, Output::Stdout, "\n")),
        ] {
            let entry = Line::parse(line.as_bytes()).and_then(|line| line.entry());
            let (at, source, text) = expected;
            assert_eq!(entry, Ok(LogEntry { at, source, bytes: text.into() }), "{line}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused_with_what_is_missing() {
        for (line, why) in [
            ("", "stdout or stderr after the time, and has \"\""),
            ("hello", "stdout or stderr"),
            ("2016-10-06T00:17:09Z stdin F x", "has \"stdin\""),
            ("2016-10-06T00:17:09Z stdout", "F or P"),
            ("2016-10-06T00:17:09Z stdout X x", "has \"X\""),
            ("2016-10-06T00:17:09Z stdout F", "ends before the text"),
            ("yesterday stdout F x", "has \"yesterday\""),
            ("2016-13-06T00:17:09Z stdout F x", "a time of RFC 3339"),
            (" stdout F x", "a time of RFC 3339"),
        ] {
            let refusal = Line::parse(line.as_bytes()).and_then(|line| line.entry());
            let refusal = refusal.expect_err(line);
            assert!(refusal.contains(why), "{line:?}: {refusal}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let mut file = Vec::new();
        for ending in [Ending::Newline, Ending::None] {
            write(&mut file, &timestamp(at), Output::Stderr, ending, b"\xff \0");
        }
        let lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
        let read = |line| Line::parse(line).and_then(|line| line.entry()).expect("a line");
        let expected = |bytes: &[u8]| LogEntry { at, source: Output::Stderr, bytes: bytes.into() };
        assert_eq!(read(lines[0]), expected(b"\xff \0\n"));
        assert_eq!(read(lines[1]), expected(b"\xff \0"));
        assert_eq!(
            lines[0].split(|byte| *byte == b' ').next(),
            Some(&b"2023-11-14T22:13:20.000000005Z"[..])
        );
    }
}
