//! Programs that import what is not provided: refused before there is a process, each import with
//! what would provide or grant it.

use super::*;

#[track_caller]
fn refused(lab: &Lab, says: &[&str]) {
    let refused = lab.load().expect_err("must not load");
    assert!(matches!(&refused, LoadError::UnknownImports(_)), "{refused:?}");
    assert!(refused.is_refusal() && !refused.needs_compiling());
    for words in says {
        assert!(refused.to_string().contains(words), "{words} in {refused}");
    }
}

#[test]
fn every_unknown_import_of_a_module_is_listed() {
    let module = |imports: &str| format!("(module {imports} (func (export \"_start\")))");
    let wanting = "(import \"env\" \"secret_door\" (func))
        (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
        (import \"wasi\" \"thread-spawn\" (func (param i32) (result i32)))
        (import \"__wbindgen_placeholder__\" \"__wbindgen_describe\" (func (param i32)))
        (import \"env\" \"memory\" (memory 1))";
    refused(
        &Lab::with(&module(wanting)),
        &[
            "`env::secret_door` (not provided: build for wasm32-wasip1",
            "`wasi::thread-spawn` (wasi-threads is not provided",
            "`__wbindgen_placeholder__::__wbindgen_describe` (wasm-bindgen's",
            "`env::memory`",
        ],
    );
    let misspelt = "(import \"wasi_snapshot_preview1\" \"fd_wriet\" (func))";
    refused(&Lab::with(&module(misspelt)), &["`wasi_snapshot_preview1::fd_wriet`"]);
    Lab::with(&module("")).load().expect("without the imports it loads");
}

#[test]
fn every_unknown_import_of_a_component_is_listed() {
    let interface = "wasi:cli/run@0.2.0";
    let wanting = |name: &str| format!("(import \"{name}\" (instance (export \"open\" (func))))");
    let imports: String =
        ["acme:door/secret@1.0.0", "wasi:nn/tensor@0.2.0", "wasi:cli/environment@0.3.0"]
            .map(wanting)
            .concat();
    refused(
        &Lab::with(&component(0, &imports, interface)),
        &[
            "`acme:door/secret@1.0.0` (compose the component",
            "`wasi:nn/tensor@0.2.0` (compose",
            "`wasi:cli/environment@0.3.0` (WASI 0.3 is off: annotation com.wasm.engine.p3",
        ],
    );
    Lab::with(&component(0, "", interface)).load().expect("without the imports it loads");
}

#[test]
fn an_import_of_another_type_is_told_from_one_that_is_missing() {
    let import = "(import \"wasi:cli/environment@0.2.0\"
        (instance (export \"get-environment\" (func (result string)))))";
    let lab = Lab::with(&component(0, import, "wasi:cli/run@0.2.0"));
    let refused = lab.load().expect_err("must not load");
    assert!(matches!(&refused, LoadError::Link(_)), "{refused:?}");
    assert!(chain(&refused).contains("wasi:cli/environment"), "{}", chain(&refused));
}

/// A command of WASI 0.3, which reads a clock of it and ends with this result.
fn third(result: u8) -> String {
    format!(
        r#"(component
          (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
            (export "now" (func (result u64)))))
          (alias export $clock "now" (func $now))
          (core func $now (canon lower (func $now)))
          (core module $m
            (import "clock" "now" (func $now (result i64)))
            (func (export "run") (result i32)
              (if (i64.eqz (call $now)) (then unreachable))
              (i32.const {result})))
          (core instance $i (instantiate $m
            (with "clock" (instance (export "now" (func $now))))))
          (func $run async (result (result)) (canon lift (core func $i "run")))
          (instance (export "wasi:cli/run@0.3.0") (export "run" (func $run))))"#
    )
}

#[test]
fn a_command_of_the_third_preview_runs_where_that_is_on() {
    let on = EngineSettings { p3: P3::On, ..EngineSettings::default() };
    for (result, code) in [(0, 0), (1, 1)] {
        let ended = Lab::with_engine(&third(result), on.clone()).run();
        assert_eq!(ended.code, code, "{}", ended.stderr);
    }
    // As before, and beside it.
    let ended = Lab::with_engine(&component(0, "", "wasi:cli/run@0.2.0"), on).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let bytes = wat::parse_str(third(0)).expect("valid text");
    let folder = tempfile::tempdir().expect("temporary folder");
    let refused = compile_in(folder.path(), &bytes).expect_err("it is off by default");
    assert!(matches!(refused, CompileError::Invalid(_)), "{refused:?}");
}
