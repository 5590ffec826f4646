//! Who is measured, and what each of them runs.

use clap::ValueEnum;
use testkit::containerd::{HYBRID, RUNC};

/// One shim with one kind of container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contestant {
    /// This shim with a wasm module
    Wasm,
    /// This shim with a Linux program
    Linux,
    /// runc's shim with the same Linux program
    Runc,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Ends at once with success.
    Brief,
    /// Prints one line.
    Hello,
    /// Waits until it is killed.
    Idle,
}

/// The images in the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Picture {
    Busybox,
    HelloModule,
    SleeperModule,
}

impl Contestant {
    pub(crate) const ALL: [Self; 3] = [Self::Wasm, Self::Linux, Self::Runc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wasm => "hybrid, wasm",
            Self::Linux => "hybrid, linux",
            Self::Runc => "runc's shim",
        }
    }

    /// Returns the name that is part of container ids.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Linux => "linux",
            Self::Runc => "runc",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        self != Self::Runc
    }

    pub(crate) fn runtime(self) -> &'static str {
        if self.is_ours() { HYBRID } else { RUNC }
    }

    /// Returns the shim's file name, as containerd derives it from the runtime type.
    pub(crate) fn binary(self) -> &'static str {
        if self.is_ours() { "containerd-shim-hybrid-v1" } else { "containerd-shim-runc-v2" }
    }

    /// Returns the image and the arguments; without any, the image's own are taken.
    pub(crate) fn workload(self, work: Work) -> (Picture, &'static [&'static str]) {
        match (self, work) {
            (Self::Wasm, Work::Brief | Work::Hello) => (Picture::HelloModule, &[]),
            (Self::Wasm, Work::Idle) => (Picture::SleeperModule, &[]),
            (Self::Linux | Self::Runc, Work::Brief) => (Picture::Busybox, &["true"]),
            (Self::Linux | Self::Runc, Work::Hello) => (Picture::Busybox, &["echo", "hello"]),
            (Self::Linux | Self::Runc, Work::Idle) => (Picture::Busybox, &["sleep", "3600"]),
        }
    }
}
