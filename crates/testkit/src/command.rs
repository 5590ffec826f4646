//! Runs a program to its end, never longer than it may take, and keeps what it said.
//!
//! The program gets a process group of its own, so that a timeout ends it together with what it started in the
//! foreground. Its output is read while it runs: a full pipe never blocks it.

mod running;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use running::Running;

/// How long a program may run when the caller says nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a program did.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; none when a signal or the timeout ended the program.
    pub status: Option<i32>,
    /// The signal that ended the program, if one did.
    pub signal: Option<i32>,
    /// Whether the timeout ended it.
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
    /// The command line, for messages.
    pub line: String,
}

impl Output {
    /// Says whether the program ended by itself with code 0.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// Turns anything but success into an error that shows command line, outcome and both outputs.
    pub fn ok(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        bail!("{}", self.report())
    }

    /// Returns the lines of the standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Describes the run in a few lines, for a failed assertion.
    pub fn report(&self) -> String {
        let outcome = match (self.timed_out, self.status, self.signal) {
            (true, _, _) => format!("was ended after {:.1} s", self.took.as_secs_f32()),
            (false, Some(code), _) => format!("exited with {code}"),
            (false, None, Some(signal)) => format!("was ended by signal {signal}"),
            (false, None, None) => "ended in an unknown way".to_owned(),
        };
        let mut text = format!("`{}` {outcome}", self.line);
        for (name, content) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !content.trim().is_empty() {
                // Writing to a String cannot fail.
                let _infallible = write!(text, "\n{name}: {}", content.trim_end());
            }
        }
        text
    }
}

/// What is written to the program's standard input.
#[derive(Debug, Clone, Default)]
enum Input {
    #[default]
    Nothing,
    Bytes {
        delay: Duration,
        content: Vec<u8>,
    },
}

/// A program that is about to run.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    input: Input,
    timeout: Duration,
    echo: bool,
}

impl Invocation {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            input: Input::Nothing,
            timeout: DEFAULT_TIMEOUT,
            echo: false,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Writes `content` to the program's standard input and closes it; without this, the input is `/dev/null`.
    pub fn stdin(self, content: impl Into<Vec<u8>>) -> Self {
        self.stdin_after(Duration::ZERO, content)
    }

    /// Like [`Self::stdin`], but waits first: `ctr run` loses an end of file that comes before its task exists.
    pub fn stdin_after(mut self, delay: Duration, content: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes { delay, content: content.into() };
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Also shows the program's output on our own standard error while it runs.
    pub fn echo(mut self) -> Self {
        self.echo = true;
        self
    }

    /// Returns the command line as one would type it.
    pub fn line(&self) -> String {
        let mut words = vec![self.program.display().to_string()];
        words.extend(self.args.iter().map(|arg| quoted(arg)));
        words.join(" ")
    }

    /// Returns the command line for a shell, with the variables this sets.
    pub fn shell_line(&self) -> String {
        let mut words = vec!["env".to_owned()];
        for (key, value) in &self.env {
            let mut pair = key.clone();
            pair.push("=");
            pair.push(value);
            words.push(quoted(&pair));
        }
        words.push(self.line());
        words.join(" ")
    }

    /// Starts the program.
    pub fn spawn(self) -> Result<Running> {
        let line = self.line();
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(match self.input {
                Input::Nothing => Stdio::null(),
                Input::Bytes { .. } => Stdio::piped(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting `{line}`"))?;
        if let (Input::Bytes { delay, content }, Some(mut stdin)) = (self.input, child.stdin.take())
        {
            thread::spawn(move || {
                thread::sleep(delay);
                // A program that ends without reading its input is not our error.
                let _closed_early = stdin.write_all(&content);
            });
        }
        Running::follow(child, line, started, self.timeout, self.echo)
    }

    /// Runs the program to its end. A failing program is an [`Output`], not an error.
    pub fn run(self) -> Result<Output> {
        let timeout = self.timeout;
        self.spawn()?.wait(timeout)
    }
}

fn quoted(arg: &OsStr) -> String {
    let text = arg.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_are_kept() {
        let output = Invocation::new("/bin/sh")
            .args(["-c", "cat; echo oops >&2; exit 3"])
            .stdin("hello")
            .run()
            .unwrap();
        assert_eq!(output.status, Some(3));
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("hello", "oops\n"));
        assert!(output.ok().unwrap_err().to_string().contains("exited with 3"));
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_what_it_started() {
        let output = Invocation::new("/bin/sh")
            .args(["-c", "sleep 100 & echo started; wait"])
            .timeout(Duration::from_millis(300))
            .run()
            .unwrap();
        assert!(output.timed_out);
        assert_eq!(output.stdout, "started\n");
        assert!(output.took < Duration::from_secs(5));
    }

    #[test]
    fn a_line_can_be_typed_again() {
        let line = Invocation::new("ctr").args(["run", "it's", ""]).line();
        assert_eq!(line, r"ctr run 'it'\''s' ''");
    }
}
