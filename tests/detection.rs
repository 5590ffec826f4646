//! Who runs a container: what each hint, annotation, media type and byte decides, and which contradictions are refused.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use end_to_end::lab::{Lab, PATIENCE, assert_ran, assert_refused, lab, must, on_each};
use testkit::catalogue;
use testkit::command::Output;
use testkit::containerd::{HYBRID, Release, Run};
use testkit::guest;
use testkit::image::{Archive, Files, Image, Layer, media_type};

const HINT: &str = "com.wasm.runtime.hint";
const REQUIRED: &str = "com.wasm.runtime.required";
const ENGINE: &str = "com.wasm.runtime.engine";

fn output(run: Run) -> Output {
    must(run.output())
}

/// Writes a table of runtime options and returns the flags that hand it to the shim.
fn options(lab: &Lab, name: &str, table: &str) -> [String; 2] {
    let path = must(lab.scratch()).join(lab.unique(name));
    std::fs::write(&path, table).expect("written");
    ["--runtime-config-path".to_owned(), path.display().to_string()]
}

fn hello() -> Vec<u8> {
    must(guest::wat("hello"))
}

fn busybox() -> Vec<u8> {
    std::fs::read("/usr/bin/busybox").expect("busybox-static is installed")
}

#[test]
fn a_hint_agrees_with_the_image_or_the_container_is_refused() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let wasm = lab.image(catalogue::hello_file());
    let layer = lab.image(catalogue::hello_wasm());
    let linux = lab.image(catalogue::busybox());
    let hinted = |image: &Archive, key: &str, value: &str| {
        let run = lab.start(image, "hint").annotation(key, value);
        output(if image.name == linux.name { run.args(["echo", "hello from linux"]) } else { run })
    };
    for (key, value) in [
        (HINT, "wasm"),
        (HINT, "auto"),
        ("run.oci.handler", "wasm"),
        ("run.oci.handler", "wasmtime"),
    ] {
        assert_ran(&hinted(&wasm, key, value), 0, "hello from wasm\n");
        assert_ran(&hinted(&layer, key, value), 0, "hello from wasm\n");
    }
    for value in ["linux", "auto"] {
        assert_ran(&hinted(&linux, HINT, value), 0, "hello from linux\n");
    }
    assert_refused(&hinted(&linux, HINT, "wasm"), [HINT, "/bin/echo", "ELF"]);
    assert_refused(&hinted(&wasm, HINT, "linux"), [HINT, "/app.wasm", "remove the hint"]);
    assert_refused(&hinted(&layer, HINT, "linux"), [HINT, "wasm layer", "remove the hint"]);
    assert_refused(&hinted(&wasm, HINT, "Wasm"), [HINT, "expected wasm, linux or auto"]);
    assert_refused(
        &hinted(&wasm, "run.oci.handler", "wasmedge"),
        ["run.oci.handler", "not built in"],
    );
}

#[test]
fn an_annotation_says_wasm_and_which_engine_it_needs() {
    on_each(&[Release::V1_7, Release::V2_1], |lab| {
        let image = |name: &str, key: &str, value: &str| {
            let image = catalogue::file_image(name, hello());
            lab.build(image.config_annotation(key, value))
        };
        let met = image("engine-met", REQUIRED, "wasmtime >= 16.0.0");
        let id = lab.unique("met");
        assert_ran(&output(lab.run(&met, &id)), 0, "hello from wasm\n");
        let line = decision(lab, &id);
        assert!(line.contains("decided by image annotation"), "{line}");

        let newer = image("engine-newer", REQUIRED, "wasmtime >= 999.0.0");
        assert_refused(&output(lab.start(&newer, "newer")), [REQUIRED, "999.0.0"]);
        let other = image("engine-other", REQUIRED, "wasmedge >= 0.13");
        assert_refused(&output(lab.start(&other, "other")), [REQUIRED, "wasmedge"]);
        let named = image("engine-named", ENGINE, "wasmer");
        assert_refused(&output(lab.start(&named, "named")), [ENGINE, "wasmer"]);
        let unknown = image("key-unknown", "com.wasm.runtime.requierd", "wasmtime");
        assert_refused(&output(lab.start(&unknown, "unknown")), ["com.wasm.runtime.requierd"]);
        let manifest = catalogue::file_image("engine-manifest", hello());
        let manifest = lab.build(manifest.annotation(REQUIRED, "wasmtime >= 999.0.0"));
        assert_refused(&output(lab.start(&manifest, "manifest")), [REQUIRED, "999.0.0"]);
    });
}

#[test]
fn without_auto_detect_only_a_hint_chooses_wasm() {
    on_each(&[Release::V1_7, Release::V2_1], |lab| {
        let wasm = lab.image(catalogue::hello_file());
        let linux = lab.image(catalogue::busybox());
        let off = options(lab, "off.toml", "auto_detect = false\n");
        let on = options(lab, "on.toml", "auto_detect = true\n");
        let run = |flags: &[String; 2]| lab.start(&wasm, "auto").flags(flags.clone());
        assert_ran(&output(run(&on)), 0, "hello from wasm\n");
        assert_refused(&output(run(&off)), ["auto_detect is off", HINT]);
        assert_ran(&output(run(&off).annotation(HINT, "wasm")), 0, "hello from wasm\n");
        assert_ran(&output(run(&off).annotation(HINT, "auto")), 0, "hello from wasm\n");
        let echo = lab.start(&linux, "auto").flags(off.clone()).args(["echo", "hello from linux"]);
        assert_ran(&output(echo), 0, "hello from linux\n");
    });
}

#[test]
fn options_that_cannot_be_honoured_are_refused() {
    let Some(lab) = lab(Release::V2_1) else { return };
    let wasm = lab.image(catalogue::hello_wasm());
    let run = |name: &str, table: &str| {
        output(lab.start(&wasm, "options").flags(options(&lab, name, table)))
    };
    let documented =
        "wasm_runtime = \"wasmtime\"\ncontainer_runtime = \"runc\"\nauto_detect = true\n";
    assert_ran(&run("documented.toml", documented), 0, "hello from wasm\n");
    for (table, words) in [
        ("wasm_runtime = \"wasmedge\"", ["wasm_runtime", "wasmedge"]),
        ("container_runtime = \"kata\"", ["container_runtime", "kata"]),
        ("auto_detect = \"yes\"", ["auto_detect", "true or false"]),
        ("auto_detct = true", ["auto_detct", "known are"]),
        ("{", ["runtime options", "options"]),
    ] {
        assert_refused(&run("refused.toml", table), words);
    }
}

#[test]
fn the_bytes_decide_whatever_the_name() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let shell = Image::new("docker.io/hybrid/wasm-shell:1")
        .layer(Layer::tar_gzip(Files::new().executable("/bin/sh", hello())))
        .command(["/bin/sh", "-c", "echo no shell"]);
    let shell = lab.build(shell);
    assert_ran(&output(lab.start(&shell, "sh")), 0, "hello from wasm\narg /bin/sh\narg -c\n");

    let native = lab.build(catalogue::file_image("elf-named-wasm", busybox()));
    let words = ["/app.wasm", "named as wasm", "ELF"];
    assert_refused(&output(lab.start(&native, "elf")), words);
    let script = lab.build(catalogue::file_image("script-named-wasm", *b"#!/bin/sh\necho hi\n"));
    assert_refused(&output(lab.start(&script, "script")), ["/app.wasm", "script"]);
    let text = lab.build(catalogue::file_image("text-named-wasm", *b"(module)"));
    assert_refused(&output(lab.start(&text, "text")), ["/app.wasm", "text form"]);
    lab.still_runs();
}

#[test]
fn an_annotation_that_contradicts_the_bytes_is_refused() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let image = |name: &str, value: &str| {
        let image = catalogue::file_image(name, hello());
        lab.build(image.annotation("com.wasm.component.model", value))
    };
    let module = image("module-said", "false");
    assert_ran(&output(lab.start(&module, "module")), 0, "hello from wasm\n");
    let component = image("component-said", "true");
    let words = ["com.wasm.component.model", "a core wasm module"];
    assert_refused(&output(lab.start(&component, "component")), words);

    let linux = must(catalogue::busybox_image("wasm-said"));
    let linux = lab.build(linux.annotation(REQUIRED, "wasmtime >= 16.0.0"));
    assert_refused(&output(lab.start(&linux, "linux")), [REQUIRED, "ELF"]);
}

/// An ELF header with the operating system that Wasmtime writes into its own native code.
fn precompiled() -> Vec<u8> {
    let mut header = vec![0; 4096];
    header[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\xc8");
    header
}

#[test]
fn native_code_that_an_image_brings_is_never_run() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let named = Image::new("docker.io/hybrid/precompiled:1")
        .layer(Layer::tar_gzip(Files::new().executable("/app.cwasm", precompiled())))
        .entrypoint(["/app.cwasm"]);
    for image in [named, catalogue::file_image("precompiled-wasm", precompiled())] {
        let image = lab.build(image);
        assert_refused(&output(lab.start(&image, "native")), ["precompiled", "ship the .wasm"]);
    }
    let layer = lab.build(catalogue::module_image("precompiled-layer", precompiled()));
    assert_refused(&output(lab.start(&layer, "native")), ["precompiled"]);
    let forced = lab.start(&layer, "native").annotation(HINT, "wasm");
    assert_refused(&output(forced), ["precompiled"]);
    lab.still_runs();
}

/// Returns the shim's line in containerd's log that says who runs a container.
fn decision(lab: &Lab, id: &str) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let log = lab.log();
        let line = log.lines().find(|line| line.contains(id) && line.contains("runs as"));
        if let Some(line) = line {
            return line.to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "no decision on {id} in the log:\n{log}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn the_decision_and_what_was_looked_at_are_logged() {
    on_each(&[Release::V1_7, Release::V2_1], |lab| {
        let table = [
            (catalogue::hello_wasm(), "runs as wasm layer sha256:", "image media type"),
            (catalogue::hello_file(), "runs as wasm file", "entrypoint file"),
            (catalogue::busybox(), "runs as linux", "entrypoint file"),
        ];
        for (image, route, strategy) in table {
            let image = lab.image(image);
            let id = lab.unique("logged");
            let run = lab.run(&image, &id);
            let run = if route.ends_with("linux") { run.args(["true"]) } else { run };
            must(output(run).ok());
            let line = decision(lab, &id);
            assert!(line.contains(route), "{line}");
            assert!(line.contains(&format!("decided by {strategy}")), "{line}");
            assert!(line.contains("looked at"), "{line}");
        }
    });
}

/// Makes a container of an image without starting it.
fn created(lab: &Lab, image: &Archive) -> String {
    let id = lab.unique("created");
    let command = ["containers", "create", "--runtime", HYBRID, &image.name, &id];
    must(lab.ctr(command).and_then(Output::ok));
    id
}

/// Starts a made container, returns what it did, and removes it.
fn started(lab: &Lab, id: &str) -> Output {
    let fifos = must(lab.scratch());
    let run = lab.ctr_command().args(["tasks", "start", "--fifo-dir"]).arg(fifos).arg(id);
    let output = must(run.run());
    // What was refused has no task to remove.
    let _no_task = lab.ctr(["tasks", "rm", "--force", id]);
    must(lab.ctr(["containers", "rm", id]).and_then(Output::ok));
    output
}

/// Makes an image, then a container of it, and lets the image's name mean another image before the start.
fn retagged(lab: &Lab, name: &str, first: Image, second: Image) -> Output {
    let image = lab.build(first);
    let id = created(lab, &image);
    let other = lab.build(second);
    let tag = ["images", "tag", "--force", &other.name, &image.name];
    must(lab.ctr(tag).and_then(Output::ok));
    let output = started(lab, &id);
    assert!(!output.stdout.contains("to stdout"), "{name}: another image ran: {}", output.report());
    output
}

#[test]
fn a_name_that_means_another_image_since_the_create_never_runs_that_one() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let other = || must(guest::wat("streams"));
    let control = lab.build(catalogue::file_image("retag-control", hello()));
    assert_ran(&started(&lab, &created(&lab, &control)), 0, "hello from wasm\n");

    // The files are the container's own, whatever the name means now.
    let file = retagged(
        &lab,
        "file to file",
        catalogue::file_image("retag-file", hello()),
        catalogue::file_image("retag-file-other", other()),
    );
    assert_ran(&file, 0, "hello from wasm\n");
    let mixed = retagged(
        &lab,
        "file to layer",
        catalogue::file_image("retag-mixed", hello()),
        catalogue::module_image("retag-mixed-other", other()),
    );
    assert!(mixed.success() || !mixed.stderr.is_empty(), "{}", mixed.report());
    let layer = retagged(
        &lab,
        "layer to layer",
        catalogue::module_image("retag-layer", hello()),
        catalogue::module_image("retag-layer-other", other()),
    );
    assert!(layer.success() || !layer.stderr.is_empty(), "{}", layer.report());
}

#[test]
fn a_removed_image_matters_only_if_its_module_is_gone_with_it() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let file = lab.build(catalogue::file_image("removed-file", hello()));
    let id = created(&lab, &file);
    must(lab.remove_image(&file));
    assert_ran(&started(&lab, &id), 0, "hello from wasm\n");

    let control = lab.build(catalogue::module_image("kept-layer", must(guest::wat("exit"))));
    assert_ran(&started(&lab, &created(&lab, &control)), 0, "");
    // A module nobody else has, so that its content goes with the image.
    let alone = must(guest::text(
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (nop) (nop)))",
    ));
    let layer = lab.build(catalogue::module_image("removed-layer", alone));
    let id = created(&lab, &layer);
    must(lab.remove_image(&layer));
    assert_refused(&started(&lab, &id), ["/removed-layer.wasm"]);
}

#[test]
fn an_image_without_an_entrypoint_runs_what_the_user_names() {
    on_each(&[Release::V1_7, Release::V2_1], |lab| {
        let bare = Image::new("docker.io/hybrid/bare:1")
            .platform(catalogue::WASM_PLATFORM)
            .layer(Layer::wasm_as(hello(), media_type::WASM));
        let bare = lab.build(bare);
        let named = lab.start(&bare, "bare").args(["anything", "else"]);
        assert_ran(&output(named), 0, "hello from wasm\narg anything\narg else\n");
        // A program expects a name of its own.
        let unnamed = output(lab.start(&bare, "bare"));
        assert_ran(&unnamed, 0, "hello from wasm\narg main.wasm\nenv ");
    });
}
