//! What a container that runs sees.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use oci_spec::runtime::{
    Capabilities, Capability, HookBuilder, HooksBuilder, LinuxCapabilitiesBuilder,
    LinuxMemoryBuilder, LinuxResourcesBuilder, LinuxSeccompAction, UserBuilder,
};

use crate::lab::{Lab, bind, read_write_null};
use crate::{Case, keeper};

pub(crate) const CASES: &[Case] = &[
    ("a_program_runs_and_its_parent_is_the_keeper", a_program_runs_and_its_parent_is_the_keeper),
    ("the_exit_code_arrives", the_exit_code_arrives),
    ("arguments_and_environment_arrive_as_written", arguments_and_environment_arrive_as_written),
    ("a_missing_working_directory_is_made", a_missing_working_directory_is_made),
    ("the_user_has_its_ids_and_owns_its_streams", the_user_has_its_ids_and_owns_its_streams),
    ("root_without_groups_has_none", root_without_groups_has_none),
    ("capabilities_are_those_of_the_spec", capabilities_are_those_of_the_spec),
    ("a_read_only_root_cannot_be_written", a_read_only_root_cannot_be_written),
    ("bind_mounts_are_as_listed", bind_mounts_are_as_listed),
    ("the_memory_limit_is_in_the_cgroup", the_memory_limit_is_in_the_cgroup),
    ("seccomp_denies_with_and_without_no_new_privs", seccomp_denies_with_and_without_no_new_privs),
    (
        "a_profile_need_not_allow_what_the_runtime_does",
        a_profile_need_not_allow_what_the_runtime_does,
    ),
    ("the_hostname_is_set", the_hostname_is_set),
    ("there_are_three_descriptors", there_are_three_descriptors),
    ("null_as_output_can_be_written", null_as_output_can_be_written),
    (
        "a_program_of_no_known_format_says_so_on_stderr",
        a_program_of_no_known_format_says_so_on_stderr,
    ),
    ("hooks_run_and_know_the_bundle", hooks_run_and_know_the_bundle),
    ("every_spelling_of_root_propagation_works", every_spelling_of_root_propagation_works),
];

fn a_program_runs_and_its_parent_is_the_keeper() {
    let lab = Lab::new("echo hello; echo oops >&2");
    let created = lab.create().unwrap();
    assert!(keeper::is_my_child(created.pid));
    lab.start().unwrap();
    assert_eq!(keeper::wait(created.pid), 0);
    assert_eq!(keeper::read_all(created.stdout), "hello\n");
    assert_eq!(keeper::read_all(created.stderr), "oops\n");
    lab.delete().unwrap();
    assert!(lab.remains().is_empty(), "{:?}", lab.remains());
}

fn the_exit_code_arrives() {
    assert_eq!(Lab::new("exit 7").run().code, 7);
    assert_eq!(Lab::new("kill -9 $$; sleep 9").run().code, 0, "init ignores its own SIGKILL");
}

fn arguments_and_environment_arrive_as_written() {
    let mut lab = Lab::new("");
    let texts = |list: &[&str]| Some(list.iter().map(|it| (*it).to_owned()).collect());
    lab.process().set_args(texts(&["env"]));
    lab.process().set_env(texts(&["PATH=/bin", "Z=1", "A=x=y", "M=", "A2=\u{e9} \n", "HOME=/h"]));
    let outcome = lab.run();
    assert_eq!(outcome.stdout, "PATH=/bin\nZ=1\nA=x=y\nM=\nA2=\u{e9} \n\nHOME=/h\n");

    let mut lab = Lab::new("");
    lab.process().set_args(texts(&[
        "sh",
        "-c",
        "for a; do echo \"<$a>\"; done",
        "x",
        "a b",
        "",
        "*",
    ]));
    assert_eq!(lab.run().stdout, "<a b>\n<>\n<*>\n");

    let lab = Lab::new("echo $HOME");
    fs::write(lab.rootfs().join("etc/passwd"), "root:x:0:0::/found:/bin/sh\n").unwrap();
    assert_eq!(lab.run().stdout, "/found\n");
}

fn a_missing_working_directory_is_made() {
    let mut lab = Lab::new("pwd");
    lab.process().set_cwd("/srv/app".into());
    assert_eq!(lab.run().stdout, "/srv/app\n");
}

fn the_user_has_its_ids_and_owns_its_streams() {
    let mut lab = Lab::new("id -u; id -g; id -G; umask; echo again > /dev/stdout");
    let user = UserBuilder::default().uid(1000u32).gid(1001u32).additional_gids([5, 6]);
    lab.process().set_user(user.build().unwrap());
    let outcome = lab.run();
    assert_eq!(outcome.stdout, "1000\n1001\n1001 5 6\n0022\nagain\n", "{outcome:?}");
}

fn root_without_groups_has_none() {
    let lab = Lab::new(
        "cat /proc/self/status | while read a b; do [ $a = Groups: ] && echo \"<$b>\"; done; true",
    );
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(4)]).unwrap();
    let outcome = lab.run();
    nix::unistd::setgroups(&[]).unwrap();
    assert_eq!(outcome.stdout, "<>\n");
}

fn capabilities_are_those_of_the_spec() {
    let show = "while read a b; do case $a in Cap*|NoNewPrivs:) echo $a$b;; esac; done < /proc/self/status";
    let mut lab = Lab::new(show);
    lab.process().set_capabilities(None);
    let none = "0000000000000000";
    let expected = format!(
        "CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\nNoNewPrivs:1\n"
    );
    assert_eq!(lab.run().stdout, expected);

    let mut lab = Lab::new(show);
    let kill = || Capabilities::from([Capability::Kill]);
    let none = Capabilities::new;
    let some = LinuxCapabilitiesBuilder::default()
        .bounding(kill())
        .effective(kill())
        .permitted(kill())
        .inheritable(none())
        .ambient(none());
    lab.process().set_capabilities(Some(some.build().unwrap()));
    lab.process().set_no_new_privileges(Some(false));
    let (one, none) = ("0000000000000020", "0000000000000000");
    let expected = format!(
        "CapInh:{none}\nCapPrm:{one}\nCapEff:{one}\nCapBnd:{one}\nCapAmb:{none}\nNoNewPrivs:0\n"
    );
    assert_eq!(lab.run().stdout, expected);
}

fn a_read_only_root_cannot_be_written() {
    let mut lab = Lab::new("touch /x");
    lab.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
    let outcome = lab.run();
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    assert_eq!(Lab::new("touch /x").run().code, 0);
}

fn bind_mounts_are_as_listed() {
    let mut lab =
        Lab::new("cat /ro/f /file; touch /rw/made; touch /ro/made 2>/dev/null || echo refused");
    let volume = lab.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("f"), "content\n").unwrap();
    lab.add_mount(bind(&volume, "/ro", "ro"));
    lab.add_mount(bind(&volume, "/rw", "rw"));
    lab.add_mount(bind(&volume.join("f"), "/file", "ro"));
    assert_eq!(lab.run().stdout, "content\ncontent\nrefused\n");
    assert!(volume.join("made").exists());
}

fn the_memory_limit_is_in_the_cgroup() {
    let mut lab = Lab::new("echo ran");
    let limit = 64 * 1024 * 1024;
    let memory = LinuxMemoryBuilder::default().limit(limit).build().unwrap();
    lab.linux()
        .set_resources(Some(LinuxResourcesBuilder::default().memory(memory).build().unwrap()));
    let created = lab.create().unwrap();
    let found: Vec<String> = lab
        .cgroup_folders()
        .iter()
        .flat_map(|folder| ["memory.limit_in_bytes", "memory.max"].map(|name| folder.join(name)))
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    assert_eq!(found, [format!("{limit}\n")]);
    lab.start().unwrap();
    assert_eq!(keeper::wait(created.pid), 0);
    lab.delete().unwrap();
    assert!(lab.remains().is_empty(), "{:?}", lab.remains());
}

fn seccomp_denies_with_and_without_no_new_privs() {
    for promise in [None, Some(false), Some(true)] {
        let run = |denied: &[&str]| {
            let mut lab = Lab::new("mkdir /made");
            lab.forbid(denied, LinuxSeccompAction::ScmpActErrno);
            lab.process().set_no_new_privileges(promise);
            lab.run()
        };
        let denied = run(&["mkdir", "mkdirat", "no_such_call"]);
        assert_eq!(denied.code, 1, "{promise:?} {denied:?}");
        assert!(denied.stderr.contains("Invalid argument"), "{promise:?} {denied:?}");
        assert_eq!(run(&["swapon"]).code, 0, "{promise:?}");
    }
}

fn a_profile_need_not_allow_what_the_runtime_does() {
    let run = |denied: &[&str]| {
        let mut lab = Lab::new("echo ran");
        lab.forbid(denied, LinuxSeccompAction::ScmpActKillProcess);
        lab.run()
    };
    let runtimes_own =
        ["accept", "accept4", "sendmsg", "recvmsg", "recvfrom", "capset", "close_range"];
    assert_eq!(run(&runtimes_own).stdout, "ran\n");
    assert_eq!(run(&["write"]).code, 128 + 31, "SIGSYS");
}

fn the_hostname_is_set() {
    let before = nix::unistd::gethostname().unwrap();
    let mut lab = Lab::new("hostname");
    lab.spec.set_hostname(Some("boxed".to_owned()));
    assert_eq!(lab.run().stdout, "boxed\n");
    assert_eq!(nix::unistd::gethostname().unwrap(), before);
}

fn there_are_three_descriptors() {
    // One that a careless parent leaves open across exec.
    let stray = File::open("/etc").unwrap();
    nix::fcntl::fcntl(&stray, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    assert_eq!(Lab::new("ls /proc/1/fd; true").run().stdout, "0\n1\n2\n");
}

fn null_as_output_can_be_written() {
    let lab = Lab::new("echo out && echo err >&2 && exit 3; exit 4");
    let pid = lab.create_with([read_write_null(), read_write_null(), read_write_null()]).unwrap();
    lab.start().unwrap();
    assert_eq!(keeper::wait(pid), 3);
    lab.delete().unwrap();
}

fn a_program_of_no_known_format_says_so_on_stderr() {
    let mut lab = Lab::new("");
    let program = lab.rootfs().join("bin/odd");
    fs::write(&program, "neither script nor binary").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    lab.process().set_args(Some(vec!["odd".to_owned()]));
    let outcome = lab.run();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, "exec /bin/odd: exec format error\n"));
}

fn hooks_run_and_know_the_bundle() {
    let mut lab = Lab::new("true");
    let log = lab.path("log");
    let hook = |stage: &str| {
        let script = format!("(echo {stage}; cat; echo) >> {}", log.display());
        let args = ["sh", "-c", &script].map(str::to_owned).to_vec();
        vec![HookBuilder::default().path("/bin/sh").args(args).build().unwrap()]
    };
    let hooks = HooksBuilder::default()
        .create_runtime(hook("createRuntime"))
        .poststart(hook("poststart"))
        .poststop(hook("poststop"))
        .build()
        .unwrap();
    lab.spec.set_hooks(Some(hooks));
    assert_eq!(lab.run().code, 0);
    let told = fs::read_to_string(&log).unwrap();
    let stages: Vec<&str> = told.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(stages, ["createRuntime", "poststart", "poststop"], "{told}");
    let bundle = format!("\"bundle\":\"{}\"", lab.bundle().display());
    assert_eq!(told.matches(&bundle).count(), 3, "{told}");
}

fn every_spelling_of_root_propagation_works() {
    for given in ["rslave", "rshared", "rprivate", "private"] {
        let mut lab = Lab::new("echo ran");
        lab.linux().set_rootfs_propagation(Some(given.to_owned()));
        assert_eq!(lab.run().stdout, "ran\n", "{given}");
    }
}
