//! Another guest in a running container's sandbox: a module of the same image, or a
//! function of the one that runs, in an instance of its own.

use image::detect::Source;
use image::entrypoint::{self, ExecModule, ExecTarget, Running};
use keeper::client::Keeper;
use keeper::message::ExecWasm;
use sys::error::chain;
use wasm::command::Guest;
use wasm::entry::Entry;
use wasm::sandbox::Joined;

use super::guests::{Guests, Own};
use super::make::{Make, What};
use super::module::Module;
use crate::error::Error;
use crate::handle::{ContainerHandle, ContainerState, SIGKILL};
use crate::probe;
use crate::process::Process;
use crate::spec::{Command, ExecOptions};

/// Makes the guest and lets it run.
pub(super) async fn exec(
    keeper: &Keeper,
    container: &ContainerHandle,
    guests: &Guests,
    command: &Command,
    options: &ExecOptions,
) -> Result<Process, Error> {
    let refused = |error: &dyn std::error::Error| Error::InvalidSpec(chain(error));
    refuse_state(container.status().state)?;
    let process = &command.process;
    let ExecTarget { module, function, args } = target(guests, command)?;
    let named = command.process.args().iter().flatten().next().map_or("", String::as_str);
    let module = locate(guests, named, module).await?;
    let guest = Guest {
        args,
        env: process.env().clone().unwrap_or_default(),
        entry: function.map_or(Entry::Command, |function| Entry::Invoke { function }),
        limits: guests.limits(),
        config: guests.config(),
        // The address is the init's already: what is added is a command, or a function.
        http: None,
        world: None,
    };
    guest.check().map_err(|error| refused(&error))?;
    let plan = guests.plan.for_process(process).map_err(|error| refused(&error))?;
    let joined = Joined { init: container.init().identity()?, plan };
    let gauge = guests.new_gauge()?;
    let (engine, caching) = (guests.engine(), guests.caching);
    let what = What::Added(ExecWasm { joined, guest, module: module.digest, engine, caching });
    let make = Make { keeper, gauge: &gauge, stdio: &options.stdio };
    let process = Process::new(make.with(&module, &*guests.image, what).await?);
    let started = match guests.added(process.clone(), gauge) {
        Ok(()) => keeper.start_wasm(process.pid()).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    match started.map_err(|error| (error, process.signal(SIGKILL))) {
        Ok(()) => Ok(process),
        Err((error, Ok(()) | Err(Error::NotFound(_)))) => Err(error),
        Err((error, Err(left))) => Err(Error::Runtime(format!("{error}; and then: {left}"))),
    }
}

/// Refuses what cannot be joined, in the words that a Linux container has for it.
fn refuse_state(state: ContainerState) -> Result<(), Error> {
    let refused = |why: &str| Err(Error::InvalidSpec(format!("cannot exec in a {why} container")));
    match state {
        ContainerState::Created | ContainerState::Running => Ok(()),
        // It would stand still on its way in, and the call with it.
        ContainerState::Paused => refused("paused"),
        ContainerState::Stopped => refused("stopped"),
    }
}

fn target(guests: &Guests, command: &Command) -> Result<ExecTarget, Error> {
    let process = &command.process;
    let Own { args, source, image } = &guests.own;
    let running = Running { args, source, image: image.as_ref() };
    let asked = process.args().as_deref().unwrap_or_default();
    let path = process.env().as_deref().and_then(entrypoint::path_variable);
    entrypoint::exec_target(asked, running, path, &process.cwd().to_string_lossy())
        .map_err(|error| Error::InvalidSpec(chain(&error)))
}

async fn locate(guests: &Guests, named: &str, module: ExecModule) -> Result<Module, Error> {
    let source = match module {
        ExecModule::Running => return Ok(Module::running(guests.module)),
        ExecModule::Layer { digest, size } => Source::Layer { digest, size },
        ExecModule::File { candidates } => {
            let path = probe::guest_file(guests.rootfs.clone(), named, candidates).await?;
            Source::File { path }
        }
    };
    Module::locate(guests.rootfs.clone(), &source).await
}
