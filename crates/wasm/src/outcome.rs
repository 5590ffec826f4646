//! How a guest ended, as a container's exit code and as a text on its standard error.

use settings::limits::Setter;
use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::limits::{Limit, Limits, Refused};

/// What a trap gives: as if the process had been killed by SIGABRT, as the `wasmtime` tool does.
pub(crate) const TRAPPED: i32 = 134;
/// What a guest gives that could not be run, or whose component answered with an error.
const FAILED: i32 = 1;

/// How a guest ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It returned, or asked to exit.
    Exited(i32),
    /// It trapped, or never got to run; and what is to be said of a limit that may be why.
    Broken(wasmtime::Error, Option<String>),
}

impl Outcome {
    /// Sorts what came out of running a guest: an exit travels as an error through the engine.
    /// `refused` is what the guest was last refused, which may be why it gave up.
    pub(crate) fn of(
        result: wasmtime::Result<Result<(), ()>>,
        limits: &Limits,
        refused: Option<Refused>,
    ) -> Self {
        match result {
            Ok(Ok(())) => Self::Exited(0),
            Ok(Err(())) => Self::Exited(FAILED),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(code)) => Self::Exited(*code),
                None => {
                    let limit = limit_of(&error, limits, refused);
                    Self::Broken(error, limit)
                }
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
            Self::Broken(error, Some(limit)) => Some(format!("Error: {error:?}\n{limit}\n")),
        }
    }
}

/// Says which limit the guest has met, with its value and where that is set.
fn limit_of(error: &wasmtime::Error, limits: &Limits, refused: Option<Refused>) -> Option<String> {
    let reached = |limit: Limit| Some(format!("limit reached: {}", limits.named(limit)));
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => reached(Limit::Fuel),
        Some(Trap::Interrupt) => reached(Limit::Deadline),
        Some(Trap::StackOverflow) => reached(Limit::Stack),
        // Whatever it was: an allocation that fails shows as anything.
        Some(_) => refused.map(|refused| refusal(limits, refused, "limit reached")),
        None if has_too_many_instances(error) => reached(Limit::Instances),
        None => refused.map(|refused| {
            let Refused { limit, wanted, .. } = refused;
            let wanted = limit.shown(wanted);
            refusal(limits, refused, &format!("it needs {wanted}, and its limit is"))
        }),
    }
}

fn refusal(limits: &Limits, Refused { limit, most, .. }: Refused, says: &str) -> String {
    let setter = limits.set_by.of(limit);
    // Of memory the limit may be another since the container was updated.
    let setter = if limits.get(limit) == Some(most) { setter } else { Setter::Cgroup };
    format!("{says}: {} = {} ({})", limit.key(), limit.shown(most), limit.place(setter))
}

/// The engine has no type for this error; `tests/guests` hold its words.
fn has_too_many_instances(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("instance count too high"))
}

/// What is said of a guest that a deadline has ended while it waited for the host.
pub(crate) fn overdue(name: &str, limits: &Limits) -> String {
    let name: String = name.chars().take(256).flat_map(char::escape_debug).collect();
    format!(
        "Error: failed to run `{name}`: it was waiting when its time was over\nlimit reached: {}\n",
        limits.named(Limit::Deadline)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_end_has_its_code() {
        let exit = |code| Outcome::of(Err(I32Exit(code).into()), &Limits::default(), None).code();
        assert_eq!(Outcome::of(Ok(Ok(())), &Limits::default(), None).code(), 0);
        assert_eq!(Outcome::of(Ok(Err(())), &Limits::default(), None).code(), 1);
        assert_eq!(exit(7), 7);
        assert_eq!(exit(200), 200);
        assert_eq!(exit(256), 0);
        assert_eq!(exit(-1), 255);
        let trapped: wasmtime::Error = Trap::UnreachableCodeReached.into();
        assert_eq!(Outcome::of(Err(trapped), &Limits::default(), None).code(), 134);
        assert_eq!(Outcome::of(Err(wasmtime::Error::msg("x")), &Limits::default(), None).code(), 1);
    }

    #[test]
    fn an_exit_inside_context_is_still_an_exit() {
        let error = wasmtime::Error::from(I32Exit(3)).context("while running");
        let outcome = Outcome::of(Err(error), &Limits::default(), None);
        assert_eq!(outcome.code(), 3);
        assert!(outcome.report().is_none());
    }

    #[test]
    fn each_limit_is_named_by_what_met_it() {
        let limits = Limits {
            fuel: Some(7),
            deadline: Some(std::time::Duration::from_secs(30)),
            ..Limits::default()
        };
        let says = |error: wasmtime::Error, refused| {
            Outcome::of(Err(error), &limits, refused).report().expect("a report")
        };
        let memory = |most| Refused { limit: Limit::Memory, most, wanted: 1 << 30 };
        let table = Refused { limit: Limit::TableElements, most: 1000, wanted: 1001 };
        let instances = "resource limit exceeded: instance count too high at 1001";
        let broken = || Trap::UnreachableCodeReached.into();
        for (error, refused, part) in [
            (Trap::OutOfFuel.into(), None, "limit reached: fuel = 7 ("),
            (Trap::Interrupt.into(), None, "limit reached: deadline = 30s ("),
            (Trap::StackOverflow.into(), Some(table), "limit reached: stack = 512KiB ("),
            (wasmtime::Error::msg(instances), None, "limit reached: instances = 1000 ("),
            (broken(), Some(memory(128 << 20)), "limit reached: memory = 128MiB (built in"),
            (broken(), Some(memory(64 << 20)), "memory = 64MiB (the container's memory limit"),
            (broken(), Some(table), "limit reached: table_elements = 1000 (built in"),
            (
                wasmtime::Error::msg("too large"),
                Some(memory(128 << 20)),
                "it needs 1GiB, and its limit is: memory = 128MiB (built in",
            ),
        ] {
            let report = says(error, refused);
            assert!(report.contains(part), "{part} in {report}");
        }
        assert!(!says(broken(), None).contains("limit"), "not every trap is a limit's");
    }
}
