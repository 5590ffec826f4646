//! Cgroups as the host's kernel has them; needs root.

use std::fs;
use std::os::fd::AsFd;
use std::process::{Child, Command};

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
};

use super::files::{read, write};
use super::*;
use crate::pidfd::ExitStatus;
use crate::process::{Fork, SingleThreaded, exit_now};

mod freezing;
mod killing;
mod members;
mod updating;

/// A cgroup that is removed at the end, and a process that may live in it.
pub(super) struct Lab {
    pub(super) cgroup: Cgroup,
    hierarchies: Hierarchies,
}

impl Lab {
    fn new(name: &str) -> Option<Self> {
        Self::on(Hierarchies::discover().unwrap(), name)
    }

    /// On version 2 alone, even where it only stands beside version 1: there it has no
    /// controllers, but processes, a freezer and events.
    pub(super) fn unified(name: &str) -> Option<Self> {
        let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .find(|mount| fs::exists(format!("{mount}/cgroup.procs")).unwrap());
        let Some(mount) = mount else {
            eprintln!("SKIPPED: needs cgroups of version 2");
            return None;
        };
        Self::on(Hierarchies::unified_at(mount.into()), name)
    }

    fn on(hierarchies: Hierarchies, name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make cgroups");
            return None;
        }
        let path = format!("/sys-cgroup-test-{name}-{}", std::process::id());
        let cgroup = Cgroup::at(&hierarchies, &Location::parse(Some(&path), "").unwrap());
        Some(Self { cgroup, hierarchies })
    }

    fn put(&self, child: &Child) {
        for folder in &self.cgroup.folders {
            write(&folder.path.join("cgroup.procs"), &child.id().to_string()).unwrap();
        }
    }

    pub(super) fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        self.put(&child);
        child
    }

    /// Runs a shell's script in the cgroup from its first line on.
    fn running(&self, script: &str) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("read go; {script}")]);
        shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = shell.spawn().unwrap();
        self.put(&child);
        drop(child.stdin.take());
        child
    }

    /// Waits until a script has said something.
    fn await_word(&self, child: &mut Child) {
        let read = std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0; 64]).unwrap();
        assert!(read > 0, "{} said nothing", child.id());
    }

    fn file(&self, controller: &str, file: &str) -> String {
        read(&self.cgroup.counted(controller).unwrap().path.join(file)).unwrap()
    }

    /// The same limit, by its file of either version.
    fn limit(&self, controller: &str, v1: &str, v2: &str) -> String {
        self.file(controller, if self.hierarchies.is_unified() { v2 } else { v1 })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.cgroup.signal_all(libc::SIGKILL).unwrap();
        self.cgroup.remove().unwrap();
    }
}

fn some_limits() -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(64 << 20).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(7).build().unwrap();
    let cpu = LinuxCpuBuilder::default().shares(512u64).quota(50_000).period(100_000u64);
    LinuxResourcesBuilder::default()
        .memory(memory)
        .pids(pids)
        .cpu(cpu.build().unwrap())
        .build()
        .unwrap()
}

fn unified_or<'a>(lab: &Lab, v1: &'a str, v2: &'a str) -> &'a str {
    if lab.hierarchies.is_unified() { v2 } else { v1 }
}

#[test]
fn limits_are_set_and_read_back() {
    let Some(lab) = Lab::new("limits") else { return };
    lab.cgroup.create(&some_limits()).unwrap();
    let stats = lab.cgroup.stats().unwrap();
    assert_eq!(stats.memory.unwrap().limit, Some(64 << 20));
    assert_eq!(stats.pids.unwrap().limit, Some(7));
    assert_eq!(lab.limit("cpu", "cpu.shares", "cpu.weight"), unified_or(&lab, "512", "59"));
    let quota = lab.limit("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota, unified_or(&lab, "50000", "50000 100000"));
}

#[test]
fn a_process_is_joined_counted_killed_and_the_cgroup_removed() {
    let Some(lab) = Lab::new("kill") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut sleeper = lab.sleeper();
    let pid = Pid::from_raw(sleeper.id().cast_signed());
    assert_eq!(lab.cgroup.pids().unwrap(), [pid]);
    assert_eq!(lab.cgroup.stats().unwrap().pids.unwrap().current, 1);
    lab.cgroup.signal_all(libc::SIGKILL).unwrap();
    assert!(!sleeper.wait().unwrap().success());
    assert!(lab.cgroup.exists());
    lab.cgroup.remove().unwrap();
    assert!(!lab.cgroup.exists());
    lab.cgroup.remove().unwrap();
}

#[test]
fn a_process_that_joins_by_itself_is_in_every_hierarchy() {
    let Some(lab) = Lab::new("self") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    crate::forked::in_child(|| {
        lab.cgroup.join_self(&SingleThreaded::prove().unwrap()).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        for folder in &lab.cgroup.folders {
            let procs = read(&folder.path.join("cgroup.procs")).unwrap();
            assert_eq!(procs, std::process::id().to_string(), "{}", folder.path.display());
        }
        let place = lab.cgroup.location.relative().to_str().unwrap();
        let joined = own.lines().filter(|line| line.ends_with(place)).count();
        assert_eq!(joined, lab.cgroup.folders.len(), "{own}");
    });
}

#[test]
fn a_process_is_born_in_a_cgroup_of_version_2() {
    let Some(lab) = Lab::new("born") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let Some(door) = lab.cgroup.door().unwrap() else {
        assert!(!lab.hierarchies.is_unified());
        eprintln!("SKIPPED: needs cgroup version 2 alone");
        return;
    };
    crate::forked::in_child(|| {
        let single = SingleThreaded::prove().unwrap();
        match single.fork_into(CloneFlags::empty(), Some(door.as_fd())).unwrap() {
            Fork::Child => {
                let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                let place = lab.cgroup.location.relative().to_str().unwrap_or("?");
                exit_now(i32::from(!own.trim().ends_with(place)))
            }
            Fork::Parent { pidfd, .. } => {
                assert_eq!(pidfd.wait().unwrap(), ExitStatus::Exited(0));
            }
        }
    });
}

#[test]
fn systemd_is_asked_for_scopes_of_version_2_alone() {
    let location = Location::parse(Some("system.slice:hybrid:asked"), "").unwrap();
    let place = Location::parse(Some("/hybrid/asked"), "").unwrap();
    crate::forked::in_child(|| {
        let none = start_scope(&place, &LinuxResources::default());
        assert!(matches!(none, Err(CgroupError::SystemdScope(_))), "{none:?}");
        let asked = start_scope(&location, &LinuxResources::default());
        if Hierarchies::of_host().unwrap().is_unified() {
            asked.unwrap();
            assert!(Cgroup::open(&location).unwrap().is_some());
        } else {
            assert!(matches!(asked, Err(CgroupError::SystemdScope(_))), "{asked:?}");
        }
    });
}

#[test]
fn an_occupied_cgroup_is_refused_and_an_empty_leftover_taken() {
    let Some(lab) = Lab::new("occupied") else { return };
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    lab.cgroup.create(&LinuxResources::default()).unwrap();
    let mut sleeper = lab.sleeper();
    let error = lab.cgroup.create(&LinuxResources::default()).unwrap_err();
    assert!(matches!(error, CgroupError::InUse(_)), "{error}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn a_limit_that_cannot_be_set_leaves_nothing_behind() {
    let Some(lab) = Lab::new("rollback") else { return };
    let cpu = LinuxCpuBuilder::default().cpus("4000-4001").build().unwrap();
    let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    let error = lab.cgroup.create(&resources).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(!lab.cgroup.exists());
}

#[test]
fn a_scope_of_version_2_is_not_made_behind_systemds_back() {
    let location = Location::parse(Some("system.slice:hybrid:test"), "").unwrap();
    let cgroup = Cgroup::at(Hierarchies::of_host().unwrap(), &location);
    let made = cgroup.create(&LinuxResources::default());
    if needs_scope(&location).unwrap() {
        assert!(matches!(made, Err(CgroupError::SystemdScope(_))), "{made:?}");
    } else {
        made.unwrap();
        assert!(cgroup.exists());
        cgroup.remove().unwrap();
    }
    assert!(!cgroup.exists());
}
