//! `testkit`: prepares a machine for the end-to-end tests, and runs the demonstration.

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use testkit::containerd::{HYBRID, Release};
use testkit::vm::{self, Scope};
use testkit::{catalogue, clients, demo, packages};

#[derive(Debug, Parser)]
#[command(about = "Prepares a machine for the end-to-end tests and runs the demonstration")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install missing Debian packages (needs root)
    Install,
    /// Download the containerd releases and runc that tests use
    Fetch,
    /// Build the guests and write all test images
    Images,
    /// Build crictl and nerdctl
    Clients,
    /// Run a wasm and a Linux image in a private containerd (needs root)
    Demo {
        /// The containerd release
        #[arg(long, value_enum, default_value_t = ReleaseName::V1_7)]
        containerd: ReleaseName,
        /// The runtime to run the images with
        #[arg(long, default_value = HYBRID)]
        runtime: String,
    },
    /// Run the shim in a virtual machine with cgroup version 2, systemd and Landlock (needs root)
    Vm {
        /// Only what differs there, and not the end-to-end tests
        #[arg(long)]
        smoke: bool,
        /// The files of end-to-end tests to run, such as `limits`; all of them if none is named
        #[arg(conflicts_with = "smoke")]
        tests: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReleaseName {
    #[value(name = "1.6")]
    V1_6,
    #[value(name = "1.7")]
    V1_7,
    #[value(name = "2.1")]
    V2_1,
}

impl From<ReleaseName> for Release {
    fn from(name: ReleaseName) -> Self {
        match name {
            ReleaseName::V1_6 => Self::V1_6,
            ReleaseName::V1_7 => Self::V1_7,
            ReleaseName::V2_1 => Self::V2_1,
        }
    }
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Install => packages::install(),
        Task::Fetch => testkit::fetch(),
        Task::Images => {
            for archive in catalogue::all()? {
                println!("{} {} {}", archive.name, archive.platforms.join(","), archive.digest);
            }
            Ok(())
        }
        Task::Clients => {
            for client in [clients::crictl()?, clients::nerdctl()?] {
                println!("{}", client.display());
            }
            Ok(())
        }
        Task::Demo { containerd, runtime } => demo::run(containerd.into(), &runtime),
        Task::Vm { smoke: true, .. } => vm::run(&Scope::Smoke),
        Task::Vm { smoke: false, tests } => vm::run(&Scope::Suite(tests)),
    }
}
