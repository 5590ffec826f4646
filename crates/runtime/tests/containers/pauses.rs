//! Containers that stand still.

use std::time::Duration;

use lifecycle::State::{Paused, Running, Stopped};
use runtime::handle::Scope;
use runtime::process::ExitStatus::Signalled;

use crate::guests::ticker;
use crate::lab::Lab;
use crate::world::World;

crate::cases![
    a_paused_container_stands_still_until_it_is_resumed,
    sigkill_ends_a_paused_container,
    a_paused_container_can_be_stopped_and_deleted,
];

/// One of each kind; both write dots without an end.
fn counting() -> [Lab; 2] {
    [Lab::linux("while :; do printf .; sleep 0.01; done"), Lab::wasm(&ticker())]
}

async fn a_paused_container_stands_still_until_it_is_resumed(world: &World) {
    for lab in counting() {
        let mut container = lab.run(&world.first).await;
        let patience = Duration::from_secs(10);
        assert!(container.ends().byte_within(patience).await.is_some());
        container.runtime.pause(&container.handle).await.unwrap();
        assert_eq!(container.state().await, Paused);
        container.ends().drain().await;
        let used = container.stats().await.cgroup.cpu.unwrap().usage_ns;
        assert_eq!(container.ends().byte_within(Duration::from_millis(200)).await, None);
        let still = container.stats().await.cgroup.cpu.unwrap().usage_ns - used;
        assert!(still < 20_000_000, "{still} ns");
        container.runtime.resume(&container.handle).await.unwrap();
        assert_eq!(container.state().await, Running);
        assert!(container.ends().byte_within(patience).await.is_some());
        container.delete().await;
    }
}

async fn sigkill_ends_a_paused_container(world: &World) {
    for scope in [Scope::Init, Scope::All] {
        for lab in counting() {
            let container = lab.run(&world.first).await;
            container.runtime.pause(&container.handle).await.unwrap();
            container.runtime.signal(&container.handle, 9, scope).await.unwrap();
            assert_eq!(container.wait().await, Signalled(9));
            assert_eq!(container.state().await, Stopped);
            container.delete().await;
        }
    }
}

async fn a_paused_container_can_be_stopped_and_deleted(world: &World) {
    let timeout = Duration::from_millis(100);
    for lab in counting() {
        let container = lab.run(&world.first).await;
        container.runtime.pause(&container.handle).await.unwrap();
        container.runtime.stop(&container.handle, timeout).await.unwrap();
        assert_eq!(container.state().await, Stopped);
        container.delete().await;
    }
    for lab in counting() {
        let container = lab.run(&world.first).await;
        container.runtime.pause(&container.handle).await.unwrap();
        container.delete().await;
        assert_eq!(container.wait().await, Signalled(9));
    }
}
