//! What a plan makes of a spec, as tables.

use oci_spec::runtime::{
    LinuxBuilder, MountBuilder, ProcessBuilder, RootBuilder, SpecBuilder, UserBuilder,
};

use super::*;

fn facts(unified: bool) -> Facts<'static> {
    let rootfs = Path::new("/run/bundle/rootfs");
    Facts { id: "web", rootfs, home: Some("/home/web"), unified, hierarchies: vec![] }
}

fn spec() -> Spec {
    SpecBuilder::default()
        .root(RootBuilder::default().path("rootfs").build().unwrap())
        .process(ProcessBuilder::default().args(vec!["/bin/true".to_owned()]).build().unwrap())
        .linux(LinuxBuilder::default().build().unwrap())
        .mounts(vec![])
        .build()
        .unwrap()
}

fn changed(change: impl FnOnce(&mut Spec)) -> Result<Plan, Unsupported> {
    let mut spec = spec();
    change(&mut spec);
    plan(spec, &facts(false))
}

fn process(spec: &mut Spec) -> &mut Process {
    spec.process_mut().as_mut().unwrap()
}

#[test]
fn what_runc_takes_as_default_is_written_out() {
    let made = changed(|spec| {
        let process = process(spec);
        process.set_no_new_privileges(Some(false));
        process.set_env(Some(vec!["A=1".to_owned(), "HOME=".to_owned()]));
        process.set_capabilities(None);
    })
    .unwrap();
    let process = made.spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), None);
    assert_eq!(process.user().umask(), Some(0o022));
    assert_eq!(process.env().as_ref().unwrap(), &["A=1", "HOME=/home/web"]);
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.permitted(), &Some(Capabilities::new()));
    assert_eq!(capabilities.inheritable(), &Some(Capabilities::new()));
    assert_eq!(made.spec.root().as_ref().unwrap().path(), Path::new("/run/bundle/rootfs"));
}

#[test]
fn given_values_stay() {
    let kept = Capabilities::from([Capability::Kill]);
    let made = changed(|spec| {
        let process = process(spec);
        process.set_no_new_privileges(Some(true));
        process.user_mut().set_umask(Some(0o077));
        process.set_env(Some(vec!["HOME=/mine".to_owned()]));
        let given = serde_json::from_str(r#"{"permitted":["CAP_KILL"]}"#).unwrap();
        process.set_capabilities(Some(given));
    })
    .unwrap();
    let process = made.spec.process().as_ref().unwrap();
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.user().umask(), Some(0o077));
    assert_eq!(process.env().as_ref().unwrap(), &["HOME=/mine"]);
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.permitted(), &Some(kept));
    assert_eq!(capabilities.ambient().as_ref().map(HashSet::len), Some(0));
}

#[test]
fn ids_that_would_leave_root_in_place_are_refused() {
    for (uid, gid, more) in [(u32::MAX, 0, 0), (0, u32::MAX, 0), (0, 0, u32::MAX)] {
        let user =
            UserBuilder::default().uid(uid).gid(gid).additional_gids([more]).build().unwrap();
        let refused = changed(|spec| {
            process(spec).set_user(user);
        });
        assert!(matches!(refused, Err(Unsupported::InvalidId(_))), "{uid} {gid} {more}");
    }
    let user = UserBuilder::default().uid(1000u32).gid(1000u32).build().unwrap();
    changed(|spec| {
        process(spec).set_user(user);
    })
    .unwrap();
}

#[test]
fn what_would_be_dropped_in_silence_is_refused() {
    let refused: [fn(&mut Spec); 4] = [
        |spec| {
            process(spec).set_selinux_label(Some("system_u:x".to_owned()));
        },
        |spec| {
            process(spec).set_args(Some(vec![]));
        },
        |spec| {
            process(spec).set_env(Some(vec!["A=\0".to_owned()]));
        },
        |spec| {
            spec.set_linux(None);
        },
    ];
    for change in refused {
        changed(change).unwrap_err();
    }
    changed(|_| ()).unwrap();
}

#[test]
fn device_nodes_cannot_be_made_where_no_rule_guards_them() {
    let rule = |allow: &str| format!(r#"{{"allow":{allow},"access":"rwm"}}"#);
    let (deny, allow) = (rule("false"), rule("true"));
    let one = r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}"#.to_owned();
    let table = [
        (true, vec![deny.clone(), one.clone()], false),
        (true, vec![], false),
        (true, vec![deny.clone(), allow], true),
        (false, vec![deny, one], true),
    ];
    for (unified, rules, expected) in table {
        let mut spec = spec();
        let text = format!(r#"{{"devices":[{}]}}"#, rules.join(","));
        let resources = serde_json::from_str(&text).unwrap();
        spec.linux_mut().as_mut().unwrap().set_resources(Some(resources));
        let given = serde_json::from_str(r#"{"bounding":["CAP_MKNOD","CAP_KILL"]}"#).unwrap();
        process(&mut spec).set_capabilities(Some(given));
        let made = plan(spec, &facts(unified)).unwrap();
        let process = made.spec.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().clone().unwrap();
        assert_eq!(bounding.contains(&Capability::Mknod), expected, "{unified} {rules:?}");
        assert!(bounding.contains(&Capability::Kill));
    }
}

#[test]
fn the_seccomp_profile_goes_where_it_can_be_installed() {
    let plain = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[]}"#;
    let notifying = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x",
        "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    let table = [
        (plain, Some(true), true),
        (plain, Some(false), false),
        (plain, None, false),
        (notifying, Some(true), false),
    ];
    for (profile, promise, ours) in table {
        let made = changed(|spec| {
            process(spec).set_no_new_privileges(promise);
            let profile = serde_json::from_str(profile).unwrap();
            spec.linux_mut().as_mut().unwrap().set_seccomp(Some(profile));
        })
        .unwrap();
        let left = made.spec.linux().as_ref().unwrap().seccomp().is_some();
        assert_eq!((made.filter.is_some(), left), (ours, !ours), "{promise:?} {profile}");
    }
}

#[test]
fn every_cgroups_path_is_put_the_way_libcontainer_understands() {
    let slice = "kubepods-pod1.slice:cri-containerd:9f";
    let expanded = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-9f.scope";
    let table = [
        (None, false, Some("/web")),
        (None, true, Some("/web")),
        (Some("/default/web"), false, Some("/default/web")),
        (Some("pods/web"), true, Some("/pods/web")),
        (Some(slice), false, Some(expanded)),
        (Some(slice), true, Some(slice)),
        (Some("/../web"), false, None),
    ];
    for (given, unified, expected) in table {
        let mut spec = spec();
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(given.map(PathBuf::from));
        let made = plan(spec, &facts(unified)).ok();
        let path = made.and_then(|it| it.spec.linux().as_ref()?.cgroups_path().clone());
        assert_eq!(path.as_deref(), expected.map(Path::new), "{given:?} {unified}");
    }
}

#[test]
fn mounts_are_private_unless_one_follows_the_host() {
    let table: [(Option<&str>, &[&str], Option<&str>); 8] = [
        (None, &[], None),
        (None, &["rprivate"], Some("private")),
        (None, &["rprivate", "rslave"], None),
        (None, &["rshared", "private"], None),
        (Some("rslave"), &["rprivate"], Some("slave")),
        (Some("rshared"), &["rshared"], Some("shared")),
        (Some("private"), &[], Some("private")),
        (Some("runbindable"), &[], Some("unbindable")),
    ];
    for (given, mounts, expected) in table {
        let made = changed(|spec| {
            let mount = |option: &&str| {
                MountBuilder::default()
                    .source("/x")
                    .destination("/x")
                    .options(vec!["rbind".to_owned(), (*option).to_owned()])
                    .build()
                    .unwrap()
            };
            spec.set_mounts(Some(mounts.iter().map(mount).collect()));
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_rootfs_propagation(given.map(str::to_owned));
        })
        .unwrap();
        let settled = made.spec.linux().as_ref().unwrap().rootfs_propagation().clone();
        assert_eq!(settled.as_deref(), expected, "{given:?} {mounts:?}");
    }
}

#[test]
fn an_exec_is_refused_what_its_container_would_be() {
    let given = |fields: &str| {
        let text = format!(r#"{{"cwd":"/","args":["true"],"user":{{"uid":0,"gid":0}}{fields}}}"#);
        plan_exec(serde_json::from_str(&text).unwrap(), false)
    };
    let refused = [
        r#","selinuxLabel":"a:b""#,
        r#","env":["A=\u0000"]"#,
        r#","scheduler":{"policy":"SCHED_BATCH"}"#,
        r#","execCPUAffinity":{"final":"0-1"}"#,
    ];
    for fields in refused {
        given(fields).unwrap_err();
    }
    let process = given(r#","capabilities":{"permitted":["CAP_KILL","CAP_MKNOD"]}"#).unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.permitted(), &Some(Capabilities::from([Capability::Kill])));
    assert_eq!(capabilities.bounding(), &Some(Capabilities::new()));
    assert_eq!(process.user().umask(), Some(0o022));
    let process = given("").unwrap();
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.permitted(), &Some(Capabilities::new()));
}
