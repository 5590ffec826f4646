//! The shim's own ends of a process's streams, and how they are let go of.
//!
//! Their order: the terminal is attached once it was made; the process ends; what is left
//! of its output is passed on, also to whoever opens its outputs only now; its outputs, and
//! the logging binary, are let go of.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sys::terminal::Size;
use tokio::sync::watch;

use super::console::{Console, Ends};
use super::logger::Logger;
use super::passing::Passed;
use super::piped::Piped;
use super::sink::Sink;

/// How long the reader of a process that has ended may take nothing of its output before what is
/// left is given up: as long as runc's shim waits, which gives up a slow reader as well.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long all of it may take.
const LONGEST: Duration = Duration::from_secs(10);

/// How often the outputs of a process that has ended are looked at for a reader.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_secs(1);

/// The shim's own ends, held until the process has no more use for them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    stdin: Mutex<Stdin>,
    outputs: Arc<Mutex<Vec<Output>>>,
    terminal: Mutex<Terminal>,
    piped: Mutex<Vec<Piped>>,
    pub(super) logger: Option<Logger>,
    ended: watch::Sender<bool>,
}

/// What the shim has of a process's input.
#[derive(Debug, Default)]
pub(super) enum Stdin {
    /// Nothing, or nothing any more.
    #[default]
    None,
    /// The reading end, until the process is about to run.
    Arriving(OwnedFd),
    /// A writing end, so that the input has no end while clients come and go.
    KeptOpen { _writer: OwnedFd },
}

/// The shim's end of an output that is a FIFO.
#[derive(Debug)]
pub(super) enum Output {
    /// The process writes, and never finds nobody to read it.
    Running { reader: OwnedFd },
    /// It has ended, and nobody has read what is left.
    Ended { writer: OwnedFd },
}

/// What the shim has of a process's terminal.
#[derive(Debug, Default)]
pub(super) enum Terminal {
    #[default]
    None,
    /// It is not made yet.
    Awaited(Ends),
    Attached(Console),
}

impl Held {
    /// Lets the process's reads see the end of its input, once containerd has closed its
    /// end too. A terminal's input ends then; the terminal stays.
    pub(crate) fn close_stdin(&self) {
        *self.stdin() = Stdin::None;
    }

    /// Keeps the input open from now on until it is closed by request. To be called
    /// before the process runs: a client that has written all it had by then and is
    /// gone could tell nobody of the end, for there was no task yet to close it of.
    pub(crate) fn keep_stdin(&self) {
        let mut stdin = self.stdin();
        if let Stdin::Arriving(reader) = &*stdin {
            *stdin = match sys::fifo::keep_open(reader.as_fd()) {
                Ok(Some(_writer)) => Stdin::KeptOpen { _writer },
                Ok(None) => Stdin::None,
                Err(error) => {
                    log::warn!("the end of a client may end an input too early: {error}");
                    Stdin::None
                }
            };
        }
    }

    /// Connects the terminal that was made for the process with its FIFOs.
    ///
    /// # Errors
    /// What the kernel says to a descriptor that can't be waited on.
    pub(crate) fn attach(&self, console: OwnedFd) -> io::Result<()> {
        let mut terminal = self.terminal();
        match std::mem::take(&mut *terminal) {
            Terminal::Awaited(ends) => {
                let console = Console::attach(console, ends, self.ended.subscribe())?;
                *terminal = Terminal::Attached(console);
                Ok(())
            }
            other => {
                *terminal = other;
                Err(io::Error::other("a process has a terminal that was not asked for, or two"))
            }
        }
    }

    /// Starts to copy an output to a file, and returns the writing end of the pipe that the
    /// process is to have instead.
    ///
    /// # Errors
    /// What the kernel says to one pipe more.
    pub(super) fn pipe_to(&self, path: &Path, file: std::fs::File) -> io::Result<OwnedFd> {
        let name = format!("the output to {}", path.display());
        let (piped, writer) = Piped::start(name, Sink::File(file), self.ended.subscribe())?;
        self.piped().push(piped);
        Ok(writer)
    }

    /// Tells the terminal its size; without one there is nothing to tell, as for runc.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn resize(&self, size: Size) -> io::Result<()> {
        match &*self.terminal() {
            Terminal::Attached(console) => console.resize(size),
            Terminal::None | Terminal::Awaited(_) => Ok(()),
        }
    }

    /// Tells that the process has ended: its input is closed, and what is left of
    /// output that is copied is passed on, so that its reader sees the end. To be called
    /// when the end is known, since containerd waits for that before it deletes.
    pub(crate) fn ended(&self) {
        self.close_stdin();
        if self.ended.send_replace(true) {
            return;
        }
        let passed_on = self.passed_on();
        if passed_on.is_none() && leave_to_readers(&self.outputs) {
            return;
        }
        let outputs = Arc::clone(&self.outputs);
        tokio::spawn(async move {
            if let Some(mut passed_on) = passed_on {
                passed_on.all().await;
            }
            let mut pause = LOOK_FIRST;
            // The kernel wakes nobody when a reader comes.
            while !leave_to_readers(&outputs) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_LAST);
            }
        });
    }

    fn passed_on(&self) -> Option<Passed> {
        match &*self.terminal() {
            Terminal::Attached(console) => Some(console.passed_on()),
            Terminal::None | Terminal::Awaited(_) => None,
        }
    }

    /// Waits until all output of the process, which has ended, was passed on, or for a
    /// bounded time if nobody reads it.
    pub(crate) async fn drained(&self) {
        self.ended();
        let mut all: Vec<_> = self.piped().iter().map(Piped::passed_on).collect();
        all.extend(self.passed_on());
        let wait = async {
            for passed_on in &mut all {
                if !passed_on.all_while_it_moves(PATIENCE).await {
                    return false;
                }
            }
            true
        };
        if !tokio::time::timeout(LONGEST, wait).await.unwrap_or(false) {
            log::warn!("an output is not taken in time: what is left of it may be lost");
        }
    }

    /// Lets go of everything, what nobody has read included, and ends the logging
    /// binary; the process has ended. Takes a bounded time.
    pub(crate) async fn finish(&self) {
        self.drained().await;
        *self.terminal() = Terminal::None;
        self.piped().clear();
        self.outputs().clear();
        if let Some(logger) = &self.logger {
            logger.end().await;
        }
    }

    pub(super) fn stdin(&self) -> MutexGuard<'_, Stdin> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outputs(&self) -> MutexGuard<'_, Vec<Output>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piped(&self) -> MutexGuard<'_, Vec<Piped>> {
        self.piped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn terminal(&self) -> MutexGuard<'_, Terminal> {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of the outputs that somebody reads, which then has what is left and the end;
/// keeps the others for whoever opens them next, such as a containerd that was away. Says
/// whether none is left. The process has ended.
///
/// What is left is kept by a writer: one that opens to read would wait for a writer, and
/// containerd gives that up before it asks for anything else. A reader would keep it as
/// well, but could not be told from those that are waited for.
fn leave_to_readers(outputs: &Mutex<Vec<Output>>) -> bool {
    let mut outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
    let left = std::mem::take(&mut *outputs).into_iter().filter_map(|output| {
        output.left_to_reader().unwrap_or_else(|error| {
            log::warn!("what is left of an output is lost: {error}");
            None
        })
    });
    *outputs = left.collect();
    outputs.is_empty()
}

impl Output {
    /// Lets go of it if somebody reads it.
    fn left_to_reader(self) -> io::Result<Option<Self>> {
        let writer = match self {
            Self::Running { reader } => sys::fifo::into_writer(reader)?,
            Self::Ended { writer } => writer,
        };
        let is_read = sys::fifo::has_reader(writer.as_fd())?;
        Ok((!is_read).then_some(Self::Ended { writer }))
    }
}
