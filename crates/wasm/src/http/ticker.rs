//! Interrupts instances that compute, a hundred times a second, so that each gives the thread to
//! others and its deadline can end it. While no request is being answered, nothing ticks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::Engine;

/// How long an instance computes at a stretch.
const TICK: Duration = Duration::from_millis(10);
/// After so many ticks without a request it goes to sleep: to be woken costs each request that
/// comes after a pause.
const IDLE_TICKS: u32 = 100;

/// Ticks while any [`Busy`] of it is held.
#[derive(Clone, Debug)]
pub(super) struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct State {
    busy: AtomicU32,
    sleeps: AtomicBool,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<State>);

impl Ticker {
    /// Starts the thread, which ends with the process.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn start(engine: Engine) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let of_thread = Arc::clone(&state);
        let spawned = std::thread::Builder::new()
            .name("ticker".to_owned())
            .stack_size(128 << 10)
            .spawn(move || tick(&of_thread, &engine))?;
        Ok(Self { state, thread: spawned.thread().clone() })
    }

    pub(super) fn busy(&self) -> Busy {
        self.state.busy.fetch_add(1, Ordering::SeqCst);
        if self.state.sleeps.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Busy(Arc::clone(&self.state))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(state: &State, engine: &Engine) {
    let mut idle = 0;
    loop {
        if state.busy.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else if idle < IDLE_TICKS {
            idle += 1;
        } else {
            state.sleeps.store(true, Ordering::SeqCst);
            // Looked at again after the word that it sleeps: a request that came before it has not
            // woken anybody. A wake-up that came in between makes the parking return at once.
            while state.busy.load(Ordering::SeqCst) == 0 {
                std::thread::park();
            }
            state.sleeps.store(false, Ordering::SeqCst);
            idle = 0;
        }
        std::thread::sleep(TICK);
        engine.increment_epoch();
    }
}
