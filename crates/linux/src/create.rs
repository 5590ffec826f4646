//! Making a container: all of it, or nothing.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid, setgroups};
use oci_spec::runtime::Spec;
use sys::cgroup::{Cgroup, CgroupError, Hierarchies};
use sys::error::chain;
use sys::pidfd::Identity;
use sys::process::exit_now;
use sys::stdio::Stdio;
use sys::terminal::Size;

use crate::Made;
use crate::cause::Causes;
use crate::check::{UnsafeBundle, check, is_bind};
use crate::command::NOT_RUNNABLE;
use crate::console::{self, ConsoleSocket};
use crate::delete::sweep;
use crate::home::{Home, Record};
use crate::image_tree;
use crate::plan::{CreateRequest, Facts, Plan, agree, plan};
use crate::program::Program;
use crate::shown_bundle::ShownBundle;
use crate::stdio;

mod error;

pub use error::CreateError;

/// Exit code of a process that must not go on; nobody reads it.
const STRAY: i32 = 70;

/// Makes the container's first process, which waits for [`crate::start()`].
///
/// It becomes a child of the caller's parent. `stdio` become its descriptors
/// 0, 1 and 2 and its user's; it has no others.
///
/// # Errors
/// [`CreateError`]; then no process, cgroup or state of it is left.
pub fn create(request: &CreateRequest, stdio: Stdio) -> Result<Made, CreateError> {
    agree(request.spec.process().as_ref(), &stdio)?;
    let home = Home::at(&request.state_root, &request.id)?;
    check(&request.spec, &request.bundle)?;
    let hierarchies = Hierarchies::discover().map_err(|error| CreateError::Cgroup(error.into()))?;
    let plan = plan_for(request, &hierarchies)?;
    let cgroup = Cgroup::at(&hierarchies, &plan.cgroup);

    home.take().map_err(|error| match error.kind() {
        // Not so if it is a file in the place of the folder above.
        io::ErrorKind::AlreadyExists if home.exists() => {
            CreateError::AlreadyExists(request.id.clone())
        }
        _ => CreateError::State(error),
    })?;
    let record = Record { bundle: request.bundle.clone(), cgroup: plan.cgroup.clone(), init: None };
    let created = refuse_occupied(&cgroup)
        // From here on whatever is in the cgroup is ours to kill.
        .map_err(|error| abandon(&home, None, error))
        .and_then(|()| {
            fill(request, &home, record, &plan, stdio)
                .map_err(|error| abandon(&home, Some(&cgroup), error))
        })?;
    Ok(created)
}

fn plan_for(request: &CreateRequest, hierarchies: &Hierarchies) -> Result<Plan, CreateError> {
    let spec = Spec::clone(&request.spec);
    let root = spec.root().as_ref().ok_or(UnsafeBundle::NoRoot)?;
    let rootfs = request.bundle.join(root.path());
    let rootfs = fs::canonicalize(&rootfs)
        .map_err(|source| UnsafeBundle::Rootfs { path: rootfs.clone(), source })?;
    let uid = spec.process().as_ref().map(|process| process.user().uid());
    let home = uid.and_then(|uid| image_tree::home_of(&rootfs, uid));
    let facts = Facts {
        id: &request.id,
        rootfs: &rootfs,
        home: home.as_deref(),
        unified: hierarchies.is_unified(),
        hierarchies: hierarchies.mounts().collect(),
    };
    Ok(plan(spec, &facts)?)
}

fn refuse_occupied(cgroup: &Cgroup) -> Result<(), CreateError> {
    match cgroup.pids() {
        Ok(pids) if pids.is_empty() => Ok(()),
        Ok(pids) => Err(CreateError::CgroupInUse(pids.len())),
        Err(error) => Err(CreateError::Cgroup(Box::<CgroupError>::new(error))),
    }
}

fn fill(
    request: &CreateRequest,
    home: &Home,
    mut record: Record,
    plan: &Plan,
    stdio: Stdio,
) -> Result<Made, CreateError> {
    // Inherited by libcontainer's processes: should this worker be killed, a
    // delete can wait for them. They close it before they wait to be started.
    let _making = home.mark_making().map_err(CreateError::State)?;
    home.save_record(&record).map_err(CreateError::State)?;
    home.save_spec(&plan.spec).map_err(CreateError::State)?;
    home.save_confinement(&plan.confinement).map_err(CreateError::State)?;
    plan.cgroup_folders.iter().try_for_each(|folder| make_cgroup(folder))?;
    let stdio = settle(plan, stdio)?;
    let console = match stdio {
        Stdio::Streams(_) => None,
        Stdio::Terminal => Some(ConsoleSocket::listen(home.folder()).map_err(of_terminal)?),
    };
    let container = run(request, home, plan, stdio, console.as_ref())?;
    let pid = container
        .pid()
        .map(|pid| Pid::from_raw(pid.as_raw()))
        .ok_or_else(|| CreateError::Process("the process has no id".to_owned()))?;
    record.init = Identity::of(pid).ok();
    home.save_record(&record).map_err(CreateError::State)?;
    let console =
        console.map(|it| take_console(&it, &plan.spec)).transpose().map_err(of_terminal)?;
    Ok(Made { pid, console })
}

/// Makes a folder with its parents, as others may at the same time: parents are
/// shared, and stay when the container goes, as runc's do.
fn make_cgroup(folder: &Path) -> Result<(), CreateError> {
    fs::create_dir_all(folder).map_err(|source| {
        let (attempt, path) = ("make".to_owned(), folder.to_owned());
        CreateError::Cgroup(CgroupError::File { attempt, path, source }.into())
    })
}

fn of_terminal(source: io::Error) -> CreateError {
    CreateError::Prepare { attempt: "make a terminal", source }
}

fn take_console(socket: &ConsoleSocket, spec: &Spec) -> io::Result<OwnedFd> {
    let master = socket.take()?;
    let size = spec.process().as_ref().and_then(Size::asked_by);
    console::settle(&master, size, stdio::host_uid(spec))?;
    Ok(master)
}

/// Does what runc does beside the container and libcontainer does not. All of
/// it is undone by the worker's end, but for what it makes in the image's tree.
fn settle(plan: &Plan, stdio: Stdio) -> Result<Stdio, CreateError> {
    let prepare = |attempt| move |source| CreateError::Prepare { attempt, source };
    umask(Mode::from_bits_truncate(0o022));
    sys::privileges::leave_session_keyring().map_err(prepare("leave the session keyring"))?;
    // libcontainer leaves the groups alone when the spec lists none.
    setgroups(&[]).map_err(io::Error::from).map_err(prepare("drop supplementary groups"))?;
    for mount in plan.spec.mounts().iter().flatten().filter(|mount| is_bind(mount)) {
        look_at_source(mount.source().as_deref(), mount.destination())?;
    }
    let root = plan.spec.root().as_ref().ok_or(UnsafeBundle::NoRoot)?;
    image_tree::make(&plan.spec, root.path()).map_err(|source| {
        let process = plan.spec.process().as_ref();
        let path = process.map(|it| it.cwd().clone()).unwrap_or_default();
        CreateError::WorkingDirectory { path, source }
    })?;
    let Stdio::Streams(streams) = stdio else {
        return Ok(stdio);
    };
    let streams = stdio::above_standard(streams).map_err(prepare("duplicate standard streams"))?;
    if let Some(owner) = stdio::host_uid(&plan.spec) {
        stdio::give_to(&streams, owner).map_err(prepare("hand over standard streams"))?;
    }
    Ok(Stdio::Streams(streams))
}

fn look_at_source(mount: Option<&Path>, target: &Path) -> Result<(), CreateError> {
    let mount = mount.unwrap_or(Path::new(""));
    fs::metadata(mount).map(drop).map_err(|source| CreateError::MountSource {
        mount: mount.to_owned(),
        target: target.to_owned(),
        source,
    })
}

fn run(
    request: &CreateRequest,
    home: &Home,
    plan: &Plan,
    stdio: Stdio,
    console: Option<&ConsoleSocket>,
) -> Result<Container, CreateError> {
    let listen = |source| CreateError::Prepare { attempt: "listen for errors", source };
    let causes = Causes::listen().map_err(listen)?;
    let worker = getpid();
    let look = |source| CreateError::Prepare { attempt: "list open files", source };
    let program = Program::new(plan.filter.clone()).map_err(look)?;
    let build = || build(request, home, plan, program, (stdio, console));
    let built = catch_unwind(AssertUnwindSafe(build));
    if getpid() != worker {
        // A panic in one of libcontainer's own processes has unwound to here.
        // It is inside the container and must not act as a second worker.
        exit_now(STRAY);
    }
    let failed = match built {
        Ok(Ok(container)) => return Ok(container),
        Ok(Err(error)) => chain(&error),
        Err(_) => "libcontainer panicked".to_owned(),
    };
    Err(explain(&failed, causes.first()))
}

fn build(
    request: &CreateRequest,
    home: &Home,
    plan: &Plan,
    program: Program,
    (stdio, console): (Stdio, Option<&ConsoleSocket>),
) -> Result<Container, LibcontainerError> {
    let bundle = ShownBundle::of(request, home, plan).map_err(LibcontainerError::OtherIO)?;
    let builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(home.library_root())?
        .with_executor(program)
        .with_console_socket(console.map(ConsoleSocket::path));
    let builder = match stdio {
        Stdio::Terminal => builder,
        Stdio::Streams([stdin, stdout, stderr]) => {
            builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr)
        }
    };
    let mut container = builder
        .validate_id()?
        .as_init(bundle.folder())
        .with_systemd(plan.systemd)
        .with_detach(true)
        .as_sibling(true)
        .build()?;
    // Hooks that come later are told the bundle; this one may be a copy.
    container.state.bundle.clone_from(&request.bundle);
    container.save()?;
    Ok(container)
}

/// Our executor's own sentences arrive wrapped in several layers' words; the
/// others, without their cause.
fn explain(failed: &str, innermost: Option<String>) -> CreateError {
    const PREFIX: &str = "exec process failed with error error in executing process : ";
    let text = failed.rsplit_once(PREFIX).map_or(failed, |(_, text)| text);
    if text.starts_with(NOT_RUNNABLE) {
        return CreateError::NotRunnable(text.to_owned());
    }
    CreateError::Process(match innermost {
        Some(cause) if !text.contains(cause.as_str()) => format!("{text}: {cause}"),
        _ => text.to_owned(),
    })
}

fn abandon(home: &Home, cgroup: Option<&Cgroup>, failure: CreateError) -> CreateError {
    let leftover = sweep(home, cgroup, None);
    match leftover.is_empty() {
        true => failure,
        false => {
            CreateError::LeftBehind { failure: Box::new(failure), leftover: leftover.join("; ") }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// In a hierarchy of version 2 where the host has one, in a plain folder else.
    fn somewhere() -> tempfile::TempDir {
        let beside = Path::new("/sys/fs/cgroup/unified");
        let unified = [beside, Path::new("/sys/fs/cgroup")].into_iter().find_map(|folder| {
            let is_it = folder.join("cgroup.controllers").exists();
            is_it.then(|| tempfile::tempdir_in(folder).ok()).flatten()
        });
        unified.unwrap_or_else(|| tempfile::tempdir().unwrap())
    }

    #[test]
    fn containers_that_are_made_at_once_share_their_missing_parents() {
        for _ in 0..100 {
            let scratch = somewhere();
            let parent = scratch.path().join("pods/one");
            let gate = Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        gate.wait();
                        make_cgroup(&parent).unwrap();
                    });
                }
            });
            assert!(parent.is_dir());
            // The files of a cgroup cannot be removed, only the cgroup.
            fs::remove_dir(&parent).unwrap();
            fs::remove_dir(scratch.path().join("pods")).unwrap();
            fs::remove_dir(scratch.keep()).unwrap();
        }
    }

    #[test]
    fn a_cgroup_that_cannot_be_made_is_named() {
        let error = make_cgroup(Path::new("/proc/nonesuch/web")).unwrap_err();
        let text = chain(&error);
        assert!(text.contains("make /proc/nonesuch/web: No such file"), "{text}");
    }
}
