//! The threads that answer: as many as the container can make use of, and no more than it may have.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use oci_spec::runtime::LinuxResources;
use tokio::runtime::{Builder, Runtime};

/// Threads beside the workers: the process's first, the ticker, and one to spare.
const OTHERS: i64 = 3;

/// Decides how many threads answer, on a machine of so many processors for us.
pub(super) fn wanted(processors: usize, resources: Option<&LinuxResources>) -> usize {
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let quota = cpu.and_then(|cpu| {
        let quota = cpu.quota().filter(|&quota| quota > 0)?;
        let period = cpu.period().filter(|&period| period > 0).unwrap_or(100_000);
        usize::try_from(quota.cast_unsigned().div_ceil(period)).ok()
    });
    let pids = resources.and_then(|resources| resources.pids().as_ref());
    let threads = pids.map(oci_spec::runtime::LinuxPids::limit).filter(|&limit| limit > 0);
    let threads = threads.map(|limit| usize::try_from(limit - OTHERS).unwrap_or(0));
    let bounds = [quota, threads];
    bounds.into_iter().flatten().fold(processors, usize::min).max(1)
}

/// Makes the async runtime with what [`wanted`] says, or on this thread alone where there can be no
/// more.
pub(super) fn runtime(resources: Option<&LinuxResources>) -> io::Result<Runtime> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = wanted(processors, resources);
    let mut builder = if count > 1 && can_have(count + 1) {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(count);
        builder
    } else {
        Builder::new_current_thread()
    };
    builder.thread_name("worker").enable_all().build()
}

/// Tries to have so many threads at a time: the runtime panics where it gets none.
fn can_have(count: usize) -> bool {
    let done = Arc::new(AtomicBool::new(false));
    let wait = |done: Arc<AtomicBool>| {
        while !done.load(Ordering::Acquire) {
            thread::park();
        }
    };
    let tried: Vec<_> = (0..count)
        .map_while(|_| {
            let done = Arc::clone(&done);
            thread::Builder::new().stack_size(64 << 10).spawn(move || wait(done)).ok()
        })
        .collect();
    let all = tried.len() == count;
    done.store(true, Ordering::Release);
    for one in tried {
        one.thread().unpark();
        // It has done nothing that could panic.
        let _ended = one.join();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: serde_json::Value) -> LinuxResources {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn no_more_threads_than_the_container_can_use_or_have() {
        let cpu = |quota: i64, period: u64| {
            resources(serde_json::json!({ "cpu": { "quota": quota, "period": period } }))
        };
        let pids = |limit: i64| resources(serde_json::json!({ "pids": { "limit": limit } }));
        let table = [
            (8, None, 8),
            (1, None, 1),
            (8, Some(cpu(200_000, 100_000)), 2),
            (8, Some(cpu(150_000, 100_000)), 2),
            (8, Some(cpu(10_000, 100_000)), 1),
            (2, Some(cpu(800_000, 100_000)), 2),
            (8, Some(cpu(-1, 100_000)), 8),
            (8, Some(cpu(0, 0)), 8),
            (8, Some(pids(100)), 8),
            (8, Some(pids(5)), 2),
            (8, Some(pids(1)), 1),
            (8, Some(pids(0)), 8),
            (8, Some(pids(-1)), 8),
            (8, Some(resources(serde_json::json!({}))), 8),
        ];
        for (processors, resources, expected) in table {
            assert_eq!(wanted(processors, resources.as_ref()), expected, "{resources:?}");
        }
    }

    #[test]
    fn threads_that_were_tried_are_gone() {
        assert!(can_have(3));
    }
}
