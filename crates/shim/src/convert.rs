//! Between containerd's messages and the runtime's types.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim::api::StateResponse;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::protos::ttrpc::{self, Code, get_status};
use containerd_shim::protos::types::task::Status;
use nix::fcntl::OFlag;
use oci_spec::runtime::{LinuxResources, Process, Spec};
use runtime::process::{Exit, ExitStatus};
use runtime::{ContainerState, Error};
use serde::de::DeserializeOwned;
use sys::terminal::Size;

use crate::stdio::{OpenError, Paths};

/// A larger `config.json` is a mistake or an attack, in bytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// Reads a bundle's `config.json`, for an init with a terminal or without.
pub(crate) fn read_config(bundle: &Path, terminal: bool) -> Result<Arc<Spec>, Error> {
    let path = bundle.join("config.json");
    let refused = |what: String| Error::InvalidSpec(format!("{}: {what}", path.display()));
    let text = read_bounded(&path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    // A list would be taken for the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(refused("is not an OCI runtime specification: expected an object".to_owned()));
    }
    let mut spec: Spec = serde_json::from_slice(&text)
        .map_err(|error| refused(format!("is not an OCI runtime specification: {error}")))?;
    match spec.process_mut() {
        Some(process) => process.set_terminal(Some(terminal)),
        None => return Err(refused("has no process: it must say what to run".to_owned())),
    };
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

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(why) => Self::InvalidSpec(why),
            OpenError::Failed(why) => Self::Runtime(why),
        }
    }
}

/// The ttrpc answer for a process that could not be added: as runc's shim words it,
/// which passes on what runc says.
pub(crate) fn exec_failed(error: &Error) -> ttrpc::Error {
    match error {
        Error::InvalidRuntimeType(_)
        | Error::InvalidSpec(_)
        | Error::ImageInspection(_)
        | Error::Runtime(_) => {
            status(Code::UNKNOWN, format!("OCI runtime exec failed: exec failed: {error}"))
        }
        Error::NotFound(_) | Error::Unavailable(_) | Error::NotBuilt(_) => to_ttrpc(error),
    }
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
pub(crate) fn exit_code(status: ExitStatus) -> u32 {
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

/// Reads the process that an exec is to run, with a terminal or without.
pub(crate) fn process(wanted: Option<&Any>, terminal: bool) -> ttrpc::Result<Process> {
    let refused =
        |what: String| status(Code::INVALID_ARGUMENT, format!("the process to be added {what}"));
    let wanted = wanted.ok_or_else(|| refused("is missing: its spec must say it".to_owned()))?;
    let mut process: Process = from_json(&wanted.value).map_err(|error| {
        refused(format!("is not a process of the OCI runtime specification: {error}"))
    })?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(refused("has no args: the first is the program to run".to_owned()));
    }
    process.set_terminal(Some(terminal));
    Ok(process)
}

/// Reads the limits that an update sets; `None` when it sets none.
pub(crate) fn resources(given: Option<&Any>) -> ttrpc::Result<Option<LinuxResources>> {
    let Some(given) = given.filter(|given| !given.value.is_empty()) else {
        return Ok(None);
    };
    if given.value == b"null" {
        return Ok(None);
    }
    from_json(&given.value).map(Some).map_err(|error| {
        let message = format!(
            "the limits of the update ({}) are not resources of the OCI runtime specification: {error}",
            given.type_url
        );
        status(Code::INVALID_ARGUMENT, message)
    })
}

/// Reads an object; a list would be taken for the fields in their order.
fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    match text.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(text).map_err(|error| error.to_string()),
        _ => Err("expected a JSON object".to_owned()),
    }
}

/// Tells containerd which exec a process belongs to, as runc's shim does.
pub(crate) fn process_details(exec_id: String) -> Any {
    #[derive(prost::Message)]
    struct ProcessDetails {
        #[prost(string, tag = "1")]
        exec_id: String,
    }
    Any {
        type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
        value: prost::Message::encode_to_vec(&ProcessDetails { exec_id }),
        ..Any::default()
    }
}

/// Reads the size of a terminal, in characters.
pub(crate) fn terminal_size(width: u32, height: u32) -> ttrpc::Result<Size> {
    let side = |length: u32| {
        u16::try_from(length).map_err(|_| {
            let message = format!("a terminal cannot be {length} characters wide or high");
            status(Code::INVALID_ARGUMENT, message)
        })
    };
    Ok(Size { columns: side(width)?, rows: side(height)? })
}

/// The state of a process of a container.
pub(crate) fn state_of(
    paths: &Paths,
    process_id: i32,
    now: ContainerState,
    exit: Option<Exit>,
) -> StateResponse {
    let response = StateResponse {
        pid: pid(process_id),
        status: state(now).into(),
        stdin: paths.stdin.clone(),
        stdout: paths.stdout.clone(),
        stderr: paths.stderr.clone(),
        terminal: paths.terminal,
        ..StateResponse::default()
    };
    match exit {
        Some(exit) => StateResponse {
            exit_status: exit_code(exit.status),
            exited_at: timestamp(exit.at),
            ..response
        },
        None => response,
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
        let refusal = || read_config(bundle.path(), false).expect_err("refused").to_string();
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
        assert!(read_config(bundle.path(), false).is_ok());
    }
}
