//! Decides how a wasm workload is run, from what the operator has written and what the image and
//! the pod ask for. Pure, and the only place that decides it.
//!
//! What the operator has written is the default of every workload, and the most that a pod may ask
//! for; where nothing is written, a pod may ask for what the engine can give. An image is a
//! stranger's: it may ask for no more than what it would get without asking. Where both ask, the
//! pod's word replaces the image's, key by key. What is beyond is refused, never cut down.

mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use image::annotations::{self, Annotations, Origin};

use crate::capabilities::Asked;
use crate::engine::{Engine, Optimise, P3, Proposals};
use crate::http::{Http, NodeHttp};
use crate::limits::{Limit, Limits, Setter, Setters};
use crate::memory::{self, Memory};
use crate::operator::{NodeEngine, NodeLimits};
use crate::proposals::Switch;

pub use error::PolicyError;
use error::unreadable;

/// The most configuration values of one workload.
pub const MAX_CONFIG: usize = 256;

const PROPOSALS: &str =
    "expected names of proposals between commas, with a hyphen before to switch one off";

/// What the operator has written about workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `[limits]`.
    pub limits: NodeLimits,
    /// `[engine]`.
    pub engine: NodeEngine,
    /// `[http]`.
    pub http: NodeHttp,
}

/// How one workload is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    limits: Limits,
    memory: Memory,
    /// Its engine.
    pub engine: Engine,
    /// Its own configuration, by name.
    pub config: BTreeMap<String, String>,
    /// How it is served, should it be an HTTP server.
    pub http: Http,
}

impl Workload {
    /// Its bounds while the memory limit of its container's cgroup is this, as the runtime
    /// specification writes it. Memory alone follows a change.
    #[must_use]
    pub fn limits_within(&self, cgroup_memory: Option<i64>) -> Limits {
        let (memory, setter) = self.memory.within(cgroup_memory);
        let mut limits = Limits { memory, ..self.limits };
        limits.set_by.set(Limit::Memory, setter);
        limits
    }
}

/// Decides. `cgroup_memory` is the memory limit of the container's cgroup, as the runtime
/// specification writes it.
///
/// # Errors
/// Names the annotation that cannot be read or had, and for the latter what could be had and who
/// has decided so.
pub fn decide(
    policy: &Policy,
    image: &Annotations,
    pod: &Annotations,
    cgroup_memory: Option<i64>,
) -> Result<Workload, PolicyError> {
    let sides = Sides { image, pod };
    let memory = memory(policy, &sides, cgroup_memory)?;
    let workload = Workload {
        limits: limits(policy, &sides)?,
        memory,
        engine: engine(policy, &sides)?,
        config: config(&sides)?,
        http: policy.http.decide(image, pod)?,
    };
    Ok(Workload { limits: workload.limits_within(cgroup_memory), ..workload })
}

/// Those who ask.
struct Sides<'a> {
    image: &'a Annotations,
    pod: &'a Annotations,
}

impl Sides<'_> {
    /// Returns the annotation that is to be heard.
    fn heard(&self, key: &'static str) -> Option<Asked> {
        let entry = self.pod.get(key).or_else(|| self.image.get(key))?;
        Some(Asked { key, value: entry.value.clone(), origin: entry.origin })
    }

    /// Returns what is asked for one of the limits.
    fn limit(&self, limit: Limit) -> Result<Option<(u64, Asked)>, PolicyError> {
        let Some(asked) = self.heard(limit.annotation()) else { return Ok(None) };
        match limit.read(&asked.value) {
            Some(value) => Ok(Some((value, asked))),
            None => Err(unreadable(&asked, format!("expected {}", limit.expected()))),
        }
    }
}

/// What somebody asks for is theirs, within `cap`.
fn granted(
    limit: Limit,
    (value, asked): (u64, Asked),
    (cap, cap_set_by): (u64, Setter),
) -> Result<(u64, Setter), PolicyError> {
    let setter = if asked.origin == Origin::Pod { Setter::Pod } else { Setter::Image };
    if value <= cap {
        return Ok((value, setter));
    }
    Err(PolicyError::BeyondCap { limit, asked, cap, cap_set_by })
}

fn limits(policy: &Policy, sides: &Sides<'_>) -> Result<Limits, PolicyError> {
    let mut set_by = Setters::default();
    let mut bound = |limit: Limit| -> Result<Option<u64>, PolicyError> {
        let written = policy.limits.get(limit);
        let built_in = limit.default().map(|value| (value, Setter::BuiltIn));
        let (_, most) = limit.range();
        let bound = match sides.limit(limit)? {
            None => written.or(built_in),
            Some(asked) => {
                let by_image = asked.1.origin != Origin::Pod;
                let cap = written.or(built_in.filter(|_| by_image));
                Some(granted(limit, asked, cap.unwrap_or((most, Setter::BuiltIn)))?)
            }
        };
        Ok(bound.map(|(value, setter)| {
            set_by.set(limit, setter);
            value
        }))
    };
    let default = Limits::default();
    Ok(Limits {
        memory: default.memory,
        table_elements: bound(Limit::TableElements)?.unwrap_or(default.table_elements),
        instances: bound(Limit::Instances)?.unwrap_or(default.instances),
        stack: bound(Limit::Stack)?.unwrap_or(default.stack),
        fuel: bound(Limit::Fuel)?,
        deadline: bound(Limit::Deadline)?.map(Duration::from_millis),
        set_by,
    })
}

/// Memory is bounded by the container's cgroup as well, for the pod's wish and the default.
fn memory(policy: &Policy, sides: &Sides<'_>, cgroup: Option<i64>) -> Result<Memory, PolicyError> {
    let default = Memory { bound: policy.limits.get(Limit::Memory) };
    let Some(asked) = sides.limit(Limit::Memory)? else { return Ok(default) };
    let cap = if asked.1.origin == Origin::Pod {
        let (_, most) = Limit::Memory.range();
        let written = default.bound.unwrap_or((most, Setter::BuiltIn));
        let below = memory::below(cgroup).map(|bytes| (bytes, Setter::Cgroup));
        below.filter(|below| below.0 < written.0).unwrap_or(written)
    } else {
        default.within(cgroup)
    };
    Ok(Memory { bound: Some(granted(Limit::Memory, asked, cap)?) })
}

fn engine(policy: &Policy, sides: &Sides<'_>) -> Result<Engine, PolicyError> {
    let NodeEngine { optimise, .. } = &policy.engine;
    let optimise = match sides.heard(annotations::ENGINE_OPTIMIZATION) {
        // What the compiler does changes nothing of what a guest can do: anybody may choose.
        Some(asked) => Optimise::read(&asked.value)
            .ok_or_else(|| unreadable(&asked, format!("expected {}", Optimise::EXPECTED)))?,
        None => optimise.unwrap_or_default(),
    };
    Ok(Engine { optimise, proposals: proposals(policy, sides)?, p3: p3(policy, sides)? })
}

fn proposals(policy: &Policy, sides: &Sides<'_>) -> Result<Proposals, PolicyError> {
    let switches = policy.engine.proposals.as_deref().unwrap_or_default();
    let default = Proposals::default().switched(switches);
    let asked = sides.heard(annotations::ENGINE_PROPOSALS);
    let proposals = match &asked {
        None => default,
        Some(asked) => {
            let names = asked.value.split(',').map(str::trim);
            let switches: Option<Vec<Switch>> = names.map(Switch::read).collect();
            let switches = switches.ok_or_else(|| unreadable(asked, PROPOSALS))?;
            let allowed = match asked.origin {
                Origin::Pod => default.and(policy.engine.allowed.unwrap_or(Proposals::of([]))),
                _ => default,
            };
            let beyond = switches
                .iter()
                .find(|switch| matches!(switch, Switch::On(proposal) if !allowed.has(*proposal)));
            if let Some(beyond) = beyond {
                let proposal = beyond.proposal();
                return Err(PolicyError::ProposalBeyond { asked: asked.clone(), proposal });
            }
            default.switched(&switches)
        }
    };
    match proposals.baseless() {
        None => Ok(proposals),
        Some((proposal, base)) => Err(PolicyError::Baseless { asked, proposal, base }),
    }
}

fn p3(policy: &Policy, sides: &Sides<'_>) -> Result<P3, PolicyError> {
    let Some(asked) = sides.heard(annotations::ENGINE_P3) else { return Ok(P3::Off) };
    match (P3::read(&asked.value), policy.engine.p3) {
        (None, _) => Err(unreadable(&asked, "expected true or false")),
        (Some(P3::On), None | Some(P3::Off)) => Err(PolicyError::P3Beyond { asked }),
        (Some(p3), _) => Ok(p3),
    }
}

fn config(sides: &Sides<'_>) -> Result<BTreeMap<String, String>, PolicyError> {
    let merged = sides.image.replaced_by(sides.pod);
    let named = merged.iter().filter_map(|(key, entry)| {
        let name = key.strip_prefix(annotations::CONFIG)?;
        Some((name.to_owned(), entry.value.clone()))
    });
    let config: BTreeMap<_, _> = named.collect();
    if config.len() > MAX_CONFIG {
        return Err(PolicyError::TooMuchConfig { found: config.len() });
    }
    Ok(config)
}

impl fmt::Display for Workload {
    /// A line for each setting.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.limits, self.engine, self.http)?;
        self.config.iter().try_for_each(|(name, value)| writeln!(f, "config.{name} = {value:?}"))
    }
}

#[cfg(test)]
mod tests;
