//! Numbers of bytes and spans of time as people write them, and as they are shown again.

use std::time::Duration;

use toml::Value;

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const SPANS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a whole number that is not negative.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_integer().and_then(|number| u64::try_from(number).ok())
}

/// Reads digits alone: no sign, no blank, no underscore.
pub(crate) fn digits(raw: &str) -> Option<u64> {
    raw.bytes().all(|byte| byte.is_ascii_digit()).then(|| raw.parse().ok())?
}

/// Reads a number of bytes: digits alone, or followed by `KiB`, `MiB` or `GiB`.
pub(crate) fn size(raw: &str) -> Option<u64> {
    let (digits, unit) = split(raw);
    let bytes = if unit.is_empty() { 1 } else { factor(&UNITS, unit)? };
    digits.parse::<u64>().ok()?.checked_mul(bytes)
}

/// Reads a span of time in milliseconds: digits followed by `ms`, `s`, `m` or `h`.
pub(crate) fn milliseconds(raw: &str) -> Option<u64> {
    let (digits, unit) = split(raw);
    digits.parse::<u64>().ok()?.checked_mul(factor(&SPANS, unit)?)
}

/// Shows a number of bytes in the largest unit that keeps it whole.
pub(crate) fn shown_size(bytes: u64) -> String {
    shown(&UNITS, bytes).unwrap_or_else(|| bytes.to_string())
}

/// Shows a span of time in the largest unit that keeps it whole.
pub(crate) fn shown_span(span: Duration) -> String {
    let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    shown(&SPANS, milliseconds).unwrap_or_else(|| format!("{milliseconds}ms"))
}

fn split(raw: &str) -> (&str, &str) {
    raw.split_at(raw.find(|c: char| !c.is_ascii_digit()).unwrap_or(raw.len()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

fn shown(units: &[(&str, u64)], amount: u64) -> Option<String> {
    let fits = |&&(_, factor): &&(&str, u64)| amount >= factor && amount.is_multiple_of(factor);
    units.iter().find(fits).map(|(name, factor)| format!("{}{name}", amount / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_digits_and_a_unit() {
        let table = [
            ("0", Some(0)),
            ("10485760", Some(10 << 20)),
            ("10MiB", Some(10 << 20)),
            ("1KiB", Some(1024)),
            ("2GiB", Some(2 << 30)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("17179869184GiB", None),
            ("", None),
            ("MiB", None),
            ("10 MiB", None),
            ("10MB", None),
            ("+1", None),
            ("-1", None),
            ("1.5GiB", None),
            ("1_000", None),
            ("0x10", None),
        ];
        for (raw, expected) in table {
            assert_eq!(size(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn spans_are_digits_and_a_unit() {
        let table = [
            ("1ms", Some(1)),
            ("30s", Some(30_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("0s", Some(0)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1 s", None),
            ("-1s", None),
            ("1.5s", None),
            ("1d", None),
            ("18446744073709551615h", None),
        ];
        for (raw, expected) in table {
            assert_eq!(milliseconds(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_would_be_written() {
        for text in ["128MiB", "1KiB", "3GiB", "1000", "1048577", "0"] {
            assert_eq!(shown_size(size(text).unwrap()), text);
        }
        for text in ["30s", "90s", "1m", "1500ms", "2h", "1ms"] {
            let span = Duration::from_millis(milliseconds(text).unwrap());
            assert_eq!(shown_span(span), text);
        }
        assert_eq!(shown_size(1 << 31), "2GiB");
    }
}
