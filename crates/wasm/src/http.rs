//! Serves HTTP with a component that exports `wasi:http/incoming-handler`.
//!
//! ```text
//! keeper        sandbox's init                                   clients
//! ------        --------------                                   -------
//! checks   -->  binds the socket, drops its power, READY         refused
//!          -->  START, filter, workers, a first instance
//!               listens                                     <--  connect
//!               each request: a turn, an instance, an answer
//! SIGTERM  -->  lets nobody new in, answers who is in, exit 0
//! ```
//!
//! | module | what is there |
//! |---|---|
//! | [`server`] | the life of the process: ready, accepting, draining |
//! | [`connection`] | one client's connection, HTTP/1.1 or HTTP/2 with prior knowledge |
//! | [`service`] | one request: its turn, its deadline, its answer |
//! | [`instances`] | what answers: instances, made and used again |
//! | [`budget`] | how many of them there is memory for |
//! | [`ticker`] | interrupts those that compute |
//! | [`workers`] | the threads |
//! | [`body`] | the body of an answer, streamed |
//! | [`report`] | what went wrong, in one line |
//! | [`outgoing`] | the requests a guest would make itself, denied |

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxResources;

use crate::command::{Guest, Preopen};
use crate::entry::EntryError;
use crate::gauge::Recorder;
use crate::module::Prepared;
use crate::stdio::Output;

mod body;
mod budget;
mod connection;
mod instances;
pub(crate) mod outgoing;
mod report;
mod server;
mod service;
mod ticker;
mod workers;

pub(crate) use budget::Share;
pub(crate) use server::cannot_listen;

/// A process that could not begin to serve ends with this code.
const NOT_SERVED: i32 = 1;

/// All that a server is made from, besides its program.
#[derive(Debug)]
pub struct Serving<'a> {
    /// Arguments and environment of every instance, and how it is served.
    pub guest: &'a Guest,
    /// What every instance finds open.
    pub preopens: &'a [Preopen],
    /// Where what it takes is shown.
    pub gauge: &'a Recorder,
    /// Bound, and not listening yet.
    pub socket: OwnedFd,
    /// What the container may take, which decides how many threads there are.
    pub resources: Option<&'a LinuxResources>,
}

impl Prepared {
    /// Returns where the program listens, if it is to be run as a server.
    ///
    /// # Errors
    /// As [`Prepared::check`].
    pub fn listens(&self, guest: &Guest) -> Result<Option<SocketAddr>, EntryError> {
        match (self.server(guest)?, &guest.http) {
            (Some(_), Some(http)) => Ok(Some(http.address(&guest.env)?)),
            _ => Ok(None),
        }
    }
}

/// Serves until a signal ends it, and returns the exit code: 0 when all requests that were taken
/// were answered.
#[must_use]
pub fn run(prepared: &Prepared, serving: Serving<'_>) -> i32 {
    match server::Server::new(prepared, serving) {
        Ok(server) => server.run(),
        Err(error) => {
            Output::error().say(&format!("Error: {error:#}\n"));
            NOT_SERVED
        }
    }
}
