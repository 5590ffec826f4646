//! The pod network of one daemon: a bridge and a subnet nobody else on this machine uses.
//!
//! Pods get an address and a route to their own subnet, and no default route: nothing they send leaves the machine.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Territory;
use crate::command::Invocation;

const LOCKS: &str = "/run/hybrid-test-subnets";
/// Where Debian keeps CNI's plugins.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A reserved `10.88.<number>.0/24` with its bridge.
#[derive(Debug)]
pub(super) struct Subnet {
    number: u8,
    // The reservation ends with this file's lock, however the test process ends.
    _lock: File,
}

impl Subnet {
    /// Reserves a subnet and writes the network configurations of CRI and nerdctl.
    pub(super) fn reserve(territory: &Territory) -> Result<Self> {
        if !Path::new(CNI_PLUGINS).join("bridge").exists() {
            bail!(
                "{CNI_PLUGINS}/bridge is missing; `testkit install` brings containernetworking-plugins"
            );
        }
        fs::create_dir_all(LOCKS).with_context(|| format!("making {LOCKS}"))?;
        for number in 1..=250 {
            let path = Path::new(LOCKS).join(number.to_string());
            let lock =
                File::create(&path).with_context(|| format!("opening {}", path.display()))?;
            if lock.try_lock().is_ok() {
                let subnet = Self { number, _lock: lock };
                subnet.write(territory)?;
                return Ok(subnet);
            }
        }
        bail!("all subnets of 10.88.0.0/16 are in use by other tests")
    }

    fn write(&self, territory: &Territory) -> Result<()> {
        let name = format!("{}-pods", territory.tag());
        let pods = json!({
            "cniVersion": "0.4.0",
            "name": name,
            "plugins": [self.bridge(&name, territory)],
        });
        place(&territory.run().join("cni"), &pods)?;
        // nerdctl would make a network with masquerading of its own, if it found no default one.
        let default = json!({
            "cniVersion": "0.4.0",
            "name": "bridge",
            "nerdctlID": "hybrid-test",
            "nerdctlLabels": {"nerdctl/default-network": "true"},
            "plugins": [
                self.bridge("bridge", territory),
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": false},
            ],
        });
        place(&territory.run().join("cni-nerdctl"), &default)
    }

    fn bridge(&self, name: &str, territory: &Territory) -> Value {
        // Both networks share the subnet, so they share the folder of given addresses too.
        let addresses = territory.root().join("addresses");
        json!({
            "type": "bridge",
            "bridge": self.interface(),
            "isGateway": true,
            "isDefaultGateway": false,
            "ipMasq": false,
            "promiscMode": false,
            "ipam": {
                "type": "host-local",
                "dataDir": addresses.join(name),
                "ranges": [[{
                    "subnet": format!("10.88.{}.0/24", self.number),
                    "rangeStart": format!("10.88.{}.{}", self.number, if name == "bridge" { 128 } else { 2 }),
                    "rangeEnd": format!("10.88.{}.{}", self.number, if name == "bridge" { 250 } else { 127 }),
                    "gateway": format!("10.88.{}.1", self.number),
                }]],
            },
        })
    }

    fn interface(&self) -> String {
        format!("hytest{}", self.number)
    }

    /// Removes the bridge; the addresses go with the daemon's folders.
    pub(super) fn remove(self) {
        if !Path::new("/sys/class/net").join(self.interface()).exists() {
            return;
        }
        let removal = Invocation::new("ip")
            .args(["link", "delete", &self.interface()])
            .run()
            .and_then(|output| output.ok());
        if let Err(error) = removal {
            eprintln!("testkit: removing a bridge: {error:#}");
        }
    }
}

fn place(folder: &Path, network: &Value) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join("10-hybrid-test.conflist");
    let text = serde_json::to_vec_pretty(network).context("writing a network as JSON")?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}
