//! What ends a compilation that takes too much, and what is said of it.

use std::os::unix::process::ExitStatusExt;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use sys::pidfd::ExitStatus;
use wasm::bounds::Bounds;

use super::*;

/// Tells a child which bound to meet.
const BOUND: &str = "HYBRID_TEST_BOUND";
/// Names its cache.
const CACHE: &str = "HYBRID_TEST_BOUND_CACHE";

/// What is met by waiting; the others by taking.
const TIME: &str = "time, by a lock that never comes";

/// The bounds of a child: time is short where it is the one to be met, and on a machine with much to
/// do processor time comes late.
fn bounds(met: &str) -> Bounds {
    let wall = Duration::from_secs(if met == TIME { 2 } else { 300 });
    Bounds { address_space: 4 << 30, cpu: Duration::from_secs(1), wall }
}

/// Not a test of its own: the process whose bounds the other test watches.
#[test]
fn bounded_process() {
    let Ok(bound) = std::env::var(BOUND) else {
        return;
    };
    bounds(&bound).impose().expect("bounds");
    match bound.as_str() {
        "processor time" => loop {
            std::hint::spin_loop();
        },
        "address space" => {
            let taken: Vec<u8> = Vec::with_capacity(8 << 30);
            std::hint::black_box(&taken);
        }
        _ => {
            let cache = PathBuf::from(std::env::var_os(CACHE).expect("cache"));
            compile_in(&cache, &plain()).expect("compiles");
        }
    }
}

fn end_of(bound: &str, cache: &Path) -> ExitStatus {
    let status = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "bounded::bounded_process", "--test-threads=1"])
        .env(BOUND, bound)
        .env(CACHE, cache)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("own binary starts");
    match status.signal() {
        Some(signal) => ExitStatus::Signalled(signal),
        None => ExitStatus::Exited(status.code().unwrap_or(-1)),
    }
}

#[test]
fn a_compilation_that_takes_too_much_ends_and_its_bound_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = folder.path().join("cache");
    assert_eq!(end_of("none", &cache), ExitStatus::Exited(0), "an ordinary one stays within");
    fs::remove_file(&entries(&cache)[0]).expect("entry");
    // Somebody who compiles everything, and never comes to an end.
    let lock_file = cache.join("compile.lock");
    let locked = fs::File::options().write(true).open(lock_file).expect("lock file");
    let all = libc::flock { l_type: 1, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&locked, FcntlArg::F_OFD_SETLK(&all)).expect("lock");
    for (bound, said) in [
        ("processor time", "more than 1 seconds of processor time"),
        ("address space", "more than 4096 MiB of address space"),
        (TIME, "not compiled within 2 seconds"),
    ] {
        let end = end_of(bound, &cache);
        let sentence = bounds(bound).exceeded(end).unwrap_or_else(|| panic!("{bound}: {end:?}"));
        assert!(sentence.contains(said), "{bound}: {sentence}");
    }
    drop(locked);
    assert_eq!(end_of("none", &cache), ExitStatus::Exited(0));
}
