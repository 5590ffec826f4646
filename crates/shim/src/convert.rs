//! Between containerd's messages and the runtime's types.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::protos::ttrpc::{self, Code, get_status};
use containerd_shim::protos::types::task::Status;
use nix::fcntl::OFlag;
use oci_spec::runtime::Spec;
use runtime::{ContainerState, Error};

/// A larger `config.json` is a mistake or an attack, in bytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// Reads a bundle's `config.json`.
pub(crate) fn read_config(bundle: &Path) -> Result<Arc<Spec>, Error> {
    let path = bundle.join("config.json");
    let refused = |what: String| Error::InvalidSpec(format!("{}: {what}", path.display()));
    let text = read_bounded(&path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    // A list would be taken for the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(refused("is not an OCI runtime specification: expected an object".to_owned()));
    }
    let spec: Spec = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("is not an OCI runtime specification: {error}")))?;
    if spec.process().is_none() {
        return Err(refused("has no process: it must say what to run".to_owned()));
    }
    if spec.root().is_none() {
        return Err(refused("has no root: it must name the root filesystem".to_owned()));
    }
    Ok(Arc::new(spec))
}

/// Reads a regular file of reasonable size; never waits for a writer.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LARGEST_CONFIG + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_CONFIG {
        let message =
            format!("it has more than {LARGEST_CONFIG} bytes, more than any runtime specification");
        return Err(io::Error::other(message));
    }
    Ok(text)
}

/// The ttrpc answer for an error of the runtime.
pub(crate) fn to_ttrpc(error: &Error) -> ttrpc::Error {
    let code = match error {
        Error::InvalidRuntimeType(_) | Error::InvalidSpec(_) | Error::ImageInspection(_) => {
            Code::INVALID_ARGUMENT
        }
        Error::Runtime(_) => Code::UNKNOWN,
        Error::NotFound(_) => Code::NOT_FOUND,
        Error::Unavailable(_) => Code::UNAVAILABLE,
        Error::NotBuilt(_) => Code::UNIMPLEMENTED,
    };
    status(code, error.to_string())
}

/// The ttrpc answer for a request that a container's state does not allow.
pub(crate) fn denied(reason: lifecycle::Reason) -> ttrpc::Error {
    let code = match reason.code {
        lifecycle::Code::Unknown => Code::UNKNOWN,
        lifecycle::Code::NotFound => Code::NOT_FOUND,
        lifecycle::Code::FailedPrecondition => Code::FAILED_PRECONDITION,
    };
    status(code, reason.message)
}

/// A ttrpc error of one code and one sentence.
pub(crate) fn status(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

/// What a ttrpc error says, without its wrapping.
pub(crate) fn sentence(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A point in time as containerd writes it; none for times before 1970.
pub(crate) fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    })
}

/// A process id as containerd writes it.
pub(crate) fn pid(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or_default()
}

/// An exit code as containerd writes it: 0 to 255.
pub(crate) fn exit_code(status: runtime::handle::ExitStatus) -> u32 {
    u32::try_from(status.code()).unwrap_or(255)
}

/// A state as containerd writes it.
pub(crate) fn state(state: ContainerState) -> Status {
    match state {
        ContainerState::Created => Status::CREATED,
        ContainerState::Running => Status::RUNNING,
        ContainerState::Paused => Status::PAUSED,
        ContainerState::Stopped => Status::STOPPED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_without_process_or_root_is_refused_by_name() {
        let bundle = tempfile::tempdir().expect("a folder");
        let write =
            |text: &str| std::fs::write(bundle.path().join("config.json"), text).expect("written");
        let refusal = || read_config(bundle.path()).expect_err("refused").to_string();
        assert!(refusal().contains("cannot be read"));
        for text in ["{", "[]", "null", ""] {
            write(text);
            assert!(
                refusal().contains("is not an OCI runtime specification"),
                "{text}: {}",
                refusal()
            );
        }
        write(r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"}}"#);
        assert!(refusal().contains("has no process"));
        write(
            r#"{"ociVersion":"1.0.2","process":{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0}}}"#,
        );
        assert!(refusal().contains("has no root"));
        write(
            r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0}}}"#,
        );
        assert!(read_config(bundle.path()).is_ok());
    }
}
