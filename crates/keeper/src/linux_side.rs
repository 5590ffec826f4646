//! The calls on Linux containers, as workers make them.

use linux::{Made, StartError};
use sys::error::chain;
use sys::stdio::Stdio;

use crate::message::{Failure, LinuxContainer, Reply, told};
use crate::worker::{Brought, Done, Outcome};

pub(crate) fn create(create: &linux::CreateRequest, stdio: Stdio) -> Done {
    made(linux::create(create, stdio).map_err(|error| told(error.is_refusal(), &error)))
}

pub(crate) fn exec(exec: &linux::ExecRequest, stdio: Stdio) -> Done {
    made(linux::exec(exec, stdio).map_err(|error| told(error.is_refusal(), &error)))
}

fn made(made: Result<Made, Failure>) -> Done {
    match made {
        Ok(Made { pid, console }) => {
            let reply = Reply::Created { pid: pid.as_raw(), terminal: console.is_some() };
            let brought = console.map_or(Brought::Nothing, Brought::Console);
            Done { outcome: Ok(reply), brought }
        }
        Err(failure) => Err(failure).into(),
    }
}

pub(crate) fn start(container: &LinuxContainer) -> Outcome {
    match linux::start(&container.state_root, &container.id) {
        Ok(()) => Ok(Reply::Done),
        // The program runs. The OCI runtime specification, "Lifecycle", wants a
        // warning for the hook; the state is kept for removal alone.
        Err(error @ (StartError::Hook { .. } | StartError::State { .. })) => {
            log::warn!("container {} runs, but: {}", container.id, chain(&error));
            Ok(Reply::Done)
        }
        Err(
            error
            @ (StartError::InvalidId(_) | StartError::NotWaiting(_) | StartError::Tell { .. }),
        ) => Err(Failure::Failed(chain(&error))),
    }
}

pub(crate) fn delete(container: &LinuxContainer) -> Outcome {
    linux::delete(&container.state_root, &container.id, Some(&container.bundle))
        .map(|()| Reply::Done)
        .map_err(|error| Failure::Failed(chain(&error)))
}
