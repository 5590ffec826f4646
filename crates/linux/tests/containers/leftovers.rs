//! Starting and deleting in every order, and what is left afterwards.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;

use crate::lab::Lab;
use crate::{Case, keeper};

pub(crate) const CASES: &[Case] = &[
    ("a_created_container_can_be_deleted", a_created_container_can_be_deleted),
    ("deleting_a_running_container_kills_all_of_it", deleting_a_running_container_kills_all_of_it),
    ("an_id_is_taken_until_it_is_deleted", an_id_is_taken_until_it_is_deleted),
    ("a_container_starts_once", a_container_starts_once),
    ("a_container_that_died_does_not_start", a_container_that_died_does_not_start),
    ("damaged_state_can_be_deleted", damaged_state_can_be_deleted),
    ("a_process_that_took_over_the_id_is_spared", a_process_that_took_over_the_id_is_spared),
    (
        "a_cgroup_that_is_in_use_is_refused_and_spared",
        a_cgroup_that_is_in_use_is_refused_and_spared,
    ),
    ("a_failing_hook_leaves_nothing", a_failing_hook_leaves_nothing),
    ("a_worker_killed_at_any_moment_leaves_nothing", a_worker_killed_at_any_moment_leaves_nothing),
    ("many_containers_leave_no_descriptor", many_containers_leave_no_descriptor),
];

fn assert_gone(lab: &Lab) {
    assert_eq!(lab.remains(), Vec::<String>::new());
}

fn a_created_container_can_be_deleted() {
    let lab = Lab::new("true");
    let created = lab.create().unwrap();
    assert!(!lab.cgroup_folders().is_empty());
    lab.delete().unwrap();
    assert_eq!(keeper::wait(created.pid), 128 + 9);
    assert_gone(&lab);
    lab.delete().unwrap();
}

fn deleting_a_running_container_kills_all_of_it() {
    // Without a pid namespace of its own the init's death would spare the rest.
    let mut lab = Lab::new("(sleep 60 & sleep 60 & echo up; wait) & sleep 60");
    let namespaces = lab.linux().namespaces().clone().unwrap();
    let others =
        namespaces.into_iter().filter(|it| it.typ() != oci_spec::runtime::LinuxNamespaceType::Pid);
    lab.linux().set_namespaces(Some(others.collect()));
    let created = lab.create().unwrap();
    lab.start().unwrap();
    let mut first = [0; 3];
    nix::unistd::read(&created.stdout, &mut first).unwrap();
    assert_eq!(&first, b"up\n");
    lab.delete().unwrap();
    assert_eq!(keeper::wait(created.pid), 128 + 9);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_gone(&lab);
}

fn an_id_is_taken_until_it_is_deleted() {
    let lab = Lab::new("sleep 60");
    let first = lab.create().unwrap();
    let error = lab.create().map(|it| it.pid).unwrap_err();
    assert_eq!(error, format!("container {:?} already exists", lab.id));
    // The rival has torn nothing down.
    lab.start().unwrap();
    lab.delete().unwrap();
    keeper::wait(first.pid);
    let second = lab.create().unwrap();
    lab.delete().unwrap();
    keeper::wait(second.pid);
    assert_gone(&lab);
}

fn a_container_starts_once() {
    let lab = Lab::new("sleep 60");
    assert!(lab.start().unwrap_err().contains("is not waiting to be started"));
    let created = lab.create().unwrap();
    lab.start().unwrap();
    assert!(lab.start().unwrap_err().contains("is not waiting to be started"));
    lab.delete().unwrap();
    keeper::wait(created.pid);
    assert_gone(&lab);
}

fn a_container_that_died_does_not_start() {
    let lab = Lab::new("true");
    let created = lab.create().unwrap();
    kill(created.pid, Signal::SIGKILL).unwrap();
    keeper::wait(created.pid);
    assert!(lab.start().unwrap_err().contains("is not waiting to be started"));
    lab.delete().unwrap();
    assert_gone(&lab);
}

fn damaged_state_can_be_deleted() {
    let damage: [fn(&std::path::Path); 5] = [
        |state| fs::write(state.join("record.json"), "{").unwrap(),
        |state| fs::remove_file(state.join("record.json")).unwrap(),
        |state| fs::write(state.join("config.json"), "").unwrap(),
        |state| fs::remove_dir_all(state.join("state")).unwrap(),
        |state| fs::remove_dir_all(state).unwrap(),
    ];
    for (number, break_it) in damage.into_iter().enumerate() {
        let lab = Lab::new("sleep 60");
        let created = lab.create().unwrap();
        lab.start().unwrap();
        break_it(&lab.state_root().join(&lab.id));
        lab.delete().unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(keeper::wait(created.pid), 128 + 9, "{number}");
        assert_gone(&lab);
    }
}

fn a_process_that_took_over_the_id_is_spared() {
    for (off, spared) in [(1, true), (0, false)] {
        let lab = Lab::new("true");
        let created = lab.create().unwrap();
        let mut other = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", other.id())).unwrap();
        let started: u64 = stat.split(' ').nth(21).unwrap().parse().unwrap();
        let record = lab.state_root().join(&lab.id).join("record.json");
        let text = fs::read_to_string(&record).unwrap();
        let (head, _) = text.split_once("\"init\":").unwrap();
        let forged =
            format!("{head}\"init\":{{\"pid\":{},\"started\":{}}}}}", other.id(), started - off);
        fs::write(&record, forged).unwrap();
        lab.delete().unwrap();
        keeper::wait(created.pid);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(other.try_wait().unwrap().is_none(), spared);
        // Gone already where it was not spared.
        if spared {
            other.kill().unwrap();
            other.wait().unwrap();
        }
        assert_gone(&lab);
    }
}

fn a_cgroup_that_is_in_use_is_refused_and_spared() {
    let first = Lab::new("sleep 60");
    let created = first.create().unwrap();
    first.start().unwrap();
    let mut second = Lab::new("true");
    let path = first.spec.linux().as_ref().unwrap().cgroups_path().clone();
    second.linux().set_cgroups_path(path);
    let error = second.create().map(|it| it.pid).unwrap_err();
    assert_eq!(error, "cgroup of the container is not empty: 1 processes found");
    assert!(!second.state_root().join(&second.id).exists());
    assert_eq!(keeper::children_alive(), 1);
    let own = format!("/hybrid-linux-test/{}", second.id);
    second.linux().set_cgroups_path(Some(own.into()));
    first.delete().unwrap();
    keeper::wait(created.pid);
    assert_eq!(second.run().code, 0);
}

fn a_failing_hook_leaves_nothing() {
    let mut lab = Lab::new("true");
    let hook = |path: &str| {
        let hook = oci_spec::runtime::HookBuilder::default().path(path).build().unwrap();
        let hooks = oci_spec::runtime::HooksBuilder::default().create_runtime(vec![hook]);
        Some(hooks.build().unwrap())
    };
    lab.spec.set_hooks(hook("/bin/false"));
    let error = lab.create().map(|it| it.pid).unwrap_err();
    assert!(error.contains("hook"), "{error}");
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_gone(&lab);
    lab.spec.set_hooks(hook("/bin/true"));
    assert_eq!(lab.run().code, 0);
}

fn a_worker_killed_at_any_moment_leaves_nothing() {
    let lab = Lab::new("sleep 60");
    lab.spec.save(lab.bundle().join("config.json")).unwrap();
    let request = lab.request();
    for step in 0..40 {
        let worker = keeper::fork(|| linux::create(&request, crate::lab::null_streams()).map(drop));
        std::thread::sleep(std::time::Duration::from_micros(step * 750));
        kill(worker, Signal::SIGKILL).unwrap();
        keeper::wait(worker);
        lab.delete().unwrap();
        keeper::reap_all();
        assert_eq!(lab.remains(), Vec::<String>::new(), "killed at step {step}");
    }
    assert_eq!(lab.create().map(drop), Ok(()));
    lab.start().unwrap();
    lab.delete().unwrap();
    keeper::reap_all();
    assert_gone(&lab);
}

fn many_containers_leave_no_descriptor() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..20 {
        let mut lab = Lab::new("true");
        assert_eq!(lab.run().code, 0);
        lab.process().set_args(Some(vec!["nonesuch".to_owned()]));
        lab.create().map(|it| it.pid).unwrap_err();
        assert_gone(&lab);
    }
    assert_eq!(open(), before);
}
