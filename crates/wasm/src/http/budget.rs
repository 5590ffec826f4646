//! The linear memory that all instances of a server share.
//!
//! Each instance alone could have as much as the limit allows; together they may not have more.
//! So an instance is only made while there is memory for one more of the largest kind that was
//! seen. Who comes when there is none waits for another to end, instead of failing halfway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wasmtime::ResourceLimiter;

use crate::command::Host;
use crate::gauge::Recorder;

/// What all instances have together.
#[derive(Debug)]
pub(crate) struct Budget {
    gauge: Recorder,
    now: Mutex<Now>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Now {
    /// Bytes of linear memory.
    taken: u64,
    instances: u64,
    /// The most that one of them has had.
    largest: u64,
}

/// One instance's part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    taken: u64,
}

impl Budget {
    pub(super) fn new(gauge: Recorder) -> Arc<Self> {
        Arc::new(Self { gauge, now: Mutex::default(), freed: Notify::new() })
    }

    /// Waits until `take` gives something, trying again whenever an instance has become free or
    /// has ended.
    pub(super) async fn wait_for<T>(&self, take: impl Fn() -> Option<T>) -> T {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on no word is missed, though it is not waited for yet.
            freed.as_mut().enable();
            if let Some(taken) = take() {
                return taken;
            }
            freed.await;
        }
    }

    /// Returns the part of one more instance, if there is memory for it.
    pub(super) fn share(self: &Arc<Self>) -> Option<Share> {
        self.has_room().then(|| Share { budget: Arc::clone(self), taken: 0 })
    }

    /// Says that an instance is free, or has ended.
    pub(super) fn freed(&self) {
        // Not to one alone: who is woken may have stopped waiting, and the word be lost with it.
        self.freed.notify_waiters();
    }

    fn has_room(&self) -> bool {
        let limit = self.gauge.memory_limit();
        let mut now = self.now();
        let needed = now.largest.saturating_mul(now.instances.saturating_add(1));
        // The first is always let in: if its memory does not suffice, it is told so itself.
        let has_room = now.instances == 0 || needed <= limit;
        if has_room {
            now.instances += 1;
        }
        has_room
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes so many bytes more, unless all together would then have more than the limit.
    fn grow(&mut self, more: u64) -> bool {
        let mut now = self.budget.now();
        let after = now.taken.saturating_add(more);
        if more > 0 && after > self.budget.gauge.memory_limit() {
            return false;
        }
        self.taken = self.taken.saturating_add(more);
        now.taken = after;
        now.largest = now.largest.max(self.taken);
        true
    }

    fn shrink(&mut self, less: u64) {
        self.taken = self.taken.saturating_sub(less);
        let mut now = self.budget.now();
        now.taken = now.taken.saturating_sub(less);
    }

    fn show(&self) {
        self.budget.gauge.memory(self.budget.now().taken);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(self.taken);
        let mut now = self.budget.now();
        now.instances = now.instances.saturating_sub(1);
        drop(now);
        self.show();
        self.budget.freed();
    }
}

impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(share) = &mut self.share else {
            return self.meter.memory_growing(current, desired, maximum);
        };
        let more = u64::try_from(desired.saturating_sub(current)).unwrap_or(u64::MAX);
        if !share.grow(more) {
            share.budget.gauge.memory_refused();
            return Ok(false);
        }
        let granted = self.meter.memory_growing(current, desired, maximum)?;
        if !granted {
            share.shrink(more);
        }
        share.show();
        Ok(granted)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.meter.table_growing(current, desired, maximum)
    }

    fn instances(&self) -> usize {
        self.meter.instances()
    }

    fn tables(&self) -> usize {
        self.meter.tables()
    }

    fn memories(&self) -> usize {
        self.meter.memories()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::gauge::Gauge;

    fn budget(limit: u64) -> (Arc<Budget>, Gauge) {
        let gauge = Gauge::new(limit).unwrap();
        let recorder = Recorder::map(gauge.as_fd().try_clone_to_owned().unwrap()).unwrap();
        (Budget::new(recorder), gauge)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn instances_share_one_limit() {
        let (budget, gauge) = budget(1000);
        runtime().block_on(async {
            let (mut first, mut second) = (budget.share().unwrap(), budget.share().unwrap());
            assert!(first.grow(600) && !second.grow(500) && second.grow(400));
            assert!(second.grow(0), "to ask for the size costs nothing");
            drop(first);
            assert!(second.grow(600));
            drop(second);
        });
        assert_eq!(gauge.read().unwrap().memory, 0);
    }

    #[test]
    fn who_finds_no_room_waits_for_another_to_end() {
        let (budget, _gauge) = budget(1000);
        runtime().block_on(async {
            let mut first = budget.share().unwrap();
            assert!(first.grow(400));
            let second = budget.share().unwrap();
            assert!(budget.share().is_none(), "two may come to 800 bytes, three to 1200");
            let waiting = tokio::spawn({
                let budget = Arc::clone(&budget);
                async move { budget.wait_for(|| budget.share()).await }
            });
            tokio::task::yield_now().await;
            drop(second);
            let _third = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
            drop(first);
        });
    }

    #[test]
    fn one_is_always_let_in() {
        let (budget, gauge) = budget(1000);
        runtime().block_on(async {
            assert!(budget.share().unwrap().grow(1000));
            gauge.set_memory_limit(10).unwrap();
            assert!(!budget.share().unwrap().grow(11));
        });
    }
}
