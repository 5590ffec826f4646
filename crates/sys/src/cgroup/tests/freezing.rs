//! Pausing, with processes that make it hard.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::*;

fn ticks_of(lab: &Lab) -> u64 {
    lab.cgroup.stats().unwrap().cpu.unwrap().usage_ns
}

#[test]
fn a_frozen_process_stands_still_and_runs_on_once_thawed() {
    let Some(lab) = Lab::new("freeze") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut spinner = lab.running("while :; do :; done");
    lab.cgroup.freeze().unwrap();
    assert!(lab.cgroup.is_frozen().unwrap());
    let before = ticks_of(&lab);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks_of(&lab), before);
    lab.cgroup.thaw().unwrap();
    assert!(!lab.cgroup.is_frozen().unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    while ticks_of(&lab) == before {
        assert!(Instant::now() < deadline, "it does not run on");
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.cgroup.signal_all(libc::SIGKILL).unwrap();
    spinner.wait().unwrap();
}

#[test]
fn a_frozen_cgroup_still_dies_at_once() {
    let Some(lab) = Lab::new("freeze-kill") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut sleeper = lab.sleeper();
    lab.cgroup.freeze().unwrap();
    lab.cgroup.signal_all(libc::SIGKILL).unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_frozen_process_dies_of_a_signal_of_its_own_once_thawed() {
    let Some(lab) = Lab::new("freeze-init") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut sleeper = lab.sleeper();
    lab.cgroup.freeze().unwrap();
    sleeper.kill().unwrap();
    if !lab.hierarchies.is_unified() {
        std::thread::sleep(Duration::from_millis(50));
        assert!(sleeper.try_wait().unwrap().is_none(), "then thawing would not be needed");
    }
    lab.cgroup.thaw().unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_cgroup_that_forks_without_end_is_frozen_every_time() {
    let Some(lab) = Lab::new("freeze-forks") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut forkers: Vec<Child> =
        (0..2).map(|_| lab.running("while :; do /bin/true; done")).collect();
    for _ in 0..20 {
        lab.cgroup.freeze().unwrap();
        assert_eq!(lab.cgroup.pids().unwrap(), lab.cgroup.pids().unwrap());
        lab.cgroup.thaw().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    lab.cgroup.signal_all(libc::SIGKILL).unwrap();
    for forker in &mut forkers {
        forker.wait().unwrap();
    }
}

#[test]
fn a_stopped_process_is_frozen_too() {
    let Some(lab) = Lab::new("freeze-stopped") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut stopped = lab.sleeper();
    lab.cgroup.signal_all(libc::SIGSTOP).unwrap();
    lab.cgroup.freeze().unwrap();
    lab.cgroup.thaw().unwrap();
    stopped.kill().unwrap();
    stopped.wait().unwrap();
}

#[test]
fn without_a_freezer_nothing_is_frozen_and_freezing_is_refused() {
    let Some(mut lab) = Lab::new("freezer-none") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    assert!(!lab.cgroup.is_frozen().unwrap());
    let folders = lab.cgroup.folders.clone();
    lab.cgroup.folders.retain(|folder| !folder.hierarchy.holds("freezer"));
    assert!(!lab.cgroup.is_frozen().unwrap());
    let refused = lab.cgroup.freeze();
    lab.cgroup.folders = folders;
    assert!(matches!(refused, Err(CgroupError::NoController(_))), "{refused:?}");
}

#[test]
fn what_is_not_there_is_thawed_and_not_frozen() {
    let Some(lab) = Lab::new("freeze-none") else { return };
    lab.cgroup.thaw().unwrap();
    assert!(!lab.cgroup.is_frozen().unwrap());
    let refused = lab.cgroup.freeze().unwrap_err();
    assert!(matches!(refused, CgroupError::File { .. }), "{refused}");
}
