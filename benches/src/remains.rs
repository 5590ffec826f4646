//! Proves that the shims have left nothing: a fast delete that forgets something is no fast delete.
//!
//! Sockets that nobody listens on may be any daemon's of this machine; those of the bench's own servers are looked for
//! where the servers are stopped.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use testkit::leftovers::{Census, Item};

use crate::lab::Lab;

const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the lab holds nothing that it did not hold before; what stays is told as an error.
pub(crate) fn check(lab: &Lab, before: &Census) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Census::of(&lab.daemon)?;
        let is_new = |item: &&Item| {
            !matches!(item, Item::AbandonedSocket(_)) && before.items().all(|known| known != *item)
        };
        let remains: Vec<String> = now.items().filter(is_new).map(Item::to_string).collect();
        if remains.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the shims left behind: {}", remains.join(", "));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
