//! Bundles that must be refused, each with the same bundle made harmless.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use oci_spec::runtime::UserBuilder;

use crate::Case;
use crate::lab::{Lab, bind};

pub(crate) const CASES: &[Case] = &[
    ("a_root_whose_dev_is_a_symlink_is_refused", a_root_whose_dev_is_a_symlink_is_refused),
    ("a_mount_inside_proc_is_refused", a_mount_inside_proc_is_refused),
    (
        "programs_that_cannot_run_are_named_as_runc_does",
        programs_that_cannot_run_are_named_as_runc_does,
    ),
    ("a_missing_mount_source_is_named", a_missing_mount_source_is_named),
    (
        "a_working_directory_outside_the_root_is_refused",
        a_working_directory_outside_the_root_is_refused,
    ),
    ("a_user_that_would_stay_root_is_refused", a_user_that_would_stay_root_is_refused),
    ("a_passwd_file_that_blocks_is_ignored", a_passwd_file_that_blocks_is_ignored),
    ("a_limit_that_cannot_be_set_is_named", a_limit_that_cannot_be_set_is_named),
    ("unsafe_ids_are_refused", unsafe_ids_are_refused),
    ("what_was_decided_upon_is_what_runs", what_was_decided_upon_is_what_runs),
    (
        "what_is_wrong_with_the_image_is_told_from_a_failure",
        what_is_wrong_with_the_image_is_told_from_a_failure,
    ),
];

/// Asserts that nothing is made, and returns the sentence.
fn refused(lab: &Lab) -> String {
    let error = lab.create().map(|created| created.pid).unwrap_err();
    assert_eq!(lab.remains(), Vec::<String>::new(), "{error}");
    error
}

fn runs(lab: &Lab) {
    let outcome = lab.run();
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

fn a_root_whose_dev_is_a_symlink_is_refused() {
    for name in ["dev", "proc", "sys"] {
        let lab = Lab::new("true");
        let outside = lab.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("ptmx"), "the host's").unwrap();
        fs::remove_dir(lab.rootfs().join(name)).unwrap();
        symlink(&outside, lab.rootfs().join(name)).unwrap();
        assert!(
            refused(&lab).contains(&format!("/{name} of the root filesystem is not a directory"))
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.join("ptmx")).unwrap(), "the host's");

        fs::remove_file(lab.rootfs().join(name)).unwrap();
        runs(&lab);
    }
}

fn a_mount_inside_proc_is_refused() {
    let table = [
        ("/proc/sys", false),
        ("/proc/self/attr", false),
        ("/trap", false),
        ("/harmless", true),
        ("/proc/uptime", true),
    ];
    for (target, allowed) in table {
        let mut lab = Lab::new("true");
        symlink("/proc/sys", lab.rootfs().join("trap")).unwrap();
        let source = lab.path("source");
        match target {
            "/proc/uptime" => fs::write(&source, "1 1\n").unwrap(),
            _ => fs::create_dir(&source).unwrap(),
        }
        lab.add_mount(bind(&source, target, "ro"));
        match allowed {
            true => runs(&lab),
            false => assert!(refused(&lab).contains("inside /proc"), "{target}"),
        }
    }
}

fn programs_that_cannot_run_are_named_as_runc_does() {
    let table = [
        ("nonesuch", "exec: \"nonesuch\": executable file not found in $PATH"),
        ("/nonesuch", "exec: \"/nonesuch\": stat /nonesuch: no such file or directory"),
        ("/etc", "exec: \"/etc\": is a directory"),
        ("/etc/plain", "exec: \"/etc/plain\": permission denied"),
    ];
    for (program, sentence) in table {
        let mut lab = Lab::new("");
        fs::write(lab.rootfs().join("etc/plain"), "").unwrap();
        lab.process().set_args(Some(vec![program.to_owned()]));
        let expected = format!("unable to start container process: {sentence}");
        assert_eq!(refused(&lab), expected);
        lab.process().set_args(Some(vec!["/bin/ls".to_owned()]));
        runs(&lab);
    }
}

fn a_missing_mount_source_is_named() {
    let mut lab = Lab::new("true");
    let source = lab.path("source");
    lab.add_mount(bind(&source, "/data", "ro"));
    let error = refused(&lab);
    let expected = format!("error mounting {} to rootfs at /data: No such file", source.display());
    assert!(error.starts_with(&expected), "{error}");
    fs::create_dir(&source).unwrap();
    runs(&lab);
}

fn a_working_directory_outside_the_root_is_refused() {
    let mut lab = Lab::new("true");
    lab.process().set_cwd("/proc/self/fd/7".into());
    let error = refused(&lab);
    assert!(error.contains("chdir"), "{error}");
    lab.process().set_cwd("/proc/self".into());
    runs(&lab);
}

fn a_user_that_would_stay_root_is_refused() {
    let mut lab = Lab::new("test $(id -u) = 4294967294");
    lab.process().set_user(UserBuilder::default().uid(u32::MAX).build().unwrap());
    assert!(refused(&lab).contains("user 4294967295 is not a valid id"));
    lab.process().set_user(UserBuilder::default().uid(u32::MAX - 1).build().unwrap());
    runs(&lab);
}

fn a_passwd_file_that_blocks_is_ignored() {
    let lab = Lab::new("test $HOME = /");
    mkfifo(&lab.rootfs().join("etc/passwd"), Mode::S_IRWXU).unwrap();
    runs(&lab);
}

fn a_limit_that_cannot_be_set_is_named() {
    let mut lab = Lab::new("true");
    let memory = oci_spec::runtime::LinuxMemoryBuilder::default().limit(-17).build().unwrap();
    let mut resources = lab.linux().resources().clone().unwrap();
    resources.set_memory(Some(memory));
    lab.linux().set_resources(Some(resources.clone()));
    let error = refused(&lab);
    assert!(error.contains("memory"), "{error}");
    resources.set_memory(None);
    lab.linux().set_resources(Some(resources));
    runs(&lab);
}

fn unsafe_ids_are_refused() {
    let mut lab = Lab::new("true");
    let (good, long) = (lab.id.clone(), "x".repeat(300));
    for id in ["../x", "a/b", "..", "", long.as_str()] {
        lab.id = id.to_owned();
        let error = lab.create().map(|created| created.pid).unwrap_err();
        assert!(error.contains("is refused"), "{error}");
        assert!(!lab.state_root().exists());
        assert!(lab.delete().is_err());
    }
    lab.id = good;
    runs(&lab);
}

fn what_was_decided_upon_is_what_runs() {
    for text in ["", "{", "{\"ociVersion\":3}"] {
        let lab = Lab::new("true");
        let request = lab.request();
        fs::write(lab.bundle().join("config.json"), text).unwrap();
        let call = || linux::create(&request, crate::lab::null_streams());
        let made = crate::keeper::make(call).unwrap_or_else(|error| panic!("{text}: {error}"));
        lab.start().unwrap();
        assert_eq!(crate::keeper::wait(made.pid), 0, "{text}");
        lab.delete().unwrap();
        assert_eq!(lab.remains(), Vec::<String>::new());
        fs::remove_file(lab.bundle().join("config.json")).unwrap();
    }
}

/// Asks in a worker whether the error of a create is a refusal.
fn is_refusal(lab: &Lab) -> bool {
    let request = lab.request();
    let call = || match linux::create(&request, crate::lab::null_streams()) {
        Ok(_) => Err(std::io::Error::other("it was made")),
        Err(error) => Ok(i32::from(error.is_refusal())),
    };
    crate::keeper::in_worker(call).unwrap() == 1
}

fn what_is_wrong_with_the_image_is_told_from_a_failure() {
    let refusals: [fn(&mut Lab); 5] = [
        |lab| lab.id = "../x".to_owned(),
        |lab| fs::remove_dir_all(lab.rootfs()).unwrap(),
        |lab| {
            lab.process().set_args(Some(vec!["nonesuch".to_owned()]));
        },
        |lab| lab.add_mount(bind(Path::new("/nonesuch"), "/data", "ro")),
        |lab| {
            lab.process().set_user(UserBuilder::default().uid(u32::MAX).build().unwrap());
        },
    ];
    for (number, spoil) in refusals.into_iter().enumerate() {
        let mut lab = Lab::new("true");
        let id = lab.id.clone();
        spoil(&mut lab);
        assert!(is_refusal(&lab), "{number}");
        lab.id = id;
    }
    // The node's own folder is in the way.
    let lab = Lab::new("true");
    fs::write(lab.state_root(), "a file").unwrap();
    assert!(!is_refusal(&lab));
    fs::remove_file(lab.state_root()).unwrap();
}
