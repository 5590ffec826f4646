//! How an HTTP component is served: from the `[http]` table of the operator, and the annotations
//! `com.wasm.http.*` of the image and the pod.
//!
//! ```toml
//! [http]
//! address = "0.0.0.0:8080"   # where neither an annotation nor the variable PORT says otherwise
//! deadline = "60s"           # of one request; beyond it 504
//! concurrency = 128          # requests answered at a time
//! queue = 1024               # requests that wait; beyond it 503
//! reuse = 1                  # requests that one instance answers, one after the other
//! grace = "30s"              # for the requests under way, after SIGTERM
//! connections = 1024         # open at a time; more wait to be accepted
//! header_bytes = 65536       # of one request's header; beyond it 431
//! headers = 100              # lines of it
//! header_timeout = "30s"     # for the client to send it
//! ```
//!
//! What the operator writes as `deadline`, `concurrency` and `queue` is the default and the most
//! that a workload may ask for; unwritten, a pod may ask for more than the default. An image never
//! may.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use image::annotations::{
    Annotations, Entry, HTTP_ADDRESS, HTTP_CONCURRENCY, HTTP_DEADLINE, HTTP_GRACE, HTTP_QUEUE,
    HTTP_REUSE, Origin,
};
use image::quoted::Quoted;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::operator::Document;
use crate::quantity::{digits, milliseconds, number, shown_span};
use crate::table::{Reader, TableError, no_hint};

/// Where a server listens when nobody says.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// The variable of `process.env` that names the port, as is usual for servers in containers.
pub const PORT: &str = "PORT";

const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const LEAST_TIME: Duration = Duration::from_millis(1);
const MOST_TIME: Duration = Duration::from_secs(24 * 60 * 60);
const DEFAULT_CONCURRENCY: u32 = 128;
const MOST_CONCURRENCY: u32 = 10_000;
const DEFAULT_QUEUE: u32 = 1024;
const MOST_QUEUE: u32 = 100_000;
const MOST_REUSE: u32 = 1_000_000;
const DEFAULT_CONNECTIONS: u32 = 1024;
const MOST_CONNECTIONS: u32 = 100_000;
const DEFAULT_HEADER_BYTES: u32 = 64 << 10;
const HEADER_BYTES: std::ops::RangeInclusive<u32> = 8 << 10..=1 << 20;
const DEFAULT_HEADERS: u32 = 100;
const MOST_HEADERS: u32 = 10_000;

const A_TIME: &str = "a time between 1ms and 24h, as \"500ms\", \"30s\", \"5m\" or \"1h\"";
const AN_ADDRESS: &str =
    "an address and a port, as \"0.0.0.0:8080\" or \"[::]:8080\", with a port between 1 and 65535";

/// How one HTTP component is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// Where an annotation says it listens.
    pub asked_address: Option<SocketAddr>,
    /// Where it listens if no annotation and no variable says.
    pub default_address: SocketAddr,
    /// How long one request may take, from its header to the end of its answer.
    pub deadline: Duration,
    /// Requests answered at a time.
    pub concurrency: u32,
    /// Requests that wait for their turn.
    pub queue: u32,
    /// Requests that one instance answers, one after the other.
    pub reuse: u32,
    /// How long the requests under way may take after SIGTERM.
    pub grace: Duration,
    /// Connections at a time.
    pub connections: u32,
    /// The most bytes of a request's header.
    pub header_bytes: u32,
    /// The most lines of a request's header.
    pub headers: u32,
    /// How long a client may take to send a request's header.
    pub header_timeout: Duration,
}

/// What the operator says of every HTTP component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHttp {
    /// `address`, if it is written; as are those that follow.
    pub address: Option<SocketAddr>,
    /// `deadline`.
    pub deadline: Option<Duration>,
    /// `concurrency`.
    pub concurrency: Option<u32>,
    /// `queue`.
    pub queue: Option<u32>,
    /// `reuse`.
    pub reuse: Option<u32>,
    /// `grace`.
    pub grace: Option<Duration>,
    /// `connections`.
    pub connections: Option<u32>,
    /// `header_bytes`.
    pub header_bytes: Option<u32>,
    /// `headers`.
    pub headers: Option<u32>,
    /// `header_timeout`.
    pub header_timeout: Option<Duration>,
}

/// A workload asks for what cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// A value that means nothing.
    #[error("annotation {key} of {origin} is {}; expected {expected}", Quoted(value))]
    Unreadable {
        /// The annotation.
        key: &'static str,
        /// Who gave it.
        origin: Origin,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// An image says where it listens.
    #[error(
        "annotation {HTTP_ADDRESS} of {origin} is {}; where a server listens is the pod's to say: \
         give it to the pod",
        Quoted(value)
    )]
    NotTheImages {
        /// Who gave it.
        origin: Origin,
        /// Its value.
        value: String,
    },
    /// More than may be had.
    #[error("annotation {key} of {origin} asks for {value}, and {cap}")]
    BeyondCap {
        /// The annotation.
        key: &'static str,
        /// Who gave it.
        origin: Origin,
        /// Its value.
        value: String,
        /// The most, and who says so.
        cap: String,
    },
    /// The variable names no port.
    #[error(
        "variable {PORT} of process.env is {}; an HTTP server listens on the port it names, so it \
         has to be a number between 1 and 65535; or give annotation {HTTP_ADDRESS}",
        Quoted(.0)
    )]
    Port(String),
}

impl Default for Http {
    fn default() -> Self {
        NodeHttp::default().defaults()
    }
}

impl Http {
    /// Returns where the server listens: an annotation's word goes before the variable
    /// [`PORT`] of `env` (on every IPv4 address), and that before the operator's.
    ///
    /// # Errors
    /// [`HttpError::Port`].
    pub fn address(&self, env: &[String]) -> Result<SocketAddr, HttpError> {
        if let Some(asked) = self.asked_address {
            return Ok(asked);
        }
        let mut named = env.iter().filter_map(|variable| variable.split_once('='));
        match named.rfind(|(name, value)| *name == PORT && !value.is_empty()) {
            None => Ok(self.default_address),
            Some((_, value)) => match value.parse::<u16>() {
                Ok(port) if port > 0 => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
                Ok(_) | Err(_) => Err(HttpError::Port(value.to_owned())),
            },
        }
    }
}

impl fmt::Display for Http {
    /// A line for each setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.asked_address {
            Some(address) => writeln!(f, "http.address = {address}")?,
            None => writeln!(f, "http.address = {} unless {PORT} is set", self.default_address)?,
        }
        writeln!(f, "http.deadline = {}", Time(self.deadline))?;
        writeln!(f, "http.concurrency = {}", self.concurrency)?;
        writeln!(f, "http.queue = {}", self.queue)?;
        writeln!(f, "http.reuse = {}", self.reuse)?;
        writeln!(f, "http.grace = {}", Time(self.grace))?;
        writeln!(f, "http.connections = {}", self.connections)?;
        writeln!(f, "http.header_bytes = {}", self.header_bytes)?;
        writeln!(f, "http.headers = {}", self.headers)?;
        writeln!(f, "http.header_timeout = {}", Time(self.header_timeout))
    }
}

impl NodeHttp {
    /// Returns this with what it leaves out taken from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            address: self.address.or(below.address),
            deadline: self.deadline.or(below.deadline),
            concurrency: self.concurrency.or(below.concurrency),
            queue: self.queue.or(below.queue),
            reuse: self.reuse.or(below.reuse),
            grace: self.grace.or(below.grace),
            connections: self.connections.or(below.connections),
            header_bytes: self.header_bytes.or(below.header_bytes),
            headers: self.headers.or(below.headers),
            header_timeout: self.header_timeout.or(below.header_timeout),
        }
    }

    /// Decides how a component is served for which image and pod give these annotations; the pod's
    /// go before the image's.
    ///
    /// # Errors
    /// Names the annotation, its value, who gave it and what it may be.
    pub fn decide(&self, image: &Annotations, pod: &Annotations) -> Result<Http, HttpError> {
        let asked = image.replaced_by(pod);
        let default = self.defaults();
        let deadline = Capped {
            key: HTTP_DEADLINE,
            default: Time(default.deadline),
            most: Time(self.deadline.unwrap_or(MOST_TIME)),
            name: "deadline",
        };
        let concurrency = Capped {
            key: HTTP_CONCURRENCY,
            default: default.concurrency,
            most: self.concurrency.unwrap_or(MOST_CONCURRENCY),
            name: "concurrency",
        };
        let queue = Capped {
            key: HTTP_QUEUE,
            default: default.queue,
            most: self.queue.unwrap_or(MOST_QUEUE),
            name: "queue",
        };
        let reuse = take(&asked, HTTP_REUSE, "a number between 1 and 1000000", |text| {
            count(text, 1, MOST_REUSE)
        })?;
        let grace = take(&asked, HTTP_GRACE, A_TIME, time)?;
        Ok(Http {
            asked_address: asked_address(&asked)?,
            deadline: deadline.of(&asked, A_TIME, |text| time(text).map(Time))?.0,
            concurrency: concurrency
                .of(&asked, "a number of at least 1", |text| count(text, 1, u32::MAX))?,
            queue: queue.of(&asked, "a number", |text| count(text, 0, u32::MAX))?,
            reuse: reuse.map_or(default.reuse, |(reuse, _)| reuse),
            grace: grace.map_or(default.grace, |(grace, _)| grace),
            ..default
        })
    }

    fn defaults(&self) -> Http {
        Http {
            asked_address: None,
            default_address: self.address.unwrap_or(DEFAULT_ADDRESS),
            deadline: self.deadline.unwrap_or(DEFAULT_DEADLINE),
            concurrency: self.concurrency.unwrap_or(DEFAULT_CONCURRENCY),
            queue: self.queue.unwrap_or(DEFAULT_QUEUE),
            reuse: self.reuse.unwrap_or(1),
            grace: self.grace.unwrap_or(DEFAULT_GRACE),
            connections: self.connections.unwrap_or(DEFAULT_CONNECTIONS),
            header_bytes: self.header_bytes.unwrap_or(DEFAULT_HEADER_BYTES),
            headers: self.headers.unwrap_or(DEFAULT_HEADERS),
            header_timeout: self.header_timeout.unwrap_or(DEFAULT_HEADER_TIMEOUT),
        }
    }
}

/// A value of which there is a most.
struct Capped<T> {
    key: &'static str,
    /// What it is unless somebody asks, and the most that an image may ask for.
    default: T,
    /// The most that a pod may ask for.
    most: T,
    /// Its name in the table `[http]`.
    name: &'static str,
}

impl<T: Copy + Ord + fmt::Display> Capped<T> {
    fn of(
        &self,
        asked: &Annotations,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, HttpError> {
        let Some((value, Entry { origin, .. })) = take(asked, self.key, expected, read)? else {
            return Ok(self.default);
        };
        let (most, whose) = match origin {
            Origin::Pod => (self.most, "a pod"),
            _ => (self.default, "an image"),
        };
        if value <= most {
            return Ok(value);
        }
        let cap = format!(
            "the most that {whose} gets is {most}, by `{}` of the node's [http] or its default",
            self.name
        );
        let (origin, value) = (*origin, value.to_string());
        Err(HttpError::BeyondCap { key: self.key, origin, value, cap })
    }
}

/// A time as people write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown_span(self.0))
    }
}

/// A stranger's image says nothing of the network it is put into: in a pod of the host's, any port
/// would be its to take.
fn asked_address(asked: &Annotations) -> Result<Option<SocketAddr>, HttpError> {
    match take(asked, HTTP_ADDRESS, AN_ADDRESS, address)? {
        None => Ok(None),
        Some((address, entry)) if entry.origin == Origin::Pod => Ok(Some(address)),
        Some((_, entry)) => {
            Err(HttpError::NotTheImages { origin: entry.origin, value: entry.value.clone() })
        }
    }
}

fn take<'a, T>(
    asked: &'a Annotations,
    key: &'static str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<(T, &'a Entry)>, HttpError> {
    let Some(entry) = asked.get(key) else { return Ok(None) };
    match read(&entry.value) {
        Some(value) => Ok(Some((value, entry))),
        None => Err(HttpError::Unreadable {
            key,
            origin: entry.origin,
            value: entry.value.clone(),
            expected,
        }),
    }
}

/// Takes the table `[http]` out of a document.
pub(crate) fn read(table: &mut Reader, document: Document) -> Result<NodeHttp, TableError> {
    let what = match document {
        Document::NodeFile => "the node file's [http]",
        Document::Options => "the runtime options' [http]",
    };
    let mut table = table.table("http", what)?;
    let http = keys(&mut table)?;
    table.finish(no_hint)?;
    Ok(http)
}

fn keys(table: &mut Reader) -> Result<NodeHttp, TableError> {
    let text = |value: &Value, read: fn(&str) -> Option<Duration>| value.as_str().and_then(read);
    let mut time_of = |key| table.take(key, A_TIME, |value| text(value, time));
    let (deadline, grace) = (time_of("deadline")?, time_of("grace")?);
    let header_timeout = time_of("header_timeout")?;
    let mut count_of = |key, expected, least: u32, most: u32| {
        table.take(key, expected, |value| {
            let count = number(value).and_then(|count| u32::try_from(count).ok());
            count.filter(|count| (least..=most).contains(count))
        })
    };
    Ok(NodeHttp {
        deadline,
        grace,
        header_timeout,
        concurrency: count_of("concurrency", "a number between 1 and 10000", 1, MOST_CONCURRENCY)?,
        queue: count_of("queue", "a number between 0 and 100000", 0, MOST_QUEUE)?,
        reuse: count_of("reuse", "a number between 1 and 1000000", 1, MOST_REUSE)?,
        connections: count_of("connections", "a number between 1 and 100000", 1, MOST_CONNECTIONS)?,
        header_bytes: count_of(
            "header_bytes",
            "a number between 8192 and 1048576",
            *HEADER_BYTES.start(),
            *HEADER_BYTES.end(),
        )?,
        headers: count_of("headers", "a number between 1 and 10000", 1, MOST_HEADERS)?,
        address: table.take("address", AN_ADDRESS, |value| value.as_str().and_then(address))?,
    })
}

fn address(raw: &str) -> Option<SocketAddr> {
    raw.parse().ok().filter(|address: &SocketAddr| address.port() > 0)
}

fn count(raw: &str, least: u32, most: u32) -> Option<u32> {
    let count = digits(raw).and_then(|count| u32::try_from(count).ok());
    count.filter(|count| (least..=most).contains(count))
}

fn time(raw: &str) -> Option<Duration> {
    let time = Duration::from_millis(milliseconds(raw)?);
    (LEAST_TIME..=MOST_TIME).contains(&time).then_some(time)
}

#[cfg(test)]
mod tests;
