//! Further processes of a container.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespaceType,
    LinuxSeccompAction, PosixRlimitBuilder, PosixRlimitType, Process, UserBuilder,
};

use crate::lab::{Created, Lab};
use crate::{Case, keeper};

pub(crate) const CASES: &[Case] = &[
    ("an_exec_is_a_child_of_the_keeper", an_exec_is_a_child_of_the_keeper),
    ("an_exec_has_what_its_process_says", an_exec_has_what_its_process_says),
    ("an_exec_has_the_limits_it_asks_for", an_exec_has_the_limits_it_asks_for),
    ("an_exec_has_exactly_its_capabilities", an_exec_has_exactly_its_capabilities),
    ("an_exec_is_under_the_containers_profile", an_exec_is_under_the_containers_profile),
    ("an_exec_is_where_the_init_is", an_exec_is_where_the_init_is),
    ("an_exec_has_three_descriptors", an_exec_has_three_descriptors),
    ("an_exec_cannot_reach_the_runtimes_program", an_exec_cannot_reach_the_runtimes_program),
    ("an_exec_never_shows_the_hosts_files", an_exec_never_shows_the_hosts_files),
    ("an_init_that_leaves_its_users_is_joined", an_init_that_leaves_its_users_is_joined),
    ("a_process_stopped_on_its_way_can_be_deleted", a_process_stopped_on_its_way_can_be_deleted),
    ("several_execs_run_at_once", several_execs_run_at_once),
    ("what_an_exec_leaves_running_is_no_zombie", what_an_exec_leaves_running_is_no_zombie),
    ("an_exec_that_cannot_run_says_why", an_exec_that_cannot_run_says_why),
    ("an_exec_outside_the_root_is_refused", an_exec_outside_the_root_is_refused),
    ("an_exec_as_minus_one_is_refused", an_exec_as_minus_one_is_refused),
    ("what_an_exec_cannot_have_is_named", what_an_exec_cannot_have_is_named),
    ("a_created_container_can_be_joined", a_created_container_can_be_joined),
    (
        "a_container_that_is_not_there_cannot_be_joined",
        a_container_that_is_not_there_cannot_be_joined,
    ),
    (
        "a_process_that_took_over_the_id_is_not_joined",
        a_process_that_took_over_the_id_is_not_joined,
    ),
    ("a_user_namespace_is_joined", a_user_namespace_is_joined),
    (
        "a_container_in_the_hosts_pid_namespace_is_joined",
        a_container_in_the_hosts_pid_namespace_is_joined,
    ),
    (
        "a_container_without_mounts_of_its_own_is_not_joined",
        a_container_without_mounts_of_its_own_is_not_joined,
    ),
    ("a_paused_container_is_not_joined", a_paused_container_is_not_joined),
    ("a_profile_need_not_allow_what_an_exec_does", a_profile_need_not_allow_what_an_exec_does),
    ("an_exec_cut_off_at_any_moment_leaves_nothing", an_exec_cut_off_at_any_moment_leaves_nothing),
    ("execs_are_quick_and_leave_no_descriptor", execs_are_quick_and_leave_no_descriptor),
];

const SLEEP: &str = "sleep 600";

/// The lines of `/proc/self/status` as the process itself sees them.
fn status(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.map(|(name, value)| (name.to_owned(), words(value))).collect()
}

fn run(lab: &Lab, script: &str) -> String {
    let outcome = lab.exec_to_end(lab.another(script));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{script}: {outcome:?}");
    outcome.stdout
}

fn refused(lab: &Lab, process: Process) -> String {
    let before = keeper::children_alive();
    let error = lab.exec(process).map(|made| made.pid).unwrap_err();
    assert_eq!(keeper::children_alive(), before, "{error}");
    error
}

fn an_exec_is_a_child_of_the_keeper() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let made = lab.exec(lab.another("echo out; echo err >&2; read x; exit 7")).unwrap();
    assert!(keeper::is_my_child(made.pid));
    assert_eq!(keeper::read_all(made.stdout), "out\n");
    assert_eq!(keeper::read_all(made.stderr), "err\n");
    assert_eq!(keeper::wait(made.pid), 7);
    let made = lab.exec(lab.another("exec sleep 600")).unwrap();
    kill(made.pid, Signal::SIGTERM).unwrap();
    assert_eq!(keeper::wait(made.pid), 128 + 15);
    lab.end(init.pid);
}

fn an_exec_has_what_its_process_says() {
    let mut lab = Lab::new(SLEEP);
    fs::write(lab.rootfs().join("etc/passwd"), "web:x:1000:0::/srv/web:/bin/sh\n").unwrap();
    lab.process().set_user(UserBuilder::default().uid(33u32).gid(33u32).build().unwrap());
    let init = lab.up();
    let mut process =
        lab.another("id -u; id -g; id -G; umask; pwd; echo $A$HOME; echo again > /dev/stdout");
    let user = UserBuilder::default().uid(1000u32).gid(1001u32).additional_gids([5, 6]);
    process.set_user(user.umask(0o077u32).build().unwrap());
    process.set_cwd("/etc".into());
    process.set_env(Some(["PATH=/bin", "A=x "].map(str::to_owned).to_vec()));
    let outcome = lab.exec_to_end(process.clone());
    let expected = "1000\n1001\n1001 5 6\n0077\n/etc\nx /srv/web\nagain\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    process.set_env(Some(["HOME=/mine", "PATH=/bin"].map(str::to_owned).to_vec()));
    process.set_args(Some(vec!["env".to_owned()]));
    assert_eq!(lab.exec_to_end(process).stdout, "HOME=/mine\nPATH=/bin\n");
    assert_eq!(run(&lab, "id -u; id -G; umask"), "33\n33\n0022\n");
    lab.end(init.pid);
}

fn an_exec_has_the_limits_it_asks_for() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let mut process = lab.another("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj");
    let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile);
    process.set_rlimits(Some(vec![limit.soft(40u64).hard(50u64).build().unwrap()]));
    process.set_oom_score_adj(Some(321));
    assert_eq!(lab.exec_to_end(process).stdout, "40\n50\n321\n");
    lab.end(init.pid);
}

pub(crate) fn capabilities(
    permitted: &[Capability],
    inheritable: &[Capability],
    ambient: &[Capability],
) -> LinuxCapabilities {
    let set = |list: &[Capability]| list.iter().copied().collect::<Capabilities>();
    LinuxCapabilitiesBuilder::default()
        .bounding(set(permitted))
        .effective(set(permitted))
        .permitted(set(permitted))
        .inheritable(set(inheritable))
        .ambient(set(ambient))
        .build()
        .unwrap()
}

fn an_exec_has_exactly_its_capabilities() {
    use Capability::{Chown, Kill};

    let mut lab = Lab::new(SLEEP);
    lab.process().set_capabilities(Some(capabilities(&[Kill, Chown], &[], &[])));
    let init = lab.up();
    // In the order of /proc/PID/status: inheritable, permitted, effective, bounding, ambient.
    let of = |process: Process| {
        let found = status(&lab.exec_to_end(process).stdout);
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|set| u64::from_str_radix(&found[set], 16).unwrap())
    };
    let show = || {
        let mut process = lab.another("");
        process.set_args(Some(["cat", "/proc/self/status"].map(str::to_owned).to_vec()));
        process
    };
    let (kill, chown) = (1 << 5, 1);
    assert_eq!(of(show()), [0, kill | chown, kill | chown, kill | chown, 0]);
    let mut process = show();
    process.set_capabilities(None);
    assert_eq!(of(process), [0; 5]);
    let mut process = show();
    process.set_capabilities(Some(capabilities(&[Kill], &[], &[])));
    assert_eq!(of(process.clone()), [0, kill, kill, kill, 0]);
    // A user has none of its own but the ambient ones.
    process.set_user(UserBuilder::default().uid(1000u32).build().unwrap());
    process.set_no_new_privileges(Some(false));
    assert_eq!(of(process.clone()), [0, 0, 0, kill, 0]);
    process.set_capabilities(Some(capabilities(&[Kill, Chown], &[Kill], &[Kill])));
    assert_eq!(of(process.clone()), [kill, kill, kill, kill | chown, kill]);
    // What is inheritable alone could only come back by a file that has it.
    process.set_capabilities(Some(capabilities(&[Kill, Chown], &[Kill, Chown], &[Kill])));
    assert_eq!(of(process.clone()), [kill, kill, kill, kill | chown, kill]);
    process.set_capabilities(Some(capabilities(&[Kill], &[Kill], &[])));
    assert_eq!(of(process), [0, 0, 0, kill, 0]);
    lab.end(init.pid);
}

fn an_exec_is_under_the_containers_profile() {
    for promise in [None, Some(false), Some(true)] {
        let made = |denied: &[&str]| {
            let mut lab = Lab::new(SLEEP);
            lab.forbid(denied, LinuxSeccompAction::ScmpActErrno);
            lab.process().set_no_new_privileges(promise);
            let init = lab.up();
            // What the bundle says by now is of no interest.
            fs::write(lab.bundle().join("config.json"), "{}").unwrap();
            let outcome = lab.exec_to_end(
                lab.another("grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status; mkdir /made"),
            );
            lab.end(init.pid);
            let found = status(&outcome.stdout);
            assert_eq!(found["Seccomp"], "2");
            assert_eq!(found["NoNewPrivs"], if promise == Some(true) { "1" } else { "0" });
            outcome
        };
        let denied = made(&["mkdir", "mkdirat", "no_such_call"]);
        assert_eq!(denied.code, 1, "{promise:?} {denied:?}");
        assert!(denied.stderr.contains("Invalid argument"), "{promise:?} {denied:?}");
        assert_eq!(made(&["swapon"]).code, 0, "{promise:?}");
    }
}

fn an_exec_is_where_the_init_is() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let made = lab.exec(lab.another(SLEEP)).unwrap();
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(&made.pid.to_string()), of(&init.pid.to_string()), "{kind}");
        if ["mnt", "pid", "net", "ipc", "uts"].contains(&kind) {
            assert_ne!(of(&made.pid.to_string()), of("self"), "{kind}");
        }
    }
    let cgroup = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(made.pid), cgroup(init.pid));
    assert!(cgroup(made.pid).contains(&lab.id));
    let root = |pid: Pid| fs::read_link(format!("/proc/{pid}/root")).unwrap();
    assert_eq!(root(made.pid), root(init.pid));
    // Its session is its own, and nothing outside is its parent.
    assert_eq!(run(&lab, "read a b c d e f g < /proc/self/stat; echo $d $((a - f))"), "0 0\n");
    lab.end_with(init.pid, &[made.pid]);
}

fn an_exec_has_three_descriptors() {
    // One that a careless parent leaves open across exec.
    let stray = fs::File::open("/etc").unwrap();
    nix::fcntl::fcntl(&stray, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let made = lab.exec(lab.another("exec sleep 600")).unwrap();
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", made.pid))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);
    lab.end_with(init.pid, &[made.pid]);
}

fn an_exec_cannot_reach_the_runtimes_program() {
    let lab = Lab::new(SLEEP);
    let created = lab.create().unwrap();
    // Before its start the init is the runtime itself.
    let attempt =
        "for i in 1 $$; do if true 2>/dev/null >> /proc/$i/exe; then echo opened; fi; done";
    let hunter = lab
        .exec(lab.another(
            "while true; do for p in /proc/[0-9]*/exe; do \
        case $(readlink $p) in ''|/bin/busybox) ;; *) true 2>/dev/null >> $p && echo opened $p;; \
        esac; done; done",
        ))
        .unwrap();
    for _ in 0..20 {
        assert_eq!(run(&lab, attempt), "");
    }
    lab.start().unwrap();
    assert_eq!(run(&lab, attempt), "");
    // The attempt itself works, on a file that may be written.
    assert_eq!(
        run(&lab, "echo x > /tmp/f; ln -s f /tmp/exe; true >> /tmp/exe && echo opened"),
        "opened\n"
    );
    lab.end_with(created.pid, &[hunter.pid]);
    assert_eq!(keeper::read_all(hunter.stdout), "");
}

fn an_exec_never_shows_the_hosts_files() {
    let mut lab = Lab::new(SLEEP);
    let all = capabilities(&[Capability::SysPtrace, Capability::Kill], &[], &[]);
    lab.process().set_capabilities(Some(all));
    fs::write(lab.rootfs().join("etc/control"), "").unwrap();
    let secret = lab.path("secret");
    fs::write(&secret, "").unwrap();
    // A directory of the host that a careless parent leaves open across exec.
    let host = fs::File::open("/").unwrap();
    nix::fcntl::fcntl(&host, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let init = lab.up();
    let look = |file: &str, say: &str| {
        format!(
            "for p in /proc/[0-9]*; do for f in $p/root{file} $p/cwd{file} $p/fd/*{file}; do \
             if [ -e $f ]; then {say}; fi; done; done"
        )
    };
    let again = format!("while true; do {}; done", look(secret.to_str().unwrap(), "echo $f"));
    let looker = lab.exec(lab.another(&again)).unwrap();
    let control = run(&lab, &look("/etc/control", "echo $f"));
    assert!(control.contains("/proc/1/root/etc/control\n"), "{control}");
    for _ in 0..30 {
        assert_eq!(run(&lab, "true"), "");
    }
    lab.end_with(init.pid, &[looker.pid]);
    assert_eq!(keeper::read_all(looker.stdout), "");
}

fn an_init_that_leaves_its_users_is_joined() {
    let lab = Lab::new("exec busybox unshare -U sleep 600");
    let init = lab.up();
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while of(&init.pid.to_string()) == of("self") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_ne!(of(&init.pid.to_string()), of("self"));
    let mine = format!("{}\n", of("self").display());
    assert_eq!(run(&lab, "readlink /proc/self/ns/user; id -u"), format!("{mine}0\n"));
    lab.end(init.pid);
}

fn a_process_stopped_on_its_way_can_be_deleted() {
    // Whose end does not end the processes of the other one.
    let mut pod = Lab::new(SLEEP);
    pod.process().set_capabilities(Some(capabilities(&[Capability::Kill], &[], &[])));
    let pause = pod.up();
    let mut lab = Lab::new(SLEEP);
    let mut namespaces = lab.linux().namespaces().clone().unwrap();
    for namespace in &mut namespaces {
        if namespace.typ() == LinuxNamespaceType::Pid {
            namespace.set_path(Some(format!("/proc/{}/ns/pid", pause.pid).into()));
        }
    }
    lab.linux().set_namespaces(Some(namespaces));
    let init = lab.up();
    let stopper = pod
        .exec(pod.another(
            "while true; do for p in /proc/[0-9]*; do p=${p#/proc/}; \
             if [ $p != 1 -a $p != $$ ]; then kill -STOP $p 2>/dev/null; fi; done; done",
        ))
        .unwrap();
    for _ in 0..10 {
        let request = lab.exec_request(lab.another(SLEEP));
        keeper::fork(|| linux::exec(&request, crate::lab::null_streams()).map(drop));
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.delete().unwrap();
    assert_eq!(keeper::reap_until(init.pid)[&init.pid], 128 + 9);
    // The workers have ended too, and what they made.
    let deadline = Instant::now() + Duration::from_secs(5);
    while keeper::children_alive() > 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(keeper::children_alive(), 2);
    pod.end_with(pause.pid, &[stopper.pid]);
    assert_eq!(lab.remains(), Vec::<String>::new());
}

fn several_execs_run_at_once() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let made: Vec<Created> = (0..8)
        .map(|number| {
            let script = format!(
                "mkdir /tmp/{number}; while [ ! -d /tmp/go ]; do sleep 0.01; done; exit {number}"
            );
            lab.exec(lab.another(&script)).unwrap()
        })
        .collect();
    run(&lab, "while [ ! -d /tmp/7 ]; do sleep 0.01; done; mkdir /tmp/go");
    for (number, made) in made.into_iter().enumerate() {
        assert_eq!(keeper::wait(made.pid), i32::try_from(number).unwrap());
    }
    lab.end(init.pid);
}

fn what_an_exec_leaves_running_is_no_zombie() {
    let lab = Lab::new("trap : CHLD; while true; do wait; sleep 0.01; done");
    let init = lab.up();
    let made = lab.exec(lab.another("sleep 600 & sleep 0 & exit 3")).unwrap();
    assert_eq!(keeper::wait(made.pid), 3);
    // What it has left is the init's now, in the container's cgroup.
    assert_eq!(keeper::children_alive(), 1);
    // Some of them are gone before they are read.
    let listed = run(&lab, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '");
    assert!(listed.contains("sleep 600"), "{listed}");
    lab.end(init.pid);
}

fn an_exec_that_cannot_run_says_why() {
    let lab = Lab::new(SLEEP);
    fs::write(lab.rootfs().join("etc/plain"), "").unwrap();
    let odd = lab.rootfs().join("bin/odd");
    fs::write(&odd, "neither script nor binary").unwrap();
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o755)).unwrap();
    let init = lab.up();
    let table = [
        ("nonesuch", "exec: \"nonesuch\": executable file not found in $PATH"),
        ("/nonesuch", "exec: \"/nonesuch\": stat /nonesuch: no such file or directory"),
        ("/etc", "exec: \"/etc\": is a directory"),
        ("/etc/plain", "exec: \"/etc/plain\": permission denied"),
        ("odd", "exec /bin/odd: exec format error"),
    ];
    for (program, sentence) in table {
        let mut process = lab.another("");
        process.set_args(Some(vec![program.to_owned()]));
        let expected = format!("unable to start container process: {sentence}");
        assert_eq!(refused(&lab, process.clone()), expected);
        process.set_terminal(Some(true));
        assert_eq!(lab.exec_on_terminal(process).map(drop).unwrap_err(), expected);
    }
    assert_eq!(run(&lab, "echo fine"), "fine\n");
    lab.end(init.pid);
}

fn an_exec_outside_the_root_is_refused() {
    let lab = Lab::new(SLEEP);
    fs::create_dir(lab.rootfs().join("closed")).unwrap();
    fs::set_permissions(lab.rootfs().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let init = lab.up();
    let mut process = lab.another("pwd");
    // Directories of the host that a careless parent leaves open across exec.
    let host = fs::File::open("/").unwrap();
    nix::fcntl::fcntl(&host, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    for number in 0..40 {
        process.set_cwd(format!("/proc/self/fd/{number}").into());
        let error = refused(&lab, process.clone());
        assert!(
            error.contains("chdir to cwd") || error.contains("outside of container"),
            "{error}"
        );
    }
    process.set_cwd("/nonesuch".into());
    let expected = "unable to start container process: chdir to cwd (\"/nonesuch\") set in \
                    config.json failed: no such file or directory";
    assert_eq!(refused(&lab, process.clone()), expected);
    process.set_cwd("bin".into());
    assert!(refused(&lab, process.clone()).contains("\"bin\" is not an absolute path"));
    // Root goes there first, for a user who could not.
    process.set_cwd("/closed".into());
    process.set_user(UserBuilder::default().uid(1000u32).build().unwrap());
    assert_eq!(lab.exec_to_end(process).stdout, "/closed\n");
    lab.end(init.pid);
}

fn an_exec_as_minus_one_is_refused() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let mut process = lab.another("id -u");
    process.set_user(UserBuilder::default().uid(u32::MAX).build().unwrap());
    assert!(refused(&lab, process.clone()).contains("user 4294967295 is not a valid id"));
    process.set_user(UserBuilder::default().gid(u32::MAX).build().unwrap());
    assert!(refused(&lab, process.clone()).contains("group 4294967295 is not a valid id"));
    process.set_user(UserBuilder::default().uid(u32::MAX - 1).build().unwrap());
    assert_eq!(lab.exec_to_end(process).stdout, "4294967294\n");
    lab.end(init.pid);
}

fn what_an_exec_cannot_have_is_named() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let table = [
        (r#""selinuxLabel": "a:b:c""#, "an SELinux label is not supported"),
        (r#""execCPUAffinity": {"initial": "0"}"#, "process.execCPUAffinity is not supported"),
        (r#""scheduler": {"policy": "SCHED_BATCH"}"#, "process.scheduler) is not supported"),
        (r#""apparmorProfile": "none-such""#, "apply the AppArmor profile"),
        (r#""terminal": true"#, "process.terminal is true, but its streams are given"),
        (r#""args": []"#, "config.json has no process.args"),
        (r#""args": ["a\u0000b"]"#, "process.args contains a zero byte"),
    ];
    for (extra, sentence) in table {
        let text = serde_json::to_value(lab.another("true")).unwrap();
        let more: serde_json::Value = serde_json::from_str(&format!("{{{extra}}}")).unwrap();
        let mut fields = text.as_object().unwrap().clone();
        fields.extend(more.as_object().unwrap().clone());
        let process = serde_json::from_value(fields.into()).unwrap();
        let error = refused(&lab, process);
        assert!(error.contains(sentence), "{extra}: {error}");
    }
    assert_eq!(run(&lab, "echo fine"), "fine\n");
    let mut process = lab.another("cat /proc/self/stat");
    process.set_io_priority(Some(
        serde_json::from_str(r#"{"class":"IOPRIO_CLASS_IDLE","priority":0}"#).unwrap(),
    ));
    assert_eq!(lab.exec_to_end(process).code, 0);
    lab.end(init.pid);
}

fn a_created_container_can_be_joined() {
    let lab = Lab::new("exit 5");
    let created = lab.create().unwrap();
    assert_eq!(run(&lab, "echo $$ > /tmp/pid; ls /tmp"), "pid\n");
    lab.start().unwrap();
    assert_eq!(keeper::wait(created.pid), 5);
    lab.delete().unwrap();
    assert_eq!(lab.remains(), Vec::<String>::new());
}

fn a_container_that_is_not_there_cannot_be_joined() {
    let lab = Lab::new("exit 5");
    let process = || lab.another("true");
    assert_eq!(refused(&lab, process()), format!("container {:?} does not exist", lab.id));
    let created = lab.create().unwrap();
    lab.start().unwrap();
    // Ended, and then reaped.
    while !fs::read_to_string(format!("/proc/{}/stat", created.pid)).unwrap().contains(" Z ") {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(lab.exec(process()).map(drop).unwrap_err(), "cannot exec in a stopped container");
    assert_eq!(keeper::wait(created.pid), 5);
    assert_eq!(refused(&lab, process()), "cannot exec in a stopped container");
    lab.delete().unwrap();
    assert_eq!(lab.remains(), Vec::<String>::new());
}

fn a_process_that_took_over_the_id_is_not_joined() {
    for (off, joined) in [(1, false), (0, true)] {
        let lab = Lab::new(SLEEP);
        let init = lab.up();
        let record = lab.state_root().join(&lab.id).join("record.json");
        let text = fs::read_to_string(&record).unwrap();
        let (head, number) = text.rsplit_once(':').unwrap();
        let started: u64 = number.trim_end_matches('}').parse().unwrap();
        fs::write(&record, format!("{head}:{}}}}}", started + off)).unwrap();
        match joined {
            true => assert_eq!(run(&lab, "echo in"), "in\n"),
            false => {
                let error = refused(&lab, lab.another("true"));
                assert_eq!(error, "cannot exec in a stopped container");
            }
        }
        fs::write(&record, text).unwrap();
        lab.end(init.pid);
    }
}

fn a_user_namespace_is_joined() {
    let mut lab = Lab::new(SLEEP);
    lab.unshare_users();
    let init = lab.up();
    let mut process = lab.another("id -u; echo again > /dev/stdout; exec sleep 600");
    process.set_user(UserBuilder::default().uid(1000u32).gid(1000u32).build().unwrap());
    let made = lab.exec(process.clone()).unwrap();
    let found = fs::read_to_string(format!("/proc/{}/status", made.pid)).unwrap();
    assert_eq!(status(&found)["Uid"], "101000 101000 101000 101000");
    let of = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(of(made.pid), of(init.pid));
    let mut shown = [0; 11];
    fs::File::from(made.stdout).read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"1000\nagain\n");
    kill(made.pid, Signal::SIGKILL).unwrap();
    keeper::wait(made.pid);

    process.set_args(Some(["sh", "-c", "tty; id -u > /dev/pts/0"].map(str::to_owned).to_vec()));
    let (pid, master) = lab.exec_on_terminal(process).unwrap();
    assert_eq!(crate::terminals::read_to_end(master), "/dev/pts/0\n1000\n");
    assert_eq!(keeper::wait(pid), 0);
    lab.end(init.pid);
}

fn a_container_in_the_hosts_pid_namespace_is_joined() {
    let mut lab = Lab::new(SLEEP);
    let mut namespaces = lab.linux().namespaces().clone().unwrap();
    namespaces.retain(|it| it.typ() != LinuxNamespaceType::Pid);
    lab.linux().set_namespaces(Some(namespaces));
    let init = lab.up();
    let made = lab.exec(lab.another("exec sleep 600")).unwrap();
    assert_eq!(run(&lab, "exec readlink /proc/self/ns/mnt"), {
        let theirs = fs::read_link(format!("/proc/{}/ns/mnt", init.pid)).unwrap();
        format!("{}\n", theirs.display())
    });
    lab.end_with(init.pid, &[]);
    // Its end may have come before or after that of the first process.
    keeper::reap_all();
    assert!(!std::path::Path::new(&format!("/proc/{}", made.pid)).exists());
}

fn a_container_without_mounts_of_its_own_is_not_joined() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let record = lab.state_root().join(&lab.id).join("record.json");
    let text = fs::read_to_string(&record).unwrap();
    // As if this very process were the container's first.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    let (head, _) = text.split_once("\"init\":").unwrap();
    let me = std::process::id();
    fs::write(&record, format!("{head}\"init\":{{\"pid\":{me},\"started\":{started}}}}}")).unwrap();
    let error = refused(&lab, lab.another("true"));
    assert_eq!(error, "cannot exec in a container without a mount namespace of its own");
    fs::write(&record, text).unwrap();
    assert_eq!(run(&lab, "echo in"), "in\n");
    lab.end(init.pid);
}

fn a_paused_container_is_not_joined() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let path = lab.spec.linux().as_ref().unwrap().cgroups_path().clone().unwrap();
    let location = sys::cgroup::Location::parse(path.to_str(), &lab.id).unwrap();
    let cgroup = sys::cgroup::Cgroup::open(&location).unwrap().unwrap();
    cgroup.freeze().unwrap();
    assert_eq!(refused(&lab, lab.another("true")), "cannot exec in a paused container");
    cgroup.thaw().unwrap();
    assert_eq!(run(&lab, "echo in"), "in\n");
    lab.end(init.pid);
}

fn a_profile_need_not_allow_what_an_exec_does() {
    for promise in [false, true] {
        let mut lab = Lab::new(SLEEP);
        let denied = ["keyctl", "mount", "pivot_root", "ptrace", "setns", "swapon", "unshare"];
        lab.forbid(&denied, LinuxSeccompAction::ScmpActKillProcess);
        lab.process().set_no_new_privileges(Some(promise));
        let init = lab.up();
        assert_eq!(run(&lab, "echo in"), "in\n");
        let outcome = lab.exec_to_end(lab.another("exec busybox unshare -m true"));
        assert_eq!(outcome.code, 128 + 31, "SIGSYS: {outcome:?}");
        lab.end(init.pid);
    }
}

fn an_exec_cut_off_at_any_moment_leaves_nothing() {
    for step in 0..30 {
        let lab = Lab::new(SLEEP);
        let init = lab.up();
        let request = lab.exec_request(lab.another(SLEEP));
        let worker = keeper::fork(|| linux::exec(&request, crate::lab::null_streams()).map(drop));
        std::thread::sleep(Duration::from_micros(step * 100));
        // The worker may be done by now.
        kill(worker, Signal::SIGKILL).unwrap();
        lab.delete().unwrap();
        let ended = keeper::reap_until(init.pid);
        assert_eq!(ended[&init.pid], 128 + 9, "{step}");
        keeper::reap_all();
        assert_eq!(lab.remains(), Vec::<String>::new(), "killed at step {step}");
    }
}

fn execs_are_quick_and_leave_no_descriptor() {
    let lab = Lab::new(SLEEP);
    let init = lab.up();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let began = Instant::now();
    let rounds: u32 = 50;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let mut process = lab.another("");
        process.set_args(Some(["busybox", "true"].map(str::to_owned).to_vec()));
        let request = lab.exec_request(process);
        let began = Instant::now();
        let made = keeper::make(|| linux::exec(&request, crate::lab::null_streams())).unwrap();
        times.push(began.elapsed());
        assert_eq!(keeper::wait(made.pid), 0);
    }
    times.sort();
    println!("exec: median {:?}, all in {:?}", times[times.len() / 2], began.elapsed());
    assert!(times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
    assert_eq!(open(), before);
    lab.end(init.pid);
}
