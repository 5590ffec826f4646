//! Runs a prepared program as a command: arguments, environment, standard streams, preopened
//! directories, an exit code.
//!
//! Called in the container's init, inside its sandbox. The async runtime is made here, on the
//! calling thread, and no second thread is started but the one that watches a deadline: file calls
//! block the guest's own thread and waiting goes through epoll. What is not handed over in [`Guest`]
//! or as a [`Preopen`] does not exist for the guest: no variable is inherited, no address can be
//! reached.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use settings::Http;
use wasmtime::Store;
use wasmtime::error::Context as _;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::WasiHttpCtx;

use crate::deadline::Watch;
use crate::engine::{Fuel, Interruption};
use crate::entry::{self, Entry};
use crate::gauge::Recorder;
use crate::http::Share;
use crate::http::outgoing::Denied;
use crate::limits::{self, Limits, MAX_FIELDS_BYTES, MAX_RANDOM_BYTES, Meter};
use crate::module::{Linked, Prepared};
use crate::outcome::Outcome;
use crate::provided::Provided;
use crate::stdio::{Input, Output, Waiting};
use crate::world::Asked;

/// What a guest is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Variables, each `NAME=value`. The guest's environment is exactly this list.
    pub env: Vec<String>,
    /// What of the program is run.
    #[serde(default)]
    pub entry: Entry,
    /// What it may take, how much it may compute and for how long. How much memory it may take is
    /// the gauge's to say, which is made with [`Limits::memory`] and follows an update.
    pub limits: Limits,
    /// Its own configuration, by name.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// How it is served if it is an HTTP server; `None` where it may not be one.
    #[serde(default)]
    pub http: Option<Http>,
    /// The world that an annotation asks for.
    #[serde(default)]
    pub world: Option<Asked>,
}

/// A guest cannot be started with what it is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// A variable would be lost or made up.
    #[error("environment variable `{}` has no `=`", shortened(.0))]
    NotAVariable(String),
    /// To a program in C the text would end there.
    #[error("{0} contains a zero byte")]
    ZeroByte(&'static str),
}

/// As much of a text as an error shows.
fn shortened(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

impl Guest {
    /// Checks what can be known before there is a sandbox.
    ///
    /// # Errors
    /// Names the first thing that a guest cannot be given as it is.
    pub fn check(&self) -> Result<(), GuestError> {
        let holds_zero = |texts: &[String]| texts.iter().any(|text| text.contains('\0'));
        if holds_zero(&self.args) {
            return Err(GuestError::ZeroByte("process.args"));
        }
        if holds_zero(&self.env) {
            return Err(GuestError::ZeroByte("process.env"));
        }
        self.variables().try_for_each(|variable| variable.map(drop))
    }

    fn variables(&self) -> impl Iterator<Item = Result<(&str, &str), GuestError>> {
        self.env.iter().map(|variable| {
            variable.split_once('=').ok_or_else(|| GuestError::NotAVariable(variable.clone()))
        })
    }
}

/// What a guest may do below a preopened directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// A directory the guest finds open when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preopen {
    /// Where the directory is, as the process that runs the guest sees it.
    pub host: PathBuf,
    /// The absolute path under which the guest knows it.
    pub guest: String,
    pub access: Access,
}

/// The state the host functions work on.
pub(crate) struct Host {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) meter: Meter,
    pub(crate) http: WasiHttpCtx,
    pub(crate) outgoing: Denied,
    pub(crate) provided: Provided,
    /// Its part of the memory, where several instances share a limit.
    pub(crate) share: Option<Share>,
}

impl Host {
    pub(crate) fn new(
        wasi: WasiP1Ctx,
        meter: Meter,
        provided: Provided,
        share: Option<Share>,
    ) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS_BYTES);
        Self { wasi, meter, http, outgoing: Denied, provided, share }
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Runs the program to its end and returns its exit code, 0 to 255. What it takes shows on the
/// gauge meanwhile.
///
/// A trap gives 134, a program that could not be started 1; both say why on standard error.
#[must_use]
pub fn run(prepared: &Prepared, guest: &Guest, preopens: &[Preopen], gauge: &Recorder) -> i32 {
    let watch = match Watch::begin(prepared, guest) {
        Ok(watch) => watch,
        Err(error) => return end(&Outcome::of(Err(error), &guest.limits, None)),
    };
    let outcome = run_to_end(prepared, guest, preopens, gauge);
    watch.end();
    end(&outcome)
}

fn end(outcome: &Outcome) -> i32 {
    if let Some(report) = outcome.report() {
        Output::error().say(&report);
    }
    outcome.code()
}

fn run_to_end(
    prepared: &Prepared,
    guest: &Guest,
    preopens: &[Preopen],
    gauge: &Recorder,
) -> Outcome {
    let not_run = |error| Outcome::of(Err(error), &guest.limits, None);
    // Neither the runtime nor the store is ever dropped: the process ends when the guest has, and
    // the kernel takes a memory of gigabytes back faster than it is unmapped piece by piece.
    let runtime = match async_runtime() {
        Ok(runtime) => ManuallyDrop::new(runtime),
        Err(error) => return not_run(error),
    };
    // Entered already here: parts of WASI look for the ambient runtime and, finding none, start a
    // multi-threaded one of their own.
    let _entered = runtime.enter();
    let mut store = match store_for(prepared, guest, preopens, gauge) {
        Ok(store) => ManuallyDrop::new(store),
        Err(error) => return not_run(error),
    };
    let name = guest.args.first().map_or("", String::as_str);
    let result = runtime
        .block_on(call(prepared, &mut store, guest))
        .with_context(|| format!("failed to run `{}`", name.escape_debug()));
    Outcome::of(result, &guest.limits, store.data().meter.refused())
}

fn store_for(
    prepared: &Prepared,
    guest: &Guest,
    preopens: &[Preopen],
    gauge: &Recorder,
) -> wasmtime::Result<Store<Host>> {
    let meter = Meter::new(&guest.limits, gauge.clone());
    let wasi = wasi_for(guest, preopens)?.stdin(Input::default()).build_p1();
    let host = Host::new(wasi, meter, Provided::of(guest), None);
    let mut store = Store::new(prepared.engine.wasmtime(), host);
    store.limiter(|host| &mut host.meter);
    limits::bound_the_host(&mut store);
    if prepared.engine.interruption() == Interruption::Epochs {
        // One tick away: it is the watch that ticks, once. Without a deadline nobody does.
        store.set_epoch_deadline(1);
    }
    match (guest.limits.fuel, prepared.engine.fuel()) {
        (None, Fuel::Unmetered) => {}
        (bound, _) => {
            let fuel = bound.unwrap_or(u64::MAX);
            store.set_fuel(fuel).context("cannot bound what the guest computes")?;
            count_fuel(&mut store, fuel, gauge.clone());
        }
    }
    Ok(store)
}

/// Shows what was computed whenever the guest calls the host, or has returned.
fn count_fuel(store: &mut Store<Host>, given: u64, gauge: Recorder) {
    gauge.fuel(0);
    store.call_hook(move |store, transition| {
        if transition.entering_host() {
            gauge.fuel(given.saturating_sub(store.get_fuel()?));
        }
        Ok(())
    });
}

/// Makes the runtime with no more than the guest can make use of: watching descriptors, which takes
/// half a dozen system calls to set up, serves standard input alone.
fn async_runtime() -> wasmtime::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time();
    if Input::waiting() == Waiting::Possible {
        builder.enable_io();
    }
    builder.build().context("cannot make the async runtime")
}

async fn call(
    prepared: &Prepared,
    store: &mut Store<Host>,
    guest: &Guest,
) -> wasmtime::Result<Result<(), ()>> {
    match &prepared.program {
        Linked::Core(linked) => entry::core::run(linked, store, guest).await.map(Ok),
        Linked::Component { library, command, .. } => {
            let engine = &prepared.engine;
            entry::component::run(library, command.as_ref(), engine, store, guest).await
        }
    }
}

pub(crate) fn wasi_for(guest: &Guest, preopens: &[Preopen]) -> wasmtime::Result<WasiCtxBuilder> {
    let mut wasi = WasiCtx::builder();
    // Before the preopens, which take the choice over when they are added.
    wasi.allow_blocking_current_thread(true)
        .allow_tcp(false)
        .allow_udp(false)
        .max_random_size(MAX_RANDOM_BYTES)
        .stdout(Output::standard())
        .stderr(Output::error())
        .args(&guest.args);
    for variable in guest.variables() {
        let (name, value) = variable?;
        wasi.env(name, value);
    }
    for preopen in preopens {
        let permissions = match preopen.access {
            Access::ReadOnly => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        wasi.preopened_dir(&preopen.host, &preopen.guest, permissions)
            .with_context(|| format!("cannot open `{}` for the guest", preopen.guest))?;
    }
    Ok(wasi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_cannot_be_given_its_words_is_refused() {
        let check = |args: &[&str], env: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            let guest = Guest { args: owned(args), env: owned(env), ..Guest::default() };
            guest.check().map_err(|error| error.to_string())
        };
        assert_eq!(check(&["app", ""], &["A=1", "B=", "C=a=b"]), Ok(()));
        assert_eq!(check(&[], &[]), Ok(()));
        let table: [(&[&str], &[&str], &str); 3] = [
            (&["app"], &["A=1", "B"], "environment variable `B` has no `=`"),
            (&["app", "a\0b"], &[], "process.args contains a zero byte"),
            (&["app"], &["A=\0"], "process.env contains a zero byte"),
        ];
        for (args, env, says) in table {
            assert_eq!(check(args, env), Err(says.to_owned()));
        }
        let refused = check(&[], &["\n".repeat(5000).as_str()]).unwrap_err();
        assert!(refused.len() < 300 && !refused.contains('\n'), "{refused}");
    }
}
