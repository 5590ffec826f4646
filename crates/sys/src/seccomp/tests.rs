//! What an installed filter lets through, seen from inside a confined process.

use super::*;
use crate::forked::in_child;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};

/// What a test's child needs to end, and to say why it failed.
const EXIT: [Rule; 5] = [
    Rule::Allow("exit_group"),
    Rule::Allow("write"),
    Rule::Allow("mmap"),
    Rule::Allow("munmap"),
    Rule::Allow("brk"),
];

fn confined(filter: &Filter, body: impl FnOnce()) {
    in_child(|| {
        crate::privileges::no_new_privs().expect("no_new_privs");
        filter.install().expect("install");
        body();
    });
}

/// Returns the error of a kill that only asks; 0, which nix has no name for, when there is none.
fn ask_about_killing() -> Errno {
    Errno::clear();
    // SAFETY: signal 0 only asks; no memory is touched.
    unsafe { libc::kill(0, 0) };
    Errno::last()
}

/// Asks for a personality; the value that reads it changes nothing.
fn personality(value: libc::c_ulong) -> Result<(), Errno> {
    Errno::clear();
    // SAFETY: takes a number and touches no memory.
    match unsafe { libc::personality(value) } {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

#[test]
fn what_is_not_listed_is_not_permitted() {
    let mut rules = EXIT.to_vec();
    rules.push(Rule::Errno("clone3", libc::ENOSYS));
    let filter = Filter::allow_only(&rules).expect("build");
    confined(&filter, || {
        assert_eq!(ask_about_killing(), Errno::EPERM);
        assert_eq!(personality(0xffff_ffff), Err(Errno::EPERM));
        // SAFETY: the filter answers before the kernel looks at the null pointer.
        let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) };
        assert_eq!((result, Errno::last()), (-1, Errno::ENOSYS));
    });
}

#[test]
fn what_is_listed_works() {
    let mut rules = EXIT.to_vec();
    rules.extend([Rule::Allow("kill"), Rule::Allow("personality")]);
    let filter = Filter::allow_only(&rules).expect("build");
    confined(&filter, || {
        assert_eq!(ask_about_killing(), Errno::UnknownErrno);
        assert_eq!(personality(0xffff_ffff), Ok(()));
    });
}

#[test]
fn an_argument_decides_under_its_mask() {
    let mut rules = EXIT.to_vec();
    rules.push(Rule::AllowMaskedArg { name: "personality", arg: 0, mask: 0xff, value: 0xff });
    let filter = Filter::allow_only(&rules).expect("build");
    confined(&filter, || {
        assert_eq!(personality(0xffff_ffff), Ok(()));
        assert_eq!(personality(0xffff_ff00), Err(Errno::EPERM));
    });
}

#[test]
fn a_misspelt_rule_is_an_error() {
    let error = Filter::allow_only(&[Rule::Allow("wriet")]).expect_err("misspelt");
    assert_eq!(error.to_string(), "wriet is not a system call that libseccomp knows");
}

#[test]
fn filters_need_no_new_privs_or_power() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to give up its privileges");
        return;
    }
    let filter = Filter::allow_only(&EXIT).expect("build");
    in_child(|| {
        crate::privileges::drop_all_capabilities().expect("drop");
        assert_eq!(filter.install().expect_err("no power").raw_os_error(), Some(libc::EACCES));
        crate::privileges::no_new_privs().expect("no_new_privs");
        filter.install().expect("install");
    });
}

fn deny(names: &[&str], errno: u32, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno)
        .args(args)
        .build()
        .expect("rule")
}

fn arg(op: LinuxSeccompOperator, value: u64, value_two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .op(op)
        .value(value)
        .value_two(value_two)
        .build()
        .expect("argument")
}

fn allowing_but(syscalls: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchNative])
        .flags(vec![LinuxSeccompFilterFlag::SeccompFilterFlagLog])
        .syscalls(syscalls)
        .build()
        .expect("profile")
}

fn from_spec(spec: &LinuxSeccomp) -> Filter {
    Filter::from_spec(spec).expect("build").expect("it restricts something")
}

#[test]
fn a_profile_denies_with_its_own_error_and_skips_unknown_names() {
    let spec = allowing_but(vec![deny(&["no_such_syscall", "personality"], 22, Vec::new())]);
    confined(&from_spec(&spec), || {
        assert_eq!(personality(0xffff_ffff), Err(Errno::EINVAL));
        assert_eq!(ask_about_killing(), Errno::UnknownErrno);
    });
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let args = vec![
        arg(LinuxSeccompOperator::ScmpCmpEq, 0xffff_ffff, 0),
        arg(LinuxSeccompOperator::ScmpCmpMaskedEq, 0xf0, 0x30),
    ];
    confined(&from_spec(&allowing_but(vec![deny(&["personality"], 95, args)])), || {
        assert_eq!(personality(0xffff_ffff), Err(Errno::EOPNOTSUPP));
        assert_eq!(personality(0x30), Err(Errno::EOPNOTSUPP));
        assert_eq!(personality(0), Ok(()));
    });
}

#[test]
fn a_default_of_errno_can_be_chosen_and_repeated() {
    let mut spec = allowing_but(vec![deny(&["kill"], 38, Vec::new())]);
    let rule = LinuxSyscallBuilder::default()
        .names(["exit_group", "write", "mmap", "munmap", "brk"].map(String::from).to_vec())
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .expect("rule");
    spec.set_default_action(LinuxSeccompAction::ScmpActErrno);
    spec.set_default_errno_ret(Some(38));
    spec.set_syscalls(Some(vec![deny(&["kill"], 38, Vec::new()), rule]));
    confined(&from_spec(&spec), || {
        assert_eq!(ask_about_killing(), Errno::ENOSYS);
        assert_eq!(personality(0xffff_ffff), Err(Errno::ENOSYS));
    });
}

#[test]
fn a_profile_that_allows_all_is_no_filter() {
    let spec = allowing_but(Vec::new());
    assert_eq!(Filter::from_spec(&spec).expect("build"), None);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let mut notify = deny(&["kill"], 1, Vec::new());
    notify.set_action(LinuxSeccompAction::ScmpActNotify);
    let error = Filter::from_spec(&allowing_but(vec![notify])).expect_err("notify");
    assert_eq!(error.to_string(), "seccomp: SCMP_ACT_NOTIFY is not supported");

    let large = deny(&["kill"], 70_000, Vec::new());
    let error = Filter::from_spec(&allowing_but(vec![large])).expect_err("errno");
    assert!(matches!(error, FilterError::NotAnErrno(70_000)), "{error}");

    let far = LinuxSeccompArgBuilder::default().index(6_usize).build().expect("argument");
    let error =
        Filter::from_spec(&allowing_but(vec![deny(&["kill"], 1, vec![far])])).expect_err("index");
    assert_eq!(error.to_string(), "seccomp: kill has no argument 6");
}
