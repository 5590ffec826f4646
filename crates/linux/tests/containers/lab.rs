//! A bundle with a busybox image, and a container made of it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use linux::{CreateRequest, ExecRequest};
use nix::unistd::{Pid, pipe};
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxResourcesBuilder, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder, Mount,
    MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};
use sys::stdio::Stdio;

use crate::keeper;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A bundle in a folder that goes when this does.
pub(crate) struct Lab {
    scratch: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: Spec,
    /// Where the state is below the scratch folder.
    state: PathBuf,
}

/// What a finished container left behind it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A created container and the reading ends of its output.
pub(crate) struct Created {
    pub(crate) pid: Pid,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Lab {
    /// Prepares a bundle whose program is `sh -c SCRIPT`.
    pub(crate) fn new(script: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let rootfs = scratch.path().join("bundle/rootfs");
        for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy(crate::BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "env", "grep", "hostname", "id", "ln", "ls", "mkdir", "readlink", "rm",
            "sleep", "stty", "touch", "tr", "true", "tty",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("hybrid-linux-test-{}-{number}", process::id());
        let spec = default_spec(&id, script);
        Self { scratch, id, spec, state: PathBuf::from("state") }
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.spec.process_mut().as_mut().unwrap()
    }

    pub(crate) fn linux(&mut self) -> &mut Linux {
        self.spec.linux_mut().as_mut().unwrap()
    }

    pub(crate) fn add_mount(&mut self, mount: Mount) {
        self.spec.mounts_mut().as_mut().unwrap().push(mount);
    }

    /// Gives the container a further namespace of its own.
    pub(crate) fn unshare(&mut self, kind: LinuxNamespaceType) {
        let mut namespaces = self.linux().namespaces().clone().unwrap();
        namespaces.push(LinuxNamespaceBuilder::default().typ(kind).build().unwrap());
        self.linux().set_namespaces(Some(namespaces));
    }

    /// Makes the container's users others on the host: 0 is 100000 there.
    pub(crate) fn unshare_users(&mut self) {
        let map = || {
            let range = LinuxIdMappingBuilder::default().container_id(0u32);
            vec![range.host_id(100_000u32).size(65536u32).build().unwrap()]
        };
        self.unshare(LinuxNamespaceType::User);
        self.linux().set_uid_mappings(Some(map()));
        self.linux().set_gid_mappings(Some(map()));
        fs::set_permissions(self.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        chown(self.rootfs(), Some(100_000), Some(100_000)).unwrap();
    }

    /// Gives the container a seccomp profile that allows all but these calls.
    pub(crate) fn forbid(&mut self, calls: &[&str], action: LinuxSeccompAction) {
        let names: Vec<String> = calls.iter().map(|it| (*it).to_owned()).collect();
        let mut rule = LinuxSyscallBuilder::default().names(names).action(action);
        if action == LinuxSeccompAction::ScmpActErrno {
            rule = rule.errno_ret(22u32);
        }
        let profile = LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActAllow)
            .syscalls(vec![rule.build().unwrap()])
            .build()
            .unwrap();
        self.linux().set_seccomp(Some(profile));
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.scratch.path().join("bundle")
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        self.scratch.path().join(&self.state)
    }

    /// Puts the state into a folder deeper down.
    pub(crate) fn lengthen_state_root(&mut self, below: &str) {
        self.state.push(below);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn request(&self) -> CreateRequest {
        CreateRequest {
            id: self.id.clone(),
            bundle: self.bundle(),
            spec: Box::new(self.spec.clone()),
            state_root: self.state_root(),
        }
    }

    pub(crate) fn create(&self) -> Result<Created, String> {
        let (stdout, out) = pipe().unwrap();
        let (stderr, err) = pipe().unwrap();
        let stdin = File::open("/dev/null").unwrap().into();
        let pid = self.create_with([stdin, out, err])?;
        Ok(Created { pid, stdout, stderr })
    }

    pub(crate) fn create_with(&self, stdio: [OwnedFd; 3]) -> Result<Pid, String> {
        self.spec.save(self.bundle().join("config.json")).unwrap();
        let request = self.request();
        keeper::make(|| linux::create(&request, Stdio::Streams(stdio))).map(|made| made.pid)
    }

    /// Creates the container with a terminal and returns the master with the process.
    pub(crate) fn create_on_terminal(&mut self) -> Result<(Pid, File), String> {
        self.process().set_terminal(Some(true));
        self.spec.save(self.bundle().join("config.json")).unwrap();
        let request = self.request();
        let made = keeper::make(|| linux::create(&request, Stdio::Terminal))?;
        Ok((made.pid, made.console.expect("a console").into()))
    }

    /// A process like the container's own with another script.
    pub(crate) fn another(&self, script: &str) -> Process {
        let mut process = self.spec.process().clone().unwrap();
        process.set_args(Some(["sh", "-c", script].map(str::to_owned).to_vec()));
        process.set_terminal(None);
        process
    }

    pub(crate) fn exec_request(&self, process: Process) -> ExecRequest {
        ExecRequest {
            id: self.id.clone(),
            state_root: self.state_root(),
            process: Box::new(process),
        }
    }

    /// Runs a further process, with pipes as its output.
    pub(crate) fn exec(&self, process: Process) -> Result<Created, String> {
        let (stdout, out) = pipe().unwrap();
        let (stderr, err) = pipe().unwrap();
        let stdio = Stdio::Streams([File::open("/dev/null").unwrap().into(), out, err]);
        let request = self.exec_request(process);
        let made = keeper::make(|| linux::exec(&request, stdio))?;
        assert!(made.console.is_none());
        Ok(Created { pid: made.pid, stdout, stderr })
    }

    /// Runs a further process to its end.
    pub(crate) fn exec_to_end(&self, process: Process) -> Outcome {
        let Created { pid, stdout, stderr } = self.exec(process).unwrap();
        let (stdout, stderr) = (keeper::read_all(stdout), keeper::read_all(stderr));
        Outcome { code: keeper::wait(pid), stdout, stderr }
    }

    /// Runs a further process on a terminal of its own.
    pub(crate) fn exec_on_terminal(&self, mut process: Process) -> Result<(Pid, File), String> {
        process.set_terminal(Some(true));
        let request = self.exec_request(process);
        let made = keeper::make(|| linux::exec(&request, Stdio::Terminal))?;
        Ok((made.pid, made.console.expect("a console").into()))
    }

    /// Creates and starts, for tests that look at further processes; see [`Lab::end`].
    pub(crate) fn up(&self) -> Created {
        let created = self.create().unwrap();
        self.start().unwrap();
        created
    }

    /// Deletes a running container and checks that nothing is left of it.
    pub(crate) fn end(&self, init: Pid) {
        self.end_with(init, &[]);
    }

    /// As [`Lab::end`], with further processes that still run.
    pub(crate) fn end_with(&self, init: Pid, others: &[Pid]) {
        self.delete().unwrap();
        let ended = keeper::reap_until(init);
        for pid in others.iter().chain([&init]) {
            assert_eq!(ended.get(pid), Some(&(128 + 9)), "{ended:?}");
        }
        assert_eq!(self.remains(), Vec::<String>::new());
    }

    pub(crate) fn start(&self) -> Result<(), String> {
        keeper::in_worker(|| linux::start(&self.state_root(), &self.id).map(|()| 0)).map(drop)
    }

    pub(crate) fn delete(&self) -> Result<(), String> {
        let bundle = self.bundle();
        let call = || linux::delete(&self.state_root(), &self.id, Some(&bundle)).map(|()| 0);
        keeper::in_worker(call).map(drop)
    }

    /// Creates, starts, waits, deletes.
    pub(crate) fn run(&self) -> Outcome {
        let created = self.create().unwrap();
        self.start().unwrap();
        let code = keeper::wait(created.pid);
        let outcome = Outcome {
            code,
            stdout: keeper::read_all(created.stdout),
            stderr: keeper::read_all(created.stderr),
        };
        self.delete().unwrap();
        assert_eq!(self.remains(), Vec::<String>::new());
        outcome
    }

    /// Names everything of the container that is still there.
    pub(crate) fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for _ in 0..keeper::children_alive() {
            found.push("a process".to_owned());
        }
        found.extend(self.cgroup_folders().iter().map(|path| path.display().to_string()));
        let state = self.state_root().join(&self.id);
        if state.exists() {
            found.push(state.display().to_string());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.scratch.path().to_str().unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(here)).map(str::to_owned));
        found
    }

    /// The container's folder in each cgroup hierarchy.
    pub(crate) fn cgroup_folders(&self) -> Vec<PathBuf> {
        let below = Path::new("hybrid-linux-test").join(&self.id);
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|it| it.unwrap().path()));
        roots.iter().map(|root| root.join(&below)).filter(|path| path.exists()).collect()
    }
}

/// Removes the folder that all labs' cgroups lie in, where it is empty.
pub(crate) fn remove_shared_cgroups() {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let folder = hierarchy.unwrap().path().join("hybrid-linux-test");
        if folder.exists() && fs::remove_dir(&folder).is_err() {
            eprintln!("{} is left behind", folder.display());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After a failed test; a passed one has nothing left.
        if self.delete().is_err() {
            eprintln!("container {} is left behind", self.id);
        }
    }
}

pub(crate) fn mount(typ: &str, source: &str, target: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .typ(typ)
        .source(source)
        .destination(target)
        .options(options.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap()
}

pub(crate) fn bind(source: &Path, target: &str, mode: &str) -> Mount {
    mount("bind", source.to_str().unwrap(), target, &["rbind", "rprivate", mode])
}

/// As containerd makes it, but for the network.
fn default_spec(id: &str, script: &str) -> Spec {
    let quiet = ["nosuid", "noexec", "nodev"];
    let mounts = vec![
        mount("proc", "proc", "/proc", &quiet),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount(
            "tmpfs",
            "shm",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("mqueue", "mqueue", "/dev/mqueue", &quiet),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        mount("tmpfs", "tmpfs", "/run", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ];
    let kinds = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Network,
    ];
    let namespaces: Vec<_> = kinds
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap())
        .collect();
    let texts = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(format!("/hybrid-linux-test/{id}"))
        .resources(LinuxResourcesBuilder::default().build().unwrap())
        .masked_paths(texts(&["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]))
        .readonly_paths(texts(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]))
        .build()
        .unwrap();
    let process = ProcessBuilder::default()
        .args(texts(&["sh", "-c", script]))
        .env(texts(&["PATH=/usr/bin:/bin"]))
        .cwd("/")
        .no_new_privileges(true)
        .build()
        .unwrap();
    SpecBuilder::default()
        .version("1.1.0")
        .root(RootBuilder::default().path("rootfs").readonly(false).build().unwrap())
        .mounts(mounts)
        .process(process)
        .linux(linux)
        .build()
        .unwrap()
}

/// Three times /dev/null.
pub(crate) fn null_streams() -> Stdio {
    Stdio::Streams([read_write_null(), read_write_null(), read_write_null()])
}

pub(crate) fn read_write_null() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
}
