//! The three calls into libcontainer, as workers make them.

use std::os::fd::OwnedFd;

use linux::StartError;
use sys::error::chain;

use crate::message::{Failure, LinuxContainer, Reply, told};
use crate::worker::Outcome;

pub(crate) fn create(create: &linux::CreateRequest, stdio: [OwnedFd; 3]) -> Outcome {
    linux::create(create, stdio)
        .map(|pid| Reply::Created { pid: pid.as_raw() })
        .map_err(|error| told(error.is_refusal(), &error))
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
