//! Derives a private daemon's configuration from the file that is shipped for nodes.
//!
//! The shipped file stays as it is: only places are moved, what reaches outside the daemon's own folders is switched
//! off, and what the test machine's kernel refuses is not asked for.

use std::fs;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::network::CNI_PLUGINS;
use super::{Release, Territory};
use crate::place;

/// Plugins that would make things outside the daemon's folders, or only slow its start.
const UNUSED: [&str; 6] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.erofs",
];

const CRI_PLUGINS: [&str; 4] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
];

/// The name of the pause image in a private daemon.
pub(crate) const PAUSE_IMAGE: &str = "docker.io/hybrid/pause:1";

/// Whether a daemon's CRI plugin runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cri {
    Off,
    On,
}

/// Reads the shipped configuration and moves it into the daemon's folders.
pub(super) fn derive(release: Release, territory: &Territory, cri: Cri) -> Result<Table> {
    let path = place::runtime_config(release.line());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut config: Table = text.parse().with_context(|| format!("parsing {}", path.display()))?;
    let folder = territory.root().join("containerd");
    let string = |path: &std::path::Path| Value::from(path.display().to_string());
    set(&mut config, &["root"], string(&folder))?;
    set(&mut config, &["state"], string(&territory.state()))?;
    set(&mut config, &["grpc", "address"], string(territory.address()))?;
    let opt = territory.root().join("opt");
    set(&mut config, &["plugins", "io.containerd.internal.v1.opt", "path"], string(&opt))?;
    set(&mut config, &["plugins", "io.containerd.nri.v1.nri", "disable"], true.into())?;
    let mut disabled: Vec<&str> = UNUSED.to_vec();
    match cri {
        Cri::On => adapt_cri(&mut config, release, territory)?,
        Cri::Off => disabled.extend(CRI_PLUGINS),
    }
    set(&mut config, &["disabled_plugins"], disabled.into())?;
    Ok(config)
}

/// Points CRI at our network and pause image; the machine lacks AppArmor and the right to lower an OOM score.
fn adapt_cri(config: &mut Table, release: Release, territory: &Territory) -> Result<()> {
    let networks = territory.run().join("cni").display().to_string();
    let (runtime, sandbox_image): (&str, &[&str]) = match release {
        Release::V1_6 | Release::V1_7 => {
            ("io.containerd.grpc.v1.cri", &["io.containerd.grpc.v1.cri", "sandbox_image"])
        }
        Release::V2_1 => (
            "io.containerd.cri.v1.runtime",
            &["io.containerd.cri.v1.images", "pinned_images", "sandbox"],
        ),
    };
    let plugins = match release {
        Release::V1_6 | Release::V1_7 => ("bin_dir", Value::from(CNI_PLUGINS)),
        Release::V2_1 => ("bin_dirs", Value::from(vec![CNI_PLUGINS])),
    };
    for (key, value) in [
        (&["restrict_oom_score_adj"][..], Value::from(true)),
        (&["disable_apparmor"], Value::from(true)),
        // Then a pod's network namespace is among the daemon's own mounts, and is cleared with them.
        (&["netns_mounts_under_state_dir"], Value::from(true)),
        (&["cni", "conf_dir"], Value::from(networks)),
        (&["cni", plugins.0], plugins.1),
    ] {
        let path: Vec<&str> = ["plugins", runtime].iter().chain(key).copied().collect();
        set(config, &path, value)?;
    }
    let path: Vec<&str> = ["plugins"].iter().chain(sandbox_image).copied().collect();
    set(config, &path, PAUSE_IMAGE.into())
}

/// Sets a value at a path of tables, making those that are missing.
fn set(table: &mut Table, path: &[&str], value: Value) -> Result<()> {
    let (last, parents) = path.split_last().context("an empty path")?;
    let mut table = table;
    for key in parents {
        table = table
            .entry(*key)
            .or_insert_with(|| Table::new().into())
            .as_table_mut()
            .with_context(|| format!("{key} of the shipped configuration is not a table"))?;
    }
    table.insert((*last).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the README promises of each shipped file.
    #[test]
    fn every_shipped_configuration_has_the_hybrid_runtime_beside_runc() {
        for release in Release::ALL {
            let text = fs::read_to_string(place::runtime_config(release.line())).unwrap();
            let config: Table = text.parse().unwrap();
            let plugin = match release {
                Release::V2_1 => "io.containerd.cri.v1.runtime",
                Release::V1_6 | Release::V1_7 => "io.containerd.grpc.v1.cri",
            };
            let runtimes = &config["plugins"][plugin]["containerd"]["runtimes"];
            let hybrid = &runtimes["hybrid"];
            assert_eq!(hybrid["runtime_type"].as_str(), Some(super::super::HYBRID));
            assert_eq!(runtimes["runc"]["runtime_type"].as_str(), Some(super::super::RUNC));
            assert_eq!(hybrid["options"]["auto_detect"].as_bool(), Some(true));
            assert_eq!(hybrid["options"]["wasm_runtime"].as_str(), Some("wasmtime"));
            assert_eq!(hybrid["options"]["container_runtime"].as_str(), Some("runc"));
            for list in ["pod_annotations", "container_annotations"] {
                let passed: Vec<&str> =
                    hybrid[list].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                assert_eq!(passed, ["com.wasm.*", "run.oci.handler"], "{release} {list}");
            }
        }
    }
}
