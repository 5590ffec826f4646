//! What `stats` says of a wasm guest, and of any container's processor time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime::process::ExitStatus::Exited;
use runtime::stats::{CodeOrigin, Phases};
use serde_json::json;
use settings::Policy;
use settings::limits::Limit;
use settings::operator::NodeLimits;

use crate::guests::{spinner, tool};
use crate::lab::{Lab, Layers};
use crate::running::eventually;
use crate::world::{World, metered};

crate::cases![
    memory_moves_as_the_guest_grows_and_stops_at_its_limit,
    the_operators_limit_holds_below_the_containers,
    the_phases_come_in_order,
    code_is_compiled_once_then_cached_for_others_and_warm_for_oneself,
    fuel_is_counted_where_it_is_metered_alone,
    processor_time_is_counted_for_both_kinds,
];

const PAGE: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

async fn memory_moves_as_the_guest_grows_and_stops_at_its_limit(world: &World) {
    // Half of it is the guest's.
    let lab = Lab::wasm(&tool("")).limited(json!({ "memory": { "limit": 8 << 20 } }));
    let mut container = lab.run(&world.first).await;
    assert_eq!(container.ends().line().await, "ready");
    let guest = container.guest().await;
    assert_eq!((guest.memory, guest.memory_peak), (PAGE, PAGE));
    assert_eq!((guest.memory_limit, guest.memory_refused), (4 * MIB, 0));
    assert_eq!(guest.instances, 1);
    for grown in 1..=3 {
        assert!(container.ends().grow().await);
        let guest = container.guest().await;
        assert_eq!((guest.memory, guest.memory_peak), (PAGE + grown * MIB, PAGE + grown * MIB));
    }
    assert!(!container.ends().grow().await, "the page and 4 MiB are too much");
    let guest = container.guest().await;
    assert_eq!((guest.memory, guest.memory_refused), (PAGE + 3 * MIB, 1));
    let memory = container.stats().await.cgroup.memory.expect("a memory controller");
    assert_eq!(memory.limit, Some(8 * MIB));
    assert!((1..=8 * MIB).contains(&memory.usage), "{}", memory.usage);
    container.ends().close_stdin();
    assert_eq!(container.wait().await, Exited(0));
    assert_eq!(container.guest().await.memory_peak, PAGE + 3 * MIB, "and after its end");
    container.delete().await;
}

async fn the_operators_limit_holds_below_the_containers(world: &World) {
    let operators = NodeLimits::default().with(Limit::Memory, 2 * MIB);
    for (limits, oci, expected) in [
        (NodeLimits::default(), None, 128 * MIB),
        (NodeLimits::default(), Some(64 * MIB), 56 * MIB),
        (operators, None, 2 * MIB),
        (operators, Some(64 * MIB), 2 * MIB),
        (operators, Some(3 * MIB), 3 * MIB / 2),
    ] {
        let mut lab = Lab::wasm(&tool(""));
        lab.policy = Policy { limits, ..Policy::default() };
        if let Some(limit) = oci {
            lab = lab.limited(json!({ "memory": { "limit": limit } }));
        }
        let container = lab.create(&world.first).await;
        assert_eq!(container.guest().await.memory_limit, expected, "{limits:?} {oci:?}");
        container.delete().await;
    }
}

async fn the_phases_come_in_order(world: &World) {
    let mut container = Lab::wasm(&tool("")).create(&world.first).await;
    let guest = container.guest().await;
    assert!(guest.phases.cloned.is_some() && guest.phases.sandboxed.is_some());
    assert_eq!((guest.phases.started, guest.phases.instantiated), (None, None));
    assert_eq!((guest.instances, guest.memory), (0, 0));
    container.start().await;
    assert_eq!(container.ends().line().await, "ready");
    let Phases { cloned, sandboxed, started, instantiated } = container.guest().await.phases;
    assert_eq!((cloned, sandboxed), (guest.phases.cloned, guest.phases.sandboxed));
    assert!(cloned < sandboxed && sandboxed < started && started < instantiated);
    assert!(instantiated < Some(Duration::from_secs(10)), "{instantiated:?}");
    container.delete().await;
}

async fn code_is_compiled_once_then_cached_for_others_and_warm_for_oneself(world: &World) {
    let image = Layers::new(&[("app.wasm", tool("origin"))]);
    for (node, origin) in [
        (&world.first, CodeOrigin::Compiled),
        (&world.second, CodeOrigin::Cached),
        (&world.second, CodeOrigin::Warm),
        (&world.first, CodeOrigin::Warm),
    ] {
        let container = Lab::layered(&image).create(node).await;
        let guest = container.guest().await;
        assert_eq!(guest.code, Some(origin));
        assert_eq!(guest.compile.is_zero(), origin != CodeOrigin::Compiled);
        assert!(guest.phases.cloned > Some(guest.compile), "it is a part of the way there");
        container.delete().await;
    }
    assert_eq!(image.asked.load(Ordering::Relaxed), 1);
}

async fn fuel_is_counted_where_it_is_metered_alone(world: &World) {
    let unmetered = Lab::wasm(&tool(""));
    let mut counted = Lab::wasm(&tool(""));
    counted.policy = metered();
    // Side by side in one keeper, whose engines differ.
    for (lab, is_metered) in [(unmetered, false), (counted, true)] {
        let mut container = lab.run(&world.first).await;
        assert_eq!(container.ends().line().await, "ready");
        let before = container.guest().await.fuel_consumed;
        assert!(container.ends().grow().await);
        let after = container.guest().await.fuel_consumed;
        assert_eq!((before.is_some(), before < after), (is_metered, is_metered), "{after:?}");
        container.ends().close_stdin();
        assert_eq!(container.wait().await, Exited(0));
        container.delete().await;
    }
}

async fn processor_time_is_counted_for_both_kinds(world: &World) {
    let busy = Duration::from_millis(50)..Duration::from_secs(10);
    for (lab, is_busy) in [
        (Lab::wasm(&spinner()), true),
        (Lab::linux("while :; do :; done"), true),
        (Lab::linux("exec sleep 1000"), false),
    ] {
        let container = lab.run(&world.first).await;
        let used = async || {
            let cpu = container.stats().await.cgroup.cpu.expect("processor time is counted");
            Duration::from_nanos(cpu.usage_ns)
        };
        let before = used().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut during = used().await - before;
        if is_busy && during < busy.start {
            // The machine has been busy with others.
            eventually("50 ms of processor time", async || used().await - before >= busy.start)
                .await;
            during = used().await - before;
        }
        assert_eq!(busy.contains(&during), is_busy, "{during:?}");
        assert_eq!(container.stats().await.cgroup.pids.expect("pids are counted").current, 1);
        container.delete().await;
    }
}
