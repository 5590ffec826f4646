//! The sandbox of a wasm container, from both sides: what the host sees of the guest's process, and what the guest
//! reaches.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::bundle::Bundle;
use end_to_end::host::{self, KERNEL_INTERFACES};
use end_to_end::shared::Shared;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use testkit::containerd::{Daemon, Release};
use testkit::{catalogue, guest};

const PATIENCE: Duration = Duration::from_secs(10);
/// A variable of containerd and its shims that no guest may see.
const SECRET: &str = "HYBRID_TEST_SECRET";

static SHARED: Shared = Shared::new(|| {
    let daemon = Daemon::options(Release::V2_1).env(SECRET, "leaked").start()?;
    daemon.import(&catalogue::guest_image("sleeper")?)?;
    Ok(daemon)
});

/// Starts the sleeping guest with flags of `ctr run`, waits until it runs, and returns its id and process.
fn sleeper(daemon: &Daemon, flags: &[&str]) -> Result<(String, i32)> {
    let id = daemon.unique("sleeper");
    let run = daemon.run(&catalogue::guest_image("sleeper")?, &id).flags(flags.iter().copied());
    run.detach().output()?.ok()?;
    let pid = daemon.task_pid(&id)?;
    running(pid)?;
    Ok((id, pid))
}

/// Waits for the last step before the guest's first instruction: the engine's system call filter.
fn running(pid: i32) -> Result<()> {
    host::eventually("the guest runs behind a filter", PATIENCE, || {
        Ok(host::status(pid, "Seccomp")? == "2")
    })
}

fn us() -> Result<i32> {
    Ok(i32::try_from(std::process::id())?)
}

#[test]
fn a_guest_has_no_privileges() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let (_, pid) = sleeper(&daemon, &[])?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&host::status(pid, set)?, 16)?, 0, "{set}");
    }
    assert_eq!(host::status(pid, "NoNewPrivs")?, "1");
    assert_eq!(host::status(pid, "Seccomp")?, "2");
    // The same look at a process with privileges sees them.
    assert_ne!(u64::from_str_radix(&host::status(us()?, "CapEff")?, 16)?, 0);
    Ok(())
}

#[test]
fn a_guest_sees_no_kernel_interface() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let (_, pid) = sleeper(&daemon, &[])?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    for name in ["proc", "sys", "dev"] {
        assert!(!root.join(name).exists(), "/{name} is in the guest's root");
        assert!(Path::new("/").join(name).exists(), "the host has a /{name}");
    }
    let mounts = host::mounts(pid)?;
    for mount in &mounts {
        assert!(!KERNEL_INTERFACES.contains(&mount.kind.as_str()), "{mount:?}");
    }
    let ours = host::mounts(us()?)?;
    assert!(ours.iter().any(|mount| mount.kind == "proc"), "the host has a procfs");
    Ok(())
}

#[test]
fn a_guests_mounts_are_its_root_its_tmp_and_what_the_spec_lists() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let shared = daemon.scratch()?.join(daemon.unique("listed"));
    fs::create_dir_all(&shared)?;
    let bind = |target: &str, access: &str| {
        format!("type=bind,src={},dst={target},options=rbind:{access}", shared.display())
    };
    let (read_only, writable) = (bind("/ro", "ro"), bind("/rw", "rw"));
    let (_, pid) = sleeper(&daemon, &["--mount", &read_only, "--mount", &writable])?;
    let mounts = host::mounts(pid)?;
    let (memory, trees): (Vec<_>, Vec<_>) = mounts.iter().partition(|it| it.kind == "tmpfs");
    // The root itself, /tmp, and the /run of containerd's default spec.
    assert!((2..=3).contains(&memory.len()), "{memory:#?}");
    // By its name alone: how a file system knows the path depends on where it is mounted.
    let (binds, roots): (Vec<_>, Vec<_>) =
        trees.into_iter().partition(|it| Path::new(&it.root).file_name() == shared.file_name());
    assert_eq!(roots.len(), 1, "one root file system: {roots:#?}");
    assert!(roots[0].has("ro"), "{roots:#?}");
    let writable = binds.iter().filter(|it| it.has("rw")).count();
    assert_eq!((binds.len(), writable), (2, 1), "{binds:#?}");
    for mount in &mounts {
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(mount.has(option), "{option} is missing: {mount:?}");
        }
    }
    Ok(())
}

/// What a descriptor of a guest's process may be, beside its three streams.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    /// The engine waits with it.
    Clock,
    /// A folder the guest was granted.
    Grant,
    /// The native code of a module, which this node has compiled.
    Code,
    /// One end of a pair inside the guest's own network namespace.
    OwnSocket,
    /// A way out.
    Foreign,
}

fn held(target: &str, host_sockets: &str) -> Held {
    let socket = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
    match target {
        "anon_inode:[eventpoll]" | "anon_inode:[eventfd]" => Held::Clock,
        _ if target.starts_with("/g/") => Held::Grant,
        _ if target.ends_with(".cwasm") => Held::Code,
        _ if socket.is_some_and(|it| !host_sockets.split_whitespace().any(|word| word == it)) => {
            Held::OwnSocket
        }
        _ => Held::Foreign,
    }
}

#[test]
fn a_guest_holds_no_descriptor_of_the_shim() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let group = daemon.unique("group");
    // The shim knows another module already: its code is not this guest's business.
    let other = Bundle::wasm(&daemon, "other", &guest::wat("exit")?, [""; 0])?.group(&group);
    let guest = Bundle::wasm(&daemon, "held", &guest::wat("sleeper")?, [""; 0])?.group(&group);
    other.start()?;
    let pid = guest.start()?;
    // The guest is in its sleep once its clock is being waited for.
    let waits = || Ok(host::descriptors(pid)?.values().any(|it| it.contains("eventpoll")));
    host::eventually("the guest sleeps", PATIENCE, waits)?;
    let all = host::descriptors(pid)?;
    assert!([0, 1, 2].iter().all(|number| all.contains_key(number)), "{all:?}");
    let host_sockets = fs::read_to_string("/proc/net/unix").context("reading /proc/net/unix")?;
    let mut code = BTreeSet::new();
    for (number, target) in all.range(3..) {
        match held(target, &host_sockets) {
            Held::Foreign => panic!("descriptor {number} is {target}: {all:?}"),
            Held::Code => {
                let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = i32::from_str_radix(flags.context("no flags")?.trim(), 8)?;
                assert_eq!(flags & 3, 0, "the code can be written: {info}");
                code.insert(target);
            }
            Held::Clock | Held::Grant | Held::OwnSocket => {}
        }
    }
    // The engine's descriptor and the one that keeps it in the cache are of one file.
    assert!(code.len() <= 1, "the guest holds other guests' code: {all:?}");
    let shim = host::descriptors(host::shim_of(&daemon, pid)?.server)?;
    let foreign = shim.values().any(|it| held(it, &host_sockets) == Held::Foreign);
    assert!(foreign, "nothing of the shim would be noticed: {shim:?}");
    Ok(())
}

#[test]
fn a_guests_process_shows_its_own_command_and_environment_alone() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = Bundle::wasm(&daemon, "shown", &guest::wat("sleeper")?, ["an argument"])?;
    bundle.spec["process"]["env"] = json!(["A=1", "EMPTY=", "WORDS=two words"]);
    let pid = bundle.start()?;
    running(pid)?;
    assert_eq!(host::environment(pid)?, ["A=1", "EMPTY=", "WORDS=two words"]);
    assert_eq!(host::command_line(pid)?, ["/app.wasm", "an argument"]);
    // The shim could have leaked it: it is in containerd's environment.
    let containerd = host::environment(daemon.pid()?)?;
    assert!(containerd.contains(&format!("{SECRET}=leaked")), "{containerd:?}");
    Ok(())
}

#[test]
fn a_guest_is_told_its_arguments_and_environment_alone() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = Bundle::wasm(&daemon, "told", &guest::wat("hello")?, ["one", "two words"])?;
    bundle.spec["process"]["env"] = json!(["A=1", "B=two words"]);
    let output = bundle.run()?.ok()?;
    let expected = [
        "hello from wasm",
        "arg /app.wasm",
        "arg one",
        "arg two words",
        "env A=1",
        "env B=two words",
    ];
    assert_eq!(output.lines(), expected);
    Ok(())
}

#[test]
fn a_guest_has_namespaces_of_its_own() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let (_, pid) = sleeper(&daemon, &[])?;
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        assert_ne!(host::namespace(pid, kind)?, host::namespace(us()?, kind)?, "{kind}");
    }
    assert_eq!(host::namespace(pid, "user")?, host::namespace(us()?, "user")?);
    // It is process 1 to itself, and the only network interface is its own loopback.
    let numbers = host::status(pid, "NSpid")?;
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let interfaces: Vec<&str> =
        table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(interfaces, ["lo"]);
    Ok(())
}

#[test]
fn a_guest_runs_as_the_user_it_was_given() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let (_, pid) = sleeper(&daemon, &["--user", "1234:4321"])?;
    let ids = |field: &str| -> Result<Vec<String>> {
        Ok(host::status(pid, field)?.split_whitespace().map(str::to_owned).collect())
    };
    assert_eq!(ids("Uid")?, ["1234"; 4]);
    assert_eq!(ids("Gid")?, ["4321"; 4]);
    // Only groups the spec names: none, or the group itself.
    assert!(ids("Groups")?.iter().all(|group| group == "4321"), "{:?}", ids("Groups")?);
    Ok(())
}

#[test]
fn a_guests_process_has_the_specs_resource_limits() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = Bundle::wasm(&daemon, "limited", &guest::wat("sleeper")?, [""; 0])?;
    bundle.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88},
        {"type": "RLIMIT_FSIZE", "soft": 1_048_576, "hard": 1_048_576},
    ]);
    let pid = bundle.start()?;
    let pair = |soft: &str, hard: &str| (soft.to_owned(), hard.to_owned());
    assert_eq!(host::limit(pid, "Max open files")?, pair("77", "88"));
    assert_eq!(host::limit(pid, "Max file size")?, pair("1048576", "1048576"));
    Ok(())
}

#[test]
fn a_limit_nobody_can_set_is_an_error() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = Bundle::wasm(&daemon, "unlimited", &guest::wat("exit")?, ["3"])?;
    let limit = |name: &str| json!([{"type": name, "soft": 64, "hard": 64}]);
    bundle.spec["process"]["rlimits"] = limit("RLIMIT_NO_SUCH_THING");
    let refused = bundle.run()?;
    assert!(!refused.success() && refused.status != Some(3), "{}", refused.report());
    bundle.spec["process"]["rlimits"] = limit("RLIMIT_NOFILE");
    let control = bundle.run()?;
    assert_eq!(control.status, Some(3), "{}", control.report());
    Ok(())
}

#[test]
fn a_guest_is_in_a_cgroup_with_its_memory_limit() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let (id, pid) = sleeper(&daemon, &["--memory-limit", "67108864"])?;
    assert_eq!(host::memory_limit(pid)?, 67_108_864);
    let folders = host::cgroup_folders(pid);
    let own = !folders.is_empty() && folders.iter().all(|folder| folder.ends_with(&id));
    assert!(own, "process {pid} is in {folders:?}");
    Ok(())
}

#[test]
fn nothing_outside_the_root_can_be_read() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = Bundle::wasm(&daemon, "reader", &guest::wat("read-file")?, [""; 0])?;
    let secret = bundle.folder().join("secret.txt");
    fs::write(&secret, "a secret of the host\n")?;
    let root = bundle.rootfs();
    fs::create_dir(root.join("folder"))?;
    fs::write(root.join("note.txt"), "a note\n")?;
    symlink("../note.txt", root.join("folder/inner"))?;
    symlink("../secret.txt", root.join("out"))?;
    symlink(&secret, root.join("absolute"))?;
    symlink("/proc/self/root", root.join("magic"))?;
    let mut read = |path: &str| {
        bundle.spec["process"]["args"] = json!(["/app.wasm", path]);
        bundle.run()
    };
    for inside in ["/note.txt", "folder/../note.txt", "/folder/inner"] {
        let output = read(inside)?.ok()?;
        assert_eq!(output.stdout, "a note\n", "{inside}");
    }
    let direct = secret.display().to_string();
    // The guest strips one slash, so that this one asks for an absolute path.
    let absolute = format!("/{direct}");
    for outside in [
        "../secret.txt",
        "folder/../../secret.txt",
        "../../../../../../../../etc/hostname",
        "//etc/hostname",
        "/etc/hostname",
        "/out",
        "/absolute",
        "/magic/etc/hostname",
        "/proc/self/environ",
        "/dev/null",
        direct.as_str(),
        absolute.as_str(),
    ] {
        let output = read(outside)?;
        let refused = matches!(output.status, Some(1..));
        assert!(refused && output.stdout.is_empty(), "{outside}: {}", output.report());
    }
    Ok(())
}

/// A bundle of the guest that does one thing with one path.
fn files<'daemon>(daemon: &'daemon Daemon, name: &str) -> Result<Bundle<'daemon>> {
    Bundle::wasm(daemon, name, &guest::c("files")?, [""; 0])
}

fn ask(bundle: &mut Bundle<'_>, words: &[&str]) -> Result<testkit::command::Output> {
    let words: Vec<&str> = std::iter::once("/app.wasm").chain(words.iter().copied()).collect();
    bundle.spec["process"]["args"] = json!(words);
    bundle.run()
}

#[test]
fn the_root_is_read_only_and_tmp_is_private() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = files(&daemon, "writer")?;
    fs::write(bundle.rootfs().join("note.txt"), "a note\n")?;
    assert_eq!(ask(&mut bundle, &["read", "/note.txt"])?.ok()?.stdout, "a note\n");
    for words in [
        &["write", "/new.txt", "x"][..],
        &["append", "/note.txt", "x"],
        &["truncate", "/note.txt"],
        &["remove", "/note.txt"],
        &["rename", "/note.txt", "/other.txt"],
        &["link", "/note.txt", "/tmp/note.txt"],
        &["mkdir", "/folder"],
        &["symlink", "/etc", "/link"],
    ] {
        let output = ask(&mut bundle, words)?;
        assert_eq!(output.status, Some(1), "{words:?}: {}", output.report());
    }
    assert_eq!(fs::read_to_string(bundle.rootfs().join("note.txt"))?, "a note\n");
    let mut names: Vec<_> =
        fs::read_dir(bundle.rootfs())?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["app.wasm", "note.txt"], "the root file system was changed");

    let marker = format!("/tmp/{}", bundle.id());
    ask(&mut bundle, &["write", &marker, "x"])?.ok()?;
    assert!(!Path::new(&marker).exists(), "the guest's /tmp is the host's");
    let next = ask(&mut bundle, &["list", "/tmp"])?.ok()?;
    assert_eq!(next.stdout, "", "the next guest finds what the last one left");
    Ok(())
}

#[test]
fn a_mount_is_writable_only_if_it_is_listed_as_such() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let bundle = files(&daemon, "mounts")?;
    let (fixed, free) = (bundle.folder().join("fixed"), bundle.folder().join("free"));
    for folder in [&fixed, &free] {
        fs::create_dir(folder)?;
        fs::write(folder.join("old.txt"), "old\n")?;
    }
    let mut bundle = bundle.bind(&fixed, "/fixed", "ro")?.bind(&free, "/free", "rw")?;
    for folder in ["/fixed", "/free"] {
        let old = format!("{folder}/old.txt");
        assert_eq!(ask(&mut bundle, &["read", &old])?.ok()?.stdout, "old\n");
    }
    for words in [
        &["write", "/fixed/new.txt", "new"][..],
        &["append", "/fixed/old.txt", "new"],
        &["truncate", "/fixed/old.txt"],
        &["remove", "/fixed/old.txt"],
        &["link", "/fixed/old.txt", "/free/stolen.txt"],
        &["rename", "/fixed/old.txt", "/free/stolen.txt"],
    ] {
        let output = ask(&mut bundle, words)?;
        assert_eq!(output.status, Some(1), "{words:?}: {}", output.report());
    }
    assert_eq!(fs::read_to_string(fixed.join("old.txt"))?, "old\n");
    assert!(!fixed.join("new.txt").exists() && !free.join("stolen.txt").exists());
    ask(&mut bundle, &["write", "/free/new.txt", "new"])?.ok()?;
    assert_eq!(fs::read_to_string(free.join("new.txt"))?, "new");
    ask(&mut bundle, &["remove", "/free/old.txt"])?.ok()?;
    assert!(!free.join("old.txt").exists());
    Ok(())
}

#[test]
fn the_kernels_own_folders_are_refused_as_mounts() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let ordinary = daemon.scratch()?.join(daemon.unique("ordinary"));
    fs::create_dir(&ordinary)?;
    fs::write(ordinary.join("note.txt"), "a note\n")?;
    let disguised = daemon.scratch()?.join(daemon.unique("disguised"));
    symlink("/proc", &disguised)?;
    let list = |source: &Path| {
        let mut bundle = files(&daemon, "kernel")?.bind(source, "/data", "ro")?;
        ask(&mut bundle, &["list", "/data"])
    };
    assert_eq!(list(&ordinary)?.ok()?.stdout, "note.txt\n");
    for source in ["/proc", "/proc/sys/kernel", "/sys", "/sys/kernel", "/dev"].map(Path::new) {
        let output = list(source)?;
        assert!(!output.success(), "{} was granted: {}", source.display(), output.report());
        let sentence = output.stderr.contains(&source.display().to_string());
        assert!(sentence, "no word of {}: {}", source.display(), output.report());
    }
    let output = list(&disguised)?;
    assert!(!output.success() && output.stdout.is_empty(), "{}", output.report());
    Ok(())
}

/// A procfs that is unmounted whatever the test finds.
struct Procfs(PathBuf);

impl Procfs {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        mount(Some("proc"), &at, Some("proc"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(at))
    }
}

impl Drop for Procfs {
    fn drop(&mut self) {
        // A mount that is left goes with the daemon's folders.
        let _left = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_procfs_inside_a_mounted_tree_is_an_empty_folder_to_the_guest() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let bundle = files(&daemon, "tree")?;
    let tree = bundle.folder().join("tree");
    let inner = Procfs::mount(tree.join("proc"))?;
    fs::write(tree.join("plain.txt"), "plain\n")?;
    assert!(inner.0.join("self/mem").exists(), "the host sees a procfs");
    let mut bundle = bundle.bind(&tree, "/tree", "rw")?;
    assert_eq!(ask(&mut bundle, &["read", "/tree/plain.txt"])?.ok()?.stdout, "plain\n");
    assert_eq!(ask(&mut bundle, &["list", "/tree/proc"])?.ok()?.stdout, "");
    let memory = ask(&mut bundle, &["read", "/tree/proc/self/mem"])?;
    assert_eq!(memory.status, Some(1), "{}", memory.report());
    Ok(())
}

#[test]
fn a_procfs_mounted_into_a_tree_later_stays_outside() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let bundle = Bundle::wasm(&daemon, "later", &guest::wat("sleeper")?, [""; 0])?;
    let tree = bundle.folder().join("tree");
    fs::create_dir(&tree)?;
    let pid = bundle.bind(&tree, "/tree", "rw")?.start()?;
    running(pid)?;
    let before = host::mounts(pid)?.len();
    let _inner = Procfs::mount(tree.join("proc"))?;
    let after = host::mounts(pid)?;
    assert_eq!(after.len(), before, "a mount has reached the guest: {after:#?}");
    assert!(after.iter().all(|mount| mount.kind != "proc"), "{after:#?}");
    Ok(())
}

/// Ends with 3, and knows one host function more than WASI has.
const NETWORKER: &str = r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const 3))))"#;

#[test]
fn a_guest_that_wants_sockets_is_refused_by_name() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let run = |source: &str| Bundle::wasm(&daemon, "net", &guest::text(source)?, [""; 0])?.run();
    let refused = run(NETWORKER)?;
    assert!(refused.status != Some(3) && !refused.success(), "{}", refused.report());
    assert!(refused.stderr.contains("sock_open"), "{}", refused.report());
    let without: Vec<&str> = NETWORKER.lines().filter(|line| !line.contains("sock_open")).collect();
    let control = run(&without.join("\n"))?;
    assert_eq!(control.status, Some(3), "{}", control.report());
    Ok(())
}

/// A component that asks for a TCP socket and ends well if the answer is the discriminant `WANTED` of a result: 0 for a
/// socket, 1 for an error.
const CONNECTOR: &str = r#"(component
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $codes (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
      "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused" "connection-reset"
      "connection-aborted" "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
      "permanent-resolver-failure"))
    (export "error-code" (type (eq $codes)))
    (type $families (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $families)))))
  (alias export $network "error-code" (type $error-code))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $tcp-socket))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $sockets
    (alias outer 1 $error-code (type $outer-code))
    (export "error-code" (type $code (eq $outer-code)))
    (alias outer 1 $family (type $outer-family))
    (export "ip-address-family" (type $own-family (eq $outer-family)))
    (alias outer 1 $tcp-socket (type $outer-socket))
    (export "tcp-socket" (type $socket (eq $outer-socket)))
    (export "create-tcp-socket" (func (param "address-family" $own-family)
      (result (result (own $socket) (error $code)))))))
  (core module $room (memory (export "memory") 1))
  (core instance $room (instantiate $room))
  (core func $create (canon lower (func $sockets "create-tcp-socket") (memory (core memory $room "memory"))))
  (core module $program
    (import "room" "memory" (memory 1))
    (import "host" "create" (func $create (param i32 i32)))
    (func (export "run") (result i32)
      (call $create (i32.const 0) (i32.const 16))
      (i32.ne (i32.load8_u (i32.const 16)) (i32.const WANTED))))
  (core instance $program (instantiate $program
    (with "room" (instance $room))
    (with "host" (instance (export "create" (func $create))))))
  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

#[test]
fn a_component_gets_no_socket() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let run = |wanted: &str| {
        let module = guest::text(&CONNECTOR.replace("WANTED", wanted))?;
        Bundle::wasm(&daemon, "socket", &module, [""; 0])?.run()
    };
    let denied = run("1")?;
    assert_eq!(denied.status, Some(0), "{}", denied.report());
    // The component does look at the answer.
    let control = run("0")?;
    assert_eq!(control.status, Some(1), "{}", control.report());
    Ok(())
}

fn state(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("no hook wrote {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

#[test]
fn hooks_are_told_the_containers_state() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let mut bundle = Bundle::wasm(&daemon, "hooked", &guest::wat("sleeper")?, [""; 0])?;
    bundle.spec["annotations"]["org.example.note"] = "told".into();
    let told = |point: &str| bundle.folder().join(format!("{point}.json"));
    let (created, started, stopped) = (told("create"), told("start"), told("stop"));
    let script = |path: &Path| format!("cat > {}", path.display());
    let bundle = bundle
        .hook("createRuntime", &script(&created))
        .hook("poststart", &script(&started))
        .hook("poststop", &script(&stopped));
    let pid = bundle.start()?;
    for (path, status) in [(&created, "creating"), (&started, "running")] {
        let state = state(path)?;
        assert_eq!(state["id"], bundle.id());
        assert_eq!(state["pid"], pid);
        // runc says "created" already before the start.
        let known =
            state["status"] == status || (status == "creating" && state["status"] == "created");
        assert!(known, "{state}");
        assert_eq!(state["annotations"]["org.example.note"], "told");
        assert_eq!(state["bundle"], daemon.bundle(bundle.id()).display().to_string());
        assert!(state["ociVersion"].is_string(), "{state}");
    }
    assert!(!stopped.exists(), "poststop came before the stop");
    host::end(&daemon, bundle.id())?;
    let state = state(&stopped)?;
    assert_eq!((&state["id"], &state["status"]), (&json!(bundle.id()), &json!("stopped")));
    Ok(())
}

#[test]
fn a_failing_hook_before_the_start_undoes_the_create() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    let run = |script: &str| {
        let bundle = Bundle::wasm(&daemon, "failing", &guest::wat("hello")?, [""; 0])?;
        bundle.hook("createRuntime", script).run()
    };
    let refused = run("echo no such network >&2; exit 3")?;
    assert!(!refused.success() && refused.stdout.is_empty(), "{}", refused.report());
    assert!(refused.stderr.contains("no such network"), "{}", refused.report());
    let control = run("exit 0")?.ok()?;
    assert!(control.stdout.starts_with("hello from wasm"), "{}", control.report());
    Ok(())
}

#[test]
fn a_hook_need_not_read_the_state_it_is_told() -> Result<()> {
    let Some(daemon) = SHARED.daemon()? else { return Ok(()) };
    for point in ["prestart", "createRuntime", "poststart", "poststop"] {
        let bundle = Bundle::wasm(&daemon, "unread", &guest::wat("hello")?, [""; 0])?;
        let mut bundle = bundle.hook(point, "exit 0");
        // More than fits into a pipe, so that whoever writes it sees the reader go.
        bundle.spec["annotations"]["org.example.long"] = "x".repeat(1 << 17).into();
        let output = bundle.run()?.ok().with_context(|| point)?;
        assert!(output.stdout.starts_with("hello from wasm"), "{point}: {}", output.report());
    }
    Ok(())
}
