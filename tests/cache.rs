//! Native code is compiled once per node and kept where only root can write: found again, shared, checked, bounded, and
//! done without where it cannot be kept.
//!
//! On real containerd daemons, each with a node file and so a cache of its own; needs root, and the network once, to
//! fetch them. That native code of an image is refused is in `detection.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::host;
use end_to_end::lab::{LAYERED, PATIENCE, assert_ran};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use testkit::command::Output;
use testkit::containerd::{Daemon, Release};
use testkit::image::Archive;
use testkit::{catalogue, guest};

/// What the log says of each start, by how its native code was had.
const COMPILED: &str = "was compiled";
const MAPPED: &str = "is mapped from the cache";
const FOUND: &str = "another shim has compiled module";
const UNCACHED: &str = "runs uncached";

/// A daemon whose shims have a cache of their own.
struct Node {
    daemon: Daemon,
    cache: PathBuf,
}

impl Node {
    /// Starts one; none, with the reason on standard error, where no daemon can run.
    fn start(release: Release) -> Result<Option<Self>> {
        Self::with(release, "")
    }

    /// As [`Node::start`], with more lines in its node file.
    fn with(release: Release, settings: &'static str) -> Result<Option<Self>> {
        if !testkit::ready() {
            return Ok(None);
        }
        let file =
            move |scratch: &Path| format!("cache = \"{}\"\n{settings}\n", below(scratch).display());
        let daemon = Daemon::options(release).node_file(file).start()?;
        let cache = below(&daemon.scratch()?);
        Ok(Some(Self { daemon, cache }))
    }

    /// Starts one with this cache, which others may use as well, and more lines in its node file.
    fn on(cache: &Path, settings: &str) -> Result<Self> {
        let text = format!("cache = \"{}\"\n{settings}\n", cache.display());
        let daemon = Daemon::options(Release::V2_1).node_file(move |_| text).start()?;
        Ok(Self { daemon, cache: cache.to_owned() })
    }

    fn image(&self, archive: Result<Archive>) -> Result<Archive> {
        let archive = archive?;
        self.daemon.import(&archive)?;
        Ok(archive)
    }

    fn run(&self, image: &Archive) -> Result<Output> {
        self.daemon.run(image, &self.daemon.unique("run")).output()
    }

    /// Runs the image to its end, which it reaches.
    fn runs(&self, image: &Archive) -> Result<()> {
        let output = self.run(image)?;
        assert_eq!(output.status, Some(0), "{}", output.report());
        Ok(())
    }

    /// Starts a container of the image that stays, and returns its process.
    fn stays(&self, image: &Archive) -> Result<(String, i32)> {
        let id = self.daemon.unique("stays");
        self.daemon.run(image, &id).detach().flags(["--null-io"]).output()?.ok()?;
        let pid = self.daemon.task_pid(&id)?;
        Ok((id, pid))
    }

    /// Waits until the log has this many lines with this text, and checks that it has no more.
    fn logs(&self, text: &str, count: usize) -> Result<()> {
        let lines = || self.daemon.log().lines().filter(|line| line.contains(text)).count();
        host::eventually(&format!("{count} times {text:?}"), PATIENCE, || Ok(lines() >= count))?;
        assert_eq!(lines(), count, "{text:?} in:\n{}", self.daemon.log_tail(60));
        Ok(())
    }

    /// The entries of the cache.
    fn entries(&self) -> Result<Vec<PathBuf>> {
        let folder = fs::read_dir(&self.cache)
            .with_context(|| format!("listing {}", self.cache.display()))?;
        let mut entries = folder.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        entries.retain(|path| path.extension().is_some_and(|end| end == "cwasm"));
        entries.sort();
        Ok(entries)
    }

    /// The entry of a module.
    fn entry(&self, module: &[u8]) -> Result<PathBuf> {
        let digest = image_digest(module);
        let found = self.entries()?.into_iter().find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&digest))
        });
        found.with_context(|| format!("no entry of {digest} in {:?}", self.entries()))
    }

    fn has(&self, module: &[u8]) -> bool {
        self.entry(module).is_ok()
    }
}

fn below(scratch: &Path) -> PathBuf {
    scratch.join("cache")
}

fn image_digest(module: &[u8]) -> String {
    image::Digest::of(module).hex()
}

/// A module whose native code takes over 400 KiB, and the image that runs it.
fn large(name: &str) -> Result<(Vec<u8>, Archive)> {
    let content = name.repeat(400 * 1024 / name.len());
    let source = format!(
        "(module (memory (export \"memory\") 16) (data (i32.const 1024) \"{content}\") \
         (func (export \"_start\")))"
    );
    let module = guest::text(&source)?;
    let archive = catalogue::keep(catalogue::module_image(name, module.clone()))?;
    Ok((module, archive))
}

#[test]
fn the_second_start_compiles_nothing() -> Result<()> {
    for release in LAYERED {
        let Some(node) = Node::start(release)? else { return Ok(()) };
        let as_layer = node.image(catalogue::hello_wasm())?;
        let as_file = node.image(catalogue::hello_file())?;
        assert_ran(&node.run(&as_layer)?, 0, "hello from wasm\n");
        node.logs(COMPILED, 1)?;
        let [entry] = &node.entries()?[..] else { panic!("{:?}", node.entries()) };
        let first = fs::metadata(entry)?;
        assert_eq!((first.uid(), first.mode() & 0o7777), (0, 0o600), "{release}");
        assert_eq!(fs::metadata(&node.cache)?.mode() & 0o7777, 0o700, "{release}");
        let content = fs::read(entry)?;
        // The same module, from a layer and as a file of an ordinary image.
        for image in [&as_layer, &as_file] {
            assert_ran(&node.run(image)?, 0, "hello from wasm\n");
        }
        node.logs(MAPPED, 2)?;
        node.logs(COMPILED, 1)?;
        assert_eq!(node.entries()?.len(), 1, "{release}");
        assert_eq!(fs::metadata(entry)?.ino(), first.ino(), "{release}: it was written again");
        assert_eq!(fs::read(entry)?, content, "{release}");
    }
    Ok(())
}

#[test]
fn what_is_not_as_it_was_stored_is_compiled_anew() -> Result<()> {
    for release in LAYERED {
        let Some(node) = Node::start(release)? else { return Ok(()) };
        let (hello, (other, run_other)) = (guest::wat("hello")?, large("other")?);
        let image = node.image(catalogue::hello_wasm())?;
        node.runs(&image)?;
        let entry = node.entry(&hello)?;
        node.runs(&node.image(Ok(run_other))?)?;
        let others = node.entry(&other)?;
        let intact = fs::read(&entry)?;
        let mut flipped = intact.clone();
        flipped[intact.len() / 2] ^= 0x10;
        // The same module, compiled by the same node for an engine with other settings.
        let metered = Node::on(&node.cache, "[limits]\nfuel = 1000000000\n")?;
        metered.runs(&metered.image(catalogue::hello_wasm())?)?;
        metered.logs(COMPILED, 1)?;
        let mut all = node.entries()?;
        all.retain(|path| *path != entry && *path != others);
        let [older] = &all[..] else { panic!("{all:?}") };
        let spoil: [(&str, &dyn Fn() -> Result<()>); 5] = [
            ("a flipped byte", &|| Ok(fs::write(&entry, &flipped)?)),
            ("a truncated file", &|| Ok(fs::write(&entry, &intact[..intact.len() / 3])?)),
            ("an empty file", &|| Ok(fs::write(&entry, [])?)),
            ("another module's entry", &|| Ok(fs::copy(&others, &entry).map(drop)?)),
            ("another engine's entry", &|| Ok(fs::rename(older, &entry)?)),
        ];
        for (number, (what, spoil)) in spoil.iter().enumerate() {
            spoil()?;
            let spoilt = fs::metadata(&entry)?.ino();
            assert_ran(&node.run(&image)?, 0, "hello from wasm\n");
            node.logs("is compiled anew: its seal is broken", number + 1)?;
            assert_ne!(fs::metadata(&entry)?.ino(), spoilt, "{release}: {what}");
            node.logs(COMPILED, number + 3)?;
        }
        assert_ran(&node.run(&image)?, 0, "hello from wasm\n");
        node.logs(MAPPED, 1)?;
    }
    Ok(())
}

#[test]
fn what_is_no_file_of_this_node_makes_way_and_a_lost_key_is_replaced() -> Result<()> {
    let Some(node) = Node::start(Release::V2_1)? else { return Ok(()) };
    let image = node.image(catalogue::hello_wasm())?;
    node.runs(&image)?;
    let entry = node.entry(&guest::wat("hello")?)?;
    let key = node.cache.join("seal.key");
    let spoil: [&dyn Fn() -> Result<()>; 4] = [
        &|| {
            fs::remove_file(&entry)?;
            Ok(nix::unistd::mkfifo(&entry, nix::sys::stat::Mode::S_IRWXU)?)
        },
        &|| {
            fs::remove_file(&entry)?;
            Ok(fs::create_dir(&entry)?)
        },
        &|| {
            fs::remove_file(&entry)?;
            Ok(std::os::unix::fs::symlink("/dev/zero", &entry)?)
        },
        &|| Ok(fs::write(&key, "")?),
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        spoil()?;
        assert_ran(&node.run(&image)?, 0, "hello from wasm\n");
        node.logs(COMPILED, number + 2)?;
        assert!(fs::symlink_metadata(&entry)?.is_file());
    }
    node.logs("is compiled anew: it is", 3)?;
    node.logs("seal.key of the module cache is unusable (it has 0 bytes", 1)?;
    assert_ran(&node.run(&image)?, 0, "hello from wasm\n");
    node.logs(MAPPED, 1)
}

#[test]
fn eight_first_starts_at_once_compile_once() -> Result<()> {
    for release in LAYERED {
        let Some(node) = Node::start(release)? else { return Ok(()) };
        let image = node.image(catalogue::go_image("hello"))?;
        let mut running = Vec::new();
        for _ in 0..8 {
            // A shim each: none of them is in a pod.
            running.push(node.daemon.run(&image, &node.daemon.unique("at-once")).spawn()?);
        }
        for client in running {
            assert_ran(&client.wait(Duration::from_secs(120))?, 0, "hello from Go\n");
        }
        node.logs(COMPILED, 1)?;
        let had = |text: &str| node.daemon.log().lines().filter(|line| line.contains(text)).count();
        host::eventually(
            "eight starts in the log",
            PATIENCE,
            || Ok(had(FOUND) + had(MAPPED) >= 7),
        )?;
        assert_eq!(had(FOUND) + had(MAPPED), 7, "{}", node.daemon.log_tail(60));
        assert_eq!(node.entries()?.len(), 1, "{release}");
        let left = fs::read_dir(&node.cache)?.count();
        assert_eq!(left, 3, "{release}: the entry, the key and the locks");
    }
    Ok(())
}

/// Kibibytes of native code that a process has mapped, as a whole and its share of what others have mapped too.
fn code_of(pid: i32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (mut resident, mut share, mut counts) = (0, 0, false);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // What it may write to becomes its own as soon as it does: that is memory, not code.
            [range, mode, ..] if range.contains('-') => {
                counts = line.ends_with(".cwasm") && !mode.contains('w');
            }
            ["Rss:", size, "kB"] if counts => resident += size.parse::<u64>()?,
            ["Pss:", size, "kB"] if counts => share += size.parse::<u64>()?,
            _ => {}
        }
    }
    Ok((resident, share))
}

#[test]
fn twenty_containers_of_one_image_share_its_pages() -> Result<()> {
    let Some(node) = Node::start(Release::V2_1)? else { return Ok(()) };
    let image = node.image(catalogue::go_image("wait"))?;
    let (mut ids, mut pids) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (id, pid) = node.stays(&image)?;
        ids.push(id);
        pids.push(pid);
    }
    node.logs(COMPILED, 1)?;
    node.logs(MAPPED, 19)?;
    let (mut largest, mut together) = (0, 0);
    host::eventually("every guest runs its code", PATIENCE, || {
        (largest, together) = (0, 0);
        let mut least = u64::MAX;
        for pid in &pids {
            let (resident, share) = code_of(*pid)?;
            (largest, together) = (largest.max(resident), together + share);
            least = least.min(resident);
        }
        Ok(least > 500)
    })?;
    eprintln!("native code: {largest} KiB in one container, {together} KiB in twenty");
    assert!(together <= largest * 5 / 4, "{together} KiB for twenty, {largest} KiB for one");
    ids.iter().try_for_each(|id| host::end(&node.daemon, id))
}

#[test]
fn the_least_recently_used_modules_leave_a_full_cache_and_those_in_use_stay() -> Result<()> {
    let Some(node) = Node::with(Release::V2_1, "cache_size = \"1MiB\"")? else { return Ok(()) };
    let mut modules = Vec::new();
    for name in ["first", "second", "third", "fourth"] {
        let (module, archive) = large(name)?;
        modules.push((module, node.image(Ok(archive))?));
    }
    let [(first, run_first), (second, run_second), (third, run_third), (fourth, run_fourth)] =
        &modules[..]
    else {
        unreachable!("four were built");
    };
    node.runs(run_first)?;
    node.runs(run_second)?;
    node.runs(run_first)?;
    node.logs(MAPPED, 1)?;
    assert!(node.has(first) && node.has(second), "two have room: {:?}", node.entries()?);
    node.runs(run_third)?;
    assert!(node.has(first), "it was used a moment ago");
    assert!(!node.has(second), "it was not used for longest");
    assert!(node.has(third));
    // What left is compiled when it is wanted.
    node.runs(run_second)?;
    node.logs(COMPILED, 4)?;
    // A container that stays holds its module's entry, however old that is.
    let waiting = node.image(catalogue::guest_image("sleeper"))?;
    let sleeper = guest::wat("sleeper")?;
    let (id, _) = node.stays(&waiting)?;
    for run in [run_first, run_fourth, run_third, run_first, run_second] {
        node.runs(run)?;
        assert!(node.has(&sleeper), "it is in use");
    }
    assert!(!node.has(fourth), "and the others go on leaving: {:?}", node.entries()?);
    host::end(&node.daemon, &id)?;
    host::eventually("its shim ends", PATIENCE, || Ok(node.daemon.shims().is_empty()))?;
    for run in [run_third, run_fourth, run_first] {
        node.runs(run)?;
    }
    assert!(!node.has(&sleeper), "nobody uses it any more: {:?}", node.entries()?);
    Ok(())
}

#[test]
fn a_cache_that_is_switched_off_is_not_touched() -> Result<()> {
    let Some(off) = Node::with(Release::V1_7, "cache_enabled = false")? else { return Ok(()) };
    let image = off.image(catalogue::hello_wasm())?;
    for _ in 0..2 {
        assert_ran(&off.run(&image)?, 0, "hello from wasm\n");
    }
    off.logs(COMPILED, 2)?;
    assert!(!off.cache.exists());
    // By containerd's options as well, for one container.
    let Some(on) = Node::start(Release::V2_1)? else { return Ok(()) };
    let image = on.image(catalogue::hello_wasm())?;
    let options = on.daemon.scratch()?.join("options.toml");
    fs::write(&options, "cache_enabled = false\n")?;
    let run = on.daemon.run(&image, &on.daemon.unique("off"));
    let flag = ["--runtime-config-path".to_owned(), options.display().to_string()];
    assert_ran(&run.flags(flag).output()?, 0, "hello from wasm\n");
    assert!(!on.cache.exists());
    assert_ran(&on.run(&image)?, 0, "hello from wasm\n");
    on.logs(COMPILED, 2)?;
    assert_eq!(on.entries()?.len(), 1);
    Ok(())
}

/// A file system of its own, unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(name: &str, flags: MsFlags, options: &str) -> Result<Self> {
        let path = testkit::place::scratch().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options))
            .with_context(|| format!("mounting {}", path.display()))?;
        Ok(Self(path))
    }

    fn remount(&self, flags: MsFlags) -> Result<()> {
        let flags = flags | MsFlags::MS_REMOUNT;
        Ok(mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>)?)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = umount2(&self.0, MntFlags::MNT_DETACH);
        if let Err(error) =
            unmounted.map_err(anyhow::Error::from).and_then(|()| Ok(fs::remove_dir(&self.0)?))
        {
            eprintln!("{} stays: {error:#}", self.0.display());
        }
    }
}

#[test]
fn where_nothing_can_be_kept_modules_run_uncached_with_a_warning() -> Result<()> {
    if !testkit::ready() {
        return Ok(());
    }
    let none = MsFlags::empty();
    for (name, flags, options, why) in [
        ("full", none, "size=64k,mode=700", "No space left on device"),
        ("read-only", MsFlags::MS_RDONLY, "mode=700", "Read-only file system"),
        ("noexec", MsFlags::MS_NOEXEC, "mode=700", "is on a file system mounted noexec"),
        ("open", none, "mode=777", "is not trusted: its mode is 777"),
    ] {
        let place = Tmpfs::mount(name, flags, options)?;
        let node = Node::on(&place.0, "")?;
        let image = node.image(catalogue::go_image("hello"))?;
        for start in 1..=2 {
            assert_ran(&node.run(&image)?, 0, "hello from Go\n");
            node.logs(UNCACHED, start)?;
            node.logs(COMPILED, start)?;
        }
        let line =
            node.daemon.log().lines().find(|line| line.contains(UNCACHED)).map(str::to_owned);
        assert!(line.as_ref().is_some_and(|line| line.contains(why)), "{name}: {line:?}");
        assert!(node.entries()?.is_empty(), "{name}");
        let left = fs::read_dir(&place.0)?.count();
        assert!(left <= 2, "{name}: at most a key and locks, {left}");
    }
    Ok(())
}

#[test]
fn a_cache_that_became_read_only_still_serves_what_it_has() -> Result<()> {
    if !testkit::ready() {
        return Ok(());
    }
    let place = Tmpfs::mount("frozen", MsFlags::empty(), "mode=700")?;
    let node = Node::on(&place.0, "")?;
    let hello = node.image(catalogue::hello_wasm())?;
    node.runs(&hello)?;
    place.remount(MsFlags::MS_RDONLY)?;
    assert_ran(&node.run(&hello)?, 0, "hello from wasm\n");
    node.logs(MAPPED, 1)?;
    let other = node.image(large("other").map(|(_, archive)| archive))?;
    node.runs(&other)?;
    node.logs(UNCACHED, 1)?;
    assert_eq!(node.entries()?.len(), 1);
    place.remount(MsFlags::empty())?;
    node.runs(&other)?;
    assert_eq!(node.entries()?.len(), 2);
    Ok(())
}
