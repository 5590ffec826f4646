//! What is kept of a wasm container beside its processes: the ground an exec stands
//! on, and the gauges of its guests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use image::Digest;
use image::detect::{ImageFacts, Source};
use oci_spec::runtime::{LinuxMemory, LinuxResources};
use settings::{Caching, Limits, Workload};
use wasm::engine::EngineSettings;
use wasm::gauge::{Gauge, GuestStats};
use wasm::sandbox::SandboxPlan;

use crate::error::Error;
use crate::hooks::Hooks;
use crate::process::Process;
use crate::spec::{ContainerSpec, Image};

/// The guests of one container: its init, and those that were added.
#[derive(Debug)]
pub(crate) struct Guests {
    pub(super) hooks: Hooks,
    /// The sandbox that all of them share.
    pub(super) plan: SandboxPlan,
    /// Where an added guest's module may be.
    pub(super) image: Arc<dyn Image>,
    pub(super) rootfs: PathBuf,
    /// What the init runs.
    pub(super) module: Digest,
    pub(super) own: Own,
    pub(super) gauge: Gauge,
    pub(super) caching: Caching,
    /// How all of them are run.
    workload: Workload,
    now: Mutex<Now>,
}

/// What the init runs, and how.
pub(super) struct Runs {
    pub(super) module: Digest,
    pub(super) own: Own,
    pub(super) workload: Workload,
}

/// What the init runs, as far as an added guest may mean the same.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) args: Vec<String>,
    pub(super) source: Source,
    pub(super) image: Option<ImageFacts>,
}

#[derive(Debug)]
struct Now {
    /// The memory limit of the container's cgroup, in bytes, if it has one.
    cgroup_memory: Option<i64>,
    /// The added guests that may still run.
    added: Vec<(Process, Gauge)>,
}

impl Now {
    fn forget_ended(&mut self) {
        self.added.retain(|(process, _)| process.exit().is_none());
    }
}

impl Guests {
    pub(super) fn new(
        spec: &ContainerSpec,
        plan: &SandboxPlan,
        hooks: Hooks,
        Runs { module, own, workload }: Runs,
    ) -> Result<Self, Error> {
        let cgroup_memory = plan.resources.as_ref().and_then(memory_limit);
        Ok(Self {
            hooks,
            plan: plan.clone(),
            image: Arc::clone(&spec.image),
            rootfs: spec.rootfs()?,
            module,
            own,
            caching: spec.caching,
            gauge: new_gauge(&workload.limits_within(cgroup_memory))?,
            workload,
            now: Mutex::new(Now { cgroup_memory, added: Vec::new() }),
        })
    }

    /// The bounds of a guest that is made now.
    pub(super) fn limits(&self) -> Limits {
        self.workload.limits_within(self.now().cgroup_memory)
    }

    /// How the code of a guest is compiled and run.
    pub(super) fn engine(&self) -> EngineSettings {
        EngineSettings::of(&self.workload.engine, &self.limits())
    }

    /// The configuration of every guest, by name.
    pub(super) fn config(&self) -> BTreeMap<String, String> {
        self.workload.config.clone()
    }

    /// Makes the gauge of a guest that is to be added.
    pub(super) fn new_gauge(&self) -> Result<Gauge, Error> {
        new_gauge(&self.limits())
    }

    /// Keeps the gauge of a guest that was added for as long as it runs.
    pub(super) fn added(&self, process: Process, gauge: Gauge) -> Result<(), Error> {
        let mut now = self.now();
        // An update may have come while the guest was made.
        let told = tell(&gauge, &self.workload.limits_within(now.cgroup_memory));
        now.forget_ended();
        now.added.push((process, gauge));
        told
    }

    /// The memory limit of the container's cgroup, in bytes, if it has one.
    pub(super) fn cgroup_memory(&self) -> Option<i64> {
        self.now().cgroup_memory
    }

    /// Says whether this memory limit of the cgroup leaves guests less than now.
    pub(super) fn is_lowered_by(&self, cgroup_memory: i64) -> bool {
        self.workload.limits_within(Some(cgroup_memory)).memory < self.limits().memory
    }

    /// Has every guest obey this memory limit of the container's cgroup.
    pub(super) fn follow(&self, cgroup_memory: Option<i64>) -> Result<(), Error> {
        let mut now = self.now();
        now.cgroup_memory = cgroup_memory;
        let limits = self.workload.limits_within(cgroup_memory);
        let mut gauges = now.added.iter().map(|(_, gauge)| gauge).chain([&self.gauge]);
        gauges.try_for_each(|gauge| tell(gauge, &limits))
    }

    /// What the init's engine counts.
    pub(super) fn stats(&self) -> Result<GuestStats, Error> {
        self.now().forget_ended();
        let read = self.gauge.read();
        read.map_err(|error| Error::Runtime(format!("cannot read the guest's gauge: {error}")))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory limit that is set; 0 leaves it as it is.
pub(super) fn memory_limit(resources: &LinuxResources) -> Option<i64> {
    resources.memory().as_ref().and_then(LinuxMemory::limit).filter(|bytes| *bytes != 0)
}

fn tell(gauge: &Gauge, limits: &Limits) -> Result<(), Error> {
    gauge
        .set_memory_limit(limits.memory)
        .map_err(|error| Error::Runtime(format!("cannot change a guest's memory limit: {error}")))
}

fn new_gauge(limits: &Limits) -> Result<Gauge, Error> {
    Gauge::new(limits.memory)
        .map_err(|error| Error::Runtime(format!("cannot make a guest's gauge: {error}")))
}
