//! What every door to a container obeys: its id, its states, its end.
//!
//! Pure: no I/O, no clock. A door asks [`decide`] whether a request fits the
//! state a container is in, and does the work.
//!
//! ```text
//!            start              pause
//!  Created ----------> Running --------> Paused
//!     |                   |  <---------    |
//!     |                   |   resume       |
//!     +------- exit ------+----- exit -----+---> Stopped
//! ```
//!
//! The answers, their codes and their wording are those of containerd's runc
//! shim, because clients match on them.
#![forbid(unsafe_code)]

pub mod decide;
pub mod exit;
pub mod id;
pub mod request;
pub mod state;

pub use decide::{Code, Reason, Verdict, decide, decide_exec};
pub use exit::ExitStatus;
pub use id::{ContainerId, InvalidId};
pub use request::{ExecRequest, Request};
pub use state::State;
