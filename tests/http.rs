//! Components that answer HTTP requests: where they listen, how they answer, what goes wrong, how they end.
//!
//! Each server is in a network namespace of its own and is asked from within. On real containerd daemons; needs root,
//! and the network once, to fetch them and the compiler of the component.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use end_to_end::host;
use end_to_end::lab::{LAYERED, Lab, assert_refused, lab};
use testkit::catalogue;
use testkit::containerd::{Release, Run};
use testkit::image::Archive;
use testkit::language::ServerLanguage;

#[path = "http/client.rs"]
mod client;
#[path = "http/server.rs"]
mod server;

use client::Client;
use server::{LONG, Server};

const USUAL: &str = "127.0.0.1:8080";

fn image(lab: &Lab) -> Archive {
    lab.image(ServerLanguage::Rust.image())
}

fn serve<'lab>(lab: &'lab Lab, change: impl FnOnce(Run) -> Run) -> Result<Server<'lab>> {
    Server::start(lab, &image(lab), USUAL, change)
}

#[test]
fn a_component_answers_and_ends_with_code_0() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let server = serve(&lab, |run| run.env("A", "1"))?;
        let mut client = server.connect()?;
        let hello = client.get("/")?;
        assert_eq!((hello.status, hello.text().as_str()), (200, "hello from Rust\n"));
        assert!(client.get("/env")?.text().lines().any(|line| line == "A=1"));
        assert_eq!(client.get("/nowhere")?.status, 404);
        for _ in 0..3 {
            assert_eq!(client.get("/count")?.text(), "1\n", "each request has its own instance");
        }
        let head = client.ask("HEAD", "/", &[])?;
        assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "16"));
        assert_eq!(client.get("/log")?.text(), "logged\n", "after HEAD the connection is in step");
        let output = server.end()?;
        assert_eq!(output.status, Some(0), "{}", output.report());
        assert_eq!(output.stdout, "a line to stdout\n", "{}", output.report());
        assert_eq!(output.stderr, "a line to stderr\n", "{}", output.report());
    }
    Ok(())
}

#[test]
fn http_2_is_spoken_with_who_begins_with_it() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let curl = |flags: &[&str]| {
        let url = [format!("http://{USUAL}/echo")];
        let usual = ["-sS", "-w", "|%{http_version}|%{response_code}", "--data-binary", "ping"];
        server.beside("curl").args(usual).args(flags).args(url).run()?.ok()
    };
    assert_eq!(curl(&["--http2-prior-knowledge"])?.stdout, "ping|2|200");
    assert_eq!(curl(&["--http1.1"])?.stdout, "ping|1.1|200");
    assert_eq!(curl(&["--http1.0"])?.stdout, "ping|1|200");
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}

#[test]
fn bodies_stream_both_ways_at_once() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let mut client = server.connect()?;
    client.send_head("POST", "/echo", &[("transfer-encoding", "chunked")])?;
    client.send_chunk(b"first")?;
    assert_eq!(client.read_head()?.status, 200, "while the request is still being sent");
    assert_eq!(client.read_chunk()?.as_deref(), Some(&b"first"[..]));
    client.send_chunk(b"second")?;
    assert_eq!(client.read_chunk()?.as_deref(), Some(&b"second"[..]));
    client.send(b"0\r\n\r\n")?;
    assert_eq!(client.read_chunk()?, None);

    let continued = [("expect", "100-continue"), ("content-length", "4")];
    client.send_head("POST", "/echo", &continued)?;
    assert_eq!(client.read_head()?.status, 100);
    client.send(b"body")?;
    assert_eq!(client.read_answer("POST")?.text(), "body");

    // Far more than is kept anywhere on the way.
    let before = host::status(server.pid, "VmRSS")?;
    let (sent, length) = (vec![b'x'; 1 << 20], 64);
    let mut dialled = server.dialler().connect()?;
    let mut reader = Client::new(dialled.try_clone()?);
    let writer = thread::spawn(move || -> Result<()> {
        let size = sent.len() * length;
        write!(dialled, "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n")?;
        (0..length).try_for_each(|_| dialled.write_all(&sent))?;
        Ok(())
    });
    let answer = reader.read_answer("POST")?;
    writer.join().expect("no panic")?;
    assert_eq!(answer.body.len(), 64 << 20);
    let grown = kib(&host::status(server.pid, "VmRSS")?)?.saturating_sub(kib(&before)?);
    assert!(grown < 24 << 10, "the server has grown by {grown} KiB");
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}

/// Reads a size of /proc/PID/status.
fn kib(text: &str) -> Result<u64> {
    text.split_whitespace().next().context("nothing")?.parse().context("no number")
}

#[test]
fn the_address_is_the_annotations_or_the_ports_or_the_usual_one() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let image = image(&lab);
    let address = "com.wasm.http.address";
    type Change = fn(Run) -> Run;
    let table: [(&str, Change); 5] = [
        ("127.0.0.1:80", |run| run.env("PORT", "80")),
        ("127.0.0.1:81", |run| {
            run.env("PORT", "80").annotation("com.wasm.http.address", "0.0.0.0:81")
        }),
        ("127.0.0.1:82", |run| run.annotation("com.wasm.http.address", "127.0.0.1:82")),
        ("127.0.0.1:83", |run| run.annotation("com.wasm.http.address", "[::]:83")),
        ("[::1]:84", |run| run.annotation("com.wasm.http.address", "[::]:84")),
    ];
    for (expected, change) in table {
        let server = Server::start(&lab, &image, expected, change)?;
        assert_eq!(server.connect()?.get("/")?.status, 200, "{expected}");
        assert_eq!(server.end()?.status, Some(0));
    }
    let refused = |change: Change, words: &[&str]| -> Result<()> {
        let output = change(lab.start(&image, "refused")).timeout(LONG).output()?;
        assert_refused(&output, words.iter().copied());
        Ok(())
    };
    refused(|run| run.env("PORT", "http"), &["PORT of process.env is \"http\"", "1 and 65535"])?;
    refused(
        |run| run.annotation("com.wasm.http.address", "8080"),
        &[address, "of the pod is \"8080\"", "0.0.0.0:8080"],
    )
}

#[test]
fn an_address_that_is_taken_fails_the_create() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let same = format!("network:/proc/{}/ns/net", server.pid);
    let second = lab.start(&image(&lab), "second").flags(["--with-ns", &same]);
    let output = second.clone().timeout(LONG).output()?;
    assert_refused(&output, ["cannot listen on 0.0.0.0:8080", "Address already in use"]);
    let elsewhere = second.env("PORT", "8081").timeout(LONG).spawn()?;
    host::eventually("the other answers", LONG, || {
        let asked = server.beside("curl").args(["-s", "http://127.0.0.1:8081/"]).run()?;
        Ok(asked.stdout == "hello from Rust\n")
    })?;
    drop(elsewhere);
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}

#[test]
fn a_trap_is_an_answer_and_one_line() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let mut client = server.connect()?;
    for _ in 0..2 {
        assert_eq!(client.get("/trap?secret=1")?.status, 500);
        assert_eq!(client.get("/")?.status, 200, "the server lives, and the connection too");
    }
    let fetched = client.get("/fetch?to=127.0.0.1:8080")?.text();
    assert!(fetched.contains("HttpRequestDenied"), "{fetched}");
    let output = server.end()?;
    assert_eq!(output.status, Some(0), "{}", output.report());
    let lines: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("GET /")).collect();
    assert_eq!(lines.len(), 2, "{}", output.report());
    for line in lines {
        assert!(line.starts_with("GET /trap: wasm trap: wasm `unreachable`"), "{line}");
        assert!(line.contains(", in ") && !line.contains("secret"), "{line}");
    }
    Ok(())
}

#[test]
fn a_request_has_a_deadline() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run.annotation("com.wasm.http.deadline", "400ms"))?;
    for target in ["/loop", "/sleep?ms=60000"] {
        let began = Instant::now();
        assert_eq!(server.connect()?.get(target)?.status, 504, "{target}");
        let took = began.elapsed();
        let expected = Duration::from_millis(350)..Duration::from_secs(3);
        assert!(expected.contains(&took), "{target}: {took:?}");
    }
    // An answer that has begun cannot become another one: it breaks off.
    let mut client = server.connect()?;
    client.send_head("POST", "/echo", &[("transfer-encoding", "chunked")])?;
    client.send_chunk(b"x")?;
    assert_eq!(client.read_head()?.status, 200);
    client.read_chunk()?;
    assert!(client.read_chunk().is_err(), "no one may take this for a whole answer");
    assert_eq!(server.connect()?.get("/sleep?ms=10")?.status, 200, "in time");
    let output = server.end()?;
    let lines = output.stderr.lines().filter(|line| line.contains("not done within 400ms"));
    assert_eq!(lines.count(), 3, "{}", output.report());
    Ok(())
}

#[test]
fn who_finds_the_queue_full_is_told_to_come_back() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| {
        run.annotation("com.wasm.http.concurrency", "1").annotation("com.wasm.http.queue", "1")
    })?;
    let asked = |ms: u32| -> Result<Client> {
        let mut client = server.connect()?;
        client.send_head("GET", &format!("/sleep?ms={ms}"), &[])?;
        thread::sleep(Duration::from_millis(150));
        Ok(client)
    };
    let (mut running, mut waiting) = (asked(1500)?, asked(1)?);
    let mut refused = asked(1)?;
    let answer = refused.read_answer("GET")?;
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "1"));
    assert_eq!(running.read_answer("GET")?.status, 200);
    assert_eq!(waiting.read_answer("GET")?.status, 200, "who waited has had its turn");
    assert_eq!(refused.get("/")?.status, 200);
    // Who goes away leaves its place to others.
    for _ in 0..3 {
        let gone = asked(60_000)?;
        drop(gone);
    }
    assert_eq!(server.connect()?.get("/")?.status, 200);
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}

#[test]
fn an_instance_answers_as_often_as_it_may() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run.annotation("com.wasm.http.reuse", "3"))?;
    let mut client = server.connect()?;
    let counts = (0..7).map(|_| client.get("/count").map(|answer| answer.text()));
    let counts = counts.collect::<Result<Vec<_>>>()?.concat();
    assert_eq!(counts, "1\n2\n3\n1\n2\n3\n1\n");
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}

#[test]
fn headers_are_bounded() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let before = kib(&host::status(server.pid, "VmRSS")?)?;
    let lines = |count: usize| (0..count).map(|at| format!("x-{at}: y\r\n")).collect::<String>();
    for header in [lines(100_000), lines(101), format!("x: {}\r\n", "y".repeat(1 << 20))] {
        let mut client = server.connect()?;
        // The server may close before all is sent.
        let _cut = client.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{header}\r\n").as_bytes());
        let status = client.read_head().map(|answer| answer.status);
        assert!(matches!(status, Ok(431) | Err(_)), "{status:?}");
    }
    for request in
        ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "\0\r\n\r\n"]
    {
        let mut client = server.connect()?;
        client.send(request.as_bytes())?;
        assert_eq!(client.read_head()?.status, 400, "{request:?}");
    }
    let grown = kib(&host::status(server.pid, "VmRSS")?)?.saturating_sub(before);
    assert!(grown < 16 << 10, "the server has grown by {grown} KiB");
    let mut client = server.connect()?;
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", lines(90)).as_bytes())?;
    assert_eq!(client.read_answer("GET")?.status, 200);
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}

#[test]
fn a_client_that_says_nothing_is_let_go() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let mut half = server.connect()?;
    half.send(b"GET / HTTP/1.1\r\nho")?;
    let ended = server.connect()?;
    drop(ended);
    assert_eq!(server.connect()?.get("/")?.status, 200, "nobody else waits for it");
    let began = Instant::now();
    let output = server.end()?;
    assert_eq!(output.status, Some(0), "{}", output.report());
    assert!(began.elapsed() < Duration::from_secs(5), "half a request does not delay the end");
    assert!(half.is_closed());
    Ok(())
}

#[test]
fn the_end_loses_no_request_that_was_let_in() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        let server = serve(&lab, |run| run)?;
        let (answered, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ended = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..16)
            .map(|number| {
                let (answered, lost, ended) = (answered.clone(), lost.clone(), ended.clone());
                let (dialler, keeps) = (server.dialler(), number % 2 == 0);
                thread::spawn(move || -> Result<()> {
                    dialler.enter()?;
                    loop {
                        // Once the server ends nobody is let in, which is no loss.
                        let stream = match dialler.connect_inside() {
                            Ok(stream) => stream,
                            Err(_) if ended.load(Ordering::SeqCst) => return Ok(()),
                            Err(error) => return Err(error.context("before the end")),
                        };
                        let mut client = Client::new(stream);
                        loop {
                            let answer = client.get("/sleep?ms=20");
                            match answer {
                                Ok(answer) if answer.status == 200 => {
                                    answered.fetch_add(1, Ordering::SeqCst);
                                    if !keeps || answer.closes() {
                                        break;
                                    }
                                }
                                other => {
                                    eprintln!("lost: {other:?}");
                                    lost.fetch_add(1, Ordering::SeqCst);
                                    break;
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(1500));
        let before = answered.load(Ordering::SeqCst);
        ended.store(true, Ordering::SeqCst);
        let began = Instant::now();
        server.signal("SIGTERM")?;
        for client in clients {
            client.join().expect("no panic")?;
        }
        let output = server.ended()?;
        assert_eq!(output.status, Some(0), "{}", output.report());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let (answered, lost) = (answered.load(Ordering::SeqCst), lost.load(Ordering::SeqCst));
        eprintln!(
            "{release}: {answered} answered, {} after the signal; {lost} lost",
            answered - before
        );
        assert!(before > 50 && answered > before, "{before} of {answered}");
        assert_eq!(lost, 0);
        assert_eq!(output.stderr, "", "{}", output.report());
    }
    Ok(())
}

#[test]
fn what_runs_has_the_time_of_grace_and_no_more() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let ask = |server: &Server<'_>, target: &str| -> Result<Client> {
        let mut client = server.connect()?;
        client.send_head("GET", target, &[])?;
        thread::sleep(Duration::from_millis(100));
        Ok(client)
    };
    let server = serve(&lab, |run| run)?;
    let mut client = ask(&server, "/sleep?ms=2000")?;
    server.signal("SIGTERM")?;
    let answer = client.read_answer("GET")?;
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    assert_eq!(server.ended()?.status, Some(0));

    let server = serve(&lab, |run| run.annotation("com.wasm.http.grace", "1s"))?;
    let _cut = ask(&server, "/sleep?ms=60000")?;
    let began = Instant::now();
    let output = server.end()?;
    assert_eq!(output.status, Some(143), "{}", output.report());
    assert!(output.stderr.contains("com.wasm.http.grace"), "{}", output.report());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let server = serve(&lab, |run| run)?;
    let _cut = ask(&server, "/sleep?ms=60000")?;
    server.signal("SIGINT")?;
    thread::sleep(Duration::from_millis(300));
    assert!(host::alive(server.pid), "one signal asks");
    server.signal("SIGINT")?;
    assert_eq!(server.ended()?.status, Some(130), "two insist");
    Ok(())
}

#[test]
fn an_http_2_connection_is_ended_by_agreement() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let url = format!("http://{USUAL}/sleep?ms=1500");
    let asked = server.beside("curl").args(["-sS", "--http2-prior-knowledge", &url]).spawn()?;
    thread::sleep(Duration::from_millis(500));
    server.signal("SIGTERM")?;
    let answer = asked.finish()?.ok()?;
    assert_eq!(answer.stdout, "slept 1500 ms\n");
    assert_eq!(server.ended()?.status, Some(0));
    Ok(())
}

#[test]
fn the_world_is_told_by_exports_and_the_annotation_must_fit() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let (image, hello) = (image(&lab), lab.image(catalogue::hello_wasm()));
    let world = "com.wasm.wit.world";
    let server =
        Server::start(&lab, &image, USUAL, |run| run.annotation(world, "wasi:http/proxy@0.2.0"))?;
    assert_eq!(server.connect()?.get("/")?.status, 200);
    assert_eq!(server.end()?.status, Some(0));
    let refused = |image, asked, words: &[&str]| -> Result<()> {
        let output = lab.start(image, "world").annotation(world, asked).timeout(LONG).output()?;
        assert_refused(&output, words.iter().copied());
        Ok(())
    };
    refused(&image, "command", &[world, "a command", "wasi:http/incoming-handler@0.2"])?;
    refused(&hello, "http-server", &[world, "an HTTP server", "_start"])?;
    refused(&image, "http-servr", &[world, "\"http-servr\"", "expected http-server, command"])?;
    let runs = lab.start(&hello, "command").annotation(world, "command").output()?;
    assert_eq!(runs.status, Some(0), "{}", runs.report());
    Ok(())
}

#[test]
fn a_server_has_no_second_one_added_to_it() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let server = serve(&lab, |run| run)?;
    let again = ["tasks", "exec", "--exec-id", "again", &server.id, "/server-rust.wasm"];
    let output = lab.ctr(again)?;
    assert!(!output.success() && output.stderr.contains("not a command"), "{}", output.report());
    let mut client = server.connect()?;
    assert_eq!(client.get("/")?.status, 200);
    assert_eq!(server.end()?.status, Some(0));
    Ok(())
}
