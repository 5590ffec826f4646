//! Decides whether a request fits the state a container is in.

use crate::{ExecRequest, Request, State};

/// What a door must do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Allow,
    /// Answer success and do nothing: what was asked for already is so.
    Ignore,
    /// Answer this error and do nothing.
    Deny(Reason),
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reason {
    /// The code the door answers with.
    pub code: Code,
    /// The words for the client.
    pub message: &'static str,
}

/// The kind of denial, in gRPC's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The runc shim answers most requests in a wrong state with this code.
    Unknown,
    /// What the request is about does not exist any more.
    NotFound,
    /// What the request is about is not there yet.
    FailedPrecondition,
}

/// What killing anything that has ended answers; kubelet and ctr match on it.
const FINISHED: Verdict = deny(Code::NotFound, "process already finished");

/// Returns what to do with `request` to a container whose first process is in `state`.
///
/// Deleting a created container is allowed: the door kills its waiting process first.
pub fn decide(state: State, request: Request) -> Verdict {
    match state {
        State::Created => in_created(request),
        State::Running => in_running(request),
        State::Paused => in_paused(request),
        State::Stopped => in_stopped(request),
    }
}

fn in_created(request: Request) -> Verdict {
    match request {
        Request::Pause => unknown("cannot pause task in created state"),
        Request::Resume => unknown("cannot resume task in created state"),
        Request::Checkpoint => unknown("cannot checkpoint a task in created state"),
        Request::Start
        | Request::Kill
        | Request::KillAll
        | Request::Delete
        | Request::Exec
        | Request::Update
        | Request::Pids
        | Request::Stats
        | Request::CloseIo
        | Request::ResizePty
        | Request::State
        | Request::Wait => Verdict::Allow,
    }
}

fn in_running(request: Request) -> Verdict {
    match request {
        Request::Start => unknown("cannot start a running process"),
        Request::Delete => unknown("cannot delete a running process"),
        Request::Resume => unknown("cannot resume a running process"),
        Request::Kill
        | Request::KillAll
        | Request::Exec
        | Request::Pause
        | Request::Update
        | Request::Checkpoint
        | Request::Pids
        | Request::Stats
        | Request::CloseIo
        | Request::ResizePty
        | Request::State
        | Request::Wait => Verdict::Allow,
    }
}

fn in_paused(request: Request) -> Verdict {
    match request {
        Request::Start => unknown("cannot start a paused process"),
        Request::Delete => unknown("cannot delete a paused process"),
        Request::Exec => unknown("cannot exec in a paused state"),
        Request::Pause => unknown("cannot pause a paused container"),
        Request::Kill
        | Request::KillAll
        | Request::Resume
        | Request::Update
        | Request::Checkpoint
        | Request::Pids
        | Request::Stats
        | Request::CloseIo
        | Request::ResizePty
        | Request::State
        | Request::Wait => Verdict::Allow,
    }
}

fn in_stopped(request: Request) -> Verdict {
    match request {
        Request::Start => unknown("cannot start a stopped process"),
        Request::Exec => unknown("cannot exec in a stopped state"),
        Request::Pause => unknown("cannot pause a stopped container"),
        Request::Resume => unknown("cannot resume a stopped container"),
        Request::Update => unknown("cannot update a stopped container"),
        Request::Checkpoint => unknown("cannot checkpoint a stopped container"),
        Request::Kill => FINISHED,
        // The terminal and the pipes ended with the process.
        Request::CloseIo | Request::ResizePty => Verdict::Ignore,
        // The cgroup stays until the delete, so these still have an answer:
        // processes that outlived the first one, and the final usage.
        Request::KillAll
        | Request::Pids
        | Request::Stats
        | Request::Delete
        | Request::State
        | Request::Wait => Verdict::Allow,
    }
}

/// Returns what to do with `request` to a process that was added to a container, in
/// `state`; as long as it was not started it is created.
pub fn decide_exec(state: State, request: ExecRequest) -> Verdict {
    match (request, state) {
        (ExecRequest::Start, State::Created) => Verdict::Allow,
        (ExecRequest::Start, State::Running | State::Paused) => {
            unknown("cannot start a running process")
        }
        (ExecRequest::Start, State::Stopped) => unknown("cannot start a stopped process"),
        (ExecRequest::Kill, State::Created) => {
            deny(Code::FailedPrecondition, "process not created")
        }
        (ExecRequest::Kill, State::Running | State::Paused) => Verdict::Allow,
        (ExecRequest::Kill, State::Stopped) => FINISHED,
        (ExecRequest::Delete, State::Running | State::Paused) => {
            unknown("cannot delete a running process")
        }
        (ExecRequest::Delete, State::Created | State::Stopped) => Verdict::Allow,
        (ExecRequest::CloseIo, State::Stopped)
        | (ExecRequest::CloseIo | ExecRequest::ResizePty, State::Created) => Verdict::Ignore,
        (ExecRequest::ResizePty, State::Stopped) => unknown("cannot resize a stopped container"),
        (ExecRequest::CloseIo | ExecRequest::ResizePty, State::Running | State::Paused)
        | (ExecRequest::State | ExecRequest::Wait, _) => Verdict::Allow,
    }
}

const fn deny(code: Code, message: &'static str) -> Verdict {
    Verdict::Deny(Reason { code, message })
}

const fn unknown(message: &'static str) -> Verdict {
    deny(Code::Unknown, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One row per request, one column per state: `+` allow, `=` ignore, else
    /// the message of the denial.
    #[rustfmt::skip]
    const TABLE: [(Request, [&str; 4]); 15] = [
        (Request::Start, ["+", "cannot start a running process", "cannot start a paused process", "cannot start a stopped process"]),
        (Request::Kill, ["+", "+", "+", "process already finished"]),
        (Request::KillAll, ["+", "+", "+", "+"]),
        (Request::Delete, ["+", "cannot delete a running process", "cannot delete a paused process", "+"]),
        (Request::Exec, ["+", "+", "cannot exec in a paused state", "cannot exec in a stopped state"]),
        (Request::Pause, ["cannot pause task in created state", "+", "cannot pause a paused container", "cannot pause a stopped container"]),
        (Request::Resume, ["cannot resume task in created state", "cannot resume a running process", "+", "cannot resume a stopped container"]),
        (Request::Update, ["+", "+", "+", "cannot update a stopped container"]),
        (Request::Checkpoint, ["cannot checkpoint a task in created state", "+", "+", "cannot checkpoint a stopped container"]),
        (Request::Pids, ["+", "+", "+", "+"]),
        (Request::Stats, ["+", "+", "+", "+"]),
        (Request::CloseIo, ["+", "+", "+", "="]),
        (Request::ResizePty, ["+", "+", "+", "="]),
        (Request::State, ["+", "+", "+", "+"]),
        (Request::Wait, ["+", "+", "+", "+"]),
    ];

    /// As [`TABLE`], for a process that was added.
    #[rustfmt::skip]
    const EXEC_TABLE: [(ExecRequest, [&str; 4]); 7] = [
        (ExecRequest::Start, ["+", "cannot start a running process", "cannot start a running process", "cannot start a stopped process"]),
        (ExecRequest::Kill, ["process not created", "+", "+", "process already finished"]),
        (ExecRequest::Delete, ["+", "cannot delete a running process", "cannot delete a running process", "+"]),
        (ExecRequest::CloseIo, ["=", "+", "+", "="]),
        (ExecRequest::ResizePty, ["=", "+", "+", "cannot resize a stopped container"]),
        (ExecRequest::State, ["+", "+", "+", "+"]),
        (ExecRequest::Wait, ["+", "+", "+", "+"]),
    ];

    fn shown(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Allow => "+",
            Verdict::Ignore => "=",
            Verdict::Deny(reason) => reason.message,
        }
    }

    #[test]
    fn every_state_and_request_of_an_added_process_has_the_answer_of_runcs_shim() {
        for ((request, answers), listed) in EXEC_TABLE.into_iter().zip(ExecRequest::ALL) {
            assert_eq!(request, listed, "the table has a row for each request");
            for (state, answer) in State::ALL.into_iter().zip(answers) {
                assert_eq!(shown(decide_exec(state, request)), answer, "{request:?} in {state}");
            }
        }
    }

    #[test]
    fn every_state_and_request_has_the_answer_of_runcs_shim() {
        for ((request, answers), listed) in TABLE.into_iter().zip(Request::ALL) {
            assert_eq!(request, listed, "the table has a row for each request");
            for (state, answer) in State::ALL.into_iter().zip(answers) {
                assert_eq!(shown(decide(state, request)), answer, "{request} in {state}");
            }
        }
    }

    #[test]
    fn only_killing_the_dead_is_not_found() {
        for state in State::ALL {
            for request in Request::ALL {
                let Verdict::Deny(reason) = decide(state, request) else { continue };
                let dead = state == State::Stopped && request == Request::Kill;
                let expected = if dead { Code::NotFound } else { Code::Unknown };
                assert_eq!(reason.code, expected, "{request} in {state}");
            }
        }
    }

    /// Where an allowed request leads.
    fn after(state: State, request: Request, is_fatal: bool) -> State {
        match request {
            Request::Start | Request::Resume => State::Running,
            Request::Pause => State::Paused,
            Request::Kill if is_fatal => State::Stopped,
            _ => state,
        }
    }

    proptest! {
        #[test]
        fn a_container_starts_once_and_can_always_be_ended_and_deleted(
            steps in proptest::collection::vec(
                (proptest::sample::select(&Request::ALL[..]), any::<bool>()), 0..40)
        ) {
            let (mut state, mut starts) = (State::Created, 0);
            for (request, is_fatal) in steps {
                if decide(state, request) == Verdict::Allow {
                    let was_stopped = state == State::Stopped;
                    state = after(state, request, is_fatal);
                    starts += u32::from(request == Request::Start);
                    prop_assert!(!was_stopped || state == State::Stopped);
                }
            }
            prop_assert!(starts <= 1);
            if state != State::Stopped {
                prop_assert_eq!(decide(state, Request::Kill), Verdict::Allow);
            }
            prop_assert_eq!(decide(State::Stopped, Request::Delete), Verdict::Allow);
        }
    }
}
