//! A guest for each limit that meets it, and one that stays below; what a guest can have the host
//! keep for it; and engines that differ.

use std::time::{Duration, Instant};

use sys::error::chain;
use wasm::engine::{EngineSettings, Optimise, Proposal, Proposals};
use wasm::limits::Limits;

use super::{Ended, Lab, compile_on, component, program};

/// Runs the module on an engine that can enforce these limits.
fn limited(wat: &str, limits: Limits) -> Lab {
    Lab::with_engine(wat, EngineSettings::enforcing(&limits)).limits(limits)
}

#[track_caller]
fn assert_ended(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} in {}", ended.stderr);
    }
}

fn within(deadline: Duration) -> Limits {
    Limits { deadline: Some(deadline), ..Limits::default() }
}

const FOREVER: &str = "(loop $more (br $more))";
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_guest_that_computes_past_its_deadline_traps() {
    let began = Instant::now();
    let body = format!("(func (export \"_start\") {FOREVER})");
    let ended = limited(&program("", &body), within(SHORT)).run();
    let took = began.elapsed();
    assert_ended(&ended, 134, &["interrupt", "limit reached: deadline = 300ms (", "/app.wasm"]);
    assert!(took >= SHORT && took < SHORT * 10, "{took:?}");
    let command = component(0, "", "wasi:cli/run@0.2.0");
    let looping = command.replace("i32.const 0)", &format!("{FOREVER} unreachable)"));
    let ended = limited(&looping, within(SHORT)).run();
    assert_ended(&ended, 134, &["limit reached: deadline = 300ms ("]);
    for brief in [program("", "(func (export \"_start\"))"), command] {
        assert_ended(&limited(&brief, within(LONG)).run(), 0, &[]);
    }
}

/// Waits so many milliseconds through poll_oneoff: one subscription to the monotonic clock.
fn sleeper(milliseconds: u64) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start")
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const {}))
            (drop (call $poll (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 2048)))))"#,
        milliseconds * 1_000_000
    )
}

#[test]
fn a_guest_that_waits_past_its_deadline_is_ended() {
    let began = Instant::now();
    let ended = limited(&sleeper(60_000), within(SHORT)).run();
    let words = ["it was waiting", "limit reached: deadline = 300ms ("];
    assert_ended(&ended, 134, &words);
    assert!(began.elapsed() < SHORT * 10, "{:?}", began.elapsed());
    assert_ended(&limited(&sleeper(20), within(LONG)).run(), 0, &[]);
}

#[test]
fn a_deadline_that_nothing_would_enforce_is_no_deadline() {
    let ended = Lab::with(&sleeper(1)).limits(within(LONG)).run();
    assert_ended(&ended, 1, &["cannot bound how long the guest runs"]);
}

#[test]
fn the_stack_is_as_deep_as_its_limit() {
    // Each call keeps a number on the stack.
    let deep = |depth: u32| {
        let body = format!(
            "(func $deep (param i64) (result i64)
               (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 0)) (else
                 (i64.add (call $deep (i64.sub (local.get 0) (i64.const 1))) (local.get 0)))))
             (func (export \"_start\") (drop (call $deep (i64.const {depth}))))"
        );
        program("", &body)
    };
    let stack = |stack| Limits { stack, ..Limits::default() };
    let ended = limited(&deep(4000), stack(64 << 10)).run();
    assert_ended(&ended, 134, &["call stack exhausted", "limit reached: stack = 64KiB ("]);
    assert_ended(&limited(&deep(4000), stack(512 << 10)).run(), 0, &[]);
    assert_ended(&limited(&deep(400_000), stack(512 << 10)).run(), 134, &["stack = 512KiB"]);
    assert_ended(&limited(&deep(400_000), stack(64 << 20)).run(), 0, &[]);
}

#[test]
fn instances_are_counted() {
    let three = "(component
      (core module $m (func (export \"run\") (result i32) i32.const 0))
      (core instance $a (instantiate $m))
      (core instance $b (instantiate $m))
      (core instance $c (instantiate $m))
      (func $run (result (result)) (canon lift (core func $c \"run\")))
      (instance (export \"wasi:cli/run@0.2.0\") (export \"run\" (func $run))))";
    let instances = |instances| Limits { instances, ..Limits::default() };
    let ended = limited(three, instances(2)).run();
    assert_ended(&ended, 1, &["limit reached: instances = 2 ("]);
    assert_ended(&limited(three, instances(3)).run(), 0, &[]);
}

#[test]
fn a_guest_that_gives_up_over_its_table_is_told_the_limit() {
    // As a language's runtime does when it cannot have more functions.
    let body = "(table $table 1 funcref)
        (func (export \"_start\")
          (if (i32.eq (table.grow $table (ref.null func) (i32.const 20)) (i32.const -1))
            (then unreachable)))";
    let elements = |table_elements| Limits { table_elements, ..Limits::default() };
    let ended = limited(&program("", body), elements(20)).run();
    assert_ended(&ended, 134, &["unreachable", "limit reached: table_elements = 20 ("]);
    assert_ended(&limited(&program("", body), elements(21)).run(), 0, &[]);
}

/// A module that imports this function of WASI and calls it once, then exits with its answer.
fn calling(name: &str, parameters: usize, pages: u32, call: &str) -> Lab {
    let parameters = "i32 ".repeat(parameters);
    let module = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "{name}" (func $call (param {parameters}) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") {pages})
          (func (export "_start") (call $exit (call $call {call}))))"#
    );
    let limits = Limits { memory: 512 << 20, ..Limits::default() };
    Lab::with(&module).limits(limits)
}

impl Lab {
    /// How much memory the guest's process had at most, in KiB.
    fn peak(&self) -> u64 {
        let text = std::fs::read_to_string(&self.job.peak).expect("the guest has run");
        text.parse().expect("a number")
    }
}

#[test]
fn the_host_makes_no_gigabytes_of_randomness() {
    let random = |length: u64| {
        let call = format!("(i32.const 0) (i32.const {length})");
        let lab = calling("random_get", 2, 1, &call);
        (lab.run(), lab.peak())
    };
    let (some, usual) = random(65536);
    assert_ended(&some, 0, &[]);
    for length in [(4 << 30) - 1, 1 << 30, (16 << 20) + 1] {
        let (ended, peak) = random(length);
        assert_ended(&ended, 1, &["exceeds limit"]);
        assert!(peak < usual + 4096, "{length}: {peak} KiB instead of {usual}");
    }
}

#[test]
fn the_host_keeps_no_million_subscriptions() {
    // All of them zero: the wall clock, at once.
    let poll = |count: u32| {
        let call = format!("(i32.const 0) (i32.const 50331648) (i32.const {count}) (i32.const 0)");
        let lab = calling("poll_oneoff", 4, 1300, &call);
        (lab.run(), lab.peak())
    };
    let (few, usual) = poll(1000);
    assert_ended(&few, 0, &[]);
    let (many, peak) = poll(1 << 20);
    assert_ne!(many.code, 0, "{}", many.stderr);
    assert!(peak < usual + (64 << 10), "{peak} KiB instead of {usual}");
}

/// A command that has the host keep so many collections of header fields of so many bytes.
fn collector(count: u32, bytes: u32) -> String {
    format!(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance $types
            (export "fields" (type $fields (sub resource)))
            (type $why (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
            (export "header-error" (type $error (eq $why)))
            (export "[static]fields.from-list" (func
              (param "entries" (list (tuple string (list u8))))
              (result (result (own $fields) (error $error)))))))
          (core module $memory (memory (export "m") 4))
          (core instance $memory (instantiate $memory))
          (core func $make (canon lower (func $types "[static]fields.from-list") (memory (core memory $memory "m"))))
          (core module $main
            (import "l" "m" (memory 4))
            (import "h" "make" (func $make (param i32 i32 i32)))
            (func (export "run") (result i32) (local $i i32)
              (memory.fill (i32.const 1024) (i32.const 97) (i32.const {bytes}))
              (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1))
              (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (i32.const {bytes}))
              (loop $more
                (call $make (i32.const 0) (i32.const 1) (i32.const 512))
                (if (i32.load8_u (i32.const 512)) (then unreachable))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $i) (i32.const {count}))))
              i32.const 0))
          (core instance $main (instantiate $main
            (with "l" (instance $memory)) (with "h" (instance (export "make" (func $make))))))
          (func $run (result (result)) (canon lift (core func $main "run")))
          (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#
    )
}

#[test]
fn header_fields_that_the_host_keeps_are_few_and_small() {
    let collect = |count: u32, bytes: u32| {
        let lab = Lab::with(&collector(count, bytes));
        (lab.run(), lab.peak())
    };
    let (few, usual) = collect(10, 1000);
    assert_ended(&few, 0, &[]);
    for (count, bytes) in [(10, 120_000), (10_000, 15_000)] {
        let (many, peak) = collect(count, bytes);
        assert_ne!(many.code, 0, "{}", many.stderr);
        assert!(peak < usual + (48 << 10), "{peak} KiB instead of {usual}");
    }
}

#[test]
fn a_proposal_is_there_only_where_it_is_on() {
    let wide = "(module (func (export \"_start\")
        i64.const 1 i64.const 2 i64.mul_wide_u drop drop))";
    let simd = "(module (func (export \"_start\")
        (drop (i8x16.splat (i32.const 1)))))";
    let usual = Proposals::default();
    let all = Proposals::of(Proposal::ALL);
    let without_simd = |proposal: &Proposal| {
        ![Proposal::Simd, Proposal::RelaxedSimd].contains(proposal) && usual.has(*proposal)
    };
    let no_simd = Proposals::of(Proposal::ALL.into_iter().filter(without_simd));
    let folder = tempfile::tempdir().expect("temporary folder");
    for (module, on, off, says) in
        [(wide, all, usual, "wide arithmetic"), (simd, usual, no_simd, "SIMD")]
    {
        let with = |proposals| EngineSettings { proposals, ..EngineSettings::default() };
        assert_ended(&Lab::with_engine(module, with(on)).run(), 0, &[]);
        let wasm = wat::parse_str(module).expect("test module is valid text");
        let refused = compile_on(&with(off), folder.path(), &wasm).expect_err("it is off");
        assert!(refused.is_refusal() && chain(&refused).contains(says), "{}", chain(&refused));
    }
}

#[test]
fn every_level_of_optimisation_runs() {
    let hello = program(
        "hello\\n",
        "(func (export \"_start\") (call $print (i32.const 1024) (i32.const 6)))",
    );
    for optimise in [Optimise::None, Optimise::Speed, Optimise::SpeedAndSize] {
        let ended =
            Lab::with_engine(&hello, EngineSettings { optimise, ..Default::default() }).run();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "hello\n"), "{optimise:?}");
    }
}
