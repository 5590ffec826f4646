//! Documents as they are found in registries, and hostile ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::annotations::Wanted;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const WASM: &str = media_type::WASM_CONTENT_LAYER;

fn blob(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content.as_bytes()), "size": content.len()})
}

fn listed(os: &str, architecture: &str) -> Value {
    let mut entry = blob(MANIFEST, &format!("{os}/{architecture}"));
    entry["platform"] = json!({"os": os, "architecture": architecture});
    entry
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

fn manifest(layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": blob(CONFIG, "config"), "layers": layers})
}

fn read(document: &Value, media_type: &str) -> Result<Document, ManifestError> {
    parse(document.to_string().as_bytes(), media_type, 0)
}

fn read_index(document: &Value) -> Vec<Candidate> {
    match read(document, INDEX).unwrap() {
        Document::Index(candidates) => candidates,
        Document::Manifest(_) => panic!("expected an index"),
    }
}

fn read_manifest(document: &Value) -> Manifest {
    match read(document, MANIFEST).unwrap() {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => panic!("expected a manifest"),
    }
}

fn facts_of(document: &Value, config: &Config) -> Result<ImageFacts, ManifestError> {
    facts("example/app:1", Digest::of(b"manifest"), None, &read_manifest(document), config)
}

fn platforms(candidates: &[&Candidate]) -> Vec<String> {
    candidates
        .iter()
        .map(|candidate| candidate.platform.as_ref().map_or("-".into(), ToString::to_string))
        .collect()
}

#[test]
fn an_index_lists_its_images_without_attestations() {
    let candidates = read_index(&index(&[
        listed("linux", "amd64"),
        listed("unknown", "unknown"),
        listed("wasip1", "wasm"),
        blob("application/vnd.cncf.artefact+json", "other"),
    ]));
    let all: Vec<&Candidate> = candidates.iter().collect();
    assert_eq!(platforms(&all), ["linux/amd64", "wasip1/wasm"]);
    assert_eq!(candidates[1].digest, Digest::of(b"wasip1/wasm"));
    assert!(!candidates[1].is_index());
}

#[test]
fn which_candidates_are_worth_reading() {
    let mixed = ["linux/amd64", "linux/arm64", "wasip1/wasm", "wasi/wasm32", "windows/amd64"];
    let table: [(&[&str], Wanted, &[&str]); 9] = [
        (&mixed, Wanted::Auto, &["linux/amd64", "wasip1/wasm", "wasi/wasm32"]),
        (&mixed, Wanted::Wasm, &["wasip1/wasm", "wasi/wasm32"]),
        (&mixed, Wanted::Linux, &["linux/amd64"]),
        (&["linux/amd64"], Wanted::Wasm, &["linux/amd64"]),
        (&["wasi/wasm"], Wanted::Linux, &["wasi/wasm"]),
        (&["linux/arm64", "linux/s390x"], Wanted::Linux, &["linux/arm64", "linux/s390x"]),
        (&["windows/amd64"], Wanted::Auto, &["windows/amd64"]),
        (&["-", "wasi/wasm"], Wanted::Wasm, &["wasi/wasm", "-"]),
        (&[], Wanted::Auto, &[]),
    ];
    for (names, wanted, expected) in table {
        let manifests: Vec<Value> = names
            .iter()
            .map(|name| match name.split_once('/') {
                Some((os, architecture)) => listed(os, architecture),
                None => blob(MANIFEST, name),
            })
            .collect();
        let candidates = read_index(&index(&manifests));
        assert_eq!(
            platforms(&choose(&candidates, wanted, "amd64")),
            expected,
            "{names:?} {wanted:?}"
        );
    }
}

#[test]
fn an_index_may_stand_below_one_index_but_not_below_two() {
    let inner = index(&[listed("wasi", "wasm")]).to_string();
    assert!(read_index(&index(&[blob(INDEX, "inner")]))[0].is_index());
    assert!(parse(inner.as_bytes(), INDEX, 1).is_ok());
    assert_eq!(parse(inner.as_bytes(), INDEX, 2), Err(ManifestError::TooDeep));
    let leaf = manifest(&[]).to_string();
    assert!(parse(leaf.as_bytes(), MANIFEST, 2).is_ok());
}

#[test]
fn a_mixed_image_gives_its_facts() {
    let mut module = blob(WASM, "module");
    module["annotations"] =
        json!({TITLE: "app.wasm", "com.wasm.capabilities.filesystem": "read:/data"});
    let mut document =
        manifest(&[blob(TAR, "files"), module, blob("application/vnd.in-toto+json", "x")]);
    document["annotations"] = json!({"com.wasm.architecture": "wasm32-wasi", "other": ""});
    document["config"]["annotations"] = json!({"com.wasm.runtime.required": "wasmtime >= 16.0.0"});
    let config = json!({
        "architecture": "wasm", "os": "wasip1", "rootfs": {"type": "layers", "diff_ids": []},
        "config": {"Cmd": ["/app.wasm"], "Entrypoint": null, "Labels": {"com.wasm.version": "1"}, "Env": ["A=1"]},
    });
    let config = parse_config(config.to_string().as_bytes(), CONFIG).unwrap();
    let facts = facts_of(&document, &config).unwrap();
    assert_eq!(facts.platform.as_ref().unwrap().to_string(), "wasip1/wasm");
    assert_eq!((facts.tar_layers, facts.wasm_layers.len()), (1, 1));
    let layer = &facts.wasm_layers[0];
    assert_eq!((layer.digest, layer.size), (Digest::of(b"module"), 6));
    assert_eq!(layer.title.as_deref(), Some("app.wasm"));
    assert_eq!(layer.annotations.iter().next().unwrap().1.origin, Origin::Layer(1));
    assert_eq!(facts.argv0(), Some("/app.wasm"));
    let keys: Vec<&str> = facts.annotations.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["com.wasm.architecture", "com.wasm.runtime.required", "com.wasm.version"]);
}

#[test]
fn wasm_wins_where_index_and_config_differ_on_the_platform() {
    let stated = |os: &str, architecture: &str| Platform::stated(os, architecture, None);
    let (wasm, linux) = (stated("wasi", "wasm"), stated("linux", "amd64"));
    let table = [
        (None, None, None),
        (wasm.clone(), None, wasm.clone()),
        (None, wasm.clone(), wasm.clone()),
        (wasm.clone(), linux.clone(), wasm.clone()),
        (linux.clone(), wasm.clone(), wasm.clone()),
        (linux.clone(), linux.clone(), linux.clone()),
    ];
    let document = read_manifest(&manifest(&[]));
    for (listed, platform, expected) in table {
        let config = Config { platform, ..Config::default() };
        let facts = facts("x", Digest::of(b""), listed, &document, &config).unwrap();
        assert_eq!(facts.platform, expected);
    }
}

#[test]
fn configs_of_artefacts_read_as_far_as_they_go() {
    let wasm = json!({"architecture": "wasm", "os": "wasip2", "layerDigests": ["sha256:0"], "component": {}});
    let config =
        parse_config(wasm.to_string().as_bytes(), "application/vnd.wasm.config.v0+json").unwrap();
    assert_eq!(config.platform.unwrap().to_string(), "wasip2/wasm");
    assert_eq!(parse_config(b"{}", CONFIG).unwrap(), Config::default());
    assert_eq!(
        parse_config(b"not json", "application/vnd.oci.empty.v1+json").unwrap(),
        Config::default()
    );
    assert!(parse_config(b"not json", CONFIG).is_err());
    let mut document = manifest(&[]);
    assert!(!read_manifest(&document).has_no_config());
    document["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    assert!(read_manifest(&document).has_no_config());
}

#[test]
fn a_title_that_is_no_file_name_is_none() {
    for title in ["", "a\0b", "a\nb", &"a".repeat(256)] {
        let mut module = blob(WASM, "module");
        module["annotations"] = json!({TITLE: title});
        let facts = facts_of(&manifest(&[module]), &Config::default()).unwrap();
        assert_eq!(facts.wasm_layers[0].title, None, "{title:?}");
    }
}

#[test]
fn each_hostile_document_is_refused_and_its_plain_twin_is_not() {
    let plain = manifest(&[blob(WASM, "module")]);
    assert!(facts_of(&plain, &Config::default()).is_ok());
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut document = plain.clone();
        change(&mut document);
        read(&document, MANIFEST).unwrap_err().to_string()
    };
    let table: [(String, &str); 11] = [
        (changed(&|d| d["manifests"] = json!([])), "at once"),
        (changed(&|d| d["mediaType"] = json!(INDEX)), "calls itself"),
        (changed(&|d| d["schemaVersion"] = json!(1)), "schema version 1; expected 2"),
        (changed(&|d| d["schemaVersion"] = json!(null)), "schema version none"),
        (changed(&|d| d["layers"] = json!({})), "cannot be read"),
        (changed(&|d| d["config"] = json!("x")), "cannot be read"),
        (
            changed(&|d| d["config"]["digest"] = json!(format!("sha512:{}", "0".repeat(128)))),
            "digest",
        ),
        (changed(&|d| d["config"]["digest"] = json!("sha256:../../etc")), "cannot be read"),
        (changed(&|d| d["config"]["size"] = json!(MAX_DOCUMENT + 1)), "at most 4194304"),
        (changed(&|d| d["layers"] = json!(vec![blob(TAR, "x"); MAX_LAYERS + 1])), "129 layers"),
        (
            changed(&|d| d["artifactType"] = json!("application/vnd.hybrid.manifest.v1+json")),
            "hybrid",
        ),
    ];
    for (refused, part) in table {
        assert!(refused.contains(part), "{part}: {refused}");
        assert!(!refused.contains('\n') && refused.len() < 600, "{refused}");
    }
}

#[test]
fn what_is_no_image_is_refused_by_its_type() {
    let plain = manifest(&[]);
    for media_type in
        ["", "text/html", CONFIG, WASM, "application/vnd.oci.artifact.manifest.v1+json"]
    {
        let refused = read(&plain, media_type).unwrap_err();
        assert!(matches!(refused, ManifestError::NotAnImage { .. }), "{refused}");
    }
    let hybrid = read(&plain, "application/vnd.hybrid.manifest.v1+json");
    assert_eq!(hybrid, Err(ManifestError::HybridArtefact));
}

#[test]
fn sizes_and_counts_are_bounded() {
    let full = index(&vec![listed("wasi", "wasm"); MAX_MANIFESTS]);
    assert_eq!(read_index(&full).len(), MAX_MANIFESTS);
    let over = index(&vec![listed("wasi", "wasm"); MAX_MANIFESTS + 1]);
    assert!(matches!(read(&over, INDEX), Err(ManifestError::TooMany { .. })));
    let large = vec![b' '; MAX_DOCUMENT + 1];
    for media_type in [INDEX, MANIFEST] {
        assert!(matches!(parse(&large, media_type, 0), Err(ManifestError::TooLarge { .. })));
    }
    assert!(matches!(parse_config(&large, CONFIG), Err(ManifestError::TooLarge { .. })));
    let deep = vec![b'['; MAX_DOCUMENT];
    assert!(matches!(parse(&deep, INDEX, 0), Err(ManifestError::NotReadable { .. })));
    assert!(matches!(parse_config(&deep, CONFIG), Err(ManifestError::NotReadable { .. })));
}

#[test]
fn a_wasm_layer_nobody_knows_is_refused_not_skipped() {
    let document =
        manifest(&[blob(TAR, "x"), blob("application/vnd.wasm.content.layer.v2+wasm", "m")]);
    let refused = facts_of(&document, &Config::default()).unwrap_err().to_string();
    assert!(refused.starts_with("the image's layer 1 has media type"), "{refused}");
    assert!(refused.contains("application/wasm"), "{refused}");
}

#[test]
fn annotations_that_cannot_be_used_refuse_the_image() {
    let mut document = manifest(&[]);
    document["annotations"] = json!({"com.wasm.capabilties": "x"});
    assert!(matches!(facts_of(&document, &Config::default()), Err(ManifestError::Annotation(_))));
}

proptest! {
    #[test]
    fn reading_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for media_type in [INDEX, MANIFEST] {
            let _document = parse(&bytes, media_type, 0);
        }
        let _config = parse_config(&bytes, CONFIG);
    }

    #[test]
    fn reading_a_damaged_manifest_never_panics(position in 0_usize..600, byte in any::<u8>(), length in 0_usize..700) {
        let mut bytes = manifest(&[blob(WASM, "module"), blob(TAR, "files")]).to_string().into_bytes();
        let place = position % bytes.len();
        bytes[place] = byte;
        bytes.truncate(length);
        if let Ok(Document::Manifest(manifest)) = parse(&bytes, MANIFEST, 0) {
            let _facts = facts("x", Digest::of(b""), None, &manifest, &Config::default());
        }
    }
}
