//! Starting, stopping, killing and restarting containerd itself, as its own process.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Daemon;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Lays the folder that is the first argument over /etc, and becomes what the others name.
const WITH_ETC: &str =
    r#"/bin/mount -t overlay overlay -o "lowerdir=$1:/etc" /etc && shift && exec "$@""#;

impl Daemon {
    /// Ends containerd alone, as a crash would; shims and containers live on.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Stops containerd alone, as `systemctl stop` would; shims and containers live on.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Starts containerd again on the same folders and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.stop()?;
        }
        self.launch()
    }

    pub(super) fn launch(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.territory.log())
            .context("opening containerd's log")?;
        let binary = self.territory.bin().join("containerd");
        let mut command = if self.has_node_file {
            // The machine's own /etc stays as it is: what is laid over it is seen from this daemon on alone.
            let mut command = Command::new("/usr/bin/unshare");
            command.args(["--mount", "--propagation", "slave", "/bin/sh", "-c", WITH_ETC, "sh"]);
            command.arg(self.territory.etc()).arg(&binary);
            command
        } else {
            Command::new(&binary)
        };
        let child = command
            .arg("--config")
            .arg(self.territory.config())
            .env_clear()
            .env("PATH", self.territory.bin())
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .current_dir(self.territory.run())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing containerd's log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        self.process = Some(child);
        self.wait_until_it_answers()
            .with_context(|| format!("containerd's log ends with:\n{}", self.log_tail(20)))
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let process = self.process.as_mut().context("containerd is stopped")?;
            if let Some(status) = process.try_wait().context("waiting for containerd")? {
                self.process = None;
                bail!("containerd ended at once with {status}");
            }
            let listening = UnixStream::connect(self.address()).is_ok();
            if listening && self.ctr_command().arg("version").run()?.success() {
                break;
            }
            if Instant::now() > deadline {
                bail!("containerd did not answer within {START_TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        if self.cri {
            self.wait_for_cri(deadline)?;
        }
        Ok(())
    }

    pub(super) fn end(&mut self, signal: Signal) -> Result<()> {
        let mut process = self.process.take().context("containerd is stopped already")?;
        kill(Pid::from_raw(process.id().cast_signed()), signal).context("signalling containerd")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while process.try_wait().context("waiting for containerd")?.is_none() {
            if Instant::now() > deadline {
                process.kill().context("killing containerd")?;
                process.wait().context("waiting for a killed containerd")?;
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
