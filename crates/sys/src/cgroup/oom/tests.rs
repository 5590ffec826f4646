//! The ring of version 2, with a file that needs no controller; needs root.

use std::process::Child;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollTimeout;

use super::*;
use crate::cgroup::tests::Lab;

/// A cgroup of version 2, and a watch over whether there is anybody in it: that
/// number goes from 0 to 1 and back, in a file that rings as memory.events does, and
/// is there without any controller.
fn watched(name: &str) -> Option<(Lab, OomWatch)> {
    let lab = Lab::unified(name)?;
    lab.cgroup.create(&oci_spec::runtime::LinuxResources::default()).unwrap();
    let file = File::open(lab.cgroup.folders[0].path.join("cgroup.events")).unwrap();
    let watch = OomWatch::of_file(Counter { file, key: "populated", above: None });
    Some((lab, watch.unwrap()))
}

fn is_readable(watch: &OomWatch, patience: Duration) -> bool {
    let mut polled = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::try_from(patience).unwrap()).unwrap() > 0
}

fn end(mut process: Child) {
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_file_of_version_2_rings_at_each_change_until_it_is_counted() {
    let Some((lab, mut watch)) = watched("ring") else { return };
    let long = Duration::from_secs(10);
    assert!(!is_readable(&watch, Duration::from_millis(20)), "nothing has happened");
    for _ in 0..3 {
        let process = lab.sleeper();
        assert!(is_readable(&watch, long));
        assert!(is_readable(&watch, Duration::ZERO), "nobody has counted");
        assert_eq!(watch.taken().unwrap(), 1);
        assert!(!is_readable(&watch, Duration::ZERO));
        assert_eq!(watch.taken().unwrap(), 0);
        end(process);
        assert!(is_readable(&watch, long));
        assert_eq!(watch.taken().unwrap(), 0);
    }
}

#[test]
fn an_edge_triggered_waiter_hears_each_ring() {
    let Some((lab, mut watch)) = watched("ring-edge") else { return };
    let waiter = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
    waiter.add(&watch, EpollEvent::new(interest, 0)).unwrap();
    let mut wait = |wanted: u64| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            assert!(Instant::now() < deadline, "the change is never told");
            waiter.wait(&mut [EpollEvent::empty()], EpollTimeout::from(5000u16)).unwrap();
            let taken = watch.taken().unwrap();
            if watch.seen == wanted {
                return taken;
            }
        }
    };
    for _ in 0..3 {
        let process = lab.sleeper();
        assert_eq!(wait(1), 1);
        end(process);
        assert_eq!(wait(0), 0);
    }
}

#[test]
fn many_containers_can_be_watched_at_once() {
    let Some((lab, _watch)) = watched("ring-many") else { return };
    let path = lab.cgroup.folders[0].path.join("cgroup.events");
    let watches: Vec<OomWatch> = (0..300)
        .map(|_| {
            let file = File::open(&path).unwrap();
            OomWatch::of_file(Counter { file, key: "populated", above: None }).unwrap()
        })
        .collect();
    let process = lab.sleeper();
    assert!(watches.iter().all(|watch| is_readable(watch, Duration::from_secs(10))));
    end(process);
}

#[test]
fn the_file_of_a_cgroup_that_is_gone_rings_no_more_once_asked() {
    let Some((lab, mut watch)) = watched("ring-gone") else { return };
    lab.cgroup.remove().unwrap();
    assert!(is_readable(&watch, Duration::from_secs(1)), "it is urgent");
    for _ in 0..2 {
        assert_eq!(watch.taken().unwrap(), 0);
        assert!(!is_readable(&watch, Duration::from_millis(20)));
    }
}

#[test]
fn a_file_without_the_number_is_an_error() {
    let file = File::open("/proc/self/status").unwrap();
    let error = count_in(&file, "oom_kill").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let not_a_start_alone = count_in(&file, "Thread").unwrap_err();
    assert_eq!(not_a_start_alone.kind(), io::ErrorKind::InvalidData);
}
