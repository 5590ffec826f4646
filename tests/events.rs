//! What containerd tells the world: `ctr events`, followed while a test runs.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::command::Running;
use testkit::containerd::Daemon;

use crate::host;

const PATIENCE: Duration = Duration::from_secs(10);

/// Events from now on.
#[derive(Debug)]
pub struct Events(Running);

impl Events {
    /// Starts to listen, and returns when nothing can be missed any more.
    pub fn listen(daemon: &Daemon) -> Result<Self> {
        let command = daemon.ctr_command().arg("events").timeout(Duration::from_secs(600));
        let listening = Self(command.spawn()?);
        let mut probe = 0;
        host::eventually("containerd sends events", PATIENCE, || {
            probe += 1;
            let label = format!("probe={probe}");
            daemon.ctr(["namespaces", "label", daemon.namespace(), &label])?.ok()?;
            Ok(!listening.0.stdout_so_far().is_empty())
        })?;
        Ok(listening)
    }

    /// Waits for the end of a container's init and returns its exit status.
    pub fn exit_of(&self, id: &str) -> Result<i64> {
        host::eventually(&format!("the end of {id} is told"), PATIENCE, || {
            Ok(!self.exits(id)?.is_empty())
        })?;
        self.exits(id)?.first().copied().context("an exit that was seen before")
    }

    /// Returns the exit statuses told so far for a container's init.
    pub fn exits(&self, id: &str) -> Result<Vec<i64>> {
        let text = self.0.stdout_so_far();
        let mut found = Vec::new();
        for line in text.lines().filter(|line| line.contains(" /tasks/exit ")) {
            let Some(start) = line.find('{') else {
                continue;
            };
            // A line may still be on its way.
            let Ok(event) = serde_json::from_str::<Value>(&line[start..]) else {
                continue;
            };
            if event["container_id"] == id && event["id"] == id {
                // A status of zero is left out.
                found.push(event["exit_status"].as_i64().unwrap_or_default());
            }
        }
        Ok(found)
    }
}
