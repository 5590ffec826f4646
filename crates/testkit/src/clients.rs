//! The clients tests speak through, built from the Go module under `tests/clients` with its committed checksums.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{Invocation, Output};
use crate::containerd::{CNI_PLUGINS, Daemon};
use crate::place;

const IMAGE_TIMEOUT: Duration = Duration::from_secs(10);
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);

/// Returns crictl, building it if need be (about a minute).
pub fn crictl() -> Result<PathBuf> {
    built("crictl", "sigs.k8s.io/cri-tools/cmd/crictl")
}

/// Returns nerdctl, building it if need be (about a minute).
pub fn nerdctl() -> Result<PathBuf> {
    built("nerdctl", "github.com/containerd/nerdctl/v2/cmd/nerdctl")
}

/// Several tests may ask at once: one builds, the others wait. A change of the module's versions builds anew.
fn built(name: &str, package: &str) -> Result<PathBuf> {
    let module = place::repository().join("tests/clients");
    let folder = place::scratch().join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let versions = module.join("go.mod");
    let binary = folder.join(name);
    let stamp = folder.join(format!("{name}.go.mod"));
    let wanted = fs::read(&versions).with_context(|| format!("reading {}", versions.display()))?;
    let current = || binary.exists() && fs::read(&stamp).is_ok_and(|built| built == wanted);
    if current() {
        return Ok(binary);
    }
    let lock = File::create(folder.join("build.lock")).context("opening a lock")?;
    lock.lock().context("waiting for another build")?;
    if current() {
        return Ok(binary);
    }
    eprintln!("testkit: building {name}, about a minute ...");
    Invocation::new("go")
        .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(&binary)
        .arg(package)
        .directory(&module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .timeout(BUILD_TIMEOUT)
        .run()?
        .ok()
        .with_context(|| format!("building {name}"))?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(binary)
}

impl Daemon {
    /// Runs crictl against this daemon.
    pub fn crictl(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.crictl_command()?.args(args).run()
    }

    /// Prepares crictl against this daemon.
    pub fn crictl_command(&self) -> Result<Invocation> {
        let endpoint = format!("unix://{}", self.address().display());
        Ok(Invocation::new(crictl()?)
            .arg("--config")
            .arg(self.territory().crictl_config())
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(["--timeout", "30s"]))
    }

    /// Runs nerdctl against this daemon, in the daemon's namespace.
    pub fn nerdctl(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Output> {
        self.nerdctl_command()?.args(args).run()
    }

    /// Prepares nerdctl against this daemon. Its networks are this daemon's, without masquerading.
    pub fn nerdctl_command(&self) -> Result<Invocation> {
        let networks = self.territory().run().join("cni-nerdctl");
        Ok(Invocation::new(nerdctl()?)
            .arg("--address")
            .arg(self.address())
            .args(["--namespace", self.namespace()])
            .arg("--data-root")
            .arg(self.territory().root().join("nerdctl"))
            .args(["--cni-path", CNI_PLUGINS])
            .arg("--cni-netconfpath")
            .arg(networks)
            .args(["--cgroup-manager", "cgroupfs"])
            .env("NERDCTL_TOML", "/dev/null"))
    }

    pub(crate) fn wait_for_cri(&self, deadline: Instant) -> Result<()> {
        loop {
            let answer = self.crictl(["version"])?;
            if answer.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("CRI does not answer: {}", answer.report());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// An import reaches CRI as an event, a moment later.
    pub(crate) fn wait_for_cri_image(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + IMAGE_TIMEOUT;
        loop {
            let answer = self.crictl(["inspecti", "--quiet", name])?;
            if answer.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("CRI does not know image {name}: {}", answer.report());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes every pod, as a daemon that ends must leave no network namespace.
    pub(crate) fn remove_pods(&self) {
        if !self.has_cri() {
            return;
        }
        let removed = self.crictl(["rmp", "--all", "--force"]).and_then(Output::ok);
        if let Err(error) = removed {
            eprintln!("testkit: removing pods: {error:#}");
        }
    }
}
