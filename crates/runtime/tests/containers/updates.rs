//! Limits that change while the container runs.

use serde_json::json;

use crate::guests::tool;
use crate::lab::{Lab, resources};
use crate::world::World;

crate::cases![
    a_running_guests_memory_limit_is_raised_and_lowered,
    guests_that_were_added_obey_the_new_limit_too,
    a_guest_that_is_added_during_an_update_obeys_the_new_limit,
    a_linux_containers_limits_change_and_the_others_stay,
    an_update_that_is_refused_changes_nothing,
];

const MIB: u64 = 1 << 20;
const MEMORY: (&str, &str) = ("memory/memory.limit_in_bytes", "memory.max");
const PIDS: (&str, &str) = ("pids/pids.max", "pids.max");

fn memory(mib: u64) -> serde_json::Value {
    json!({ "memory": { "limit": mib * MIB } })
}

async fn a_running_guests_memory_limit_is_raised_and_lowered(world: &World) {
    let lab = Lab::wasm(&tool("")).limited(memory(4));
    let mut container = lab.run(&world.first).await;
    assert_eq!(container.ends().line().await, "ready");
    assert!(container.ends().grow().await);
    assert!(!container.ends().grow().await, "of 4 MiB half is the guest's");
    for (limit, engine, grows) in [(32, 24, true), (8, 4, true), (8, 4, false), (64, 56, true)] {
        container.update(memory(limit)).await;
        assert_eq!(container.guest().await.memory_limit, engine * MIB);
        assert_eq!(lab.cgroup_file(MEMORY.0, MEMORY.1), (limit * MIB).to_string());
        let seen = container.stats().await.cgroup.memory.unwrap();
        assert_eq!(seen.limit, Some(limit * MIB));
        assert_eq!(container.ends().grow().await, grows, "{limit} MiB");
    }
    // What says nothing of memory leaves it.
    container.update(json!({ "pids": { "limit": 50 } })).await;
    assert_eq!(container.guest().await.memory_limit, 56 * MIB);
    assert_eq!(lab.cgroup_file(PIDS.0, PIDS.1), "50");
    container.delete().await;
}

async fn guests_that_were_added_obey_the_new_limit_too(world: &World) {
    let lab = Lab::wasm(&tool("")).limited(memory(4));
    let container = lab.run(&world.first).await;
    let mut before = container.exec(lab.process(&["/app.wasm"])).await.unwrap();
    assert_eq!(before.ends.line().await, "ready");
    assert!(before.ends.grow().await);
    assert!(!before.ends.grow().await);
    container.update(memory(6)).await;
    let mut after = container.exec(lab.process(&["/app.wasm"])).await.unwrap();
    assert_eq!(after.ends.line().await, "ready");
    for guest in [&mut before, &mut after] {
        while guest.ends.grow().await {}
    }
    container.update(memory(32)).await;
    for guest in [&mut before, &mut after] {
        assert!(guest.ends.grow().await);
    }
    container.update(memory(5)).await;
    for guest in [&mut before, &mut after] {
        assert!(!guest.ends.grow().await);
    }
    container.delete().await;
}

async fn a_guest_that_is_added_during_an_update_obeys_the_new_limit(world: &World) {
    let lab = Lab::wasm(&tool("")).limited(memory(4));
    // Its compilation leaves the update time to come in between.
    std::fs::write(lab.rootfs().join("other.wasm"), tool("added during an update")).unwrap();
    let container = lab.run(&world.first).await;
    let (added, ()) =
        tokio::join!(container.exec(lab.process(&["/other.wasm"])), container.update(memory(32)));
    let mut added = added.unwrap();
    assert_eq!(added.ends.line().await, "ready");
    assert!(added.ends.grow().await);
    assert!(added.ends.grow().await, "it has the limit from before the update");
    container.delete().await;
}

async fn a_linux_containers_limits_change_and_the_others_stay(world: &World) {
    let quota = ("cpu/cpu.cfs_quota_us", "cpu.max");
    let limits = json!({
        "memory": { "limit": 64 * MIB }, "pids": { "limit": 40 },
        "cpu": { "quota": 50000, "period": 100_000 },
    });
    let lab = Lab::linux("exec sleep 1000").limited(limits);
    let container = lab.run(&world.first).await;
    let held = |(v1, v2): (&str, &str)| lab.cgroup_file(v1, v2);
    let of_quota = || held(quota).split(' ').next().unwrap().to_owned();
    let all = || [held(MEMORY), held(PIDS), of_quota()];
    assert_eq!(all(), ["67108864", "40", "50000"]);
    container.update(memory(32)).await;
    assert_eq!(all(), ["33554432", "40", "50000"]);
    container.update(json!({ "pids": { "limit": 30 } })).await;
    container.update(json!({ "cpu": { "quota": 70000 } })).await;
    assert_eq!(all(), ["33554432", "30", "70000"]);
    let seen = container.stats().await.cgroup;
    assert_eq!(seen.memory.unwrap().limit, Some(32 * MIB));
    assert_eq!(seen.pids.unwrap().limit, Some(30));
    assert!(container.stats().await.guest.is_none());
    container.delete().await;
}

async fn an_update_that_is_refused_changes_nothing(world: &World) {
    for lab in [Lab::linux("exec sleep 1000"), Lab::wasm(&tool(""))] {
        let lab = lab.limited(json!({ "memory": { "limit": 64 * MIB }, "pids": { "limit": 40 } }));
        let container = lab.run(&world.first).await;
        let held = || [lab.cgroup_file(MEMORY.0, MEMORY.1), lab.cgroup_file(PIDS.0, PIDS.1)];
        let change = |cpus: &str| {
            json!({
                "memory": { "limit": 32 * MIB }, "pids": { "limit": 30 }, "cpu": { "cpus": cpus },
            })
        };
        let asked = resources(change("100000"));
        let refused = container.runtime.update(&container.handle, asked).await.expect_err("so few");
        assert!(refused.to_string().contains("cpuset.cpus"), "{refused}");
        assert_eq!(held(), ["67108864", "40"]);
        let limit = async || container.stats().await.guest.map(|guest| guest.memory_limit);
        assert!(matches!(limit().await, None | Some(58_720_256)));
        container.update(change("0")).await;
        assert_eq!(held(), ["33554432", "30"]);
        assert!(matches!(limit().await, None | Some(25_165_824)));
        container.delete().await;
    }
}
