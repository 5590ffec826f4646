//! System call filters: built once as a BPF program, installed in any number of processes.
//!
//! The filter of the engine is the same for every guest, so it is built before the processes that
//! it confines are forked, and each of them only installs it.

use std::fs::File;
use std::io::{self, Read, Seek};

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

/// How libseccomp arranges the comparisons of a filter.
const BINARY_TREE: u32 = 2;

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Instructions as `struct sock_filter`, eight bytes each.
    program: Vec<u8>,
    flags: libc::c_ulong,
}

/// What an allow-list says of one system call. Several rules may name the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It may be made.
    Allow(&'static str),
    /// It may be made when an argument has a value under a mask.
    AllowMaskedArg {
        /// The system call.
        name: &'static str,
        /// Which argument, from 0 to 5.
        arg: u32,
        /// The bits that are compared.
        mask: u64,
        /// What they must be.
        value: u64,
    },
    /// It fails with this error number, where the caller needs another one than EPERM.
    Errno(&'static str, i32),
}

/// Why a filter could not be built.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A rule of this program names no system call.
    #[error("{0} is not a system call that libseccomp knows")]
    UnknownSyscall(&'static str),
    /// The spec asks for something that is not provided.
    #[error("seccomp: {0} is not supported")]
    Unsupported(&'static str),
    /// An error number or trace value is out of the kernel's range.
    #[error("seccomp: {0} is not an error number")]
    NotAnErrno(u32),
    /// An argument index is above 5.
    #[error("seccomp: {name} has no argument {index}")]
    NoSuchArgument {
        /// The system call.
        name: String,
        /// The index the spec gives.
        index: usize,
    },
    /// libseccomp refused a part of the filter.
    #[error("cannot add {what} to the seccomp filter")]
    Refused {
        /// The part that was refused.
        what: String,
        /// What libseccomp said.
        source: SeccompError,
    },
    /// The finished program could not be read back.
    #[error("cannot export the seccomp filter")]
    Export(#[source] io::Error),
}

impl Filter {
    /// Builds a filter that allows what the rules say, and answers EPERM to everything else.
    ///
    /// A system call of another architecture ends the process.
    ///
    /// # Errors
    /// When a rule names no system call, or libseccomp refuses it.
    pub fn allow_only(rules: &[Rule]) -> Result<Self, FilterError> {
        let otherwise = ScmpAction::Errno(libc::EPERM);
        let mut context = new_context(otherwise)?;
        context
            .set_act_badarch(ScmpAction::KillProcess)
            .map_err(refused("the action for other architectures"))?;
        // A tree of comparisons instead of one after another: this filter is asked at every system
        // call of a guest. It only changes how the program looks, so a libseccomp that is too old
        // for it, before 2.5, does without.
        let _linear = context.set_ctl_optimize(BINARY_TREE);
        for rule in rules {
            let (name, action, conditions) = rule.parts();
            let syscall = ScmpSyscall::from_name(name)
                .map_err(|_unknown| FilterError::UnknownSyscall(name))?;
            // libseccomp takes a rule that repeats the default for a mistake.
            if action != otherwise {
                context
                    .add_rule_conditional(action, syscall, &conditions)
                    .map_err(refused(name))?;
            }
        }
        Self::export(&context, 0)
    }

    /// Builds the filter of the runtime spec (config-linux.md, "Seccomp").
    ///
    /// `None` when it restricts nothing. Names of system calls that libseccomp does not know are
    /// skipped, as runc does: profiles are written for many kernels.
    ///
    /// # Errors
    /// `Unsupported` for SCMP_ACT_NOTIFY and an unknown architecture; when libseccomp refuses a rule.
    pub fn from_spec(spec: &LinuxSeccomp) -> Result<Option<Self>, FilterError> {
        let default = action(spec.default_action(), spec.default_errno_ret())?;
        let syscalls = spec.syscalls().as_deref().unwrap_or_default();
        if default == ScmpAction::Allow && syscalls.is_empty() {
            return Ok(None);
        }
        let mut context = new_context(default)?;
        for arch in spec.architectures().iter().flatten() {
            let arch = architecture(*arch)?;
            context.add_arch(arch).map_err(refused(&format!("the architecture {arch:?}")))?;
        }
        for syscall in syscalls {
            add_from_spec(&mut context, default, syscall)?;
        }
        Self::export(&context, spec_flags(spec)?).map(Some)
    }

    /// Restricts the calling thread, and all it starts from now on, to this filter. Filters add up:
    /// a system call must pass every installed one.
    ///
    /// # Errors
    /// `PermissionDenied` without no_new_privs and without CAP_SYS_ADMIN.
    pub fn install(&self) -> io::Result<()> {
        let instructions = self.program.len() / size_of::<libc::sock_filter>();
        let program = libc::sock_fprog {
            len: u16::try_from(instructions).map_err(io::Error::other)?,
            filter: self.program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        };
        // SAFETY: `program` describes the whole instructions in `self.program`, which outlives the
        // call; the kernel copies them bytewise, never writes them, and checks their meaning.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn export(context: &ScmpFilterContext, flags: libc::c_ulong) -> Result<Self, FilterError> {
        let program = || -> io::Result<Vec<u8>> {
            let mut memfd = File::from(memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC)?);
            context.export_bpf(&memfd).map_err(io::Error::other)?;
            memfd.rewind()?;
            let mut program = Vec::new();
            memfd.read_to_end(&mut program)?;
            Ok(program)
        };
        Ok(Self { program: program().map_err(FilterError::Export)?, flags })
    }
}

impl Rule {
    fn parts(self) -> (&'static str, ScmpAction, Vec<ScmpArgCompare>) {
        match self {
            Self::Allow(name) => (name, ScmpAction::Allow, Vec::new()),
            Self::AllowMaskedArg { name, arg, mask, value } => {
                let equal = ScmpArgCompare::new(arg, ScmpCompareOp::MaskedEqual(mask), value);
                (name, ScmpAction::Allow, vec![equal])
            }
            Self::Errno(name, errno) => (name, ScmpAction::Errno(errno), Vec::new()),
        }
    }
}

fn refused(what: &str) -> impl FnOnce(SeccompError) -> FilterError {
    let what = what.to_owned();
    move |source| FilterError::Refused { what, source }
}

fn new_context(default: ScmpAction) -> Result<ScmpFilterContext, FilterError> {
    ScmpFilterContext::new(default).map_err(refused("the default action"))
}

fn add_from_spec(
    context: &mut ScmpFilterContext,
    default: ScmpAction,
    rule: &LinuxSyscall,
) -> Result<(), FilterError> {
    let action = action(rule.action(), rule.errno_ret())?;
    if action == default {
        // It changes nothing, and libseccomp takes it for a mistake.
        return Ok(());
    }
    let args = rule.args().as_deref().unwrap_or_default();
    for name in rule.names() {
        let Ok(syscall) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let conditions =
            args.iter().map(|arg| condition(name, arg)).collect::<Result<Vec<_>, _>>()?;
        // libseccomp compares each argument once per rule. runc reads several conditions on one
        // argument as alternatives, and profiles are written for that.
        if has_repeated_index(args) {
            for condition in conditions {
                context
                    .add_rule_conditional(action, syscall, &[condition])
                    .map_err(refused(name))?;
            }
        } else {
            context.add_rule_conditional(action, syscall, &conditions).map_err(refused(name))?;
        }
    }
    Ok(())
}

fn has_repeated_index(args: &[LinuxSeccompArg]) -> bool {
    args.iter().enumerate().any(|(n, arg)| args[..n].iter().any(|one| one.index() == arg.index()))
}

fn condition(name: &str, arg: &LinuxSeccompArg) -> Result<ScmpArgCompare, FilterError> {
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| FilterError::NoSuchArgument { name: name.to_owned(), index: arg.index() })?;
    let (operator, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // For this one the spec's value is the mask and its valueTwo what is compared.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, FilterError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    let number = || u16::try_from(errno).map_err(|_large| FilterError::NotAnErrno(errno));
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(number()?.into()),
        LinuxSeccompAction::ScmpActNotify => {
            return Err(FilterError::Unsupported("SCMP_ACT_NOTIFY"));
        }
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(number()?),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    })
}

fn spec_flags(spec: &LinuxSeccomp) -> Result<libc::c_ulong, FilterError> {
    let mut flags = 0;
    for flag in spec.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            }
            // The filter is installed before there is a second thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(FilterError::Unsupported("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"));
            }
        };
    }
    Ok(flags)
}

fn architecture(arch: Arch) -> Result<ScmpArch, FilterError> {
    Ok(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        _ => return Err(FilterError::Unsupported("this architecture")),
    })
}

#[cfg(test)]
mod tests;
