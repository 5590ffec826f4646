//! Kills for want of memory, and being told of them.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::*;
use crate::cgroup::oom::OomWatch;

/// Takes more memory than it may have.
const HOG: &str = "head -c 200m /dev/zero | tail > /dev/null";

fn small() -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(8i64 << 20).swap(8i64 << 20);
    LinuxResourcesBuilder::default().memory(memory.build().unwrap()).build().unwrap()
}

fn kills_of(lab: &Lab) -> u64 {
    lab.cgroup.stats().unwrap().memory.unwrap().oom_kills
}

fn is_readable(watch: &OomWatch, patience: Duration) -> bool {
    let mut polled = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(patience).unwrap()).unwrap() > 0
}

/// Asks whenever it is readable, until kills are told or the time is up.
fn await_kills(watch: &mut OomWatch, patience: Duration) -> u64 {
    let deadline = Instant::now() + patience;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if is_readable(watch, left) {
            let kills = watch.taken().unwrap();
            if kills > 0 {
                return kills;
            }
        }
    }
    0
}

#[test]
fn a_kill_for_memory_is_told_once_and_counted() {
    let Some(lab) = Lab::new("oom") else { return };
    lab.cgroup.create(&small()).unwrap();
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    assert_eq!(watch.taken().unwrap(), 0);
    assert!(!is_readable(&watch, Duration::ZERO));
    for kills in 1..=2 {
        let mut hog = lab.running(HOG);
        assert_eq!(await_kills(&mut watch, Duration::from_secs(30)), 1);
        hog.wait().unwrap();
        assert_eq!(watch.taken().unwrap(), 0);
        assert_eq!(kills_of(&lab), kills);
    }
}

#[test]
fn the_same_hog_with_enough_memory_is_not_killed() {
    let Some(lab) = Lab::new("no-oom") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    let mut hog = lab.running(HOG);
    assert!(hog.wait().unwrap().success());
    assert_eq!(watch.taken().unwrap(), 0);
    assert_eq!(kills_of(&lab), 0);
}

#[test]
fn what_was_killed_before_is_not_told() {
    let Some(lab) = Lab::new("oom-before") else { return };
    lab.cgroup.create(&small()).unwrap();
    lab.running(HOG).wait().unwrap();
    assert_eq!(kills_of(&lab), 1);
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    assert_eq!(watch.taken().unwrap(), 0);
}

#[test]
fn a_kill_below_is_told_above() {
    let Some(lab) = Lab::new("oom-below") else { return };
    lab.cgroup.create(&small()).unwrap();
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    let below = lab.cgroup.location.relative().join("below");
    let location = Location::parse(below.to_str(), "").unwrap();
    let below = Cgroup::at(&lab.hierarchies, &location);
    below.create(&LinuxResources::default()).unwrap();
    let below = Lab { cgroup: below, hierarchies: lab.hierarchies.clone() };
    let mut hog = below.running(HOG);
    assert_eq!(await_kills(&mut watch, Duration::from_secs(30)), 1);
    hog.wait().unwrap();
}

#[test]
fn an_edge_triggered_waiter_is_woken_for_each_kill() {
    let Some(lab) = Lab::new("oom-edge") else { return };
    lab.cgroup.create(&small()).unwrap();
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    let waiter = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    waiter.add(&watch, EpollEvent::new(interest, 0)).unwrap();
    for _ in 0..3 {
        let mut hog = lab.running(HOG);
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut kills = 0;
        while kills == 0 {
            assert!(Instant::now() < deadline, "the kill is never told");
            waiter.wait(&mut [EpollEvent::empty()], EpollTimeout::from(1000u16)).unwrap();
            kills = watch.taken().unwrap();
        }
        assert_eq!(kills, 1);
        hog.wait().unwrap();
    }
}

#[test]
fn a_watch_does_not_keep_the_cgroup_and_its_removal_is_no_kill() {
    let Some(lab) = Lab::new("oom-gone") else { return };
    lab.cgroup.create(&small()).unwrap();
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    lab.cgroup.remove().unwrap();
    assert!(!lab.cgroup.exists());
    // Version 1 rings for it.
    is_readable(&watch, Duration::from_millis(200));
    assert_eq!(watch.taken().unwrap(), 0);
    assert!(OomWatch::of(&lab.cgroup).unwrap().is_none());
}

#[test]
fn a_process_that_ends_by_itself_is_no_kill() {
    let Some(lab) = Lab::new("oom-none") else { return };
    lab.cgroup.create(&small()).unwrap();
    let mut watch = OomWatch::of(&lab.cgroup).unwrap().unwrap();
    let mut sleeper = lab.sleeper();
    sleeper.kill().unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(await_kills(&mut watch, Duration::from_millis(100)), 0);
}
