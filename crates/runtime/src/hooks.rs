//! OCI hooks of wasm containers; libcontainer runs those of Linux ones.
//!
//! Order and failure follow the OCI runtime specification, "POSIX-platform
//! Hooks": a failing `prestart` or `createRuntime` hook undoes the create, a
//! failing `poststart` or `poststop` hook is a warning.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Spec};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::Error;

/// A hook without a timeout of its own may take this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The hooks of one container.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    before_start: Vec<Hook>,
    after_start: Vec<Hook>,
    after_stop: Vec<Hook>,
    state: serde_json::Value,
}

impl Hooks {
    /// Reads the hooks of a `config.json`.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] for hooks that run inside the container: a wasm
    /// container has no program but its module.
    pub(crate) fn from_spec(spec: &Spec, id: &str, bundle: &Path) -> Result<Self, Error> {
        let Some(hooks) = spec.hooks() else {
            return Ok(Self::default());
        };
        let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
        for (name, inside) in [
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
        ] {
            if inside.as_ref().is_some_and(|hooks| !hooks.is_empty()) {
                return Err(Error::InvalidSpec(format!(
                    "config.json lists a {name} hook, which runs inside the container: a wasm \
                     container can execute nothing but its module; use createRuntime instead"
                )));
            }
        }
        // `prestart` is the older name of `createRuntime`; the specification
        // has them called in this order.
        let mut before_start = list(hooks.prestart());
        before_start.extend(list(hooks.create_runtime()));
        let state = json!({
            "ociVersion": spec.version(),
            "id": id,
            "bundle": bundle,
            "annotations": spec.annotations().clone().unwrap_or_default(),
        });
        Ok(Self {
            before_start,
            after_start: list(hooks.poststart()),
            after_stop: list(hooks.poststop()),
            state,
        })
    }

    /// Runs what comes after the environment stands and before the start.
    pub(crate) async fn before_start(&self, pid: i32) -> Result<(), Error> {
        for hook in &self.before_start {
            self.run(hook, "creating", Some(pid)).await?;
        }
        Ok(())
    }

    /// Runs what comes after the start; failures are warnings.
    pub(crate) async fn after_start(&self, pid: i32) {
        for hook in &self.after_start {
            if let Err(error) = self.run(hook, "running", Some(pid)).await {
                log::warn!("poststart: {error}");
            }
        }
    }

    /// Runs what comes after the removal; failures are warnings.
    pub(crate) async fn after_stop(&self) {
        for hook in &self.after_stop {
            if let Err(error) = self.run(hook, "stopped", None).await {
                log::warn!("poststop: {error}");
            }
        }
    }

    async fn run(&self, hook: &Hook, status: &str, pid: Option<i32>) -> Result<(), Error> {
        let path = hook.path().display();
        let failed = |what: String| Error::Runtime(format!("hook {path} {what}"));
        let mut state = self.state.clone();
        state["status"] = status.into();
        if let Some(pid) = pid {
            state["pid"] = pid.into();
        }
        let patience = hook
            .timeout()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(PATIENCE, Duration::from_secs);
        let mut child =
            command(hook).spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
        // A group of its own, so that what it started can be ended with it.
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let mut stdin = child.stdin.take();
        let conversation = async {
            if let Some(stdin) = &mut stdin {
                // A hook need not read its state: a closed pipe is its choice.
                match stdin.write_all(state.to_string().as_bytes()).await {
                    Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
            drop(stdin);
            child.wait_with_output().await
        };
        match tokio::time::timeout(patience, conversation).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(failed(format!(
                "failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
            Ok(Err(error)) => Err(failed(format!("could not be waited for: {error}"))),
            Err(_) => {
                if let Some(group) = group
                    && let Err(errno) = killpg(group, Signal::SIGKILL)
                {
                    log::warn!("hook {path} cannot be killed: {errno}");
                }
                Err(failed(format!("did not end within {} s", patience.as_secs())))
            }
        }
    }
}

fn command(hook: &Hook) -> Command {
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .envs(hook.env().iter().flatten().filter_map(|pair| pair.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    sys::signal::unblocked_in(command.as_std_mut());
    command
}
