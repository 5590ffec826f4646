//! What one compilation may take: address space, processor time, and time.
//!
//! Far more than a module of many megabytes needs, so that only what was made to hurt meets them.
//! The process that compiles ends by a signal then, and whoever forked it tells by
//! [`Bounds::exceeded`] what that means. All cores work for a compilation; only their sum counts.

use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::alarm;
use sys::pidfd::ExitStatus;

/// The bounds of a compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of address space.
    pub address_space: u64,
    /// Time of all processors together.
    pub cpu: Duration,
    /// Time from its beginning, also while it waits for somebody else who compiles the same.
    pub wall: Duration,
}

/// Room for a thread of the compiler: its stack, and an arena of the C library's allocator.
const PER_CORE: u64 = 192 << 20;

impl Bounds {
    /// The bounds on a machine with this many processors.
    #[must_use]
    pub fn on(cores: usize) -> Self {
        let cores = u64::try_from(cores).unwrap_or(u64::MAX);
        Self {
            address_space: (8 << 30) + cores.saturating_mul(PER_CORE),
            cpu: Duration::from_secs(300),
            wall: Duration::from_secs(600),
        }
    }

    /// Imposes the bounds on this process, from now on and for good.
    ///
    /// # Errors
    /// What setrlimit(2) says.
    pub fn impose(&self) -> std::io::Result<()> {
        setrlimit(Resource::RLIMIT_AS, self.address_space, self.address_space)?;
        // A second later the kernel kills, should the first signal not have ended the process.
        let cpu = self.cpu.as_secs();
        setrlimit(Resource::RLIMIT_CPU, cpu, cpu.saturating_add(1))?;
        alarm::set(u32::try_from(self.wall.as_secs()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Says which bound has ended the process, if one has, and what to do.
    #[must_use]
    pub fn exceeded(&self, status: ExitStatus) -> Option<String> {
        let ExitStatus::Signalled(number) = status else {
            return None;
        };
        let smaller = "use a smaller module, or split it";
        Some(match Signal::try_from(number).ok()? {
            Signal::SIGXCPU => format!(
                "the module was not compiled: it takes more than {} seconds of processor time, the bound of a \
                 compilation; {smaller}",
                self.cpu.as_secs()
            ),
            Signal::SIGALRM => format!(
                "the module was not compiled within {} seconds, the bound of a compilation, in which it may have \
                 waited for another one of the same module; try again, on a machine that has less to do, or {smaller}",
                self.wall.as_secs()
            ),
            // What the allocator does when it is refused memory.
            Signal::SIGABRT => format!(
                "the module was not compiled: it takes more than {} MiB of address space, the bound of a compilation, \
                 or the machine has no memory left; {smaller}",
                self.address_space >> 20
            ),
            Signal::SIGKILL => format!(
                "the module was not compiled: its compiler was killed, as the kernel does where memory runs out; give \
                 the machine more, or {smaller}"
            ),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_that_ends_a_compilation_is_named() {
        let bounds = Bounds::on(2);
        for (signal, part) in [
            (Signal::SIGXCPU, "more than 300 seconds of processor time"),
            (Signal::SIGALRM, "not compiled within 600 seconds"),
            (Signal::SIGABRT, "more than 8576 MiB of address space"),
            (Signal::SIGKILL, "where memory runs out"),
        ] {
            let said = bounds.exceeded(ExitStatus::Signalled(signal as i32)).unwrap();
            assert!(said.contains(part) && said.contains("smaller module"), "{said}");
        }
        for other in [ExitStatus::Exited(1), ExitStatus::Signalled(Signal::SIGSEGV as i32)] {
            assert_eq!(bounds.exceeded(other), None);
        }
    }
}
