//! The limits of wasm guests and their engine: each limit met, named and kept, from the node file, from containerd's
//! options and from annotations; proposals and optimisation; what a guest may have the host keep for it.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use anyhow::Result;
use end_to_end::lab::{LAYERED, Lab, assert_ran, assert_refused, lab, must};
use testkit::command::Output;
use testkit::containerd::{Daemon, Release};
use testkit::image::Archive;
use testkit::{catalogue, guest};

/// A limit, a guest that meets it, and values between which that guest lies.
struct Case {
    key: &'static str,
    module: &'static str,
    /// Too little for the guest.
    little: &'static str,
    /// What it needs.
    enough: &'static str,
    /// The exit code of a guest that has met it.
    code: i32,
}

const CASES: [Case; 7] = [
    Case {
        key: "memory",
        module: "(module (memory (export \"memory\") 1) (func (export \"_start\")
            (if (i32.eq (memory.grow (i32.const 512)) (i32.const -1)) (then unreachable))))",
        little: "16MiB",
        enough: "64MiB",
        code: 134,
    },
    Case {
        key: "table_elements",
        module: "(module (table $table 1 funcref) (memory (export \"memory\") 1)
            (func (export \"_start\")
              (if (i32.eq (table.grow $table (ref.null func) (i32.const 30)) (i32.const -1))
                (then unreachable))))",
        little: "20",
        enough: "1000",
        code: 134,
    },
    Case {
        key: "instances",
        module: "(component
            (core module $m (func (export \"run\") (result i32) i32.const 0))
            (core instance $a (instantiate $m))
            (core instance $b (instantiate $m))
            (core instance $c (instantiate $m))
            (func $run (result (result)) (canon lift (core func $c \"run\")))
            (instance (export \"wasi:cli/run@0.2.0\") (export \"run\" (func $run))))",
        little: "2",
        enough: "3",
        code: 1,
    },
    Case {
        key: "stack",
        module: "(module (memory (export \"memory\") 1)
            (func $deep (param i64) (result i64)
              (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 0)) (else
                (i64.add (call $deep (i64.sub (local.get 0) (i64.const 1))) (local.get 0)))))
            (func (export \"_start\") (drop (call $deep (i64.const 4000)))))",
        little: "64KiB",
        enough: "512KiB",
        code: 134,
    },
    Case {
        key: "fuel",
        module: "(module (memory (export \"memory\") 1) (func (export \"_start\") (local i32)
            (loop $more (br_if $more (i32.lt_u
              (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 1000000))))))",
        little: "1000000",
        enough: "100000000",
        code: 134,
    },
    Case {
        key: "deadline",
        module: "(module
            (import \"wasi_snapshot_preview1\" \"clock_time_get\"
              (func $clock (param i32 i64 i32) (result i32)))
            (memory (export \"memory\") 1)
            (func $now (result i64)
              (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 0)))
              (i64.load (i32.const 0)))
            (func (export \"_start\") (local i64)
              (local.set 0 (i64.add (call $now) (i64.const 2000000000)))
              (loop $more (br_if $more (i64.lt_u (call $now) (local.get 0))))))",
        little: "1s",
        enough: "1m",
        code: 134,
    },
    // The same limit, met by a guest that does nothing.
    Case {
        key: "deadline",
        module: "(module
            (import \"wasi_snapshot_preview1\" \"poll_oneoff\"
              (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export \"memory\") 1)
            (func (export \"_start\")
              (i32.store (i32.const 16) (i32.const 1))
              (i64.store (i32.const 24) (i64.const 2000000000))
              (drop (call $poll (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 2048)))))",
        little: "1s",
        enough: "1m",
        code: 134,
    },
];

impl Case {
    fn annotation(&self) -> String {
        format!("com.wasm.limits.{}", self.key)
    }

    /// A line of a `[limits]` table.
    fn line(&self, value: &str) -> String {
        match value.parse::<u64>() {
            Ok(number) => format!("{} = {number}\n", self.key),
            Err(_) => format!("{} = \"{value}\"\n", self.key),
        }
    }

    /// What a guest is told that has met it.
    fn told(&self, place: &str) -> String {
        format!("limit reached: {} = {} ({place}", self.key, self.little)
    }

    #[track_caller]
    fn assert_met(&self, output: &Output, place: &str) {
        assert_eq!(output.status, Some(self.code), "{}", output.report());
        let told = self.told(place);
        assert!(output.stderr.contains(&told), "no {told:?}: {}", output.report());
    }
}

/// The image of the guest with this number.
fn image(number: usize) -> Archive {
    let module = must(guest::text(CASES[number].module));
    must(catalogue::keep(catalogue::module_image(&format!("limited-{number}"), module)))
}

/// Writes a table of runtime options and returns the flags that hand it to the shim.
fn options(lab: &Lab, table: &str) -> [String; 2] {
    let path = must(lab.scratch()).join(lab.unique("options"));
    must(std::fs::write(&path, table).map_err(Into::into));
    ["--runtime-config-path".to_owned(), path.display().to_string()]
}

#[test]
fn each_limit_is_kept_and_named_from_options_and_annotations() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for (number, case) in CASES.iter().enumerate() {
            let image = lab.image(Ok(image(number)));
            let run = || lab.start(&image, "limited");
            let key = case.annotation();

            let table = format!("[limits]\n{}", case.line(case.little));
            let output = run().flags(options(&lab, &table)).output()?;
            let place = format!("set by {} under [limits] of containerd's options", case.key);
            case.assert_met(&output, &place);
            let above = run().flags(options(&lab, &table)).annotation(&key, case.enough);
            let cap = format!("the most it may have is {} (set by", case.little);
            assert_refused(&above.output()?, [key.as_str(), case.enough, &cap, "the pod"]);

            let output = run().annotation(&key, case.little).output()?;
            case.assert_met(&output, &format!("set by annotation {key} of the pod"));
            assert_ran(&run().annotation(&key, case.enough).output()?, 0, "");
        }
    }
    Ok(())
}

#[test]
fn an_image_may_ask_for_less_and_not_for_more() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for (number, case) in CASES.iter().enumerate() {
        let module = guest::text(case.module)?;
        let key = case.annotation();
        let less = catalogue::module_image(&format!("asks-less-{number}"), module);
        let less = lab.build(less.annotation(&key, case.little));
        let place = format!("set by annotation {key} of the image");
        case.assert_met(&lab.start(&less, "less").output()?, &place);
        // The pod's word replaces the image's.
        let pod = lab.start(&less, "more").annotation(&key, case.enough);
        assert_ran(&pod.output()?, 0, "");
    }
    let hello = guest::wat("hello")?;
    for (name, key, most, more) in [
        ("memory", "com.wasm.limits.memory", "128MiB", "129MiB"),
        ("tables", "com.wasm.limits.table_elements", "1000", "1001"),
        ("stack", "com.wasm.limits.stack", "512KiB", "513KiB"),
    ] {
        let asking = |value: &str| {
            let image = catalogue::module_image(&format!("asks-{name}-{value}"), hello.clone());
            lab.build(image.annotation(key, value))
        };
        assert_ran(&lab.start(&asking(most), "most").output()?, 0, "hello from wasm\n");
        let refused = lab.start(&asking(more), "beyond").output()?;
        assert_refused(&refused, [key, more, "the image manifest", most, "built in"]);
    }
    Ok(())
}

#[test]
fn the_node_file_is_everybodys_default_and_cap() -> Result<()> {
    if !testkit::ready() {
        return Ok(());
    }
    let mut table = "[engine]\nproposals = [\"-simd\", \"-relaxed_simd\"]\n[limits]\n".to_owned();
    // The last case has the key of the one before.
    CASES[..6].iter().for_each(|case| table.push_str(&case.line(case.little)));
    let daemon = Daemon::options(Release::V2_1).node_file(move |_| table).start()?;
    for (number, case) in CASES.iter().enumerate() {
        // One that computes for seconds runs out of fuel before.
        if number == 5 {
            continue;
        }
        let image = image(number);
        daemon.import(&image)?;
        let run = || daemon.run(&image, &daemon.unique("node"));
        let place = format!("set by {} under [limits] of /etc/hybrid/config.toml", case.key);
        case.assert_met(&run().output()?, &place);
        let key = case.annotation();
        let above = run().annotation(&key, case.enough).output()?;
        assert_refused(&above, [&key, case.enough, "the pod", &place]);
    }
    // What stays below all of them runs, also where the pod asks for up to the cap.
    let hello = catalogue::hello_wasm()?;
    daemon.import(&hello)?;
    let run = || daemon.run(&hello, &daemon.unique("hello"));
    assert_ran(&run().output()?, 0, "hello from wasm\n");
    let capped =
        CASES.iter().fold(run(), |run, case| run.annotation(&case.annotation(), case.little));
    assert_ran(&capped.output()?, 0, "hello from wasm\n");
    let simd = must(catalogue::keep(catalogue::module_image("simd", guest::text(SIMD)?)));
    daemon.import(&simd)?;
    let refused = daemon.run(&simd, &daemon.unique("simd")).output()?;
    assert_refused(&refused, ["not valid WebAssembly", "SIMD"]);
    Ok(())
}

#[test]
fn a_pods_memory_stays_below_its_containers() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let hello = lab.image(catalogue::hello_wasm());
    let limit = (64_u64 << 20).to_string();
    let run = |asked: &str| {
        let run = lab.start(&hello, "memory").flags(["--memory-limit", &limit]);
        run.annotation("com.wasm.limits.memory", asked).output()
    };
    assert_ran(&run("56MiB")?, 0, "hello from wasm\n");
    assert_refused(&run("57MiB")?, ["57MiB", "56MiB", "the container's memory limit"]);
    assert_refused(&run("57 MiB")?, ["57 MiB", "bytes between 64KiB and 4GiB"]);
    Ok(())
}

const SIMD: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")
    (drop (i8x16.splat (i32.const 1)))))";
const WIDE: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")
    i64.const 1 i64.const 2 i64.mul_wide_u drop drop))";
const PROPOSALS: &str = "com.wasm.engine.proposals";

#[test]
fn proposals_are_switched_within_what_the_node_allows() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let wide = lab.build(catalogue::module_image("wide", guest::text(WIDE)?));
    let simd = lab.build(catalogue::module_image("simd", guest::text(SIMD)?));
    let invalid = ["not valid WebAssembly", "wide arithmetic"];
    assert_refused(&lab.start(&wide, "wide").output()?, invalid);
    let asking = || lab.start(&wide, "wide").annotation(PROPOSALS, "wide_arithmetic");
    let words = [PROPOSALS, "the pod", "wide_arithmetic, which is not allowed", "/etc/hybrid"];
    assert_refused(&asking().output()?, words);
    let allowed = options(&lab, "[engine]\nproposals_allowed = [\"wide_arithmetic\"]\n");
    assert_ran(&asking().flags(allowed.clone()).output()?, 0, "");
    assert_refused(&lab.start(&wide, "wide").flags(allowed).output()?, invalid);
    let on = options(&lab, "[engine]\nproposals = [\"wide_arithmetic\"]\n");
    assert_ran(&lab.start(&wide, "wide").flags(on).output()?, 0, "");

    assert_ran(&lab.start(&simd, "simd").output()?, 0, "");
    let off = lab.start(&simd, "simd").annotation(PROPOSALS, "-simd,-relaxed_simd");
    assert_refused(&off.output()?, ["not valid WebAssembly", "SIMD"]);
    let half = lab.start(&simd, "simd").annotation(PROPOSALS, "-simd");
    assert_refused(&half.output()?, ["relaxed_simd on and simd off"]);
    let unknown = lab.start(&simd, "simd").annotation(PROPOSALS, "threads");
    assert_refused(&unknown.output()?, [PROPOSALS, "threads", "names of proposals"]);
    Ok(())
}

#[test]
fn optimisation_and_wasi_three_are_asked_for_by_annotation() -> Result<()> {
    const OPTIMIZATION: &str = "com.wasm.engine.optimization";
    const P3: &str = "com.wasm.engine.p3";
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let hello = lab.image(catalogue::hello_wasm());
    let run = |key: &str, value: &str| lab.start(&hello, "engine").annotation(key, value);
    for level in ["none", "speed", "speed_and_size"] {
        assert_ran(&run(OPTIMIZATION, level).output()?, 0, "hello from wasm\n");
    }
    assert_refused(&run(OPTIMIZATION, "fast").output()?, [OPTIMIZATION, "fast", "speed_and_size"]);
    assert_ran(&run(P3, "false").output()?, 0, "hello from wasm\n");
    assert_refused(&run(P3, "true").output()?, [P3, "WASI 0.3", "p3 = true under [engine]"]);
    assert_ran(&run("com.wasm.config.colour", "blue").output()?, 0, "hello from wasm\n");
    assert_refused(&run("com.wasm.config.a b", "x").output()?, ["com.wasm.config.", "1 to 64"]);
    Ok(())
}

#[test]
fn a_guest_cannot_make_the_host_keep_gigabytes() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let module = |name: &str, parameters: usize, call: &str| -> Result<Archive> {
        let parameters = "i32 ".repeat(parameters);
        let text = format!(
            "(module
              (import \"wasi_snapshot_preview1\" \"{name}\"
                (func $call (param {parameters}) (result i32)))
              (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
              (memory (export \"memory\") 1300)
              (func (export \"_start\") (call $exit (call $call {call}))))"
        );
        let name = format!("host-{}-{}", name.replace('_', "-"), call.len());
        Ok(lab.build(catalogue::module_image(&name, guest::text(&text)?)))
    };
    let poll = |count: u32| {
        let call = format!("(i32.const 0) (i32.const 50331648) (i32.const {count}) (i32.const 0)");
        module("poll_oneoff", 4, &call)
    };
    let random =
        |length: u32| module("random_get", 2, &format!("(i32.const 0) (i32.const {length})"));
    // What the guest itself may have, and little beside.
    let limit = (112_u64 << 20).to_string();
    let run = |image: &Archive| lab.start(image, "host").flags(["--memory-limit", &limit]).output();
    for (few, many) in [(poll(100)?, poll(1 << 20)?), (random(4096)?, random(u32::MAX)?)] {
        assert_ran(&run(&few)?, 0, "");
        let refused = run(&many)?;
        assert!(
            refused.status.is_some_and(|code| code != 0 && code != 137),
            "{}",
            refused.report()
        );
    }
    Ok(())
}
