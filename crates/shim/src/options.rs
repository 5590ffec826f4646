//! The runtime options of containerd's configuration, as they reach a create.
//!
//! A runtime that is not runc gets them as `runtimeoptions.v1.Options`, with the
//! `options` table as TOML text; `ctr --runc-*` flags send runc's own message,
//! of which nothing is ours to honour but the choice of a cgroup driver, which
//! the cgroups path tells already.

use anyhow::{Context, bail};
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use prost::Message;
use runtime::spec::{Detection, RuntimeType};
use settings::Settings;
use settings::node::{self, Node};
use settings::options::Options;

/// `runtimeoptions.v1.Options`, by its field numbers.
#[derive(Clone, PartialEq, Message)]
struct RuntimeOptions {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

/// Who is to run a container under these settings.
pub(crate) fn runtime_type(settings: &Settings) -> RuntimeType {
    RuntimeType::Hybrid(if settings.auto_detect { Detection::Auto } else { Detection::HintOnly })
}

/// Reads the node file; an absent one is an empty one.
///
/// # Errors
/// Says what is wrong with it, in one sentence: no container is made then.
pub(crate) fn read_node() -> Result<Node, String> {
    let refused = |why: String| format!("the node file {}: {why}", node::PATH);
    let text = match std::fs::read_to_string(node::PATH) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(refused(format!("cannot be read: {error}"))),
    };
    node::parse(&text).map_err(|error| refused(sys::error::chain(&error)))
}

/// Reads the options of a create request; without any, the defaults hold.
pub(crate) fn read(options: Option<&Any>) -> anyhow::Result<Options> {
    let Some(any) = options.filter(|any| !any.type_url.is_empty()) else {
        return Ok(Options::default());
    };
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "runtimeoptions.v1.Options" => {
            let message = RuntimeOptions::decode(any.value.as_slice()).context(
                "containerd's runtime options are not a runtimeoptions.v1.Options message",
            )?;
            table(&message)
        }
        "containerd.runc.v1.Options" => Ok(Options::default()),
        unknown => bail!(
            "containerd's runtime options are of type {unknown}: expected runtimeoptions.v1.Options"
        ),
    }
}

fn table(message: &RuntimeOptions) -> anyhow::Result<Options> {
    let text = if message.config_body.is_empty() && !message.config_path.is_empty() {
        std::fs::read(&message.config_path).with_context(|| {
            format!("cannot read the runtime options file {}", message.config_path)
        })?
    } else {
        message.config_body.clone()
    };
    let text = String::from_utf8(text).context("containerd's runtime options are not text")?;
    settings::options::parse(&text).context("containerd's runtime options table")
}
