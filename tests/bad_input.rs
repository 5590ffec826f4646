//! What is broken, missing or hostile on the way in: each gives one clear error, leaves nothing, and the next good run works.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_shim::protos::ttrpc::Code;
use end_to_end::lab::{Lab, PATIENCE, assert_ran, assert_refused, lab, must};
use end_to_end::shim::{Denied, HandBundle, Server};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use testkit::command::Output;
use testkit::containerd::Release;
use testkit::{catalogue, guest};

/// Checks that a create was denied with these words, for a reason that lies in the request.
#[track_caller]
fn assert_denied(answer: Result<u32, Denied>, what: &str, words: &[&str]) {
    let denied = match answer {
        Ok(pid) => panic!("{what}: not denied, its pid is {pid}"),
        Err(denied) => denied,
    };
    for word in words {
        assert!(denied.message.contains(word), "{what}: no {word:?} in {denied:?}");
    }
    let unclear = [Code::UNAVAILABLE, Code::DEADLINE_EXCEEDED, Code::CANCELLED];
    assert!(!unclear.contains(&denied.code), "{what}: no clear error: {denied:?}");
    assert!(!denied.message.contains("panicked"), "{what}: {denied:?}");
}

#[test]
fn a_config_that_is_no_spec_is_denied_by_name() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let bundle = must(HandBundle::wasm(&lab, "exit", &["7"]));
    let shim = must(bundle.serve());
    let without = |key: &str| {
        let mut spec = bundle.spec();
        spec.as_object_mut().expect("an object").remove(key);
        spec.to_string()
    };
    let no_words = {
        let mut spec = bundle.spec();
        spec["process"]["args"] = serde_json::json!([]);
        spec.to_string()
    };
    let deep = "[".repeat(200_000);
    let long = format!("{{\"ociVersion\": \"{}\"}}", "1".repeat(100 << 20));
    for (what, text, words) in [
        ("an open brace", "{", &["config.json"][..]),
        ("a list", "[]", &["config.json"]),
        ("null", "null", &["config.json"]),
        ("nothing", "", &["config.json"]),
        ("no text", "\0\u{1}", &["config.json"]),
        ("deep nesting", &deep, &["config.json"]),
        ("100 MiB", &long, &["config.json", "bytes"]),
        ("no process", &without("process"), &["config.json", "process"]),
        ("no root", &without("root"), &["config.json", "root"]),
        ("no words", &no_words, &[]),
    ] {
        fs::write(bundle.config(), text).expect("written");
        assert_denied(shim.create(), what, words);
    }
    fs::remove_file(bundle.config()).expect("removed");
    assert_denied(shim.create(), "no file", &["config.json"]);
    fs::create_dir(bundle.config()).expect("made");
    assert_denied(shim.create(), "a folder", &["config.json"]);
    fs::remove_dir(bundle.config()).expect("removed");
    // The same bundle and the same shim, with the good text.
    must(bundle.write_spec());
    assert_eq!(shim.run(), Ok(7));
    must(shim.shutdown());
    quiet.nothing_left();
}

#[test]
fn a_config_that_never_ends_does_not_stop_the_shim() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let bundle = must(HandBundle::wasm(&lab, "exit", &["7"]));
    let shim = must(bundle.serve());
    fs::remove_file(bundle.config()).expect("removed");
    mkfifo(&bundle.config(), Mode::S_IRUSR).expect("made");
    let asked = Instant::now();
    assert_denied(shim.create(), "a fifo", &["config.json"]);
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    fs::remove_file(bundle.config()).expect("removed");
    must(bundle.write_spec());
    assert_eq!(shim.run(), Ok(7));
    must(shim.shutdown());
    quiet.nothing_left();
}

#[test]
fn a_bundle_that_is_gone_is_denied() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let bundle = must(HandBundle::wasm(&lab, "exit", &["7"]));
    let shim = must(bundle.serve());
    let mut request = shim.request();
    let gone = bundle.folder().join("gone");
    request.bundle = gone.display().to_string();
    assert_denied(shim.create_by(&request), "a bundle that is gone", &["config.json", "gone"]);
    // Whatever the server's working directory is, it is not meant.
    for path in ["", "."] {
        path.clone_into(&mut request.bundle);
        assert_denied(shim.create_by(&request), "a bundle that is no absolute path", &["bundle"]);
    }
    let started = must(bundle.shim("gone").arg("-bundle").arg(&gone).arg("start").run());
    assert!(!started.success(), "{}", started.report());
    assert!(started.stderr.contains("gone"), "{}", started.report());
    assert_eq!(shim.run(), Ok(7));
    must(shim.shutdown());
    quiet.nothing_left();
}

#[test]
fn a_containerd_that_does_not_answer_is_an_error_and_never_a_guess() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    for bundle in both_kinds(&lab) {
        let nobody = bundle.folder().join("nobody.sock");
        let asking = bundle.clone().asking(&nobody);
        let shim = must(asking.serve());
        let denied = shim.create().expect_err("nobody can tell what its image is");
        assert_eq!(denied.code, Code::UNAVAILABLE, "{denied:?}");
        assert!(denied.message.contains("nobody.sock"), "{denied:?}");
        must(shim.shutdown());
        let shim = must(bundle.serve());
        assert_eq!(shim.run(), Ok(7), "{}", bundle.id());
        must(shim.shutdown());
    }
    quiet.nothing_left();
}

#[test]
fn an_id_that_is_no_name_is_denied_and_makes_nothing() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let bundle = must(HandBundle::wasm(&lab, "exit", &["7"]));
    let shim = must(bundle.serve());
    let long = "a".repeat(300);
    for id in ["", ".", "..", "../x", "a/b", "/", "a b", "a\nb", long.as_str()] {
        let mut request = shim.request();
        id.clone_into(&mut request.id);
        assert_denied(shim.create_by(&request), id, &["id"]);
        let denied = shim.create_by(&request).expect_err("denied");
        assert_eq!(denied.code, Code::INVALID_ARGUMENT, "{denied:?}");
        assert!(denied.message.len() < 500, "{denied:?}");
    }
    let unnamed = must(bundle.shim("").arg("start").run());
    assert!(!unnamed.success() && unnamed.stderr.contains("id"), "{}", unnamed.report());
    assert_eq!(shim.run(), Ok(7));
    must(shim.shutdown());
    quiet.nothing_left();
}

#[test]
fn a_stream_that_is_missing_or_no_fifo_is_denied() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    for bundle in [
        must(HandBundle::wasm(&lab, "exit", &["7"])),
        must(HandBundle::linux(&lab, &["/bin/sh", "-c", "exit 7"])),
    ] {
        let shim = must(bundle.serve());
        let missing = bundle.folder().join("missing").display().to_string();
        let plain = bundle.folder().join("plain");
        fs::write(&plain, "").expect("written");
        let plain = plain.display().to_string();
        for path in [missing, plain] {
            let mut request = shim.request();
            request.stdout.clone_from(&path);
            assert_denied(shim.create_by(&request), "stdout", &[&path]);
            let mut request = shim.request();
            request.stderr.clone_from(&path);
            assert_denied(shim.create_by(&request), "stderr", &[&path]);
            let mut request = shim.request();
            request.stdin.clone_from(&path);
            assert_denied(shim.create_by(&request), "stdin", &[&path]);
        }
        // With real FIFOs it runs, and what it says arrives.
        let fifo = bundle.folder().join("stderr");
        mkfifo(&fifo, Mode::S_IRWXU).expect("made");
        let mut request = shim.request();
        request.stderr = fifo.display().to_string();
        shim.create_by(&request).expect("created");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(fifo).and_then(|mut fifo| fifo.read_to_string(&mut text)).map(|_| text)
        });
        shim.start().expect("started");
        assert_eq!(shim.wait(), Ok(7));
        shim.delete().expect("deleted");
        assert_eq!(reader.join().expect("no panic").expect("read"), "");
        must(shim.shutdown());
    }
    quiet.nothing_left();
}

/// A root filesystem with `/app.wasm` still to be made, and where to make it.
fn rootfs(lab: &Lab, name: &str) -> (PathBuf, PathBuf) {
    let folder = must(lab.folder(&lab.unique(name)));
    let module = folder.join("app.wasm");
    (folder, module)
}

/// Runs `/app.wasm` of a folder through containerd.
fn run_app(lab: &Lab, folder: &Path, args: &[&str]) -> Output {
    let words = ["/app.wasm"].iter().chain(args).copied();
    must(lab.start_in(folder, &lab.unique("app")).args(words).output())
}

#[test]
fn what_is_no_module_is_refused() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let (folder, module) = rootfs(&lab, "no-module");
    let checked = |what: &str, make: &dyn Fn(&Path), words: &[&str]| {
        make(&module);
        let output = run_app(&lab, &folder, &[]);
        assert_refused(&output, words.iter().copied());
        assert!(output.took < Duration::from_secs(5), "{what}: {}", output.report());
        let removed =
            if module.is_dir() { fs::remove_dir(&module) } else { fs::remove_file(&module) };
        removed.expect("removed");
    };
    let refused = ["/app.wasm"];
    checked("a folder", &|path| fs::create_dir(path).expect("made"), &refused);
    checked("a fifo", &|path| mkfifo(path, Mode::S_IRWXU).expect("made"), &refused);
    checked("an empty file", &|path| fs::write(path, "").expect("written"), &refused);
    checked("zeros", &|path| fs::write(path, [0; 64]).expect("written"), &refused);
    checked("a dangling link", &|path| symlink("nowhere", path), &["app.wasm"]);
    checked("a link to itself", &|path| symlink("app.wasm", path), &["app.wasm"]);
    checked("a link out of the root", &|path| symlink("/../../../etc/passwd", path), &["app.wasm"]);
    checked("2 GiB of zeros", &|path| sparse(path, b""), &refused);
    checked("2 GiB after a header", &|path| sparse(path, b"\0asm\x01\0\0\0"), &refused);
    let elf = || fs::read("/usr/bin/busybox").expect("busybox-static is installed");
    checked("an ELF file", &|path| fs::write(path, elf()).expect("written"), &["/app.wasm", "ELF"]);
    fs::write(&module, must(guest::wat("exit"))).expect("written");
    assert_ran(&run_app(&lab, &folder, &["7"]), 7, "");
    quiet.nothing_left();
}

fn symlink(target: &str, path: &Path) {
    std::os::unix::fs::symlink(target, path).expect("linked");
}

/// Makes a file of 2 GiB that takes no space.
fn sparse(path: &Path, start: &[u8]) {
    let mut file = File::create(path).expect("made");
    file.write_all(start).expect("written");
    file.set_len(2 << 30).expect("extended");
}

#[test]
fn a_module_cut_anywhere_is_refused() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let whole = must(guest::wat("hello"));
    let (folder, module) = rootfs(&lab, "cut");
    for length in [1, 3, 4, 7, 8, 9, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&module, &whole[..length]).expect("written");
        assert_refused(&run_app(&lab, &folder, &[]), []);
    }
    fs::write(&module, &whole).expect("written");
    assert_ran(&run_app(&lab, &folder, &[]), 0, "hello from wasm\n");
    quiet.nothing_left();
}

#[test]
fn a_cut_layer_is_refused_like_a_cut_file() {
    let Some(lab) = lab(Release::V2_1) else { return };
    let quiet = lab.quiet();
    let mut whole = must(guest::wat("exit"));
    let control = lab.build(catalogue::module_image("whole-layer", whole.clone()));
    whole.truncate(whole.len() - 5);
    let cut = lab.build(catalogue::module_image("cut-layer", whole));
    assert_refused(&must(lab.start(&cut, "cut").output()), ["not valid"]);
    let empty = lab.build(catalogue::module_image("empty-layer", *b""));
    assert_refused(&must(lab.start(&empty, "empty").output()), ["empty"]);
    let noise = lab.build(catalogue::module_image("noise-layer", *b"this is no module at all"));
    assert_refused(&must(lab.start(&noise, "noise").output()), ["WebAssembly"]);
    let run = lab.start(&control, "whole").args(["/x", "7"]);
    assert_ran(&must(run.output()), 7, "");
    quiet.nothing_left();
}

#[test]
fn a_flipped_bit_never_does_more_than_fail() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let whole = must(guest::wat("hello"));
    let (folder, module) = rootfs(&lab, "flipped");
    let mut refused = 0;
    for step in 0..24 {
        let mut flipped = whole.clone();
        let at = step * whole.len() / 24;
        flipped[at] ^= 1 << (step % 8);
        fs::write(&module, &flipped).expect("written");
        let output = run_app(&lab, &folder, &[]);
        // A flipped letter still is a module, which may print nonsense or trap.
        if output.status == Some(1) {
            assert_refused(&output, []);
            assert!(!output.stderr.is_empty(), "bit of byte {at}: {}", output.report());
            refused += 1;
        } else {
            assert!(matches!(output.status, Some(0 | 134)), "byte {at}: {}", output.report());
        }
    }
    assert!(refused > 2, "only {refused} were refused");
    fs::write(&module, &whole).expect("written");
    assert_ran(&run_app(&lab, &folder, &[]), 0, "hello from wasm\n");
    quiet.nothing_left();
}

#[test]
fn a_module_that_cannot_be_linked_is_refused_by_what_it_lacks() {
    let Some(lab) = lab(Release::V2_1) else { return };
    let quiet = lab.quiet();
    for (guest, words) in
        [("unknown-import", ["nowhere", "nothing"]), ("no-start", ["_start", "answer"])]
    {
        let image = lab.image(catalogue::guest_image(guest));
        assert_refused(&must(lab.start(&image, guest).output()), words);
    }
    lab.still_runs();
    quiet.nothing_left();
}

#[test]
fn a_program_that_is_not_there_is_refused_by_name() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let busybox = lab.image(catalogue::busybox());
    let words =
        |words: &[&str]| must(lab.start(&busybox, "words").args(words.iter().copied()).output());
    assert_refused(&words(&["/bin/nowhere"]), ["/bin/nowhere"]);
    assert_refused(&words(&["nowhere"]), ["nowhere", "not found"]);
    assert_refused(&words(&["/etc/passwd"]), ["/etc/passwd"]);
    assert_refused(&words(&["/nowhere.wasm"]), ["/nowhere.wasm"]);
    let lost = lab.start(&busybox, "lost").flags(["--cwd", "/etc/passwd"]).args(["true"]);
    assert_refused(&must(lost.output()), ["/etc/passwd"]);
    assert_ran(&words(&["/bin/echo", "here"]), 0, "here\n");
    quiet.nothing_left();
}

/// A small file system of its own, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(lab: &Lab, bytes: u32) -> Self {
        let folder = must(lab.folder(&lab.unique("small")));
        let size = format!("size={bytes}");
        let flags = MsFlags::empty();
        mount(Some("small"), &folder, Some("tmpfs"), flags, Some(size.as_str())).expect("mounted");
        Self(folder)
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("made");
        for size in [4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("unmounting {}: {error}", self.0.display());
        }
    }
}

fn both_kinds(lab: &Arc<Lab>) -> [HandBundle; 2] {
    [
        must(HandBundle::wasm(lab, "exit", &["7"])),
        must(HandBundle::linux(lab, &["/bin/sh", "-c", "exit 7"])),
    ]
}

#[test]
fn a_full_disk_under_the_bundle_is_an_error_and_nothing_is_left() {
    let Some(lab) = lab(Release::V1_7) else { return };
    for bundle in both_kinds(&lab) {
        let quiet = lab.quiet();
        let disk = Small::new(&lab, 8 << 20);
        let bundle = must(bundle.moved_to(&disk.0));
        let filler = disk.fill();
        let started = must(bundle.start());
        assert!(!started.success(), "{}", started.report());
        assert!(started.stderr.contains("No space left"), "{}", started.report());
        must(eventually_no_server(&bundle));

        fs::remove_file(&filler).expect("removed");
        let shim = must(bundle.serve());
        let filler = disk.fill();
        assert_denied(shim.create(), "a full disk", &["No space left"]);
        fs::remove_file(&filler).expect("removed");
        assert_eq!(shim.run(), Ok(7), "{}", bundle.id());
        must(shim.shutdown());
        drop(disk);
        quiet.nothing_left();
    }
}

fn eventually_no_server(bundle: &HandBundle) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bundle.servers().is_empty() {
        anyhow::ensure!(Instant::now() < deadline, "{:?} lives on", bundle.servers());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_bundle_that_turned_read_only_is_an_error_and_delete_still_works() {
    let Some(lab) = lab(Release::V1_7) else { return };
    for bundle in both_kinds(&lab) {
        let quiet = lab.quiet();
        let disk = Small::new(&lab, 8 << 20);
        let bundle = must(bundle.moved_to(&disk.0));
        let shim = must(bundle.serve());
        let remount = |flags: MsFlags| {
            let flags = flags | MsFlags::MS_REMOUNT;
            mount(None::<&str>, &disk.0, None::<&str>, flags, None::<&str>).expect("remounted");
        };
        remount(MsFlags::MS_RDONLY);
        assert_denied(shim.create(), "a read-only bundle", &["Read-only file system"]);
        remount(MsFlags::empty());
        shim.create().expect("created");
        remount(MsFlags::MS_RDONLY);
        // A Linux container is started over a socket in the bundle, a wasm one is not.
        let expected = match shim.start() {
            Ok(_) => shim.wait(),
            refused => {
                assert_denied(refused, "a read-only bundle", &["Read-only file system"]);
                // What never ran has no end of its own, as with runc's shim.
                Ok(0)
            }
        };
        // Deleting may not need to write what it cannot.
        let deleted = shim.delete();
        remount(MsFlags::empty());
        assert_eq!(deleted.map(|deleted| deleted.exit_status), expected);
        must(shim.shutdown());
        drop(disk);
        quiet.nothing_left();
    }
}

/// Sends bytes to the shim's socket and waits until it closes the connection.
fn closes_after(shim: &Server, bytes: &[u8]) {
    let mut socket = UnixStream::connect(shim.socket()).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    // The shim may close before it has read everything.
    let _closed_early = socket.write_all(bytes);
    let _half_closed = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection stays open: {error}"),
    }
}

#[test]
fn garbage_on_the_socket_ends_that_connection_alone() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let bundle = must(HandBundle::wasm(&lab, "exit", &["7"]));
    let shim = must(bundle.serve());
    let endless = [&[0xff; 4][..], &[0, 0, 0, 1, 1, 0], &[0x41; 1 << 20]].concat();
    let empty_body = [0, 0, 0, 0, 0, 0, 0, 1, 1, 0];
    for bytes in [b"GET / HTTP/1.0\r\n\r\n".as_slice(), &[0; 10], &endless, &empty_body, b"x"] {
        closes_after(&shim, bytes);
    }
    assert_eq!(shim.run(), Ok(7));
    must(shim.shutdown());
    quiet.nothing_left();
}

#[test]
fn broken_runtime_options_are_refused_through_containerd() {
    let Some(lab) = lab(Release::V1_7) else { return };
    let quiet = lab.quiet();
    let image = lab.image(catalogue::hello_wasm());
    let path = must(lab.scratch()).join(lab.unique("options"));
    let run = || {
        lab.start(&image, "options").flags(["--runtime-config-path", &path.display().to_string()])
    };
    assert_refused(&must(run().output()), [path.display().to_string().as_str()]);
    for text in [b"{".as_slice(), b"auto_detect = ", b"\xff\xfe", &[b'['; 50_000]] {
        fs::write(&path, text).expect("written");
        assert_refused(&must(run().output()), ["options"]);
    }
    fs::write(&path, "auto_detect = true\n").expect("written");
    assert_ran(&must(run().output()), 0, "hello from wasm\n");
    quiet.nothing_left();
}

/// A container of each kind that sleeps, and a process that can be executed in it, which ends with 7.
fn sleepers(lab: &Arc<Lab>) -> [(HandBundle, Value); 2] {
    let process = |args: &[&str]| json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    let wasm = must(HandBundle::wasm(lab, "sleeper", &[]));
    fs::write(wasm.rootfs().join("exit.wasm"), must(guest::wat("exit"))).expect("written");
    let linux = must(HandBundle::linux(lab, &["/bin/sleep", "1000"]));
    [(wasm, process(&["/exit.wasm", "7"])), (linux, process(&["/bin/sh", "-c", "exit 7"]))]
}

/// Executes a process that ends with 7.
#[track_caller]
fn executes(shim: &Server, exec: &str, good: &Value) {
    let executed = shim.init().exec(exec, good).expect("registered");
    executed.start().expect("started");
    assert_eq!(executed.wait(), Ok(7));
    executed.delete().expect("deleted");
}

#[test]
fn what_is_no_process_is_not_executed_and_the_container_lives() {
    let Some(lab) = lab(Release::V1_7) else { return };
    for (bundle, good) in sleepers(&lab) {
        let quiet = lab.quiet();
        let shim = must(bundle.serve());
        shim.create().expect("created");
        shim.start().expect("started");
        let deep = "[".repeat(200_000);
        for text in ["{", "[]", "null", "", "\0", "{}", "{\"args\": 7}", deep.as_str()] {
            let mut request = shim.init().exec_request("bad", &good);
            request.spec.as_mut().expect("a process").value = text.into();
            let denied = shim.init().exec_by(&request).map(drop).expect_err("registered");
            assert_eq!(denied.code, Code::INVALID_ARGUMENT, "{text:.20}: {denied:?}");
            assert!(denied.message.contains("process"), "{text:.20}: {denied:?}");
        }
        let long = "e".repeat(300);
        for id in ["", ".", "..", "../x", "a/b", "a\0b", long.as_str()] {
            let denied = shim.init().exec(id, &good).map(drop).expect_err("registered");
            assert_eq!(denied.code, Code::INVALID_ARGUMENT, "{id:?}: {denied:?}");
        }
        let mut nobody = good.clone();
        nobody["user"] = json!({"uid": 4_294_967_295_u32, "gid": 0});
        let executed = shim.init().exec("user", &nobody).expect("registered");
        let denied = executed.start().expect_err("not started");
        assert!(denied.message.contains("4294967295"), "{denied:?}");
        executed.delete().expect("deleted");
        executes(&shim, "good", &good);
        shim.kill(9).expect("killed");
        assert_eq!(shim.wait(), Ok(137));
        shim.delete().expect("deleted");
        must(shim.shutdown());
        quiet.nothing_left();
    }
}

#[test]
fn a_full_disk_neither_stops_an_exec_nor_a_delete() {
    let Some(lab) = lab(Release::V1_7) else { return };
    for (bundle, good) in sleepers(&lab) {
        let quiet = lab.quiet();
        let disk = Small::new(&lab, 8 << 20);
        let bundle = must(bundle.moved_to(&disk.0));
        let shim = must(bundle.serve());
        shim.create().expect("created");
        shim.start().expect("started");
        disk.fill();
        executes(&shim, "full", &good);
        shim.kill(9).expect("killed");
        assert_eq!(shim.wait(), Ok(137));
        shim.delete().expect("deleted");
        must(shim.shutdown());
        drop(disk);
        quiet.nothing_left();
    }
}
