//! How a guest ended, as a container's exit code and as a text on its standard error.

use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::limits::MemoryRefused;

/// What a trap gives: as if the process had been killed by SIGABRT, as the `wasmtime` tool does.
const TRAPPED: i32 = 134;
/// What a guest gives that could not be run, or whose component answered with an error.
const FAILED: i32 = 1;

/// Where the limit on linear memory is set.
const WHERE_FROM: &str = "the limit is the node's `memory` under [limits], or the container's memory \
     limit less what the engine itself needs";

/// How a guest ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It returned, or asked to exit.
    Exited(i32),
    /// It trapped, or never got to run.
    Broken(wasmtime::Error, Option<MemoryRefused>),
}

impl Outcome {
    /// Sorts what came out of running a guest: an exit travels as an error through the engine.
    /// `refused` is what the guest was last refused of memory, which may be why it gave up.
    pub(crate) fn of(
        result: wasmtime::Result<Result<(), ()>>,
        refused: Option<MemoryRefused>,
    ) -> Self {
        match result {
            Ok(Ok(())) => Self::Exited(0),
            Ok(Err(())) => Self::Exited(FAILED),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(code)) => Self::Exited(*code),
                None => Self::Broken(error, refused),
            },
        }
    }

    /// Returns the exit code, 0 to 255. As for any process, only the low eight bits count.
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Exited(code) => code & 0xff,
            Self::Broken(error, _) if error.is::<Trap>() => TRAPPED,
            Self::Broken(..) => FAILED,
        }
    }

    /// Returns what the container's standard error should say, backtrace included.
    pub(crate) fn report(&self) -> Option<String> {
        match self {
            Self::Exited(_) => None,
            Self::Broken(error, None) => Some(format!("Error: {error:?}\n")),
            Self::Broken(error, Some(MemoryRefused { limit, wanted })) => {
                let limit = if error.is::<Trap>() {
                    format!("linear memory limit of {limit} bytes was reached")
                } else {
                    format!(
                        "it needs {wanted} bytes, more than its linear memory limit of {limit} bytes"
                    )
                };
                Some(format!("Error: {error:?}\n{limit}; {WHERE_FROM}\n"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_end_has_its_code() {
        let exit = |code| Outcome::of(Err(I32Exit(code).into()), None).code();
        assert_eq!(Outcome::of(Ok(Ok(())), None).code(), 0);
        assert_eq!(Outcome::of(Ok(Err(())), None).code(), 1);
        assert_eq!(exit(7), 7);
        assert_eq!(exit(200), 200);
        assert_eq!(exit(256), 0);
        assert_eq!(exit(-1), 255);
        let trapped: wasmtime::Error = Trap::UnreachableCodeReached.into();
        assert_eq!(Outcome::of(Err(trapped), None).code(), 134);
        assert_eq!(Outcome::of(Err(wasmtime::Error::msg("x")), None).code(), 1);
    }

    #[test]
    fn an_exit_inside_context_is_still_an_exit() {
        let error = wasmtime::Error::from(I32Exit(3)).context("while running");
        let outcome = Outcome::of(Err(error), None);
        assert_eq!(outcome.code(), 3);
        assert!(outcome.report().is_none());
    }
}
