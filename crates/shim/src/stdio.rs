//! The standard streams of a container's process, between it and what containerd names.
//!
//! The process reads and writes containerd's FIFOs themselves: nothing is copied, and a
//! slow reader slows the writer. The shim holds the reading end of each output open, until
//! the process is deleted: so a reader that goes (containerd restarting) neither
//! ends the process with SIGPIPE nor loses what is in the pipe, even if the
//! process ends meanwhile. It holds no writing end, so that whoever reads sees the
//! end of the output as soon as the process has ended.
//!
//! Of a logging binary's pipes it gets the writing ends ([`logger`]). What passes through a
//! terminal is copied ([`console`]), and so is what goes to a file, which belongs to the
//! host ([`piped`]): all of it is there once the process is deleted. Should the shim die, a
//! process that goes on writing to such a pipe gets SIGPIPE, or EPIPE, as with runc's shim.

mod console;
mod held;
mod logger;
mod passing;
mod piped;
mod sink;
mod target;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use containerd_shim::api::{CreateTaskRequest, ExecProcessRequest};
use sys::stdio::Stdio;

use console::Ends;
use held::{Output, Stdin, Terminal};
use logger::{Bounds, Inputs, Logger, Starting};
use sink::Sink;
use target::{Program, Target};

pub(crate) use held::Held;

/// What a process was given, by containerd's names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Whose streams they are, as a logging binary is told.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// The id of the container or, as runc's shim has it, of the exec.
    pub(crate) id: String,
    pub(crate) namespace: String,
}

/// Why the streams can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The request names what is no such stream.
    #[error("{0}")]
    Refused(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

impl From<&CreateTaskRequest> for Paths {
    fn from(request: &CreateTaskRequest) -> Self {
        Self {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

impl From<&ExecProcessRequest> for Paths {
    fn from(request: &ExecProcessRequest) -> Self {
        Self {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        }
    }
}

impl Paths {
    /// Opens the streams: what the process gets, and what the shim holds. It waits for
    /// nothing but a logging binary, where one is named, and for a file's disk.
    ///
    /// # Errors
    /// Names the path, and says why. Nothing is left open or running then.
    pub(crate) async fn open(&self, owner: &Owner) -> Result<(Stdio, Held), OpenError> {
        let mut held = Held::default();
        let stdin = self.open_stdin(&held)?;
        let outputs = self.open_outputs(owner, &mut held).await?;
        if self.terminal {
            let output = outputs.for_terminal();
            *held.terminal() = Terminal::Awaited(Ends { input: stdin, output });
            return Ok((Stdio::Terminal, held));
        }
        let stdin = match stdin {
            Some(reader) => {
                let context = || format!("cannot open standard input {}", self.stdin);
                sys::waiting::set_blocking(&reader).map_err(|error| explained(error, context))?;
                reader
            }
            None => open_null()?,
        };
        let [stdout, stderr] = outputs.for_streams(&held)?;
        Ok((Stdio::Streams([stdin, stdout, stderr]), held))
    }

    fn open_stdin(&self, held: &Held) -> Result<Option<OwnedFd>, OpenError> {
        if self.stdin.is_empty() {
            return Ok(None);
        }
        let context = || format!("cannot open standard input {}", self.stdin);
        if self.terminal {
            let pair = sys::fifo::open_pair(Path::new(&self.stdin));
            let pair = pair.map_err(|error| explained(error, context))?;
            *held.stdin() = Stdin::KeptOpen { _writer: pair.writer };
            return Ok(Some(pair.reader));
        }
        let open = || {
            let reader = sys::fifo::open_reader_nonblocking(Path::new(&self.stdin))?;
            Ok((reader.try_clone()?, reader))
        };
        let (own, reader) = open().map_err(|error| explained(error, context))?;
        *held.stdin() = Stdin::Arriving(own);
        Ok(Some(reader))
    }

    async fn open_outputs(&self, owner: &Owner, held: &mut Held) -> Result<Outputs, OpenError> {
        let parse = |text| Target::parse(text).map_err(OpenError::Refused);
        let stdout = parse(&self.stdout)?;
        // A terminal has one output, whatever the request says.
        let stderr = if self.terminal { Target::Nowhere } else { parse(&self.stderr)? };
        if let Target::Program(program) = &stdout
            && (stderr == Target::Nowhere || stderr == stdout)
        {
            let (logger, inputs) = start_logger(program, owner).await?;
            held.logger = Some(logger);
            return Ok(Outputs::Logger(inputs));
        }
        if stdout.is_program() || stderr.is_program() {
            return Err(OpenError::Refused(format!(
                "the outputs {:?} and {:?} are refused: a logging binary reads both or none",
                self.stdout, self.stderr
            )));
        }
        let stdout = open_output(&stdout, held).await?;
        Ok(Outputs::Plain([stdout, open_output(&stderr, held).await?]))
    }
}

/// The outputs, as they were opened.
enum Outputs {
    /// Each a FIFO's writing end or a file, or nothing at all.
    Plain([Option<Opened>; 2]),
    Logger(Inputs),
}

enum Opened {
    Pipe(OwnedFd),
    File(PathBuf, File),
}

impl Outputs {
    fn for_terminal(self) -> Sink {
        match self {
            Self::Plain([None, _]) => Sink::Nowhere,
            Self::Plain([Some(Opened::Pipe(writer)), _]) => Sink::Pipe(writer, None),
            Self::Plain([Some(Opened::File(_, file)), _]) => Sink::File(file),
            // It may take the end of either for the end of both.
            Self::Logger(Inputs { stdout, stderr }) => Sink::Pipe(stdout, Some(stderr)),
        }
    }

    fn for_streams(self, held: &Held) -> Result<[OwnedFd; 2], OpenError> {
        let descriptor = |opened| match opened {
            None => open_null(),
            Some(Opened::Pipe(writer)) => Ok(writer),
            Some(Opened::File(path, file)) => held.pipe_to(&path, file).map_err(|error| {
                OpenError::Failed(format!("no pipe for the output {}: {error}", path.display()))
            }),
        };
        match self {
            Self::Plain([stdout, stderr]) => Ok([descriptor(stdout)?, descriptor(stderr)?]),
            Self::Logger(Inputs { stdout, stderr }) => Ok([stdout, stderr]),
        }
    }
}

async fn start_logger(program: &Program, owner: &Owner) -> Result<(Logger, Inputs), OpenError> {
    let (starting, inputs) = Starting::launch(program, owner, Bounds::default())?;
    Ok((starting.ready().await?, inputs))
}

async fn open_output(target: &Target, held: &Held) -> Result<Option<Opened>, OpenError> {
    let context = |path: &Path| format!("cannot open the output {}", path.display());
    match target {
        Target::Nowhere => Ok(None),
        Target::Fifo(path) => {
            // With our reader there, opening the writer did not wait for containerd's.
            let pair = sys::fifo::open_pair(path);
            let pair = pair.map_err(|error| explained(error, || context(path)))?;
            held.outputs().push(Output::Running { reader: pair.reader });
            Ok(Some(Opened::Pipe(pair.writer)))
        }
        Target::File(path) => {
            let opened = tokio::task::spawn_blocking({
                let path = path.clone();
                move || open_file(&path)
            });
            let file = opened.await.map_err(io::Error::other).flatten();
            file.map(|file| Some(Opened::File(path.clone(), file)))
                .map_err(|error| explained(error, || context(path)))
        }
        Target::Program(_) => Err(OpenError::Refused("a logging binary reads both or none".into())),
    }
}

/// Opens a regular file that is appended to, and makes it and its folders where they are
/// missing.
fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Neither a FIFO without a reader nor a device is waited for.
    let flags = (nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY).bits();
    let file =
        File::options().append(true).create(true).mode(0o644).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    sys::waiting::set_blocking(&file)?;
    Ok(file)
}

fn open_null() -> Result<OwnedFd, OpenError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map(Into::into)
        .map_err(|error| OpenError::Failed(format!("cannot open /dev/null: {error}")))
}

/// A path of the request's that is missing, or not what it should be, is the request's mistake.
fn explained(error: io::Error, context: impl FnOnce() -> String) -> OpenError {
    let text = format!("{}: {error}", context());
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => OpenError::Refused(text),
        _ => OpenError::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use nix::sys::stat::Mode;
    use sys::terminal::{Size, open_on_host};
    use tokio::time::Duration;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            self.path(name).to_string_lossy().into_owned()
        }

        fn fifo(&self, name: &str) -> String {
            nix::unistd::mkfifo(&self.path(name), Mode::S_IRWXU).expect("a FIFO");
            self.text(name)
        }

        fn script(&self, name: &str, text: &str) -> String {
            std::fs::write(self.path(name), format!("#!/bin/sh\n{text}\n")).expect("written");
            let permissions = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(self.path(name), permissions).expect("executable");
            self.text(name)
        }
    }

    async fn open(paths: &Paths) -> Result<([File; 3], Held), OpenError> {
        let owner = Owner { id: "abc".into(), namespace: "tests".into() };
        match paths.open(&owner).await? {
            (Stdio::Streams(streams), held) => Ok((streams.map(File::from), held)),
            (Stdio::Terminal, _) => panic!("not asked for"),
        }
    }

    /// The descriptors this process itself was started with.
    fn passed_to_every_child() -> Vec<String> {
        let numbers = std::fs::read_dir("/proc/self/fd").expect("descriptors");
        let numbers = numbers.map(|entry| entry.expect("a descriptor").file_name());
        let numbers = numbers.map(|name| name.into_string().expect("a number"));
        let stays = |number: &String| {
            // Another test may close it meanwhile.
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            info.is_ok_and(|info| !info.contains("flags:\t02"))
        };
        numbers.filter(stays).collect()
    }

    fn read(path: &str) -> io::Result<String> {
        let mut text = String::new();
        let reader = sys::fifo::open_reader_nonblocking(Path::new(path)).expect("a reader");
        File::from(reader).read_to_string(&mut text).map(|_| text)
    }

    #[tokio::test]
    async fn output_nobody_has_read_outlives_the_container_until_it_is_deleted() {
        let folder = Folder::new();
        let stdout = folder.fifo("stdout");
        let paths = Paths { stdout: stdout.clone(), ..Paths::default() };

        let ([_, mut output, _], held) = open(&paths).await.expect("opened though nobody reads");
        let mut copy = output.try_clone().expect("the init's");
        copy.write_all(b"last words").expect("room");
        // The reader sees no end while the container lives, and goes.
        assert_eq!(read(&stdout).expect_err("no end").kind(), ErrorKind::WouldBlock);
        output.write_all(b"more").expect("no SIGPIPE");
        drop((copy, output));
        assert_eq!(read(&stdout).expect("the end"), "more");

        let ([_, mut output, _], second) = open(&paths).await.expect("opened");
        output.write_all(b"unread").expect("room");
        drop(output);
        held.finish().await;
        assert_eq!(read(&stdout).expect("the end"), "unread");
        let ([_, mut output, _], third) = open(&paths).await.expect("opened");
        output.write_all(b"lost").expect("room");
        drop(output);
        second.finish().await;
        third.finish().await;
        assert_eq!(read(&stdout).expect("the end"), "");
    }

    #[tokio::test]
    async fn a_reader_that_was_away_at_the_end_reads_what_is_left() {
        let folder = Folder::new();
        let paths = Paths { stdout: folder.fifo("stdout"), ..Paths::default() };
        let ([_, mut output, _], held) = open(&paths).await.expect("opened");
        output.write_all(b"last words").expect("room");
        drop(output);
        held.ended();
        // As containerd opens it: without O_NONBLOCK.
        let late = std::thread::spawn(move || std::fs::read(paths.stdout));
        // It neither waits in vain nor for ever.
        let late = tokio::task::spawn_blocking(|| late.join().expect("joined").expect("read"));
        assert_eq!(late.await.expect("no panic"), b"last words");
        held.finish().await;
    }

    #[tokio::test]
    async fn input_ends_when_both_the_client_and_the_shim_have_closed_it() {
        let folder = Folder::new();
        let paths = Paths { stdin: folder.fifo("stdin"), ..Paths::default() };
        let ([mut input, ..], held) = open(&paths).await.expect("opened though nobody writes");
        held.keep_stdin();
        for words in ["one", "two"] {
            let mut client = File::options().write(true).open(&paths.stdin).expect("a client");
            client.write_all(words.as_bytes()).expect("room");
            let mut got = [0; 3];
            input.read_exact(&mut got).expect("read");
            assert_eq!(got, words.as_bytes());
        }
        let end = std::thread::spawn(move || input.read(&mut [0]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!end.is_finished(), "a client that goes is not the end");
        held.close_stdin();
        assert_eq!(end.join().expect("joined").expect("the end"), 0);
    }

    #[tokio::test]
    async fn what_is_no_stream_is_refused_by_name() {
        let folder = Folder::new();
        std::fs::write(folder.path("file"), "").expect("a file");
        let file = folder.text("file");
        let missing = folder.text("missing");
        let fifo = folder.fifo("fifo");
        let of = |stdin: &str, stdout: &str, stderr: &str| Paths {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
            terminal: false,
        };
        for (paths, named) in [
            (of(&file, "", ""), format!("cannot open standard input {file}: not a fifo")),
            (of("", &file, ""), format!("cannot open the output {file}: not a fifo")),
            (of("", "", &missing), missing.clone()),
            (of(&missing, &fifo, ""), missing.clone()),
            (of("file:///a", "", ""), "file:///a".into()),
            (of("", "ftp:///a", ""), "ftp://".into()),
            (of("", &fifo, "binary:///a"), "binary:///a".into()),
            (of("", "binary:///a", "binary:///b"), "binary:///b".into()),
            (of("", "binary:///a", &fifo), fifo.clone()),
        ] {
            match open(&paths).await.expect_err("refused") {
                OpenError::Refused(text) => assert!(text.contains(&named), "{text}"),
                OpenError::Failed(text) => panic!("{text}"),
            }
        }
        open(&of(&fifo, &fifo, &format!("fifo://{fifo}"))).await.expect("FIFOs are not refused");
    }

    #[tokio::test]
    async fn files_are_made_with_their_folders_and_appended_to_by_both_outputs() {
        let folder = Folder::new();
        let uri = format!("file://{}", folder.text("made/here/log"));
        let paths = Paths { stdout: uri.clone(), stderr: uri, ..Paths::default() };
        for _ in 0..2 {
            let ([_, mut stdout, mut stderr], held) = open(&paths).await.expect("opened");
            stdout.write_all(b"out ").expect("written");
            stderr.write_all(b"err ").expect("written");
            stdout.write_all(b"out ").expect("written");
            drop((stdout, stderr));
            held.finish().await;
        }
        let path = folder.path("made/here/log");
        let text = std::fs::read_to_string(&path).expect("the log");
        let mut words: Vec<&str> = text.split_whitespace().collect();
        words.sort_unstable();
        assert_eq!(words, ["err", "err", "out", "out", "out", "out"], "{text}");
        let mode = std::fs::metadata(&path).expect("the log").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);

        // Something else than a file there is an error, and nothing is waited for.
        let fifo = folder.fifo("fifo");
        let read = folder.fifo("read");
        let _reader = sys::fifo::open_reader_nonblocking(Path::new(&read)).expect("a reader");
        for path in [fifo, read, "/dev/full".into(), folder.text("made")] {
            let paths = Paths { stdout: format!("file://{path}"), ..Paths::default() };
            let error = open(&paths).await.expect_err("failed").to_string();
            assert!(error.contains(&path), "{error}");
        }
    }

    #[tokio::test]
    async fn a_process_is_not_given_the_file_that_it_writes_to() {
        let folder = Folder::new();
        let path = folder.path("log");
        std::fs::write(&path, "of another\n").expect("a log");
        let uri = format!("file://{}", path.display());
        let paths = Paths { stdout: uri.clone(), stderr: uri, ..Paths::default() };
        let ([_, stdout, stderr], held) = open(&paths).await.expect("opened");
        for mut output in [stdout, stderr] {
            assert!(output.metadata().expect("looked at").file_type().is_fifo());
            output.set_len(0).expect_err("nothing to cut");
            let mode = std::fs::Permissions::from_mode(0o777);
            output.set_permissions(mode).expect("the pipe's own");
            output.write_all(b"line\n").expect("written");
        }
        held.finish().await;
        assert_eq!(std::fs::read_to_string(&path).expect("the log"), "of another\nline\nline\n");
        let mode = std::fs::metadata(&path).expect("the log").permissions().mode();
        assert_eq!(mode & 0o777 & !0o644, 0);
    }

    #[tokio::test]
    async fn a_logging_binary_gets_both_outputs_and_ends_at_their_end() {
        let folder = Folder::new();
        let log = folder.text("log");
        let script = folder.script(
            "logger",
            "echo \"$@\" > $1; env | sort >> $1; ls /proc/self/fd | tr '\\n' ' ' >> $1\n\
             grep SigBlk /proc/self/status >> $1\n\
             echo > /proc/self/fd/5; exec 5>&-\n\
             { sed 's/^/out /' <&3; sed 's/^/err /' <&4; } >> $1",
        );
        let uri = format!("binary-v2://{script}?{log}=1&b=x+y");
        let inherited = passed_to_every_child();
        for stderr in [String::new(), uri.clone()] {
            let paths = Paths { stdout: uri.clone(), stderr, ..Paths::default() };
            let ([_, mut stdout, mut stderr], held) = open(&paths).await.expect("ready");
            stdout.write_all(b"one\n").expect("written");
            stderr.write_all(b"two\n").expect("written");
            drop((stdout, stderr));
            held.finish().await;
            let got = std::fs::read_to_string(&log).expect("the log");
            let (head, rest) = got.split_once('\n').expect("lines");
            assert_eq!(head, format!("{log} 1 b x y"));
            // The shell adds PWD itself.
            let rest: Vec<&str> = rest.lines().filter(|line| !line.starts_with("PWD=")).collect();
            assert_eq!(rest[..2], ["CONTAINER_ID=abc", "CONTAINER_NAMESPACE=tests"]);
            let (descriptors, blocked) = rest[2].split_once("SigBlk:").expect("both");
            // The sixth is what ls reads.
            let mut descriptors: Vec<&str> = descriptors.split_whitespace().collect();
            descriptors.retain(|number| !inherited.iter().any(|other| other == number));
            assert_eq!(descriptors, ["3", "4", "5", "6"]);
            assert_eq!(blocked, "\t0000000000000000");
            assert_eq!(rest[3..], ["out one", "err two"]);
        }
    }

    #[tokio::test]
    async fn a_terminal_is_passed_on_to_a_logging_binary() {
        let folder = Folder::new();
        let log = folder.text("log");
        let script = folder.script("logger", "exec 5>&-; cat <&3 > $1; cat <&4 >> $1");
        let stdout = format!("binary://{script}?{log}");
        let paths = Paths { stdout, terminal: true, ..Paths::default() };
        let owner = Owner { id: "abc".into(), namespace: "tests".into() };
        let (stdio, held) = paths.open(&owner).await.expect("ready");
        assert!(matches!(stdio, Stdio::Terminal));
        let terminal = open_on_host().expect("a terminal");
        held.attach(terminal.master).expect("attached");
        held.attach(open_on_host().expect("a terminal").master).expect_err("twice");
        File::from(terminal.slave).write_all(b"hello\n").expect("written");
        held.finish().await;
        assert_eq!(std::fs::read(&log).expect("the log"), b"hello\r\n");
    }

    #[tokio::test]
    async fn a_terminal_s_fifos_are_served_again_and_see_the_end() {
        let folder = Folder::new();
        let (stdin, stdout) = (folder.fifo("stdin"), folder.fifo("stdout"));
        let paths = Paths { stdin, stdout, terminal: true, ..Paths::default() };
        let owner = Owner { id: "abc".into(), namespace: "tests".into() };
        let (_, held) = paths.open(&owner).await.expect("opened though nobody is there");
        let terminal = open_on_host().expect("a terminal");
        held.resize(Size { columns: 80, rows: 24 }).expect("nothing to resize yet");
        held.attach(terminal.master).expect("attached");
        held.resize(Size { columns: 80, rows: 24 }).expect("resized");
        let mut guest = File::from(terminal.slave);
        for words in ["one\n", "two\n"] {
            let (stdin, stdout) = (paths.stdin.clone(), paths.stdout.clone());
            guest = tokio::task::spawn_blocking(move || {
                let mut client = File::options().write(true).open(stdin).expect("a client");
                client.write_all(words.as_bytes()).expect("room");
                let mut got = [0; 4];
                guest.read_exact(&mut got).expect("read");
                assert_eq!(got, words.as_bytes());
                // The echo.
                let mut reader = File::open(stdout).expect("a reader");
                let mut got = [0; 5];
                reader.read_exact(&mut got).expect("read");
                assert_eq!(got, words.replace('\n', "\r\n").as_bytes());
                guest
            })
            .await
            .expect("served");
        }
        guest.write_all(b"bye").expect("written");
        drop(guest);
        held.drained().await;
        let stdout = paths.stdout.clone();
        let left = tokio::task::spawn_blocking(|| std::fs::read(stdout)).await;
        assert_eq!(left.expect("no panic").expect("the end"), b"bye");
        held.finish().await;
    }

    #[tokio::test]
    async fn a_terminal_nobody_reads_does_not_keep_its_container_from_being_deleted() {
        let folder = Folder::new();
        let paths = Paths { stdout: folder.fifo("stdout"), terminal: true, ..Paths::default() };
        let owner = Owner { id: "abc".into(), namespace: "tests".into() };
        let (_, held) = paths.open(&owner).await.expect("opened");
        let terminal = open_on_host().expect("a terminal");
        held.attach(terminal.master).expect("attached");
        let mut guest = File::from(terminal.slave);
        let writer = std::thread::spawn(move || guest.write_all(&[b'x'; 1 << 20]));
        let begun = std::time::Instant::now();
        held.finish().await;
        assert!(begun.elapsed() < Duration::from_secs(4));
        // The copying ends where this runtime lets it: not in a test that stands still.
        let writer = tokio::task::spawn_blocking(|| writer.join()).await.expect("no panic");
        writer.expect("joined").expect_err("hung up");
    }
}
