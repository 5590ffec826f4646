//! An HTTP server answers the same in every language it is written in.
//!
//! Each server is in a network namespace of its own, and is asked from within that. On real containerd daemons; needs
//! root, and the network once, to fetch them and the languages' compilers.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use end_to_end::lab::{self, LAYERED, Lab, must, on_each};
use nix::sched::{CloneFlags, setns};
use testkit::command::{Invocation, Output, Running};
use testkit::language::ServerLanguage;

/// A component with a whole language in it takes seconds to compile, once; longer while other tests run.
const PATIENCE: Duration = Duration::from_secs(240);
/// Where a server listens that is told nothing.
const PORT: u16 = 8080;

/// A server in a container.
struct Server<'lab> {
    lab: &'lab Lab,
    language: ServerLanguage,
    id: String,
    client: Running,
    pid: i32,
}

fn in_every_language(check: impl Fn(Server<'_>)) {
    on_each(&LAYERED, |lab| {
        for language in ServerLanguage::ALL {
            check(must(Server::start(lab, language)));
        }
    });
}

impl<'lab> Server<'lab> {
    /// Starts a server and waits until it can be connected to, which it can as soon as it is ready.
    fn start(lab: &'lab Lab, language: ServerLanguage) -> Result<Self> {
        let id = lab.unique("server");
        let image = lab.image(language.image());
        let run = lab.run(&image, &id).env("GREETING", "hé llo=1").timeout(PATIENCE);
        let client = run.spawn()?;
        lab.wait_for_status(&id, "RUNNING", PATIENCE)?;
        let pid = lab.task_pid(&id)?;
        Invocation::new("nsenter")
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .args(["ip", "link", "set", "lo", "up"])
            .run()?
            .ok()?;
        let server = Self { lab, language, id, client, pid };
        let deadline = Instant::now() + PATIENCE;
        while server.connect().is_err() {
            if Instant::now() > deadline {
                bail!("{language:?} does not listen: {}", server.client.stderr_so_far());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Connects from within the server's network namespace, which only the thread that does so enters.
    fn connect(&self) -> Result<TcpStream> {
        let pid = self.pid;
        let connecting = thread::spawn(move || {
            setns(File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            stream.set_read_timeout(Some(lab::PATIENCE))?;
            anyhow::Ok(stream)
        });
        connecting.join().expect("it does not panic")
    }

    /// Sends a request and returns the status and the body of the answer.
    #[track_caller]
    fn asked(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        must(self.ask(method, path, body).with_context(|| format!("{:?} {path}", self.language)))
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = self.connect()?;
        // To the older version the body comes as it is, and ends with the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
        let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Asks the server to end, and returns what it has written.
    #[track_caller]
    fn ended(self) -> Output {
        must(self.lab.ctr(["task", "kill", "--signal", "SIGTERM", &self.id]).and_then(Output::ok));
        must(self.client.finish())
    }
}

#[test]

fn a_server_answers_every_path() {
    in_every_language(|server| {
        let greeting = format!("hello from {}\n", server.language.name());
        assert_eq!(server.asked("GET", "/", ""), (200, greeting));
        let (status, environment) = server.asked("GET", "/env", "");
        assert_eq!(status, 200);
        assert!(environment.lines().any(|line| line == "GREETING=hé llo=1"), "{environment}");
        let before = Instant::now();
        assert_eq!(server.asked("GET", "/sleep?ms=300", ""), (200, "slept 300 ms\n".to_owned()));
        assert!(before.elapsed() >= Duration::from_millis(300));
        assert_eq!(server.asked("GET", "/sleep", "").0, 400);
        assert_eq!(server.asked("GET", "/missing", "").0, 404);
        let text = "a body, öfter ".repeat(20_000);
        assert_eq!(server.asked("POST", "/echo", &text), (200, text));
        assert_eq!(server.ended().status, Some(0));
    });
}

#[test]

fn a_server_sends_a_body_back_while_the_request_is_still_being_sent() {
    in_every_language(|server| {
        let mut stream = must(server.connect());
        let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        must(stream.write_all(head.as_bytes()).map_err(Into::into));
        for part in ["the first part", "the second part"] {
            let chunk = format!("{:x}\r\n{part}\r\n", part.len());
            must(stream.write_all(chunk.as_bytes()).map_err(Into::into));
            must(read_until(&mut stream, part));
        }
        must(stream.write_all(b"0\r\n\r\n").map_err(Into::into));
        must(read_until(&mut stream, "0\r\n\r\n"));
        assert_eq!(server.ended().status, Some(0));
    });
}

fn read_until(stream: &mut TcpStream, wanted: &str) -> Result<()> {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let mut byte = [0];
        stream.read_exact(&mut byte).with_context(|| {
            format!("waiting for {wanted:?} behind {:?}", String::from_utf8_lossy(&seen))
        })?;
        seen.extend(byte);
    }
    Ok(())
}

#[test]

fn a_server_outlives_a_handler_that_fails_and_its_lines_are_the_containers() {
    in_every_language(|server| {
        assert_eq!(server.asked("GET", "/trap", "").0, 500);
        assert_eq!(server.asked("GET", "/log", ""), (200, "logged\n".to_owned()));
        let output = server.ended();
        assert_eq!(output.status, Some(0), "{}", output.report());
        assert!(output.lines().contains(&"a line to stdout"), "{}", output.report());
        assert!(output.stderr.contains("a line to stderr"), "{}", output.report());
        assert!(output.stderr.contains("asked to "), "{}", output.report());
    });
}
