//! A terminal with a person before it: a program runs in tmux, keys are typed, and the screen is read.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{Invocation, Output};

/// What the terminal shows once the program has ended, before its exit code.
const ENDED: &str = "[ended with ";
/// The history is searched too: what a program printed first may have left the screen.
const HISTORY: &str = "-1000";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A terminal in which a program runs. Dropping it closes the terminal, as a person closes a window.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
    line: String,
}

impl Terminal {
    /// Opens a terminal of 80 columns and 24 rows and runs a program in it.
    pub fn run(program: &Invocation) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hybrid-tmux-{}-{number}", std::process::id());
        let terminal = Self { socket: std::env::temp_dir().join(name), line: program.line() };
        let script = format!("{}; echo '{ENDED}'$?']'; exec sleep 1000", program.shell_line());
        let session = ["new-session", "-d", "-s", "main", "-x", "80", "-y", "24", &script];
        terminal
            .tmux(
                ["start-server", ";", "set-option", "-g", "status", "off", ";"]
                    .iter()
                    .chain(&session),
            )
            .context("opening a terminal; `testkit install` brings tmux")?;
        Ok(terminal)
    }

    /// Types a line and the return key.
    pub fn enter(&self, line: &str) -> Result<()> {
        self.tmux(["send-keys", "-t", "main", "-l", line])?;
        self.press("Enter")
    }

    /// Presses a key by tmux's name for it, such as `C-c`.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(["send-keys", "-t", "main", key])?;
        Ok(())
    }

    /// Makes the window larger or smaller.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(["resize-window", "-t", "main", "-x", &columns, "-y", &rows])?;
        Ok(())
    }

    /// Returns the lines shown so far, without the empty ones at the end.
    pub fn screen(&self) -> Result<String> {
        let shown = self.tmux(["capture-pane", "-p", "-J", "-S", HISTORY, "-t", "main"])?;
        Ok(shown.stdout.trim_end().to_owned())
    }

    /// Waits until a line of the screen is this one, the blanks at its end aside.
    pub fn shows(&self, line: &str, patience: Duration) -> Result<()> {
        self.wait(&format!("the line {line:?}"), patience, |screen| {
            screen.lines().any(|shown| shown.trim_end() == line).then_some(())
        })
    }

    /// Waits until the screen holds a text.
    pub fn holds(&self, text: &str, patience: Duration) -> Result<()> {
        self.wait(&format!("{text:?}"), patience, |screen| screen.contains(text).then_some(()))
    }

    /// Waits until the program has the terminal pass all keys on to it: before that, Ctrl-C ends the program itself.
    pub fn passes_keys_on(&self, patience: Duration) -> Result<()> {
        let device = self.tmux(["display-message", "-p", "-t", "main", "#{pane_tty}"])?;
        let deadline = Instant::now() + patience;
        loop {
            let state =
                Invocation::new("stty").args(["-a", "-F", device.stdout.trim()]).run()?.ok()?;
            if state.stdout.contains("-isig") {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("`{}` leaves its terminal as it was: {}", self.line, state.stdout);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the program's end and returns its exit code.
    pub fn code(&self, patience: Duration) -> Result<i32> {
        self.wait("the program's end", patience, |screen| {
            let (_, rest) = screen.rsplit_once(ENDED)?;
            rest.split(']').next()?.parse().ok()
        })
    }

    fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            let screen = self.screen()?;
            if let Some(found) = found(&screen) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                bail!("the terminal of `{}` does not show {what}, but:\n{screen}", self.line);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn tmux(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Result<Output> {
        Invocation::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"])
            .args(args)
            .env("TERM", "xterm")
            .timeout(Duration::from_secs(10))
            .run()?
            .ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A server that is gone needs no end.
        let _ended = self.tmux(["kill-server"]);
        let _removed = std::fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_program_sees_keys_and_the_size_of_its_window() -> Result<()> {
        let terminal = Terminal::run(&Invocation::new("/bin/sh").arg("-i").env("PS1", "ready> "))?;
        terminal.holds("ready>", PATIENCE)?;
        terminal.enter("echo $((40 + 2))")?;
        terminal.shows("42", PATIENCE)?;
        terminal.enter("stty size")?;
        terminal.shows("24 80", PATIENCE)?;
        terminal.resize(100, 30)?;
        terminal.enter("stty size")?;
        terminal.shows("30 100", PATIENCE)?;
        terminal.enter("stty raw; printf keys; head -c 1 >/dev/null; stty sane; echo back")?;
        terminal.holds("keys", PATIENCE)?;
        terminal.passes_keys_on(PATIENCE)?;
        terminal.press("C-c")?;
        terminal.holds("back", PATIENCE)?;
        terminal.enter("exit 3")?;
        assert_eq!(terminal.code(PATIENCE)?, 3);
        Ok(())
    }
}
