//! A host or a family of hosts that a guest asks to reach.

use std::fmt;
use std::net::IpAddr;

/// The longest name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// What a guest may reach by name or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`: any host.
    Any,
    /// `*.example.com`: every name below this one, but not itself.
    Below(String),
    /// This name, in lower case.
    Name(String),
    /// This address.
    Address(IpAddr),
}

impl HostPattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(raw: &str) -> Result<Self, &'static str> {
        if raw == "*" {
            return Ok(Self::Any);
        }
        let bare = raw.strip_prefix('[').and_then(|raw| raw.strip_suffix(']')).unwrap_or(raw);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        if raw.contains(':') {
            return Err(
                "a host stands without scheme and port; ports have an annotation of their own",
            );
        }
        match raw.strip_prefix("*.") {
            Some(parent) => name(parent).map(Self::Below),
            None => name(raw).map(Self::Name),
        }
    }

    /// Says that a host name fits, in any case of letters and with or without
    /// the dot of the root.
    pub fn fits(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match self {
            Self::Any => true,
            Self::Below(parent) => host
                .strip_suffix(parent.as_str())
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|front| !front.is_empty()),
            Self::Name(name) => host == *name,
            Self::Address(address) => host.parse() == Ok(*address),
        }
    }
}

fn name(raw: &str) -> Result<String, &'static str> {
    if raw.len() > MAX_NAME {
        return Err("a host name has at most 253 characters");
    }
    if !raw.is_ascii() {
        return Err("a host name is ASCII; write others in their xn-- form");
    }
    if raw.contains('*') {
        return Err("a * stands alone, or once, in front, as in *.example.com");
    }
    if !raw.split('.').all(is_label) {
        return Err("a host name is letters, digits and hyphens between dots");
    }
    // 127.1 and 0x7f000001 are addresses to some resolvers.
    let last = raw.rsplit('.').next().unwrap_or_default();
    if last.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("an address is written in full, as in 192.0.2.1");
    }
    Ok(raw.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_fit_what_they_say_and_nothing_beside() {
        let table: [(&str, &[&str], &[&str]); 6] = [
            (
                "example.com",
                &["example.com", "EXAMPLE.com", "example.com."],
                &["a.example.com", "example.co", ""],
            ),
            ("Example.COM", &["example.com"], &["example.org"]),
            (
                "*.example.com",
                &["a.example.com", "a.b.example.com"],
                &["example.com", "badexample.com", ".example.com"],
            ),
            ("*", &["example.com", "192.0.2.1"], &[]),
            ("192.0.2.1", &["192.0.2.1"], &["192.0.2.10", "example.com"]),
            ("[2001:db8::1]", &["2001:db8::1", "2001:DB8:0::1"], &["2001:db8::2"]),
        ];
        for (raw, fit, unfit) in table {
            let pattern = HostPattern::parse(raw).unwrap();
            assert!(fit.iter().all(|host| pattern.fits(host)), "{raw}");
            assert!(unfit.iter().all(|host| !pattern.fits(host)), "{raw}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("{}.com", "a.".repeat(130));
        let label = "a".repeat(64);
        for raw in [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a/b",
            "http://a",
            "a:443",
            "*a",
            "a.*",
            "*.*.a",
            "**",
            "*.",
            "bücher.de",
            "127.1",
            "0x7f000001",
            "1.2.3.4.5",
            "256.1.1.1",
            "::1%eth0",
            &long,
            &label,
        ] {
            assert!(HostPattern::parse(raw).is_err(), "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_reads_the_same_again(raw in "\\PC{0,20}|[a-z*.:0-9]{0,12}") {
            if let Ok(pattern) = HostPattern::parse(&raw) {
                prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
            }
        }
    }
}
