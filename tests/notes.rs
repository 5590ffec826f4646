//! What a component finds beside WASI's own interfaces: its configuration and a store of keys and values.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them and the Rust compiler.

use end_to_end::lab::{LAYERED, assert_ran, must, on_each};
use testkit::language;

#[test]
fn a_component_has_its_configuration_and_a_store_of_its_own() {
    on_each(&LAYERED, |lab| {
        let image = lab.image(language::notes_image());
        // Twice: the store is the container's, and gone with it.
        for _ in 0..2 {
            let run = lab
                .run(&image, &lab.unique("notes"))
                .annotation("com.wasm.config.greeting", "hello, pod")
                .env("GREETING", "hi");
            let output = must(run.output());
            assert_ran(&output, 0, "config greeting");
            let lines = output.lines();
            for line in [
                "config greeting Some(\"hello, pod\")",
                "config GREETING Some(\"hi\")",
                "config absent None",
                "word Some(\"kept\")",
                "count Ok(2)",
                "count Ok(5)",
                "many Ok([Some((\"b\", [50])), None])",
                "keys [\"b\", \"count\", \"word\"]",
                "other Err(Error::NoSuchStore)",
            ] {
                assert!(lines.contains(&line), "{line} is not in {}", output.report());
            }
            let says = |start: &str, words: &str| {
                lines.iter().any(|line| line.starts_with(start) && line.contains(words))
            };
            assert!(says("not a number Err(", "not a decimal number"), "{}", output.report());
            assert!(says("full Err(", "the store is full"), "{}", output.report());
        }
    });
}

#[test]
fn a_configuration_value_without_a_plain_name_is_refused() {
    on_each(&LAYERED[..1], |lab| {
        let image = lab.image(language::notes_image());
        let key = "com.wasm.config.no spaces";
        let run = lab.run(&image, &lab.unique("notes")).annotation(key, "x");
        let output = must(run.output());
        assert!(!output.success() && output.stderr.contains(key), "{}", output.report());
    });
}
