//! Processes in a tree of cgroups that the container has made its own.

use std::os::unix::process::ExitStatusExt;

use super::*;

#[test]
fn threaded_cgroups_below_keep_nobody_from_being_listed_killed_and_removed() {
    let Some(lab) = Lab::unified("threaded") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let own = &lab.cgroup.folders[0].path;
    let (threaded, deeper) = (own.join("threaded"), own.join("threaded/deeper"));
    for folder in [&threaded, &deeper] {
        fs::create_dir(folder).unwrap();
        write(&folder.join("cgroup.type"), "threaded").unwrap();
    }
    let mut sleeper = lab.sleeper();
    let thread = sleeper.id().to_string();
    write(&deeper.join("cgroup.threads"), &thread).unwrap();
    assert_eq!(read(&deeper.join("cgroup.threads")).unwrap(), thread, "it is there");
    let refused = fs::read(deeper.join("cgroup.procs")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));

    let pid = Pid::from_raw(sleeper.id().cast_signed());
    assert_eq!(lab.cgroup.pids().unwrap(), [pid]);
    lab.cgroup.signal_all(libc::SIGTERM).unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGTERM));
    lab.cgroup.remove().unwrap();
    assert!(!own.exists());
}

#[test]
fn a_cgroup_that_is_itself_threaded_is_not_taken_for_an_empty_one() {
    let Some(lab) = Lab::unified("threads-only") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let below = lab.cgroup.location.relative().join("below");
    let location = Location::parse(below.to_str(), "").unwrap();
    let below = Cgroup::at(&lab.hierarchies, &location);
    fs::create_dir(&below.folders[0].path).unwrap();
    assert!(below.pids().unwrap().is_empty());
    write(&below.folders[0].path.join("cgroup.type"), "threaded").unwrap();
    assert!(matches!(below.pids(), Err(CgroupError::File { .. })));
}
