//! The cgroups that a container is made in and that it sees.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use oci_spec::runtime::{Capability, LinuxNamespaceBuilder, LinuxNamespaceType};

use crate::exec::capabilities;
use crate::lab::{Lab, mount};
use crate::{Case, keeper};

pub(crate) const CASES: &[Case] = &[
    (
        "a_joined_pid_namespace_does_not_mislead_the_cgroup_mount",
        a_joined_pid_namespace_does_not_mislead_the_cgroup_mount,
    ),
    ("the_cgroup_mount_shows_the_containers_own", the_cgroup_mount_shows_the_containers_own),
    ("a_read_only_cgroup_mount_keeps_the_limits", a_read_only_cgroup_mount_keeps_the_limits),
    ("a_cgroup_mount_outlives_no_failed_create", a_cgroup_mount_outlives_no_failed_create),
];

/// As containerd's CRI gives it to every container.
const READ_ONLY: [&str; 5] = ["nosuid", "noexec", "nodev", "relatime", "ro"];

/// Prints what the shell's own cgroup is and which processes the mount says are in it.
const LOOK: &str = "for c in memory pids; do \
     grep -c :$c: /proc/self/cgroup; grep -cx $$ /sys/fs/cgroup/$c/cgroup.procs; done";

fn is_version_1() -> bool {
    let is = !sys::cgroup::Hierarchies::of_host().unwrap().is_unified();
    if !is {
        eprintln!("SKIPPED: needs cgroup version 1");
    }
    is
}

fn with_cgroups(script: &str, options: &[&str]) -> Lab {
    let mut lab = Lab::new(script);
    lab.add_mount(mount("cgroup", "cgroup", "/sys/fs/cgroup", options));
    lab
}

/// Makes the first process of the next container in `pod`'s pid namespace be number
/// `pid` there.
fn advance_to(pod: &Lab, pid: u32) {
    let mut process = pod.another(&format!("echo {} > /proc/sys/kernel/ns_last_pid", pid - 1));
    process.set_capabilities(Some(capabilities(&[Capability::SysAdmin], &[], &[])));
    let outcome = pod.exec_to_end(process);
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

fn join(lab: &mut Lab, kind: LinuxNamespaceType, path: &str) {
    let mut namespaces = lab.linux().namespaces().clone().unwrap();
    namespaces.retain(|it| it.typ() != kind);
    let joined = LinuxNamespaceBuilder::default().typ(kind).path(path).build().unwrap();
    namespaces.push(joined);
    lab.linux().set_namespaces(Some(namespaces));
}

/// A process of the host in a cgroup whose path begins as the container's does.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        for mount in sys::cgroup::Hierarchies::of_host().unwrap().mounts() {
            let folder = mount.join("hybrid-linux-test");
            fs::create_dir_all(&folder).unwrap();
            if mount.ends_with("cpuset") {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(folder.join(file), fs::read(mount.join(file)).unwrap()).unwrap();
                }
            }
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn a_joined_pid_namespace_does_not_mislead_the_cgroup_mount() {
    if !is_version_1() {
        return;
    }
    let mut pod = Lab::new("sleep 600");
    pod.linux().set_readonly_paths(Some(vec![]));
    let init = pod.up();
    let nobody = (20_000..).find(|pid| !Path::new(&format!("/proc/{pid}")).exists()).unwrap();
    let stranger = Stranger::new();
    for pid in [nobody, stranger.0.id()] {
        let mut lab = with_cgroups(&format!("echo $$; {LOOK}"), &READ_ONLY);
        join(&mut lab, LinuxNamespaceType::Pid, &format!("/proc/{}/ns/pid", init.pid));
        advance_to(&pod, pid);
        let created = lab.create().unwrap();
        lab.start().unwrap();
        assert_eq!(keeper::read_all(created.stdout), format!("{pid}\n1\n1\n1\n1\n"));
        assert_eq!(keeper::wait(created.pid), 0);
        lab.delete().unwrap();
        assert_eq!(lab.cgroup_folders(), Vec::<std::path::PathBuf>::new());
    }
    drop(stranger);
    pod.end(init.pid);
}

fn the_cgroup_mount_shows_the_containers_own() {
    if !is_version_1() {
        return;
    }
    let own: [fn(&mut Lab); 3] =
        [|_| (), |lab| lab.unshare(LinuxNamespaceType::Cgroup), Lab::unshare_users];
    for (number, unshare) in own.into_iter().enumerate() {
        let script = format!("{LOOK}; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids/x && echo made");
        let mut lab = with_cgroups(&script, &READ_ONLY);
        unshare(&mut lab);
        let outcome = lab.run();
        assert!(outcome.stdout.starts_with("1\n1\n1\n1\n"), "{number} {outcome:?}");
        // Its processes are where the keeper is in that hierarchy: none of its business.
        assert!(!outcome.stdout.contains("systemd"), "{number} {outcome:?}");
        assert!(!outcome.stdout.contains("made"), "{number} {outcome:?}");
        assert!(outcome.stderr.contains("Read-only file system"), "{number} {outcome:?}");
    }
}

fn a_read_only_cgroup_mount_keeps_the_limits() {
    if !is_version_1() {
        return;
    }
    let script = "echo 64 > /sys/fs/cgroup/pids/pids.max && cat /sys/fs/cgroup/pids/pids.max";
    let outcome = with_cgroups(script, &READ_ONLY).run();
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    let writable = ["nosuid", "noexec", "nodev", "relatime", "rw"];
    assert_eq!(with_cgroups(script, &writable).run().stdout, "64\n");
}

fn a_cgroup_mount_outlives_no_failed_create() {
    let mut lab = with_cgroups("true", &READ_ONLY);
    lab.process().set_args(Some(vec!["nonesuch".to_owned()]));
    lab.create().map(|it| it.pid).unwrap_err();
    assert_eq!(lab.remains(), Vec::<String>::new());
    lab.process().set_args(Some(vec!["true".to_owned()]));
    assert_eq!(lab.run().code, 0);
}
