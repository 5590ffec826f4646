//! Sandboxes as the kernel makes them, with a Rust closure as the guest; needs
//! root. What cannot be seen from inside is read on the host meanwhile.

#![allow(unsafe_code, reason = "a test forks once to be single-threaded, as the keeper is")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{ForkResult, fork, gethostname, getpid};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde_json::{Value, json};
use sys::pidfd::ExitStatus;
use tempfile::TempDir;

use super::*;
use crate::gauge::Gauge;

mod joined;
mod terminals;

/// A bundle, and what a keeper has.
struct Lab {
    bundle: TempDir,
    id: String,
    single: SingleThreaded,
    template: Template,
    title: TitleMap,
    filter: Filter,
    gauge: Gauge,
    recorder: Recorder,
}

/// How a launched guest came to its end.
#[derive(Debug)]
struct Finished {
    /// What the init said instead of ready.
    error: Option<String>,
    output: String,
    status: ExitStatus,
}

impl Lab {
    fn kit(&self) -> Kit<'_> {
        let Self { single, template, title, filter, .. } = self;
        Kit { single, template, title, filter }
    }

    fn new(name: &str) -> Self {
        let bundle = TempDir::new().unwrap();
        fs::create_dir_all(bundle.path().join("rootfs/etc")).unwrap();
        fs::write(bundle.path().join("rootfs/etc/motd"), "from the image").unwrap();
        let single = SingleThreaded::prove().unwrap();
        let gauge = Gauge::new(1 << 20).unwrap();
        Self {
            bundle,
            recorder: Recorder::map(gauge.as_fd().try_clone_to_owned().unwrap()).unwrap(),
            gauge,
            id: format!("wasm-sandbox-test-{name}-{}", std::process::id()),
            template: Template::new(&single).unwrap(),
            single,
            title: sys::title::remember().unwrap(),
            filter: nearly_everything_allowed(),
        }
    }

    fn path(&self, relative: &str) -> String {
        self.bundle.path().join(relative).to_str().unwrap().to_owned()
    }

    fn spec(&self) -> Value {
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": ["/app.wasm"], "env": [], "cwd": "/",
            },
            "root": { "path": "rootfs" },
            "mounts": [],
            "linux": {
                "cgroupsPath": format!("/{}", self.id),
                "namespaces": [
                    { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
                ],
            },
        })
    }

    fn plan(&self, spec: Value) -> SandboxPlan {
        let spec: Spec = serde_json::from_value(spec).unwrap();
        SandboxPlan::from_spec(&spec, &self.id, self.bundle.path()).unwrap()
    }

    fn cgroup(&self, plan: &SandboxPlan) -> Cgroup {
        Cgroup::at(Hierarchies::of_host().unwrap(), &plan.cgroup)
    }

    /// Launches the guest, calls `watch` once it has written something, ends
    /// its input and waits for its end.
    fn run_watched(
        &self,
        spec: Value,
        guest: impl FnOnce(&[Preopen]) -> i32,
        watch: impl FnOnce(Pid),
    ) -> Finished {
        let plan = self.plan(spec);
        let (stdin, input) = std::io::pipe().unwrap();
        let (mut output, stdout) = std::io::pipe().unwrap();
        let stderr = stdout.try_clone().unwrap();
        let stdio = [stdin.into(), stdout.into(), stderr.into()];
        let guest = |inside: Inside| guest(&inside.preopens);
        let Launched { pid, pidfd, link } =
            launch(self.kit(), &plan, stdio, &[], &self.recorder, guest).unwrap();
        let said = link.recv().unwrap().map(|message| message.body).unwrap_or_default();
        let ready = said == READY;
        let mut text = vec![0; 1];
        if ready {
            link.send(START, &[]).unwrap();
            let first = output.read(&mut text).unwrap();
            text.truncate(first);
            watch(pid);
        } else {
            text.clear();
        }
        drop((input, link));
        output.read_to_end(&mut text).unwrap();
        let status = pidfd.wait().unwrap();
        sys::cgroup::remove(&plan.cgroup).unwrap();
        assert!(!self.cgroup(&plan).exists());
        Finished {
            error: (!ready).then(|| String::from_utf8(said).unwrap()),
            output: String::from_utf8(text).unwrap(),
            status,
        }
    }

    fn run(&self, spec: Value, guest: impl FnOnce(&[Preopen]) -> i32) -> Finished {
        self.run_watched(spec, guest, |_| {})
    }
}

/// The engine's own filter would keep the test guest from looking around.
fn nearly_everything_allowed() -> Filter {
    let profile: LinuxSeccomp = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }],
    }))
    .unwrap();
    Filter::from_spec(&profile).unwrap().unwrap()
}

/// Runs a test's body in a process of its own, without other threads.
#[track_caller]
fn alone(name: &str, body: impl FnOnce(Lab)) {
    use nix::sys::wait::{WaitStatus, waitpid};

    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to make sandboxes");
        return;
    }
    // SAFETY: only this thread goes on in the child. fork() of the C library
    // leaves its own locks usable there, and the child takes none of the test
    // runner's.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
        ForkResult::Child => {
            std::panic::set_hook(Box::new(|panic| {
                let text = format!("{panic}\n");
                let _unread = nix::unistd::write(std::io::stderr(), text.as_bytes());
            }));
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(Lab::new(name))));
            exit_now(i32::from(outcome.is_err()))
        }
    }
}

/// From here on the mounts are the test's own: nothing outlives it, and what
/// others mount meanwhile is not seen.
fn copy_the_hosts_mounts() {
    sys::namespace::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

/// Writes past the lock of standard output, which a thread of the test runner
/// may have held when this process was forked.
fn say(text: &str) {
    let written = nix::unistd::write(std::io::stdout(), text.as_bytes()).unwrap();
    assert_eq!(written, text.len());
}

/// Blocks until the test has looked.
fn await_end_of_input() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn status_line(pid: Pid, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

fn namespace(pid: Pid, kind: Kind) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{}", kind.file())).unwrap().ino()
}

#[test]
fn a_guest_finds_itself_alone() {
    alone("alone", |lab| {
        let mut spec = lab.spec();
        spec["hostname"] = json!("box");
        spec["domainname"] = json!("example");
        let finished = lab.run(spec, |preopens| {
            assert_eq!(getpid().as_raw(), 1);
            assert_eq!(gethostname().unwrap(), "box");
            // Where the kernel has Landlock the root cannot even be listed.
            match fs::read_dir("/") {
                Ok(entries) => {
                    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                    assert_eq!(names, ["g"]);
                }
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EACCES)),
            }
            assert!(!Path::new("/proc/self").exists());
            assert_eq!(preopens.len(), 2);
            assert_eq!(
                (preopens[0].guest.as_str(), preopens[0].access),
                ("/", crate::command::Access::ReadOnly)
            );
            let open: Vec<i32> = (0..1024)
                .filter(|fd| {
                    // SAFETY: F_GETFD reads a flag of a number that need not be open.
                    unsafe { libc::fcntl(*fd, libc::F_GETFD) != -1 }
                })
                .collect();
            assert_eq!(open, [0, 1, 2]);
            say("checked");
            17
        });
        assert_eq!(finished.error, None, "{finished:?}");
        assert_eq!(finished.output, "checked", "{finished:?}");
        assert_eq!(finished.status, ExitStatus::Exited(17));
        let phases = lab.gauge.read().unwrap().phases;
        let times = [phases.cloned, phases.sandboxed, phases.started].map(Option::unwrap);
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(phases.instantiated, None);
    });
}

#[test]
fn the_root_is_read_only_and_tmp_is_private_and_writable() {
    alone("files", |lab| {
        let finished = lab.run(lab.spec(), |preopens| {
            assert_eq!(preopens[0].host, Path::new("/g/0"));
            assert_eq!(fs::read_to_string("/g/0/etc/motd").unwrap(), "from the image");
            assert_eq!(errno(fs::write("/g/0/etc/motd", "x")), Some(libc::EROFS));
            assert_eq!(errno(fs::write("/g/0/new", "x")), Some(libc::EROFS));
            assert_eq!(errno(fs::write("/new", "x")), Some(libc::EROFS));
            assert_eq!(errno(fs::create_dir("/g/9")), Some(libc::EROFS));
            assert_eq!(
                (preopens[1].guest.as_str(), preopens[1].host.as_path()),
                ("/tmp", Path::new("/g/1"))
            );
            assert_eq!(fs::read_dir("/g/1").unwrap().count(), 0);
            fs::write("/g/1/mine", "x").unwrap();
            assert!(!Path::new("/g/0/../../../etc/passwd").exists());
            say("checked");
            0
        });
        assert_eq!(finished.output, "checked", "{finished:?}");
        assert!(!Path::new("/tmp/mine").exists());
    });
}

#[test]
fn mounts_are_granted_as_listed_and_files_land_in_the_root() {
    alone("mounts", |lab| {
        let data = lab.path("data");
        fs::create_dir_all(format!("{data}/below")).unwrap();
        fs::write(lab.path("hosts"), "127.0.0.1 me").unwrap();
        fs::write(lab.path("motd"), "from the pod").unwrap();
        // The image's /link leads, inside the root, to /etc.
        std::os::unix::fs::symlink("/etc", lab.path("rootfs/link")).unwrap();
        let mut spec = lab.spec();
        let bind = |target: &str, source: &str, access: &str| json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", access] });
        spec["mounts"] = json!([
            bind("/data", &data, "rw"),
            bind("/look", &data, "ro"),
            bind("/link/hosts", &lab.path("hosts"), "rw"),
            bind("/a/b/hosts", &lab.path("hosts"), "ro"),
            bind("/etc/motd", &lab.path("motd"), "ro"),
            { "destination": "/mem", "type": "tmpfs", "source": "tmpfs", "options": ["size=4k", "uid=5"] },
        ]);
        let finished = lab.run(spec, |preopens| {
            let host = |guest: &str| {
                preopens.iter().find(|preopen| preopen.guest == guest).unwrap().host.clone()
            };
            fs::write(host("/data").join("written"), "by the guest").unwrap();
            assert_eq!(errno(fs::write(host("/look").join("no"), "x")), Some(libc::EROFS));
            assert_eq!(fs::read_to_string(host("/look").join("written")).unwrap(), "by the guest");
            assert_eq!(fs::read_to_string("/g/0/etc/hosts").unwrap(), "127.0.0.1 me");
            assert_eq!(fs::read_to_string("/g/0/a/b/hosts").unwrap(), "127.0.0.1 me");
            assert_eq!(fs::read_to_string("/g/0/etc/motd").unwrap(), "from the pod");
            assert_eq!(errno(fs::write("/g/0/etc/hosts", "x")), Some(libc::EROFS));
            assert_eq!(fs::metadata(host("/mem")).unwrap().uid(), 5);
            assert!(fs::write(host("/mem").join("large"), [0; 9000]).is_err());
            say("checked");
            0
        });
        assert_eq!(finished.output, "checked", "{finished:?}");
        assert_eq!(fs::read_to_string(format!("{data}/written")).unwrap(), "by the guest");
        assert!(
            !Path::new(&lab.path("rootfs/etc/hosts")).exists(),
            "nothing is written into the image"
        );
        assert_eq!(fs::read_to_string(lab.path("rootfs/etc/motd")).unwrap(), "from the image");
    });
}

#[test]
fn the_host_sees_an_unprivileged_process_with_the_guests_name() {
    alone("host-view", |lab| {
        let mut spec = lab.spec();
        spec["process"] = json!({
            "user": { "uid": 1234, "gid": 5678, "additionalGids": [42], "umask": 0o077 },
            "args": ["/bin/app.wasm", "one two", ""], "env": ["A=1", "B="], "cwd": "/",
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }],
        });
        let path = lab.id.clone();
        let watch = |pid: Pid| {
            assert_eq!(
                fs::read(format!("/proc/{pid}/cmdline")).unwrap(),
                b"/bin/app.wasm\0one two\0\0"
            );
            assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"A=1\0B=\0");
            assert_eq!(status_line(pid, "Name"), "app.wasm");
            assert_eq!(status_line(pid, "Uid"), "1234\t1234\t1234\t1234");
            assert_eq!(status_line(pid, "Gid"), "5678\t5678\t5678\t5678");
            assert_eq!(status_line(pid, "Groups"), "42");
            assert_eq!(status_line(pid, "Umask"), "0077");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status_line(pid, set), "0000000000000000", "{set}");
            }
            assert_eq!(status_line(pid, "NoNewPrivs"), "1");
            assert_eq!(status_line(pid, "Seccomp"), "2");
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["100", "200"]);
            let unified = Hierarchies::of_host().unwrap().is_unified();
            for line in fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines() {
                // An empty version 2 tree beside version 1 is left alone.
                let left_alone = !unified && line.starts_with("0::");
                assert!(left_alone || line.ends_with(&format!(":/{path}")), "{line}");
            }
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            assert_eq!(mounts.lines().count(), 3, "{mounts}");
            for line in mounts.lines() {
                assert!(line.contains("nosuid,nodev,noexec"), "{line}");
                assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
            }
            for kind in [Kind::Pid, Kind::Uts, Kind::Ipc, Kind::Mount] {
                assert_ne!(namespace(pid, kind), namespace(getpid(), kind), "{kind:?}");
            }
            assert_eq!(namespace(pid, Kind::Network), namespace(getpid(), Kind::Network));
        };
        let guest = |_: &[Preopen]| {
            fs::write("/g/1/mine", "anyone may write to /tmp").unwrap();
            say("here");
            await_end_of_input();
            0
        };
        let finished = lab.run_watched(spec, guest, watch);
        assert_eq!(finished.error, None);
        assert_eq!((finished.output.as_str(), finished.status), ("here", ExitStatus::Exited(0)));
    });
}

/// A process in namespaces of its own, as a pod's sandbox container is.
struct Pod {
    pid: Pid,
    pidfd: PidFd,
}

impl Pod {
    fn new(single: &SingleThreaded) -> Self {
        let kinds = [Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts];
        let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.flag());
        match single.fork(flags).unwrap() {
            Fork::Child => {
                std::thread::sleep(std::time::Duration::from_secs(60));
                exit_now(0)
            }
            Fork::Parent { pid, pidfd } => Self { pid, pidfd },
        }
    }

    fn file(&self, kind: Kind) -> String {
        format!("/proc/{}/ns/{}", self.pid, kind.file())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.pidfd.send_signal(libc::SIGKILL).unwrap();
        self.pidfd.wait().unwrap();
    }
}

#[test]
fn namespaces_of_another_process_are_joined() {
    alone("joined", |lab| {
        let pod = Pod::new(&lab.single);
        let mut spec = lab.spec();
        spec["hostname"] = json!("not-the-pods-to-change");
        spec["linux"]["namespaces"] = json!([
            { "type": "mount" },
            { "type": "cgroup" },
            { "type": "pid", "path": pod.file(Kind::Pid) },
            { "type": "network", "path": pod.file(Kind::Network) },
            { "type": "ipc", "path": pod.file(Kind::Ipc) },
            { "type": "uts", "path": pod.file(Kind::Uts) },
        ]);
        let before = gethostname().unwrap();
        let watch = |pid: Pid| {
            for kind in [Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts] {
                assert_eq!(namespace(pid, kind), namespace(pod.pid, kind), "{kind:?}");
            }
            assert_ne!(namespace(pid, Kind::Cgroup), namespace(getpid(), Kind::Cgroup));
        };
        let guest = |_: &[Preopen]| {
            assert_ne!(getpid().as_raw(), 1);
            assert_ne!(gethostname().unwrap(), "not-the-pods-to-change");
            say("here");
            await_end_of_input();
            3
        };
        let finished = lab.run_watched(spec, guest, watch);
        assert_eq!((finished.error, finished.status), (None, ExitStatus::Exited(3)));
        assert_eq!(gethostname().unwrap(), before);
    });
}

#[test]
fn a_namespace_that_is_not_there_is_a_clear_error() {
    alone("no-namespace", |lab| {
        for (kind, words) in [("network", "cannot join net namespace"), ("pid", "PID namespace")] {
            let mut spec = lab.spec();
            spec["linux"]["namespaces"] = json!([{ "type": kind, "path": "/proc/1/ns/nothing" }]);
            let plan = lab.plan(spec.clone());
            let stdio = || [0, 1, 2].map(|_| OwnedFd::from(fs::File::open("/dev/null").unwrap()));
            let launched = launch(lab.kit(), &plan, stdio(), &[], &lab.recorder, |_| 0);
            let text = match launched {
                Err(error) => error.to_string(),
                Ok(Launched { pidfd, link, .. }) => {
                    let said = link.recv().unwrap().unwrap().body;
                    assert_eq!(pidfd.wait().unwrap(), ExitStatus::Exited(1));
                    sys::cgroup::remove(&plan.cgroup).unwrap();
                    String::from_utf8(said).unwrap()
                }
            };
            assert!(text.contains(words) && text.contains("/proc/1/ns/nothing"), "{text}");
            assert!(!lab.cgroup(&plan).exists());
        }
    });
}

#[test]
fn a_source_on_procfs_is_refused_by_whatever_name_it_comes() {
    alone("procfs", |lab| {
        let disguised = lab.path("disguised");
        std::os::unix::fs::symlink("/proc", &disguised).unwrap();
        let mut spec = lab.spec();
        let mount = |source: &str| json!([{ "destination": "/data", "type": "bind", "source": source, "options": ["rbind"] }]);
        spec["mounts"] = mount(&disguised);
        let finished = lab.run(spec.clone(), |_| 0);
        let error = finished.error.unwrap();
        assert!(error.contains("cannot grant /data"), "{error}");
        assert!(error.contains("is on a proc filesystem, which no wasm guest may see"), "{error}");
        assert_eq!(finished.status, ExitStatus::Exited(1));

        fs::create_dir(lab.path("plain")).unwrap();
        spec["mounts"] = mount(&lab.path("plain"));
        assert_eq!(lab.run(spec, |_| 0).error, None);
    });
}

#[test]
fn a_procfs_mounted_below_a_source_is_not_in_the_grant() {
    alone("nested", |lab| {
        copy_the_hosts_mounts();
        let inside = lab.path("data/proc");
        fs::create_dir_all(&inside).unwrap();
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("proc"), inside.as_str(), Some("proc"), none, None::<&str>).unwrap();
        assert!(Path::new(&inside).join("self").exists());
        let mut spec = lab.spec();
        spec["mounts"] = json!([{ "destination": "/data", "type": "bind", "source": lab.path("data"), "options": ["rbind"] }]);
        let finished = lab.run(spec, |preopens| {
            assert_eq!(preopens[2].guest, "/data");
            assert_eq!(fs::read_dir("/g/2/proc").unwrap().count(), 0);
            say("checked");
            0
        });
        assert_eq!(finished.output, "checked", "{finished:?}");
        nix::mount::umount(inside.as_str()).unwrap();
    });
}

#[test]
fn a_step_that_fails_is_named_with_its_cause() {
    alone("errors", |lab| {
        let mut missing = lab.spec();
        missing["mounts"] = json!([{ "destination": "/data", "type": "bind", "source": "/nowhere", "options": ["bind"] }]);
        let mut socket = lab.spec();
        let path = lab.path("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        socket["mounts"] =
            json!([{ "destination": "/s", "type": "bind", "source": path, "options": ["bind"] }]);
        let mut score = lab.spec();
        score["process"]["oomScoreAdj"] = json!(4000);
        let table = [
            (missing, "cannot grant /data: source /nowhere: No such file or directory"),
            (socket, "is neither a directory nor a regular file"),
            (score, "cannot set process.oomScoreAdj to 4000"),
        ];
        for (spec, words) in table {
            let finished = lab.run(spec, |_| 0);
            let error = finished.error.unwrap();
            assert!(error.contains(words), "{error}");
            assert_eq!(finished.status, ExitStatus::Exited(1));
        }
        assert_eq!(lab.run(lab.spec(), |_| 0).status, ExitStatus::Exited(0));
    });
}

#[test]
fn an_init_whose_keeper_is_gone_before_the_start_ends() {
    alone("orphan", |lab| {
        let plan = lab.plan(lab.spec());
        let stdio = [0, 1, 2].map(|_| OwnedFd::from(fs::File::open("/dev/null").unwrap()));
        let launched = launch(lab.kit(), &plan, stdio, &[], &lab.recorder, |_| 99);
        let Launched { pidfd, link, .. } = launched.unwrap();
        assert_eq!(link.recv().unwrap().unwrap().body, READY);
        drop(link);
        assert_eq!(pidfd.wait().unwrap(), ExitStatus::Exited(1));
        sys::cgroup::remove(&plan.cgroup).unwrap();
    });
}

#[test]
fn a_guest_that_panics_ends_its_own_process_only() {
    alone("panic", |lab| {
        std::panic::set_hook(Box::new(|_| {}));
        let finished = lab.run(lab.spec(), |_| panic!("at the disco"));
        assert_eq!(finished.status, ExitStatus::Exited(134));
        assert_eq!(finished.output, "internal error: at the disco\n");
    });
}

#[test]
fn the_specs_seccomp_profile_and_limits_hold() {
    alone("limits", |lab| {
        let mut spec = lab.spec();
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99 }],
        });
        spec["linux"]["resources"] =
            json!({ "memory": { "limit": 33_554_432 }, "pids": { "limit": 5 } });
        let plan = lab.plan(spec.clone());
        let cgroup = lab.cgroup(&plan);
        let watch = |pid: Pid| {
            assert_eq!(cgroup.pids().unwrap(), [pid]);
            let stats = cgroup.stats().unwrap();
            assert_eq!(stats.memory.unwrap().limit, Some(33_554_432));
            assert_eq!(stats.pids.unwrap().limit, Some(5));
        };
        let guest = |_: &[Preopen]| {
            assert_eq!(errno(fs::create_dir("/g/1/folder")), Some(99));
            say("checked");
            await_end_of_input();
            0
        };
        let finished = lab.run_watched(spec, guest, watch);
        assert_eq!((finished.output.as_str(), finished.error), ("checked", None));
    });
}

#[test]
fn many_sandboxes_leave_no_mount_behind_and_are_quick() {
    alone("many", |lab| {
        const ROUNDS: u32 = 200;
        copy_the_hosts_mounts();
        // Others may take mounts away meanwhile, by removing the folder below.
        let mounts = || -> std::collections::BTreeSet<String> {
            let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
            text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
        };
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let plan = lab.plan(lab.spec());
        let before = (mounts(), descriptors());
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let stdio = [0, 1, 2].map(|_| OwnedFd::from(fs::File::open("/dev/null").unwrap()));
            let begun = std::time::Instant::now();
            let launched = launch(lab.kit(), &plan, stdio, &[], &lab.recorder, |_| 0);
            let Launched { pidfd, link, .. } = launched.unwrap();
            assert_eq!(link.recv().unwrap().unwrap().body, READY);
            link.send(START, &[]).unwrap();
            assert_eq!(pidfd.wait().unwrap(), ExitStatus::Exited(0));
            sys::cgroup::remove(&plan.cgroup).unwrap();
            times.push(begun.elapsed());
        }
        assert!(mounts().is_subset(&before.0), "{:?} {:?}", mounts(), before.0);
        assert_eq!(descriptors(), before.1);
        times.sort();
        eprintln!("launch to removed: fastest {:?}, median {:?}", times[0], times[times.len() / 2]);
    });
}
