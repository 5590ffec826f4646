//! ttrpc with one request in flight and nothing else: no thread, no event loop.
//!
//! What is measured is the shim, so the client must cost as little as it can. The service is named as containerd 1.7's
//! shims name it; the generated client names containerd 2's, which runc's shim of 1.7 does not serve. The messages are
//! the same.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE, MessageHeader,
};
use containerd_shim::protos::ttrpc::{Request, Response};

const SERVICE: &str = "containerd.task.v2.Task";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a shim's task service.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    next_stream: u32,
}

impl Connection {
    /// Connects to an address as `start` prints it: `unix://PATH`.
    pub(crate) fn open(address: &str) -> Result<Self> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let socket = UnixStream::connect(path).with_context(|| format!("connecting to {path}"))?;
        socket.set_read_timeout(Some(PATIENCE)).context("limiting the wait for an answer")?;
        Ok(Self { socket, next_stream: 1 })
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn call<A: Message>(&mut self, method: &str, message: &impl Message) -> Result<A> {
        self.exchange(method, message).with_context(|| format!("calling {method}"))
    }

    fn exchange<A: Message>(&mut self, method: &str, message: &impl Message) -> Result<A> {
        let request = Request {
            service: SERVICE.to_owned(),
            method: method.to_owned(),
            payload: message.write_to_bytes()?,
            ..Request::default()
        };
        let body = request.write_to_bytes()?;
        let stream = self.next_stream;
        // A client's streams have odd numbers.
        self.next_stream += 2;
        let mut frame = Vec::from(MessageHeader::new_request(stream, u32::try_from(body.len())?));
        frame.extend(body);
        self.socket.write_all(&frame).context("sending the request")?;
        self.answer(stream)
    }

    fn answer<A: Message>(&mut self, stream: u32) -> Result<A> {
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        self.socket.read_exact(&mut header).context("waiting for the answer")?;
        let header = MessageHeader::from(header);
        ensure!(
            header.type_ == MESSAGE_TYPE_RESPONSE && header.stream_id == stream,
            "expected the answer on stream {stream}, got {header:?}"
        );
        let length = usize::try_from(header.length)?;
        ensure!(length <= MESSAGE_LENGTH_MAX, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).context("reading the answer")?;
        let response = Response::parse_from_bytes(&body)?;
        if let Some(status) = response.status.as_ref()
            && status.code.value() != 0
        {
            bail!("{} (code {})", status.message, status.code.value());
        }
        Ok(A::parse_from_bytes(&response.payload)?)
    }
}
