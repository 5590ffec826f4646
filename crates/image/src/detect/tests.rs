//! The decision, case by case: what is there, and who runs it or why nobody does.

use std::collections::BTreeMap;

use proptest::prelude::any;
use proptest::strategy::Strategy as Generator;
use proptest::{prop_assert, prop_assert_ne, proptest};

use super::*;
use crate::annotations::{
    COMPONENT_MODEL, LABEL_RUNTIME, OCI_HANDLER, Origin, RUNTIME_HINT, RUNTIME_REQUIRED,
};
use crate::media_type;

const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0";
const CWASM: &[u8] = b"\x7fELF\x02\x01\x01\xc8";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fn image(platform: &str, wasm_layers: usize, tar_layers: usize) -> ImageFacts {
    let platform = platform.split_once('/').and_then(|(os, arch)| Platform::stated(os, arch, None));
    let layer =
        |number: usize| LayerFacts::new(Digest::of(&number.to_le_bytes()), 100, media_type::WASM);
    ImageFacts {
        name: "example/app:1".into(),
        digest: Digest::of(b"manifest"),
        platform,
        config_media_type: "application/vnd.oci.image.config.v1+json".into(),
        labels: HashMap::new(),
        annotations: Annotations::default(),
        wasm_layers: (0..wasm_layers).map(layer).collect(),
        tar_layers,
        entrypoint: Vec::new(),
        cmd: vec!["/app.wasm".into()],
        chain_id: None,
    }
}

/// A linux image with an ELF program in it: every case below changes this.
fn linux() -> Facts {
    Facts {
        auto_detect: true,
        images: vec![image("linux/amd64", 0, 1)],
        argv0: Some("/bin/app".into()),
        entrypoint: Some(FileFacts::regular("/bin/app", ELF)),
        ..Facts::default()
    }
}

/// A pure wasm image, with nothing in its rootfs.
fn layered() -> Facts {
    Facts {
        auto_detect: true,
        images: vec![image("wasip1/wasm", 1, 0)],
        argv0: Some("/app.wasm".into()),
        entrypoint: None,
        rootfs: Rootfs::Empty,
        ..Facts::default()
    }
}

/// A file of these bytes as the entrypoint of a linux image.
fn file(path: &str, bytes: &[u8]) -> Facts {
    Facts {
        argv0: Some(path.to_owned()),
        entrypoint: Some(FileFacts::regular(path, bytes)),
        ..linux()
    }
}

/// A linux image whose rootfs lacks the entrypoint.
fn missing(path: &str) -> Facts {
    Facts { argv0: Some(path.to_owned()), entrypoint: None, ..linux() }
}

fn hinted(key: &str, value: &str, facts: Facts) -> Facts {
    let annotations = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    Facts { hint: Hint::of_pod(&annotations).unwrap(), ..facts }
}

fn annotated(key: &str, value: &str, mut facts: Facts) -> Facts {
    let found = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    for image in &mut facts.images {
        image.annotations.add(Origin::Manifest, &found).unwrap();
    }
    facts
}

fn of_platform(platform: &str, mut facts: Facts) -> Facts {
    facts.images[0].platform = image(platform, 0, 0).platform;
    facts
}

fn undetected(facts: Facts) -> Facts {
    Facts { auto_detect: false, ..facts }
}

fn layer_route(number: usize) -> Route {
    Route::Wasm(Source::Layer { digest: Digest::of(&number.to_le_bytes()), size: 100 })
}

fn file_route(path: &str) -> Route {
    Route::Wasm(Source::File { path: path.into() })
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases, read row by row")]
fn who_runs_what_and_which_strategy_says_so() {
    use Strategy::{FileExtension, ImageAnnotation, ImageMediaType, RuntimeHint};
    let by = DecidedBy::Strategy;
    let no_platform = |facts| of_platform("", facts);
    let no_image = |facts| Facts { images: Vec::new(), ..facts };
    let sandbox = |facts| Facts { sandbox: true, ..facts };
    let table: Vec<(&str, Facts, Route, DecidedBy)> = vec![
        ("an ELF program", linux(), Route::Linux, by(FileExtension)),
        ("a script", file("/run.sh", b"#!/bin/sh"), Route::Linux, by(FileExtension)),
        ("a missing program", missing("/bin/none"), Route::Linux, DecidedBy::Default),
        ("no arguments", Facts { argv0: None, ..missing("") }, Route::Linux, DecidedBy::Default),
        ("unknown bytes", file("/bin/x", b"hello"), Route::Linux, DecidedBy::Default),
        ("an empty file", file("/bin/x", b""), Route::Linux, DecidedBy::Default),
        (
            "a module in a file",
            file("/app.wasm", MODULE),
            file_route("/app.wasm"),
            by(FileExtension),
        ),
        (
            "a component in a file",
            file("/app.wasm", COMPONENT),
            file_route("/app.wasm"),
            by(FileExtension),
        ),
        (
            "a module by another name",
            file("/bin/sh", MODULE),
            file_route("/bin/sh"),
            by(FileExtension),
        ),
        (
            "a module, no image known",
            no_image(file("/app.wasm", MODULE)),
            file_route("/app.wasm"),
            by(FileExtension),
        ),
        ("an ELF program, no image known", no_image(linux()), Route::Linux, by(FileExtension)),
        (
            "a module, no platform",
            no_platform(file("/app.wasm", MODULE)),
            file_route("/app.wasm"),
            by(FileExtension),
        ),
        (
            "a module, wasm platform",
            of_platform("wasi/wasm", file("/app.wasm", MODULE)),
            file_route("/app.wasm"),
            by(ImageMediaType),
        ),
        (
            "a module, swapped platform",
            of_platform("wasm32/wasi", file("/app.wasm", MODULE)),
            file_route("/app.wasm"),
            by(ImageMediaType),
        ),
        ("a layer", layered(), layer_route(0), by(ImageMediaType)),
        (
            "a layer, linux platform",
            of_platform("linux/amd64", layered()),
            layer_route(0),
            by(ImageMediaType),
        ),
        (
            "a layer, no arguments",
            Facts { argv0: None, ..layered() },
            layer_route(0),
            by(ImageMediaType),
        ),
        (
            "a layer, any argument",
            Facts { argv0: Some("x".into()), ..layered() },
            layer_route(0),
            by(ImageMediaType),
        ),
        (
            "an annotation",
            annotated(RUNTIME_REQUIRED, "wasmtime >= 16.0.0", file("/app.wasm", MODULE)),
            file_route("/app.wasm"),
            by(ImageAnnotation),
        ),
        (
            "a label",
            annotated(LABEL_RUNTIME, "wasmtime", layered()),
            layer_route(0),
            by(ImageAnnotation),
        ),
        (
            "a hint for wasm",
            hinted(RUNTIME_HINT, "wasm", file("/app.wasm", MODULE)),
            file_route("/app.wasm"),
            by(RuntimeHint),
        ),
        (
            "a handler for wasm",
            hinted(OCI_HANDLER, "wasm", layered()),
            layer_route(0),
            by(RuntimeHint),
        ),
        ("a hint for linux", hinted(RUNTIME_HINT, "linux", linux()), Route::Linux, by(RuntimeHint)),
        (
            "a hint for linux, program missing",
            hinted(RUNTIME_HINT, "linux", missing("/bin/none")),
            Route::Linux,
            by(RuntimeHint),
        ),
        (
            "a hint to detect",
            hinted(RUNTIME_HINT, "auto", linux()),
            Route::Linux,
            by(FileExtension),
        ),
        ("no detection, an ELF program", undetected(linux()), Route::Linux, by(FileExtension)),
        (
            "no detection, hint for wasm",
            hinted(RUNTIME_HINT, "wasm", undetected(layered())),
            layer_route(0),
            by(RuntimeHint),
        ),
        (
            "no detection, hint to detect",
            hinted(RUNTIME_HINT, "auto", undetected(layered())),
            layer_route(0),
            by(ImageMediaType),
        ),
        ("a sandbox", sandbox(linux()), Route::Linux, DecidedBy::Sandbox),
        (
            "a sandbox with a wasm file",
            sandbox(file("/app.wasm", MODULE)),
            Route::Linux,
            DecidedBy::Sandbox,
        ),
    ];
    for (case, facts, route, decided_by) in table {
        let decision = detect(&facts).unwrap_or_else(|refusal| panic!("{case}: {refusal}"));
        assert_eq!((decision.route, decision.decided_by), (route, decided_by), "{case}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases, read row by row")]
fn what_is_refused_and_the_words_for_it() {
    let not_linux = |facts| of_platform("windows/amd64", facts);
    let fifo =
        Facts { entrypoint: Some(FileFacts::irregular("/app.wasm")), ..file("/app.wasm", b"") };
    let table: Vec<(&str, Facts, &str)> = vec![
        (
            "an ELF program named wasm",
            file("/app.wasm", ELF),
            "named as wasm but is an ELF program",
        ),
        (
            "a script named wasm",
            file("/app.wasm", b"#!/bin/sh"),
            "named as wasm but is a #! script",
        ),
        (
            "unknown bytes named wasm",
            file("/app.wasm", b"hello"),
            "\"/app.wasm\" is neither wasm, nor ELF, nor a script and does not start with the wasm magic",
        ),
        ("an empty file named wasm", file("/app.wasm", b""), "is an empty file"),
        ("a FIFO named wasm", fifo, "is not a regular file"),
        ("half a header", file("/app.wasm", b"\0asm"), "its version is neither"),
        ("a text", file("/app.wat", b"(module)"), "compile it first"),
        ("a text named wasm", file("/app.wasm", b"(module)"), "compile it first"),
        ("native code", file("/app.cwasm", CWASM), "precompiled native code"),
        ("native code named wasm", file("/app.wasm", CWASM), "precompiled native code"),
        ("native code by another name", file("/bin/app", CWASM), "precompiled native code"),
        ("a missing module", missing("/app.wasm"), "\"/app.wasm\" is not in the rootfs"),
        (
            "a hint for wasm, ELF program",
            hinted(RUNTIME_HINT, "wasm", linux()),
            "but its entrypoint \"/bin/app\" is an ELF program",
        ),
        (
            "a handler for wasm, script",
            hinted(OCI_HANDLER, "wasm", file("/run", b"#!/bin/sh")),
            "is a #! script",
        ),
        (
            "a hint for wasm, unknown bytes",
            hinted(RUNTIME_HINT, "wasm", file("/x", b"hello")),
            "does not start with the wasm magic",
        ),
        (
            "a hint for wasm, nothing there",
            hinted(RUNTIME_HINT, "wasm", missing("/x")),
            "there is no module",
        ),
        (
            "a hint for linux, module",
            hinted(RUNTIME_HINT, "linux", file("/app.wasm", MODULE)),
            "but the program is wasm",
        ),
        (
            "a hint for linux, layer",
            hinted(RUNTIME_HINT, "linux", layered()),
            "but the program is wasm",
        ),
        (
            "an annotation, ELF program",
            annotated(RUNTIME_REQUIRED, "wasmtime", linux()),
            "com.wasm.runtime.required is \"wasmtime\" in the image manifest",
        ),
        ("a wasm platform, ELF program", of_platform("wasi/wasm", linux()), "platform wasi/wasm"),
        (
            "a wasm platform, nothing there",
            of_platform("wasi/wasm", missing("/app")),
            "image \"example/app:1\" has no wasm layer",
        ),
        (
            "an engine that is not here",
            annotated(RUNTIME_REQUIRED, "wasmedge >= 0.13", layered()),
            "the engine that annotation com.wasm.runtime.required asks for",
        ),
        (
            "a version that is not here",
            annotated(RUNTIME_REQUIRED, "wasmtime >= 99", file("/app.wasm", MODULE)),
            "com.wasm.runtime.required",
        ),
        (
            "an unreadable annotation",
            annotated(RUNTIME_REQUIRED, "soon", linux()),
            "com.wasm.runtime.required",
        ),
        (
            "a module called component",
            annotated(COMPONENT_MODEL, "true", file("/app.wasm", MODULE)),
            "com.wasm.component.model is true, but",
        ),
        (
            "a component called module",
            annotated(COMPONENT_MODEL, "false", file("/app.wasm", COMPONENT)),
            "com.wasm.component.model is false, but",
        ),
        ("another system", not_linux(linux()), "image \"example/app:1\" is for windows/amd64"),
        ("no detection, layer", undetected(layered()), "auto_detect is off"),
        (
            "no detection, module in a file",
            undetected(file("/app.wasm", MODULE)),
            "auto_detect is off",
        ),
    ];
    for (case, facts, words) in table {
        let refusal = detect(&facts).map(|decision| decision.to_string()).unwrap_err().to_string();
        assert!(refusal.contains(words), "{case}: {refusal}");
    }
}

#[test]
fn a_module_in_an_image_for_another_system_runs_all_the_same() {
    let facts = of_platform("js/wasm", file("/app.wasm", MODULE));
    assert_eq!(detect(&facts).unwrap().route, file_route("/app.wasm"));
}

/// A mixed image: its layers have these titles, its rootfs has files.
fn titled(titles: &[Option<&str>], argv0: &str) -> Facts {
    let mut image = image("wasi/wasm", titles.len(), 1);
    for (layer, title) in image.wasm_layers.iter_mut().zip(titles) {
        layer.title = title.map(str::to_owned);
    }
    Facts { images: vec![image], argv0: Some(argv0.into()), rootfs: Rootfs::Filled, ..layered() }
}

#[test]
fn which_layer_or_file_is_the_module() {
    let with_file = |facts: Facts, bytes| {
        let path = facts.argv0.clone().unwrap();
        Facts { entrypoint: Some(FileFacts::regular(path, bytes)), ..facts }
    };
    let (a, b) = (Some("a.wasm"), Some("b.wasm"));
    let table: Vec<(Facts, Route)> = vec![
        (titled(&[None], "/app.wasm"), layer_route(0)),
        (titled(&[a], "/app.wasm"), layer_route(0)),
        (titled(&[a, b], "/a.wasm"), layer_route(0)),
        (titled(&[a, b], "/srv/b.wasm"), layer_route(1)),
        (titled(&[a, b], "b.wasm"), layer_route(1)),
        (titled(&[None, b], "b.wasm"), layer_route(1)),
        (with_file(titled(&[a], "/a.wasm"), MODULE), layer_route(0)),
        (with_file(titled(&[None], "/c.wasm"), MODULE), layer_route(0)),
        (with_file(titled(&[a], "/c.wasm"), MODULE), file_route("/c.wasm")),
        (with_file(titled(&[a, b], "/c.wasm"), MODULE), file_route("/c.wasm")),
        (with_file(titled(&[a], "/data.txt"), b"hello"), layer_route(0)),
        (with_file(titled(&[None], "/app.wasm"), b"broken"), layer_route(0)),
    ];
    for (facts, route) in table {
        let shown = format!("{facts:?}");
        assert_eq!(detect(&facts).map(|decision| decision.route), Ok(route), "{shown}");
    }
    let several = detect(&titled(&[a, b], "/c.wasm")).unwrap_err().to_string();
    assert!(
        several.contains("\"c.wasm\"") && several.contains("\"a.wasm\", \"b.wasm\""),
        "{several}"
    );
    let untitled = detect(&titled(&[None, None], "/c.wasm")).unwrap_err().to_string();
    assert!(untitled.contains("none has a title"), "{untitled}");
    let native = detect(&with_file(titled(&[a], "/bin/sh"), ELF)).unwrap_err();
    assert!(matches!(native, Refusal::BytesSayLinux { .. }), "{native}");
}

#[test]
fn layers_of_no_bytes_or_too_many_are_refused() {
    let sized = |size| {
        let mut facts = layered();
        facts.images[0].wasm_layers[0].size = size;
        detect(&facts)
    };
    assert!(matches!(sized(0), Err(Refusal::EmptyLayer { .. })));
    assert!(sized(1).is_ok());
    assert!(sized(MAX_MODULE).is_ok());
    assert!(matches!(sized(MAX_MODULE + 1), Err(Refusal::LargeLayer { .. })));
}

#[test]
fn a_layers_own_annotations_count() {
    let with = |value: &str| {
        let mut facts = layered();
        let found = BTreeMap::from([(RUNTIME_REQUIRED.to_owned(), value.to_owned())]);
        facts.images[0].wasm_layers[0].annotations.add(Origin::Layer(0), &found).unwrap();
        facts
    };
    let decision = detect(&with("wasmtime >= 1")).unwrap();
    assert_eq!(decision.decided_by, DecidedBy::Strategy(Strategy::ImageAnnotation));
    assert!(matches!(detect(&with("wasmer")), Err(Refusal::Unmet { .. })));
    let Route::Wasm(source) = decision.route else { panic!("expected wasm") };
    let image = &with("wasmtime >= 1").images[0];
    assert_eq!(image.annotations_for(&source).unwrap().iter().count(), 1);
    let differing = annotated(RUNTIME_REQUIRED, "wasmtime", with("wasmtime >= 1"));
    assert!(differing.images[0].annotations_for(&source).is_err());
}

#[test]
fn the_pods_annotation_goes_before_the_images() {
    let image = annotated(RUNTIME_REQUIRED, "wasmtime >= 99", layered());
    let pod = BTreeMap::from([(RUNTIME_REQUIRED.to_owned(), "wasmtime".to_owned())]);
    let facts = Facts { pod: Annotations::of_pod(&pod).unwrap(), ..image.clone() };
    assert!(detect(&image).is_err());
    assert!(detect(&facts).is_ok());
}

#[test]
fn of_an_index_the_image_is_chosen_that_the_rootfs_came_from() {
    const LINUX: usize = 0;
    const WASM: usize = 1;
    let index = |wasm_tar_layers| {
        let mut linux = image("linux/amd64", 0, 2);
        linux.cmd = vec!["/bin/app".into()];
        vec![linux, image("wasip1/wasm", 1, wasm_tar_layers)]
    };
    let facts = |argv0: &str, first_bytes: Option<&[u8]>, rootfs| Facts {
        argv0: Some(argv0.into()),
        entrypoint: first_bytes.map(|bytes| FileFacts::regular(argv0, bytes)),
        rootfs,
        images: index(0),
        ..layered()
    };
    let mixed = |facts: Facts| Facts { images: index(1), ..facts };
    let (empty, filled) = (Rootfs::Empty, Rootfs::Filled);
    let table = [
        ("ELF program", facts("/bin/app", Some(ELF), filled), LINUX),
        ("empty rootfs", facts("/app.wasm", None, empty), WASM),
        ("empty rootfs, own arguments", facts("x", None, empty), WASM),
        ("unpacked, program missing", facts("/none", None, filled), LINUX),
        ("module as a file, layers alone in wasm", facts("/app.wasm", Some(MODULE), filled), LINUX),
        ("module as a file, files in wasm", mixed(facts("/app.wasm", Some(MODULE), filled)), WASM),
        ("files in wasm, its entrypoint", mixed(facts("/app.wasm", None, filled)), WASM),
        ("files in wasm, linux entrypoint", mixed(facts("/bin/app", None, filled)), LINUX),
        ("files in wasm, wasm name", mixed(facts("/b.wasm", None, filled)), WASM),
        ("files in wasm, other name", mixed(facts("/none", None, filled)), LINUX),
        ("files in wasm, ELF program", mixed(facts("/bin/app", Some(ELF), filled)), LINUX),
        ("hint", hinted(RUNTIME_HINT, "wasm", mixed(facts("/none", None, filled))), WASM),
        (
            "hint against the rootfs",
            hinted(RUNTIME_HINT, "wasm", facts("/none", None, filled)),
            LINUX,
        ),
        (
            "hint for linux",
            hinted(RUNTIME_HINT, "linux", mixed(facts("/app.wasm", None, filled))),
            LINUX,
        ),
    ];
    for (case, facts, expected) in table {
        assert_eq!(choose(&facts), Some(expected), "{case}");
        let reversed = Facts { images: facts.images.iter().rev().cloned().collect(), ..facts };
        assert_eq!(choose(&reversed), Some(1 - expected), "{case}, listed the other way round");
    }
    assert_eq!(detect(&facts("/app.wasm", None, empty)).unwrap().route, layer_route(0));
    assert_eq!(detect(&facts("/bin/app", Some(ELF), filled)).unwrap().route, Route::Linux);
    assert_eq!(choose(&Facts::default()), None);
}

#[test]
fn of_two_wasm_images_the_first_is_taken() {
    let images = vec![image("wasip2/wasm", 1, 0), image("wasip1/wasm", 1, 0)];
    assert_eq!(choose(&Facts { images, ..layered() }), Some(0));
}

#[test]
fn the_rootfs_names_a_side_before_any_manifest_is_read() {
    let file = |bytes| FileFacts::regular("/x", bytes);
    assert_eq!(wanted(Some(&file(ELF)), Rootfs::Filled), Wanted::Linux);
    assert_eq!(wanted(Some(&file(b"#!")), Rootfs::Filled), Wanted::Linux);
    assert_eq!(wanted(Some(&file(MODULE)), Rootfs::Filled), Wanted::Auto);
    assert_eq!(wanted(None, Rootfs::Filled), Wanted::Auto);
    assert_eq!(wanted(None, Rootfs::Empty), Wanted::Wasm);
}

#[test]
fn a_decision_is_one_line_with_its_reasons() {
    let decision = detect(&annotated(RUNTIME_REQUIRED, "wasmtime", layered())).unwrap();
    let digest = Digest::of(&0_usize.to_le_bytes());
    assert_eq!(
        decision.to_string(),
        format!(
            "wasm layer {digest} of 100 bytes, decided by image annotation; looked at runtime hint (none), \
             image annotation (com.wasm.runtime.required is \"wasmtime\" in the image manifest), \
             image media type (platform wasip1/wasm, 1 wasm layers, the first of type application/wasm, 0 layers of files), \
             entrypoint file (\"/app.wasm\" is not in the rootfs)"
        )
    );
    let hostile = Facts { argv0: Some("a\nforged line\u{202e}".into()), ..layered() };
    assert!(!detect(&hostile).unwrap().to_string().contains(['\n', '\u{202e}']));
}

#[test]
fn each_strategy_can_be_asked_alone() {
    let facts = hinted(RUNTIME_HINT, "linux", file("/app.wasm", MODULE));
    let says = |strategy: Strategy| strategy.ask(&facts, facts.images.first()).unwrap().says;
    assert_eq!(says(Strategy::RuntimeHint), Some(Side::Linux));
    assert_eq!(says(Strategy::ImageAnnotation), None);
    assert_eq!(says(Strategy::ImageMediaType), None);
    assert_eq!(says(Strategy::FileExtension), Some(Side::Wasm));
}

fn any_facts() -> impl Generator<Value = Facts> {
    let bytes = proptest::option::of(proptest::sample::select(vec![
        ELF,
        CWASM,
        MODULE,
        COMPONENT,
        b"#!/bin/sh",
        b"",
        b"hello",
        b"(module)",
        b"\0asm",
    ]));
    let path = proptest::sample::select(vec!["/bin/app", "/app.wasm", "/a.wat", "/a.cwasm"]);
    let hint = proptest::option::of(proptest::sample::select(vec!["wasm", "linux", "auto"]));
    let images = proptest::collection::vec(
        (
            proptest::sample::select(vec!["", "linux/amd64", "wasi/wasm", "windows/amd64"]),
            0_usize..3,
            0_usize..3,
        ),
        0..3,
    );
    (bytes, path, hint, images, any::<[bool; 3]>()).prop_map(
        |(bytes, path, hint, images, [auto_detect, is_empty, has_args])| {
            let facts = Facts {
                auto_detect,
                images: images.into_iter().map(|(p, wasm, tar)| image(p, wasm, tar)).collect(),
                argv0: has_args.then(|| path.to_owned()),
                entrypoint: bytes.filter(|_| has_args).map(|b| FileFacts::regular(path, b)),
                rootfs: if is_empty { Rootfs::Empty } else { Rootfs::Filled },
                ..Facts::default()
            };
            match hint {
                Some(hint) => hinted(RUNTIME_HINT, hint, facts),
                None => facts,
            }
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_there_the_engine_gets_only_wasm_and_linux_never_gets_wasm(facts in any_facts()) {
        let binary = facts.entrypoint.as_ref().map(|file| file.binary);
        if let Ok(decision) = detect(&facts) {
            match decision.route {
                Route::Wasm(Source::File { .. }) => {
                    prop_assert!(binary.is_some_and(Binary::is_runnable_wasm));
                }
                Route::Wasm(Source::Layer { digest, .. }) => {
                    let image = &facts.images[decision.image.unwrap()];
                    prop_assert!(image.wasm_layers.iter().any(|layer| layer.digest == digest));
                    prop_assert!(!matches!(binary, Some(Binary::Elf | Binary::Script)));
                }
                Route::Linux => {
                    prop_assert!(!binary.is_some_and(Binary::is_runnable_wasm));
                    prop_assert_ne!(binary, Some(Binary::Precompiled));
                }
            }
        }
    }

    #[test]
    fn no_refusal_or_decision_breaks_a_line(facts in any_facts()) {
        let shown = match detect(&facts) {
            Ok(decision) => decision.to_string(),
            Err(refusal) => refusal.to_string(),
        };
        prop_assert!(!shown.contains('\n') && !shown.is_empty());
    }
}
