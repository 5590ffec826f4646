//! The end of a guest's time, by the clock on the wall.
//!
//! ```text
//! guest's thread                       the watch
//! --------------                       ---------
//! computes or waits                    sleeps until the deadline
//! computes: traps at its next check <- one tick of the engine's epoch
//! waits in the host                    a moment later ends the process, if it is still there
//! ```
//!
//! A guest that waits in a call of the host never comes to its next check, so the watch does both.
//! Time in which the container was paused counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmtime::error::Context as _;

use crate::command::Guest;
use crate::engine::Interruption;
use crate::module::Prepared;
use crate::outcome::{TRAPPED, overdue};
use crate::stdio::Output;

/// How long a guest that computes may take to meet its next check, print its backtrace and end.
const TO_TRAP: Duration = Duration::from_millis(250);

/// The thread needs next to nothing.
const STACK: usize = 64 << 10;

/// Watches over a guest, if it has a deadline.
pub(crate) struct Watch {
    /// Set by whoever is first to say how the guest has ended.
    ended: Arc<AtomicBool>,
}

impl Watch {
    /// Starts the clock.
    pub(crate) fn begin(prepared: &Prepared, guest: &Guest) -> wasmtime::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let Some(deadline) = guest.limits.deadline else { return Ok(Self { ended }) };
        if prepared.engine.interruption() == Interruption::None {
            wasmtime::bail!("cannot bound how long the guest runs: its code has no checks");
        }
        let engine = prepared.engine.wasmtime().clone();
        let name = guest.args.first().cloned().unwrap_or_default();
        let report = overdue(&name, &guest.limits);
        let seen = Arc::clone(&ended);
        let watch = move || {
            thread::sleep(deadline);
            engine.increment_epoch();
            thread::sleep(TO_TRAP);
            if !seen.swap(true, Ordering::SeqCst) {
                Output::error().say_at_once(&report);
                sys::process::exit_now(TRAPPED);
            }
        };
        thread::Builder::new().stack_size(STACK).spawn(watch).context(
            "cannot start the thread that watches the guest's deadline: without com.wasm.limits.deadline \
             it needs none, and with it the container's limit on processes has to leave room for two",
        )?;
        Ok(Self { ended })
    }

    /// Stops the clock. Never returns if the watch has begun to end the process.
    pub(crate) fn end(self) {
        while self.ended.swap(true, Ordering::SeqCst) {
            thread::park();
        }
    }
}
