//! Who gets what, case by case.

use image::annotations::{
    ENGINE_OPTIMIZATION, ENGINE_P3, ENGINE_PROPOSALS, LIMITS_FUEL, LIMITS_MEMORY,
};
use proptest::prelude::*;

use super::*;
use crate::engine::Proposal;
use crate::{Settings, node, options};

const MIB: u64 = 1 << 20;

fn side(origin: Origin, found: &[(&str, &str)]) -> Annotations {
    let found: BTreeMap<String, String> =
        found.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut annotations = Annotations::default();
    annotations.add(origin, &found).unwrap();
    annotations
}

/// The annotation with this value, or none for an empty one.
fn given<'a>(key: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    if value.is_empty() { Vec::new() } else { vec![(key, value)] }
}

fn policy(toml: &str) -> Policy {
    Settings::of(node::parse(toml).unwrap(), &options::Options::default()).policy
}

fn of(node: &str, image: &[(&str, &str)], pod: &[(&str, &str)]) -> Result<Workload, PolicyError> {
    within(node, image, pod, None)
}

fn within(
    node: &str,
    image: &[(&str, &str)],
    pod: &[(&str, &str)],
    cgroup: Option<i64>,
) -> Result<Workload, PolicyError> {
    let (image, pod) = (side(Origin::Manifest, image), side(Origin::Pod, pod));
    decide(&policy(node), &image, &pod, cgroup)
}

#[test]
fn nothing_said_gives_the_defaults() {
    let workload = of("", &[], &[]).unwrap();
    assert_eq!(workload, Workload::default());
    assert_eq!(workload.limits_within(None), Limits::default());
}

/// A limit, the node file's word, the image's, the pod's, and the value or a part of the refusal.
type Case = (Limit, &'static str, &'static str, &'static str, Result<Option<u64>, &'static str>);

#[test]
fn each_limit_follows_the_same_rule() {
    use Limit::{Deadline, Fuel, Instances, Stack, TableElements};
    let table: [Case; 28] = [
        // The node's word is everybody's default.
        (TableElements, "7", "", "", Ok(Some(7))),
        (Instances, "7", "", "", Ok(Some(7))),
        (Stack, "65536", "", "", Ok(Some(65536))),
        (Fuel, "7", "", "", Ok(Some(7))),
        (Deadline, "\"30s\"", "", "", Ok(Some(30_000))),
        (Fuel, "", "", "", Ok(None)),
        (Deadline, "", "", "", Ok(None)),
        // A pod may have up to that, and where nothing is written what the engine can give.
        (TableElements, "7", "", "7", Ok(Some(7))),
        (TableElements, "7", "", "8", Err("the most it may have is 7 (set by table_elements")),
        (TableElements, "", "", "5000", Ok(Some(5000))),
        (Instances, "", "", "2000", Ok(Some(2000))),
        (Instances, "9", "", "10", Err("asks for \"10\", and the most it may have is 9")),
        (Stack, "", "", "2MiB", Ok(Some(2 * MIB))),
        (Stack, "\"1MiB\"", "", "2MiB", Err("is 1MiB (set by stack under [limits] of /etc")),
        (Fuel, "", "", "9", Ok(Some(9))),
        (Fuel, "7", "", "9", Err("the most it may have is 7")),
        (Deadline, "", "", "1h", Ok(Some(3_600_000))),
        (Deadline, "\"30s\"", "", "31s", Err("the most it may have is 30s")),
        // An image no more than it would get anyway.
        (TableElements, "", "1000", "", Ok(Some(1000))),
        (TableElements, "", "1001", "", Err("the most it may have is 1000 (built in;")),
        (TableElements, "7", "8", "", Err("the most it may have is 7")),
        (Stack, "", "513KiB", "", Err("com.wasm.limits.stack of the image manifest")),
        (Fuel, "", "9", "", Ok(Some(9))),
        (Deadline, "\"30s\"", "10s", "", Ok(Some(10_000))),
        // The pod's word replaces the image's, also one that could not be had.
        (Fuel, "", "9", "12", Ok(Some(12))),
        (TableElements, "", "1001", "900", Ok(Some(900))),
        // What cannot be read is refused.
        (Fuel, "", "", "much", Err("has the value \"much\": expected a number of at least 1")),
        (Deadline, "", "", "30", Err("text like \"30s\"")),
    ];
    for (limit, node, image, pod, expected) in table {
        let node = match node {
            "" => String::new(),
            value => format!("[limits]\n{} = {value}\n", limit.key()),
        };
        let key = limit.annotation();
        let decided = of(&node, &given(key, image), &given(key, pod));
        match (decided, expected) {
            (Ok(workload), Ok(value)) => {
                assert_eq!(workload.limits_within(None).get(limit), value, "{limit:?} {pod:?}");
            }
            (Err(error), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part) && text.contains(key), "{text}");
            }
            (decided, expected) => panic!("{limit:?} {node:?} {pod:?}: {decided:?}, {expected:?}"),
        }
    }
}

#[test]
fn memory_stays_within_the_containers_limit_too() {
    let mib = |count: i64| Some(count << 20);
    let table = [
        ("", "", "", None, Ok((128 * MIB, Setter::BuiltIn))),
        ("", "", "256MiB", None, Ok((256 * MIB, Setter::Pod))),
        ("", "", "256MiB", mib(264), Ok((256 * MIB, Setter::Pod))),
        ("", "", "256MiB", mib(263), Err("is 255MiB (the container's memory limit less what")),
        ("256MiB", "", "257MiB", None, Err("is 256MiB (set by memory under [limits]")),
        ("256MiB", "", "200MiB", mib(72), Err("the most it may have is 64MiB (the container's")),
        ("256MiB", "", "64MiB", mib(72), Ok((64 * MIB, Setter::Pod))),
        ("256MiB", "", "", mib(72), Ok((64 * MIB, Setter::Cgroup))),
        ("", "128MiB", "", None, Ok((128 * MIB, Setter::Image))),
        ("", "129MiB", "", None, Err("is 128MiB (built in;")),
        ("", "129MiB", "", mib(256), Ok((129 * MIB, Setter::Image))),
        ("", "129MiB", "", mib(64), Err("is 56MiB (the container's memory limit")),
    ];
    for (node, image, pod, cgroup, expected) in table {
        let node = match node {
            "" => String::new(),
            value => format!("[limits]\nmemory = \"{value}\"\n"),
        };
        match (
            within(&node, &given(LIMITS_MEMORY, image), &given(LIMITS_MEMORY, pod), cgroup),
            expected,
        ) {
            (Ok(workload), Ok((bytes, setter))) => {
                let limits = workload.limits_within(cgroup);
                assert_eq!((limits.memory, limits.set_by.of(Limit::Memory)), (bytes, setter));
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (decided, expected) => panic!("{node:?} {pod:?}: {decided:?}, {expected:?}"),
        }
    }
}

#[test]
fn memory_follows_the_containers_limit_later() {
    let workload = within("", &[], &[(LIMITS_MEMORY, "64MiB")], Some(256 << 20)).unwrap();
    let memory = |cgroup: Option<i64>| workload.limits_within(cgroup).memory;
    assert_eq!(memory(Some(256 << 20)), 64 * MIB);
    assert_eq!(memory(Some(32 << 20)), 24 * MIB);
    assert_eq!(memory(Some(-1)), 64 * MIB, "what was asked for is also the most");
    let silent = of("", &[], &[]).unwrap();
    assert_eq!(silent.limits_within(Some(1 << 30)).memory, 1016 * MIB);
}

#[test]
fn anybody_may_choose_the_optimisation() {
    let level = |node: &str, image: &[(&str, &str)], pod: &[(&str, &str)]| {
        of(node, image, pod).map(|workload| workload.engine.optimise)
    };
    let node = "[engine]\noptimization = \"none\"";
    assert_eq!(level("", &[], &[]), Ok(Optimise::SpeedAndSize));
    assert_eq!(level(node, &[], &[]), Ok(Optimise::None));
    let (speed, size) = ((ENGINE_OPTIMIZATION, "speed"), (ENGINE_OPTIMIZATION, "speed_and_size"));
    assert_eq!(level(node, &[speed], &[]), Ok(Optimise::Speed));
    assert_eq!(level(node, &[speed], &[size]), Ok(Optimise::SpeedAndSize));
    let refused = level("", &[], &[(ENGINE_OPTIMIZATION, "fast")]).unwrap_err().to_string();
    assert!(refused.contains("\"fast\": expected \"none\", \"speed\""), "{refused}");
}

#[test]
fn proposals_stay_within_what_is_allowed() {
    let on = |node: &str, image: &str, pod: &str| {
        let (image, pod) = (given(ENGINE_PROPOSALS, image), given(ENGINE_PROPOSALS, pod));
        of(node, &image, &pod).map(|workload| workload.engine.proposals).map_err(|e| e.to_string())
    };
    let usual = Proposals::default();
    let wide = usual.and(Proposals::of([Proposal::WideArithmetic]));
    let allowed = "[engine]\nproposals_allowed = [\"wide_arithmetic\"]";
    let for_all = "[engine]\nproposals = [\"wide_arithmetic\", \"-gc\"]";
    assert_eq!(on("", "", ""), Ok(usual));
    assert_eq!(on(allowed, "", ""), Ok(usual), "allowed is not on");
    assert_eq!(on(allowed, "", "wide_arithmetic"), Ok(wide));
    assert!(on(for_all, "", "").unwrap().has(Proposal::WideArithmetic));
    assert!(!on(for_all, "", "").unwrap().has(Proposal::Gc));
    assert!(on(for_all, "wide_arithmetic", "").is_ok(), "on for all is on for an image");
    assert!(!on("", "-tail_call, -relaxed_simd,-simd", "").unwrap().has(Proposal::Simd));
    assert_eq!(on("", "-tail_call", "simd"), Ok(usual), "the pod's list replaces the image's");
    for (node, image, pod, part) in [
        ("", "", "wide_arithmetic", "of the pod switches on wide_arithmetic, which is not allowed"),
        (allowed, "wide_arithmetic", "", "of the image manifest switches on wide_arithmetic"),
        (for_all, "", "gc", "switches on gc"),
        ("", "", "-simd", "leaves relaxed_simd on and simd off"),
        ("[engine]\nproposals = [\"-simd\"]", "", "", "proposals under [engine] of /etc/hybrid"),
        ("", "", "threads", "has the value \"threads\": expected names of proposals"),
        ("", "", "simd,", "expected names of proposals"),
    ] {
        let refused = on(node, image, pod).unwrap_err();
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn wasi_three_needs_the_operator_and_the_workload() {
    let p3 = |node: &str, asked: &[(&str, &str)]| {
        of(node, &[], asked).map(|workload| workload.engine.p3).map_err(|error| error.to_string())
    };
    let allowed = "[engine]\np3 = true";
    let (yes, no) = ([(ENGINE_P3, "true")], [(ENGINE_P3, "false")]);
    assert_eq!(p3("", &[]), Ok(P3::Off));
    assert_eq!(p3(allowed, &[]), Ok(P3::Off));
    assert_eq!(p3(allowed, &yes), Ok(P3::On));
    assert_eq!(p3("", &no), Ok(P3::Off));
    assert_eq!(of(allowed, &yes, &[]).unwrap().engine.p3, P3::On);
    assert!(p3("", &yes).unwrap_err().contains("p3 = true under [engine]"));
    assert!(p3(allowed, &[(ENGINE_P3, "1")]).unwrap_err().contains("expected true or false"));
}

#[test]
fn configuration_is_merged_by_name() {
    let image = [("com.wasm.config.a", "image"), ("com.wasm.config.b", "image")];
    let pod = [("com.wasm.config.b", "pod"), ("com.wasm.config.c.d", "pod")];
    let config = of("", &image, &pod).unwrap().config;
    let pairs: Vec<_> =
        config.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("a", "image"), ("b", "pod"), ("c.d", "pod")]);
    let keys: Vec<String> = (0..=MAX_CONFIG).map(|n| format!("com.wasm.config.{n}")).collect();
    let many: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "x")).collect();
    assert_eq!(of("", &[], &many), Err(PolicyError::TooMuchConfig { found: 257 }));
    assert!(of("", &[], &many[1..]).is_ok());
}

#[test]
fn a_workload_can_be_shown() {
    let pod = [(LIMITS_FUEL, "7"), ("com.wasm.config.a", "b")];
    let shown = of("[limits]\nmemory = \"64MiB\"", &[], &pod).unwrap().to_string();
    for line in [
        "limits.memory = 64MiB (set by memory under [limits] of /etc/hybrid/config.toml)",
        "limits.fuel = 7 (set by annotation com.wasm.limits.fuel of the pod)",
        "engine.optimization = speed_and_size",
        "engine.p3 = false",
        "config.a = \"b\"",
    ] {
        assert!(shown.lines().any(|each| each == line), "{line} in {shown}");
    }
}

proptest! {
    #[test]
    fn deciding_never_panics_and_never_exceeds_the_cap(raw in "[0-9]{1,20}(KiB|MiB|ms|s|)") {
        for limit in Limit::ALL {
            let pod = [(limit.annotation(), raw.as_str())];
            if let Ok(workload) = within("[limits]\nmemory = \"1MiB\"", &[], &pod, Some(8 << 20)) {
                prop_assert!(workload.limits_within(None).memory <= MIB);
            }
        }
    }
}
