//! How much is measured: enough for a figure to publish, or enough to see that the bench works.

use std::time::Duration;

/// The size of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds of task rates.
    pub(crate) rate_rounds: usize,
    /// How long each contestant runs tasks in one round, for each width.
    pub(crate) slice: Duration,
    /// Rounds of `ctr run`.
    pub(crate) wall_rounds: usize,
    /// Rounds of memory figures.
    pub(crate) memory_rounds: usize,
    /// How long a container is left alone before its memory is read.
    pub(crate) idle: Duration,
    /// Rounds of HTTP load.
    pub(crate) load_rounds: usize,
    /// How long each server is under load in one round; whole seconds.
    pub(crate) load: Duration,
    /// Rounds of first and second starts.
    pub(crate) start_rounds: usize,
}

impl Effort {
    /// About six minutes.
    pub(crate) const FULL: Self = Self {
        rate_rounds: 10,
        slice: Duration::from_secs(2),
        wall_rounds: 30,
        memory_rounds: 3,
        idle: Duration::from_secs(1),
        load_rounds: 10,
        load: Duration::from_secs(3),
        start_rounds: 5,
    };

    /// Under two minutes.
    pub(crate) const QUICK: Self = Self {
        rate_rounds: 3,
        slice: Duration::from_millis(500),
        wall_rounds: 7,
        memory_rounds: 1,
        idle: Duration::from_millis(500),
        load_rounds: 2,
        load: Duration::from_secs(1),
        start_rounds: 1,
    };
}
