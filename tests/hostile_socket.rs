//! What a client of the shim's socket may do, by mistake or on purpose: at worst its own connection ends.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use containerd_shim::protos::api::{KillRequest, StateRequest, StateResponse, WaitRequest};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::ttrpc::proto::{MESSAGE_HEADER_LENGTH, MessageHeader};
use containerd_shim::protos::ttrpc::{Code, Request, Response};
use end_to_end::host;
use end_to_end::lab::{Lab, PATIENCE, lab, must};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::catalogue;
use testkit::containerd::Release;

const SERVICE: &str = "containerd.task.v2.Task";
const UNREAD: u32 = 400_000;
/// What a client may make the server's resident memory grow by, in KiB, for as long as it stays connected.
const ALLOWANCE: u64 = 24 << 10;
const CONNECTIONS: usize = 1000;
/// So many connections the door lets in at once.
const ROOMS: usize = 64;
/// A kind of frame that is a request.
const REQUEST: u8 = 1;

/// A running container, and the shim that is to survive.
struct Victim {
    lab: Arc<Lab>,
    id: String,
    socket: PathBuf,
    server: i32,
}

impl Victim {
    fn start(release: Release) -> Option<Self> {
        let lab = lab(release)?;
        let image = lab.image(catalogue::guest_image("sleeper"));
        let id = lab.unique("victim");
        must(must(lab.run(&image, &id).detach().flags(["--null-io"]).output()).ok());
        let server = must(host::shim_of(&lab, must(lab.task_pid(&id)))).server;
        // The address alone, or JSON around it, as the release keeps it.
        let kept = ["bootstrap.json", "address"].map(|name| lab.bundle(&id).join(name));
        let text = kept.iter().find_map(|path| std::fs::read_to_string(path).ok());
        let text = text.expect("containerd keeps a shim's address");
        let rest = text.split("unix://").nth(1).expect("an address");
        let socket = PathBuf::from(rest.split(['"', '\n']).next().expect("an end"));
        Some(Self { lab, id, socket, server })
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("the shim listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    fn state(&self) -> Vec<u8> {
        let request = StateRequest { id: self.id.clone(), ..Default::default() };
        request.write_to_bytes().expect("encoded")
    }

    fn wait(&self) -> Vec<u8> {
        let request = WaitRequest { id: self.id.clone(), ..Default::default() };
        request.write_to_bytes().expect("encoded")
    }

    fn resident(&self) -> u64 {
        let text = must(host::status(self.server, "VmRSS"));
        text.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Checks that containerd on its connection, and a newcomer, are answered.
    #[track_caller]
    fn lives(&self, after: &str) {
        let asked = Instant::now();
        let status = must(self.lab.task_status(&self.id));
        assert_eq!(status.as_deref(), Some("RUNNING"), "after {after}");
        let mut newcomer = self.connect();
        send(&mut newcomer, 1, "State", self.state());
        let (_, answer) = answer(&mut newcomer);
        let state = StateResponse::parse_from_bytes(&answer.payload).expect("a state");
        assert_eq!(state.id, self.id, "after {after}: {answer:?}");
        assert!(asked.elapsed() < PATIENCE / 2, "after {after}: {:?}", asked.elapsed());
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let request = KillRequest { id: self.id.clone(), signal: 9, ..Default::default() };
        if let (Ok(mut stream), Ok(payload)) =
            (UnixStream::connect(&self.socket), request.write_to_bytes())
        {
            // Should the shim not take it, the daemon's end will kill the container.
            drop(stream.write_all(&frame(1, SERVICE, "Kill", payload)));
            drop(stream.read(&mut [0; 64]));
        }
    }
}

fn header(length: u32, stream: u32, kind: u8) -> Vec<u8> {
    let header = MessageHeader { length, stream_id: stream, type_: kind, flags: 0 };
    Vec::from(header)
}

fn framed(stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    [&header(length, stream, REQUEST), body].concat()
}

fn frame(stream: u32, service: &str, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        ..Default::default()
    };
    framed(stream, &request.write_to_bytes().expect("encoded"))
}

fn send(connection: &mut UnixStream, stream: u32, method: &str, payload: Vec<u8>) {
    connection.write_all(&frame(stream, SERVICE, method, payload)).expect("sent");
}

#[track_caller]
fn answer(connection: &mut UnixStream) -> (u32, Response) {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    connection.read_exact(&mut header).expect("an answer");
    let header = MessageHeader::from(header);
    let mut body = vec![0; usize::try_from(header.length).expect("fits")];
    connection.read_exact(&mut body).expect("a whole answer");
    (header.stream_id, Response::parse_from_bytes(&body).expect("an answer"))
}

fn code(answer: &Response) -> Code {
    answer.status.as_ref().and_then(|status| status.code.enum_value().ok()).unwrap_or(Code::OK)
}

/// Tells whether the shim ends this connection, and without an answer.
fn is_closed(connection: &mut UnixStream) -> bool {
    match connection.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        // What it had not read yet was thrown away.
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn what_is_no_frame_ends_its_connection_alone() {
    for release in [Release::V1_7, Release::V2_1] {
        let Some(victim) = Victim::start(release) else { return };
        // Something of another client is under way meanwhile.
        let mut other = victim.connect();
        send(&mut other, 1, "Wait", victim.wait());
        let cases: [(&str, Vec<u8>); 9] = [
            ("zeros", vec![0; 4096]),
            ("ones", vec![0xff; 4096]),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: shim\r\n\r\n".to_vec()),
            ("gRPC", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
            ("a body of 4 GiB", header(u32::MAX, 1, REQUEST)),
            ("an even stream", frame(2, SERVICE, "State", victim.state())),
            ("stream 0", header(0, 0, REQUEST)),
            ("an answer", header(0, 1, 2)),
            ("an unknown kind", header(0, 1, 200)),
        ];
        for (what, bytes) in cases {
            let mut hostile = victim.connect();
            hostile.write_all(&bytes).expect("sent");
            assert!(is_closed(&mut hostile), "{what}");
            let mut polite = victim.connect();
            send(&mut polite, 1, "State", victim.state());
            assert_eq!(code(&answer(&mut polite).1), Code::OK, "before {what}");
            // It is closed for what it sends, whatever was good before.
            polite.write_all(&bytes).expect("sent");
            assert!(is_closed(&mut polite), "{what} after a request");
        }
        let told = |log: &str| log.matches("a connection is closed: the bytes [").count();
        must(host::eventually("each is told of once", PATIENCE, || {
            Ok(told(&victim.lab.log()) >= 18)
        }));
        assert_eq!(told(&victim.lab.log()), 18);
        victim.lives("garbage");
        send(&mut other, 3, "State", victim.state());
        let (stream, answer) = answer(&mut other);
        assert_eq!((stream, code(&answer)), (3, Code::OK));
        victim.lab.still_runs();
    }
}

#[test]
fn frames_that_break_off_leave_nothing() {
    let Some(victim) = Victim::start(Release::V2_1) else { return };
    let descriptors = must(host::descriptors(victim.server)).len();
    let whole = frame(1, SERVICE, "State", victim.state());
    for length in [1, 9, 10, 11, whole.len() - 1] {
        victim.connect().write_all(&whole[..length]).expect("sent");
        let mut half = victim.connect();
        half.write_all(&whole[..length]).expect("sent");
        half.shutdown(Shutdown::Write).expect("shut");
        assert!(is_closed(&mut half), "{length} bytes");
    }
    // In small pieces it is a request as good as any.
    let mut slow = victim.connect();
    for byte in &whole {
        slow.write_all(&[*byte]).expect("sent");
    }
    assert_eq!(code(&answer(&mut slow).1), Code::OK);
    drop(slow);
    must(host::eventually("their descriptors are closed", PATIENCE, || {
        Ok(must(host::descriptors(victim.server)).len() == descriptors)
    }));
    victim.lives("halves");
}

#[test]
fn what_cannot_be_served_is_answered_and_the_connection_lives() {
    let Some(victim) = Victim::start(Release::V1_7) else { return };
    let mut connection = victim.connect();
    let garbage = vec![0xff; 100];
    let long = vec![0; 5 << 20];
    for (stream, what, bytes, expected) in [
        (1, "a request that is none", framed(1, &garbage), Code::INVALID_ARGUMENT),
        (3, "a message that is none", frame(3, SERVICE, "State", garbage.clone()), Code::UNKNOWN),
        (5, "an unknown method", frame(5, SERVICE, "Dance", vec![]), Code::UNIMPLEMENTED),
        // Go's server says unimplemented here as well; the library in use does not.
        (
            7,
            "an unknown service",
            frame(7, "no.such.Service", "State", vec![]),
            Code::INVALID_ARGUMENT,
        ),
        (9, "nothing at all", framed(9, &[]), Code::INVALID_ARGUMENT),
        (11, "a container that is not there", frame(11, SERVICE, "State", vec![]), Code::NOT_FOUND),
        (13, "5 MiB", framed(13, &long), Code::INVALID_ARGUMENT),
        (15, "data for no stream", header(0, 15, 3), Code::INVALID_ARGUMENT),
        (17, "a good request", frame(17, SERVICE, "State", victim.state()), Code::OK),
    ] {
        connection.write_all(&bytes).expect("sent");
        let (answered, answer) = answer(&mut connection);
        assert_eq!((answered, code(&answer)), (stream, expected), "{what}: {answer:?}");
    }
    victim.lives("requests that cannot be served");
}

/// Sends requests until there is no more room for them; returns how many were sent whole.
fn send_unread(connection: &mut UnixStream, request: impl Fn(u32) -> Vec<u8>) -> u32 {
    connection.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
    for number in 0..UNREAD {
        let bytes = request(number * 2 + 1);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match connection.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // The rest of this one follows when there is room, so that it can go on.
                    connection.set_write_timeout(None).expect("set");
                    let mut later = connection.try_clone().expect("cloned");
                    let rest = rest.to_vec();
                    thread::spawn(move || later.write_all(&rest));
                    return number + 1;
                }
                Err(error) => panic!("after {number} requests: {error}"),
            }
        }
    }
    UNREAD
}

#[test]
fn answers_that_nobody_reads_stop_their_connection_and_nothing_else() {
    let Some(victim) = Victim::start(Release::V2_1) else { return };
    let before = victim.resident();
    let mut connection = victim.connect();
    let payload = victim.state();
    let sent =
        send_unread(&mut connection, |stream| frame(stream, SERVICE, "State", payload.clone()));
    assert!(sent < UNREAD, "the shim took all {sent} requests, and nobody read an answer");
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < ALLOWANCE, "{sent} unread answers cost {grown} KiB");
    victim.lives("unread answers");
    // Whoever begins to read after all is told everything.
    let mut answered: Vec<u32> = (0..sent).map(|_| answer(&mut connection).0).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..sent).map(|number| number * 2 + 1).collect::<Vec<_>>());
    victim.lives("answers read late");
}

#[test]
fn waits_are_bounded_and_keep_no_other_request_from_its_answer() {
    let Some(victim) = Victim::start(Release::V2_1) else { return };
    let before = victim.resident();
    let mut connection = victim.connect();
    let mut reader = connection.try_clone().expect("cloned");
    let payload = victim.wait();
    const WAITS: u32 = 20_000;
    let refused = thread::spawn(move || {
        let mut refused = 0;
        loop {
            let (stream, answer) = answer(&mut reader);
            if stream == WAITS * 2 + 1 {
                return (refused, code(&answer));
            }
            assert_eq!(code(&answer), Code::RESOURCE_EXHAUSTED, "{answer:?}");
            refused += 1;
        }
    });
    for number in 0..WAITS {
        send(&mut connection, number * 2 + 1, "Wait", payload.clone());
    }
    send(&mut connection, WAITS * 2 + 1, "State", victim.state());
    let (refused, state) = refused.join().expect("a reader");
    assert_eq!(state, Code::OK, "among waits another request is answered");
    assert!((1..WAITS - 4000).contains(&refused), "{refused} of {WAITS} are refused");
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < 2 * ALLOWANCE, "{WAITS} waits cost {grown} KiB");
    victim.lives("many waits");
    // Those that stood go with their connection.
    drop(connection);
    must(host::eventually("there is room for waits again", PATIENCE, || {
        let mut newcomer = victim.connect();
        let request = Request {
            service: SERVICE.to_owned(),
            method: "Wait".to_owned(),
            payload: victim.wait(),
            timeout_nano: 100_000_000,
            ..Default::default()
        };
        let bytes = framed(1, &request.write_to_bytes().expect("encoded"));
        newcomer.write_all(&bytes).expect("sent");
        Ok(code(&answer(&mut newcomer).1) == Code::DEADLINE_EXCEEDED)
    }));
}

/// Lets this process hold as many descriptors as it may.
fn allow_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raised");
}

fn many_connections(first_bytes: &[u8], what: &str) {
    let Some(victim) = Victim::start(Release::V1_7) else { return };
    allow_descriptors();
    let before = victim.resident();
    // One that has asked for something keeps its place.
    let mut known = victim.connect();
    send(&mut known, 1, "State", victim.state());
    assert_eq!(code(&answer(&mut known).1), Code::OK);
    let held: Vec<UnixStream> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = victim.connect();
            // Those before it may have been closed, and so may this one soon.
            drop(connection.write_all(first_bytes));
            connection
        })
        .collect();
    victim.lives(what);
    let descriptors = must(host::descriptors(victim.server)).len();
    assert!(descriptors < ROOMS + 64, "{what}: {descriptors} descriptors");
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < ALLOWANCE, "{what} cost {grown} KiB");
    send(&mut known, 3, "State", victim.state());
    assert_eq!(code(&answer(&mut known).1), Code::OK, "{what} displaced another");
    drop(held);
    victim.lives("the end of them");
    victim.lab.still_runs();
}

#[test]
fn a_thousand_silent_connections_keep_nobody_out() {
    many_connections(&[], "a thousand silent connections");
}

#[test]
fn a_thousand_promises_of_four_mebibytes_cost_nothing() {
    let mut promise = header(4 << 20, 1, REQUEST);
    promise.extend([0; 1000]);
    many_connections(&promise, "a thousand promises");
}
