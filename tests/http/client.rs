//! A plain HTTP/1.1 client: what it sends and reads is under the test's eye byte by byte.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

/// An open connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Says whether the connection ends with this answer.
    pub(crate) fn closes(&self) -> bool {
        self.headers.get("connection").is_some_and(|value| value == "close")
    }
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn get(&mut self, target: &str) -> Result<Answer> {
        self.ask("GET", target, &[])
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        self.send_head(method, target, headers)?;
        self.read_answer(method)
    }

    pub(crate) fn send_head(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a part of a body whose length nobody knows yet.
    pub(crate) fn send_chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    }

    /// Reads status and headers, and leaves the body.
    pub(crate) fn read_head(&mut self) -> Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status line: {line:?}"))?;
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Answer { status, headers, body: Vec::new() });
            }
            let (name, value) =
                line.split_once(':').with_context(|| format!("no header: {line:?}"))?;
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }

    /// Reads a whole answer; one that is cut off is an error.
    pub(crate) fn read_answer(&mut self, method: &str) -> Result<Answer> {
        let mut answer = self.read_head()?;
        if method == "HEAD" {
            return Ok(answer);
        }
        if answer.headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            while let Some(part) = self.read_chunk()? {
                answer.body.extend(part);
            }
        } else if let Some(length) = answer.headers.get("content-length") {
            answer.body = vec![0; length.parse().context("no length")?];
            self.stream.read_exact(&mut answer.body).context("the body is cut off")?;
        }
        Ok(answer)
    }

    /// Reads the next part of a body; none is its end.
    pub(crate) fn read_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let size = self.line()?;
        let size =
            usize::from_str_radix(&size, 16).with_context(|| format!("no size: {size:?}"))?;
        let mut part = vec![0; size + 2];
        self.stream.read_exact(&mut part).context("a part is cut off")?;
        if part.split_off(size) != b"\r\n" {
            bail!("a part is longer than it says");
        }
        Ok((size > 0).then_some(part))
    }

    /// Says whether the server has closed the connection, or does so now.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).context("no further line")?;
        if length == 0 {
            bail!("the connection has ended");
        }
        Ok(line.trim_end().to_owned())
    }
}
