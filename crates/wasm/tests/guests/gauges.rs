//! What a guest tells of itself while it runs, and the memory limit that it is told.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout};

use wasm::gauge::GuestStats;

use super::*;

const PAGE: u64 = 65536;

impl Lab {
    fn pages(self, pages: u64) -> Self {
        self.limits(Limits { memory: pages * PAGE, ..Limits::default() })
    }

    fn stats(&self) -> GuestStats {
        self.gauge.read().expect("gauge reads")
    }
}

/// A guest that asks for one more page per line of input, and says whether it got it.
struct Grower {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Grower {
    fn start(lab: &Lab) -> Self {
        let mut child = lab.spawn();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        // The harness's words end with the mark, and the guest begins with a line of its own.
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            assert_ne!(output.read_line(&mut line).expect("guest writes"), 0, "{line}");
        }
        Self { child, input, output }
    }

    fn grow(&mut self) -> bool {
        let input = self.input.as_mut().expect("open");
        input.write_all(b"\n").expect("guest reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("guest writes");
        line == "yes..\n"
    }

    fn end(mut self) -> i32 {
        self.input.take();
        self.child.wait().expect("guest ends").code().unwrap_or(-1)
    }
}

fn grower() -> String {
    program(
        "ready\\nyes..\\nno...\\n",
        "(func (export \"_start\")
           (call $print (i32.const 1024) (i32.const 6))
           (i32.store (i32.const 32) (i32.const 4096))
           (i32.store (i32.const 36) (i32.const 1))
           (loop $more
             (drop (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 8)))
             (if (i32.load (i32.const 8)) (then
               (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1))
                 (then (call $print (i32.const 1036) (i32.const 6)))
                 (else (call $print (i32.const 1030) (i32.const 6))))
               (br $more)))))",
    )
}

#[test]
fn memory_shows_as_it_grows_and_the_limit_follows_the_server() {
    let lab = Lab::with(&grower()).pages(2);
    let mut guest = Grower::start(&lab);
    assert_eq!((lab.stats().memory, lab.stats().instances), (PAGE, 1));
    assert!(guest.grow());
    assert!(!guest.grow());
    let stats = lab.stats();
    assert_eq!((stats.memory, stats.memory_peak, stats.memory_refused), (2 * PAGE, 2 * PAGE, 1));
    lab.gauge.set_memory_limit(4 * PAGE).expect("gauge");
    assert!(guest.grow() && guest.grow());
    assert!(!guest.grow());
    lab.gauge.set_memory_limit(PAGE).expect("gauge");
    assert!(!guest.grow(), "what it has it keeps, more it does not get");
    let stats = lab.stats();
    assert_eq!((stats.memory, stats.memory_limit, stats.memory_refused), (4 * PAGE, PAGE, 3));
    assert!(stats.phases.instantiated.is_some());
    assert_eq!(stats.fuel_consumed, None);
    assert_eq!(guest.end(), 0);
    assert_eq!(lab.stats().memory, 4 * PAGE, "and after its end");
}

#[test]
fn fuel_shows_at_every_call_into_the_host() {
    let counting = |rounds: u32| {
        program(
            "",
            &format!(
                "(func (export \"_start\") (local i32)
                   (loop $more (br_if $more (i32.lt_u
                     (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const {rounds}))))
                   (call $exit (i32.const 0)))"
            ),
        )
    };
    let fuel = |rounds, bound| {
        let limits = Limits { fuel: bound, ..Limits::default() };
        let lab = Lab::metered(&counting(rounds)).limits(limits);
        assert_eq!(lab.run().code, if bound == Some(1000) { 134 } else { 0 });
        lab.stats().fuel_consumed.expect("metered")
    };
    let (few, many) = (fuel(1000, None), fuel(100_000, None));
    assert!(few >= 1000 && many > 90 * few, "{few} {many}");
    assert_eq!(fuel(1000, Some(1 << 40)), few, "whatever the bound");
    assert!((990..=1000).contains(&fuel(1000, Some(1000))), "{}", fuel(1000, Some(1000)));
}

#[test]
fn tables_and_instances_show() {
    let body = "(table $table 7 funcref)
                (func (export \"_start\")
                  (drop (table.grow $table (ref.null func) (i32.const 3))))";
    let lab = Lab::with(&program("", body));
    assert_eq!(lab.run().code, 0);
    assert_eq!((lab.stats().table_elements, lab.stats().instances), (10, 1));
    let lab = Lab::with(&component(0, "", "wasi:cli/run@0.2.0"));
    assert_eq!(lab.run().code, 0);
    assert_eq!((lab.stats().memory, lab.stats().instances), (0, 1));
}

#[test]
fn a_module_that_declares_more_memory_than_allowed_does_not_start() {
    let large = "(module (memory (export \"memory\") 100) (func (export \"_start\")))";
    assert_eq!(Lab::with(large).pages(100).run().code, 0);
    let refused = Lab::with(large).pages(99).run();
    assert_eq!(refused.code, 1);
    for words in ["it needs 6400KiB", "memory = 6336KiB (", "memory under [limits]"] {
        assert!(refused.stderr.contains(words), "{words} in {}", refused.stderr);
    }
}

#[test]
fn a_trap_names_the_limit_that_was_reached_and_no_other() {
    // Gives up as an allocator does, with a trap, whether or not the growth is granted.
    let body = "(func (export \"_start\") (drop (memory.grow (i32.const 9))) unreachable)";
    let trap = Lab::with(&program("", body)).pages(5).run();
    assert_eq!(trap.code, 134);
    let says = "limit reached: memory = 320KiB (";
    assert!(trap.stderr.contains("unreachable") && trap.stderr.contains(says), "{}", trap.stderr);
    let granted = Lab::with(&program("", body)).pages(10).run();
    assert_eq!(granted.code, 134);
    assert!(!granted.stderr.contains("limit"), "{}", granted.stderr);
}
