//! Finding out why libcontainer failed.
//!
//! Its processes hand each other only the outermost sentence of an error ("failed
//! to prepare rootfs"); the cause goes to its trace events. The worker listens
//! to the errors among those and keeps them in memory that the container's first
//! process, forked from the worker, still shares.

use std::cell::Cell;
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest line kept of one event, in bytes.
const MAX_LINE: usize = 1024;

/// Longest record read back, in bytes.
const MAX_RECORD: u64 = 16 * 1024;

thread_local! {
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// Collects error events until it is dropped.
#[derive(Debug)]
pub(crate) struct Causes {
    record: File,
    _listening: tracing::subscriber::DefaultGuard,
}

impl Causes {
    /// Starts listening in this thread and what is forked from it.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let record = File::from(memfd_create(c"causes", MFdFlags::MFD_CLOEXEC)?);
        let listener = Listener { record: record.try_clone()? };
        Ok(Self { record, _listening: tracing::subscriber::set_default(listener) })
    }

    /// Returns the first error noted, which is the innermost.
    pub(crate) fn first(mut self) -> Option<String> {
        let mut text = String::new();
        self.record.seek(SeekFrom::Start(0)).ok()?;
        (&self.record).take(MAX_RECORD).read_to_string(&mut text).ok()?;
        text.lines().next().map(str::to_owned)
    }
}

/// Stops listening for good, in this process alone: what notes are kept in is
/// about to be closed.
pub(crate) fn silence() {
    WRITING.set(true);
}

#[derive(Debug)]
struct Listener {
    record: File,
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // A value whose Debug itself reports an error must not come back here.
        if WRITING.replace(true) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.finish();
        // The event's own error is on its way to the caller in any case.
        if let Err(error) = (&self.record).write_all(text.as_bytes()) {
            log::debug!("keep the cause of a failure: {error}");
        }
        WRITING.set(false);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn finish(self) -> String {
        let text = match (self.message.is_empty(), self.fields.is_empty()) {
            (_, true) => self.message,
            (true, false) => self.fields,
            (false, false) => format!("{}: {}", self.message, self.fields),
        };
        let mut text = text.replace('\n', " ");
        if text.len() > MAX_LINE {
            let end = (0..=MAX_LINE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        text.push('\n');
        text
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let (out, result) = match field.name() {
            "message" => (&mut self.message, true),
            _ => (&mut self.fields, false),
        };
        let separator = if out.is_empty() { "" } else { ", " };
        let written = if result {
            write!(out, "{separator}{value:?}")
        } else {
            write!(out, "{separator}{}={value:?}", field.name())
        };
        // Writing to a String fails only if the value's own Debug does; then
        // the line is what was written so far.
        if written.is_err() {
            out.push('?');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_error_comes_first_and_lesser_events_do_not_count() {
        let causes = Causes::listen().unwrap();
        tracing::warn!("not this");
        tracing::error!(path = ?"/x", "failed to mount");
        tracing::error!("failed to prepare rootfs");
        assert_eq!(causes.first().as_deref(), Some("failed to mount: path=\"/x\""));
    }

    #[test]
    fn nothing_is_noted_after_the_silence() {
        let causes = Causes::listen().unwrap();
        tracing::error!("heard");
        silence();
        tracing::error!("unheard");
        let mut noted = String::new();
        (&causes.record).seek(SeekFrom::Start(0)).unwrap();
        (&causes.record).read_to_string(&mut noted).unwrap();
        assert_eq!(noted, "heard\n");
    }

    #[test]
    fn without_errors_there_is_no_cause() {
        let causes = Causes::listen().unwrap();
        tracing::info!("all is well");
        assert_eq!(causes.first(), None);
    }
}
