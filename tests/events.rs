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
        let exits = self.tasks().into_iter().filter(|(topic, event)| {
            topic == "exit" && event["container_id"] == id && event["id"] == id
        });
        // A status of zero is left out.
        Ok(exits.map(|(_, event)| event["exit_status"].as_i64().unwrap_or_default()).collect())
    }

    /// Returns what was told of a container so far, each event as its topic, the process it is about unless that is the
    /// init, and the exit status of an exit: `create`, `exec-added e1`, `exit e1 7`, `exit 137`.
    pub fn story(&self, id: &str) -> Vec<String> {
        let told = self.tasks().into_iter().filter(|(_, event)| event["container_id"] == id);
        told.map(|(topic, event)| line(id, &topic, &event)).collect()
    }

    /// Waits until the last that is told of a container is this, and returns the whole story.
    pub fn story_until(&self, id: &str, last: &str) -> Result<Vec<String>> {
        let ends = || Ok(self.story(id).last().is_some_and(|told| told == last));
        host::eventually(&format!("{last:?} is told of {id}"), PATIENCE, ends)
            .with_context(|| format!("told so far: {:?}", self.story(id)))?;
        Ok(self.story(id))
    }

    /// Returns all events of tasks so far: topic and content.
    pub fn tasks(&self) -> Vec<(String, Value)> {
        let text = self.0.stdout_so_far();
        let events = text.lines().filter_map(|line| {
            let (head, _) = line.split_once('{')?;
            let topic = head.split_whitespace().find_map(|word| word.strip_prefix("/tasks/"))?;
            // A line may still be on its way.
            let event = serde_json::from_str(&line[head.len()..]).ok()?;
            Some((topic.to_owned(), event))
        });
        events.collect()
    }
}

/// Writes an event of a container as one line of its story.
pub fn line(id: &str, topic: &str, event: &Value) -> String {
    let mut line = topic.to_owned();
    let process = event["exec_id"].as_str().or(event["id"].as_str());
    if let Some(process) = process.filter(|process| !process.is_empty() && *process != id) {
        line = format!("{line} {process}");
    }
    if topic == "exit" {
        // A status of zero is left out.
        line = format!("{line} {}", event["exit_status"].as_i64().unwrap_or_default());
    }
    line
}
