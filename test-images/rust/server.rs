//! An HTTP server as a component: exports `wasi:http/incoming-handler`, and answers each path with one behaviour.
//!
//! `/` greets, `/echo` streams the request's body back, `/env` prints the environment, `/count` tells how many requests
//! this instance has had, `/log` writes a line to each standard stream, `/sleep?ms=N` waits, `/trap` traps, `/loop` never
//! ends, `/fetch?to=HOST:PORT` asks another server.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
    Scheme,
};

/// How much of a body is on its way through at a time.
const CHUNK: usize = 64 * 1024;

static REQUESTS: AtomicU32 = AtomicU32::new(0);

struct Server;

wasip2::http::proxy::export!(Server);

impl wasip2::exports::http::incoming_handler::Guest for Server {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => text(answer, 200, "hello from Rust\n"),
            "/echo" => echo(&request, answer),
            "/env" => text(answer, 200, &environment()),
            "/count" => text(answer, 200, &format!("{count}\n")),
            "/log" => {
                println!("a line to stdout");
                eprintln!("a line to stderr");
                text(answer, 200, "logged\n");
            }
            "/sleep" => match parameter(query, "ms").and_then(|ms| ms.parse().ok()) {
                Some(ms) => {
                    thread::sleep(Duration::from_millis(ms));
                    text(answer, 200, &format!("slept {ms} ms\n"));
                }
                None => text(answer, 400, "say how long: /sleep?ms=N\n"),
            },
            "/trap" => panic!("asked to trap"),
            "/loop" => loop {
                std::hint::spin_loop();
            },
            "/fetch" => match parameter(query, "to") {
                Some(authority) => text(answer, 200, &fetch(authority)),
                None => text(answer, 400, "say whom to ask: /fetch?to=HOST:PORT\n"),
            },
            _ => text(answer, 404, "no such path\n"),
        }
    }
}

/// Sends a whole answer whose length is known.
fn text(answer: ResponseOutparam, status: u16, text: &str) {
    let length = text.len().to_string().into_bytes();
    let headers = [
        ("content-type".to_owned(), b"text/plain".to_vec()),
        ("content-length".to_owned(), length),
    ];
    let response = OutgoingResponse::new(Fields::from_list(&headers).expect("valid headers"));
    response.set_status_code(status).expect("a valid status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(answer, Ok(response));
    // A client that has gone away is no fault of this program: the answer just ends.
    if body.write().expect("the stream is taken once").write_all(text.as_bytes()).is_ok() {
        drop(OutgoingBody::finish(body, None));
    }
}

/// Sends each part of the request's body back as soon as it is here. A body that breaks off leaves the answer
/// unfinished, which the client is told as an error.
fn echo(request: &IncomingRequest, answer: ResponseOutparam) {
    let incoming = request.consume().expect("the body is taken once");
    let mut input = incoming.stream().expect("the stream is taken once");
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(answer, Ok(response));
    let mut output = body.write().expect("the stream is taken once");
    let copied = copy(&mut input, &mut output);
    drop(output);
    if copied.is_ok() {
        drop(OutgoingBody::finish(body, None));
    }
}

fn copy(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut part = vec![0; CHUNK];
    loop {
        match input.read(&mut part)? {
            0 => return Ok(()),
            length => output.write_all(&part[..length])?,
        }
        output.flush()?;
    }
}

fn environment() -> String {
    std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Asks another server for its root, and tells what came of it.
fn fetch(authority: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    let prepared = request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some("/")));
    if prepared.is_err() {
        return format!("no such authority: {authority}\n");
    }
    let pending = match outgoing_handler::handle(request, None) {
        Ok(pending) => pending,
        Err(error) => return format!("refused: {error:?}\n"),
    };
    pending.subscribe().block();
    match pending.get().expect("it is ready").expect("it is asked once") {
        Ok(response) => format!("status {}\n", response.status()),
        Err(error) => format!("failed: {error:?}\n"),
    }
}

/// Finds a parameter of a query; values are taken as they are.
fn parameter<'query>(query: &'query str, name: &str) -> Option<&'query str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name).map(|pair| pair.1)
}
