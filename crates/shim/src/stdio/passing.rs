//! How far the copy of an output has come, for those who wait for its end.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// What a copy says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passing {
    /// It has passed on so many chunks, and may go on.
    Chunks(u64),
    /// All that the process wrote until its end was passed on.
    All,
}

/// The copy's side.
#[derive(Debug)]
pub(super) struct Announcer(watch::Sender<Passing>);

/// The side of those who wait.
#[derive(Debug, Clone)]
pub(super) struct Passed(watch::Receiver<Passing>);

/// Connects a copy with those who wait for it.
pub(super) fn announced() -> (Announcer, Passed) {
    let (sender, receiver) = watch::channel(Passing::Chunks(0));
    (Announcer(sender), Passed(receiver))
}

impl Announcer {
    /// Tells that another chunk was passed on.
    pub(super) fn chunk(&self) {
        self.0.send_modify(|passing| {
            if let Passing::Chunks(count) = passing {
                *count = count.wrapping_add(1);
            }
        });
    }

    /// Tells that all was.
    pub(super) fn all(&self) {
        self.0.send_replace(Passing::All);
    }
}

impl Passed {
    /// Waits until all was passed on, or the copy is gone and what was left with it.
    pub(super) async fn all(&mut self) {
        // An error: the copy is gone.
        drop(self.0.wait_for(|passing| *passing == Passing::All).await);
    }

    /// As [`Passed::all`], but no longer than `patience` without a chunk that was passed on; says
    /// whether it came to that.
    pub(super) async fn all_while_it_moves(&mut self, patience: Duration) -> bool {
        loop {
            if *self.0.borrow_and_update() == Passing::All {
                return true;
            }
            match timeout(patience, self.0.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_gone)) => return true,
                Err(_elapsed) => return false,
            }
        }
    }

    /// Says whether all was passed on.
    #[cfg(test)]
    pub(super) fn is_all(&self) -> bool {
        *self.0.borrow() == Passing::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);
    const STEP: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_reader_that_is_slow_is_waited_for_and_one_that_stands_still_is_not() {
        let (announcer, mut passed) = announced();
        let mut other = passed.clone();
        assert!(!passed.all_while_it_moves(STEP).await);
        let copy = tokio::spawn(async move {
            // More than the patience in all.
            for _ in 0..25 {
                tokio::time::sleep(STEP).await;
                announcer.chunk();
            }
            announcer.all();
            announcer.chunk();
            announcer
        });
        assert!(passed.all_while_it_moves(PATIENCE).await);
        assert!(passed.is_all());
        other.all().await;
        drop(copy.await);
    }

    #[tokio::test]
    async fn a_copy_that_is_gone_is_waited_for_by_nobody() {
        let (announcer, mut passed) = announced();
        drop(announcer);
        assert!(passed.all_while_it_moves(PATIENCE).await);
        passed.all().await;
    }
}
