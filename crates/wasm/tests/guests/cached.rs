//! What the cache of native code gives back, what it notices, and how a module runs without it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};
use wasm::cache::CacheError;
use wasm::compile::Origin;

use super::*;

#[test]
fn a_module_that_was_never_compiled_asks_for_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = folder.path().join("cache");
    let error = load_from(&cache, &Digest::of(b"never seen")).expect_err("nothing there");
    assert!(matches!(error, LoadError::NotCached(_)), "{error:?}");
    assert!(error.needs_compiling() && !error.is_refusal(), "{error:?}");
    assert!(!cache.exists(), "to look for something makes nothing");
}

#[test]
fn only_regular_files_of_reasonable_size_are_compiled() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = folder.path().join("cache");
    let digest = Digest::of(b"");
    let directory = fs::File::open(folder.path()).expect("folder opens");
    let refused = compile_file(&cache, &directory, &digest).expect_err("a folder");
    assert!(matches!(refused, CompileError::NotAFile), "{refused:?}");
    let sparse = tempfile::tempfile().expect("temporary file");
    sparse.set_len(2 << 30).expect("sparse file");
    let refused = compile_file(&cache, &sparse, &digest).expect_err("2 GiB");
    assert!(matches!(refused, CompileError::TooLarge(_)), "{refused:?}");
}

/// Compiles the plain module, and checks that it can be started and from where its code is.
fn runs(cache: &Path, kept: Kept) {
    let wasm = plain();
    let digest = Digest::of(&wasm);
    let native = compile_file(cache, &file_of(&wasm), &digest).expect("compiles");
    assert_eq!(native.origin, Origin::Compiled);
    let prepared =
        module::adopt(&mut Engines::default(), native, &digest).expect("its code is mapped");
    let guest = Guest { args: vec!["/app.wasm".into()], ..Guest::default() };
    prepared.check(&guest).expect("it can be run");
    let number = prepared.descriptors().first().expect("its file is open");
    let file = fs::read_link(format!("/proc/self/fd/{number}")).expect("descriptor");
    let in_memory = file.to_string_lossy().starts_with("/memfd:");
    assert_eq!(in_memory, kept == Kept::InMemory, "{}", file.display());
}

#[derive(Clone, Copy, PartialEq)]
enum Kept {
    InCache,
    InMemory,
}

#[test]
fn a_folder_others_can_write_is_neither_read_nor_written_and_modules_run_uncached() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let chmod = |mode| {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let digest = Digest::of(&plain());
    for mode in [0o770, 0o707, 0o777, 0o1777] {
        chmod(mode);
        let refused = load_from(folder.path(), &digest).expect_err("writable by others");
        assert!(matches!(refused, LoadError::Cache(CacheError::Untrusted { .. })), "{refused:?}");
        assert!(refused.needs_compiling() && !refused.is_refusal());
        runs(folder.path(), Kept::InMemory);
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
    }
    for mode in [0o700, 0o755] {
        chmod(mode);
        runs(folder.path(), Kept::InCache);
        load_from(folder.path(), &digest).expect("writable by its owner alone");
        fs::remove_file(&entries(folder.path())[0]).expect("entry");
    }
    chmod(0o777);
    load_from(folder.path(), &digest).expect_err("writable by others again");
}

#[test]
fn a_folder_that_cannot_be_made_or_is_none_costs_only_the_cache() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("file");
    let link = folder.path().join("link");
    fs::create_dir(folder.path().join("real")).expect("folder");
    std::os::unix::fs::symlink("real", &link).expect("link");
    for path in [file.clone(), file.join("below"), link] {
        runs(&path, Kept::InMemory);
    }
    assert_eq!(fs::read_dir(folder.path().join("real")).expect("folder").count(), 0);
    runs(&folder.path().join("real"), Kept::InCache);
}

#[test]
fn a_module_runs_without_any_cache() {
    let (wasm, asked) = (plain(), EngineSettings::default());
    let (digest, mut engines) = (Digest::of(&wasm), Engines::default());
    let native = compile::compile(&mut engines, None, &asked, &file_of(&wasm), &digest)
        .expect("compiles into memory");
    module::adopt(&mut engines, native, &digest).expect("is mapped from there");
}

#[test]
fn a_new_cache_folder_is_private() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = folder.path().join("a/b");
    runs(&cache, Kept::InCache);
    let mode = fs::metadata(&cache).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn what_is_compiled_is_found_by_whoever_asks_next() {
    let folder = tempfile::tempdir().expect("temporary folder");
    runs(folder.path(), Kept::InCache);
    let (wasm, digest) = (plain(), Digest::of(&plain()));
    let native = compile_file(folder.path(), &file_of(&wasm), &digest).expect("is there");
    assert_eq!(native.origin, Origin::Found);
    module::adopt(&mut Engines::default(), native, &digest).expect("its code is mapped");
}

/// Checks that the lab's entry counts as damaged, and that compiling repairs it.
fn notices_and_repairs(lab: &Lab, what: &str) {
    let error = lab.load().expect_err(what);
    assert!(matches!(error, LoadError::Damaged { .. }), "{what}: {error:?}");
    assert!(error.needs_compiling() && !error.is_refusal(), "{what}");
    let native = compile_file(&lab.job.cache, &file_of(&plain()), &lab.job.digest);
    assert_eq!(native.expect("compiles again").origin, Origin::Compiled, "{what}");
    lab.load().expect("repaired");
}

#[test]
fn a_damaged_entry_asks_for_compiling_and_compiling_repairs_it() {
    let lab = Lab::with(PLAIN);
    lab.load().expect("intact");
    let entry = lab.entry();
    let intact = fs::read(&entry).expect("entry");
    let middle = intact.len() / 2;
    let mut flipped = intact.clone();
    flipped[middle] ^= 1;
    for damaged in [flipped.as_slice(), &intact[..middle], &intact[..10], &[]] {
        fs::write(&entry, damaged).expect("entry is writable");
        notices_and_repairs(&lab, "damaged");
    }
    let sparse = fs::File::create(&entry).expect("entry is writable");
    sparse.set_len(1 << 40).expect("sparse file");
    let before = Instant::now();
    notices_and_repairs(&lab, "a terabyte of zeros");
    assert!(before.elapsed() < Duration::from_secs(60), "it was read to its end");
}

#[test]
fn what_is_no_file_of_ours_makes_way_for_an_entry() {
    let lab = Lab::with(PLAIN);
    let entry = lab.entry();
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("a FIFO", &|| nix::unistd::mkfifo(&entry, Mode::S_IRWXU).expect("FIFO")),
        ("a folder", &|| fs::create_dir(&entry).expect("folder")),
        ("a link", &|| std::os::unix::fs::symlink("/dev/zero", &entry).expect("link")),
        ("a socket", &|| {
            mknod(&entry, SFlag::S_IFSOCK, Mode::S_IRWXU, 0).expect("socket");
        }),
        ("writable by others", &|| {
            compile_in(&lab.job.cache, &plain()).expect("compiles");
            fs::set_permissions(&entry, fs::Permissions::from_mode(0o666)).expect("chmod");
        }),
    ];
    for (what, spoil) in spoil {
        fs::remove_file(&entry).expect("entry");
        spoil();
        notices_and_repairs(&lab, what);
    }
    fs::remove_file(&entry).expect("entry");
    fs::create_dir(&entry).expect("folder");
    fs::write(entry.join("something"), "").expect("file");
    runs(&lab.job.cache, Kept::InMemory);
    assert!(entry.join("something").exists(), "nobody knows whose that is");
}

#[test]
fn a_key_that_was_lost_is_replaced_and_every_module_compiled_anew() {
    let lab = Lab::with(PLAIN);
    let key = lab.job.cache.join("seal.key");
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("empty", &|| fs::write(&key, "").expect("key")),
        ("short", &|| fs::write(&key, [7; 31]).expect("key")),
        ("zeros", &|| fs::write(&key, [0; 32]).expect("key")),
        ("a folder", &|| {
            fs::remove_file(&key).expect("key");
            fs::create_dir(&key).expect("folder");
        }),
        ("gone", &|| fs::remove_file(&key).expect("key")),
    ];
    for (what, spoil) in spoil {
        spoil();
        notices_and_repairs(&lab, what);
        assert_eq!(fs::read(&key).expect("key").len(), 32, "{what}");
    }
}

#[test]
fn swapped_entries_are_noticed() {
    let first = Lab::with(PLAIN);
    let second = Lab::with(&list("args"));
    fs::copy(second.entry(), first.entry()).expect("swap");
    notices_and_repairs(&first, "not this module's code");
}

#[test]
fn an_entry_of_another_node_is_noticed() {
    let here = Lab::with(PLAIN);
    let elsewhere = Lab::with(PLAIN);
    assert_eq!(here.entry().file_name(), elsewhere.entry().file_name());
    fs::copy(elsewhere.entry(), here.entry()).expect("copy");
    notices_and_repairs(&here, "sealed with another key");
}

#[test]
fn a_loaded_module_names_the_descriptors_it_needs() {
    let prepared = Lab::with(&program("data", "(func (export \"_start\"))")).load().expect("loads");
    assert_eq!(prepared.descriptors().len(), 2, "the engine's and ours: {prepared:?}");
}
