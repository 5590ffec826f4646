//! One containerd for all tests of a file.
//!
//! It starts with the first test that asks and ends with the last one that still uses it: a plain `static` would never
//! be dropped, and so leave a daemon running behind the test.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Result;
use testkit::containerd::Daemon;

/// A daemon that is started when needed and shared while it is.
#[derive(Debug)]
pub struct Shared {
    start: fn() -> Result<Daemon>,
    running: Mutex<Weak<Daemon>>,
}

impl Shared {
    /// Describes how to start it: which release, with which images.
    pub const fn new(start: fn() -> Result<Daemon>) -> Self {
        Self { start, running: Mutex::new(Weak::new()) }
    }

    /// Returns the running daemon or starts one; none, with the reason on the standard error, where tests that need a
    /// containerd cannot run.
    pub fn daemon(&self) -> Result<Option<Arc<Daemon>>> {
        // Two tests that ask at once: one starts it, the other waits.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = running.upgrade() {
            return Ok(Some(daemon));
        }
        if !testkit::ready() {
            return Ok(None);
        }
        let daemon = Arc::new((self.start)()?);
        *running = Arc::downgrade(&daemon);
        Ok(Some(daemon))
    }
}
