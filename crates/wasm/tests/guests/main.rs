//! Guests of every kind, each compiled, loaded and run as a container's init would: in a forked,
//! single-threaded process, optionally under the engine's system call filter.
//!
//! The test binary runs itself again for each guest: [`guest_process`] is the role it then plays.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::Digest;
use nix::sched::CloneFlags;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{self, ForkResult, Pid};
use serde::{Deserialize, Serialize};
use sys::error::chain;
use sys::process::{Fork, SingleThreaded};
use tempfile::TempDir;
use wasm::cache::Cache;
use wasm::command::{self, Access, Guest, Preopen};
use wasm::compile::{self, CompileError, Native};
use wasm::engine::{EngineSettings, Fuel, P3};
use wasm::engines::Engines;
use wasm::entry::{Entry, EntryError};
use wasm::filter::engine_filter;
use wasm::gauge::{Gauge, Recorder};
use wasm::limits::Limits;
use wasm::module::{self, LoadError, Prepared};

mod bounded;
mod cached;
mod gauges;
mod invoked;
mod limited;
mod wanting;

/// Names the file that tells a child which guest to run.
const JOB: &str = "HYBRID_TEST_GUEST";
/// Parts the test harness's own output from the guest's.
const MARK: &str = "--guest--";

#[derive(Serialize, Deserialize)]
struct Job {
    cache: PathBuf,
    digest: Digest,
    guest: Guest,
    preopens: Vec<Preopen>,
    filter: Filtered,
    engine: EngineSettings,
    /// The gauge, as a file of the test's own process.
    gauge: PathBuf,
    /// Where to write how much memory the guest's process had at most, in KiB.
    peak: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Filtered {
    Yes,
    No,
}

/// A module in a cache of its own, and how to start it.
struct Lab {
    folder: TempDir,
    job: Job,
    gauge: Gauge,
    /// Makes the guest's standard input.
    input: Box<dyn Fn() -> Stdio>,
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Lab {
    fn with(wat: &str) -> Self {
        Self::with_bytes(&wat::parse_str(wat).expect("test module is valid text"))
    }

    fn with_bytes(wasm: &[u8]) -> Self {
        Self::with_bytes_on(wasm, EngineSettings::default())
    }

    fn with_bytes_on(wasm: &[u8], engine: EngineSettings) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("cache");
        let digest = compile_on(&engine, &cache, wasm).expect("test module compiles");
        let gauge = Gauge::new(Limits::default().memory).expect("gauge");
        let number = gauge.as_fd().as_raw_fd();
        let job = Job {
            gauge: format!("/proc/{}/fd/{number}", std::process::id()).into(),
            peak: folder.path().join("peak"),
            cache,
            digest,
            guest: Guest { args: vec!["/app.wasm".into()], ..Guest::default() },
            preopens: Vec::new(),
            filter: Filtered::Yes,
            engine,
        };
        Self { folder, job, gauge, input: Box::new(Stdio::piped) }
    }

    /// Compiles and runs the module with an engine that counts.
    fn metered(wat: &str) -> Self {
        Self::with_engine(wat, EngineSettings { fuel: Fuel::Metered, ..EngineSettings::default() })
    }

    /// Compiles and runs the module with this engine.
    fn with_engine(wat: &str, settings: EngineSettings) -> Self {
        Self::with_bytes_on(&wat::parse_str(wat).expect("test module is valid text"), settings)
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.job.guest.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    fn env(mut self, env: &[&str]) -> Self {
        self.job.guest.env = env.iter().map(|variable| (*variable).to_owned()).collect();
        self
    }

    fn limits(mut self, limits: Limits) -> Self {
        self.job.guest.limits = limits;
        self.gauge.set_memory_limit(limits.memory).expect("gauge");
        self
    }

    fn unfiltered(mut self) -> Self {
        self.job.filter = Filtered::No;
        self
    }

    /// Preopens a new folder that holds the file `greeting`, as `/data`.
    fn data(mut self, access: Access) -> Self {
        let host = self.folder.path().join("data");
        fs::create_dir(&host).expect("data folder");
        fs::write(host.join("greeting"), "from the file\n").expect("data file");
        self.job.preopens.push(Preopen { host, guest: "/data".into(), access });
        self
    }

    fn data_file(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    fn spawn(&self) -> Child {
        let file = self.folder.path().join("job.json");
        let job = serde_json::to_vec(&self.job).expect("job as JSON");
        fs::write(&file, job).expect("job file");
        Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "guest_process", "--nocapture", "--test-threads=1"])
            .env(JOB, &file)
            .stdin((self.input)())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("own binary starts")
    }

    fn run(&self) -> Ended {
        self.run_with_input("")
    }

    fn run_with_input(&self, input: &str) -> Ended {
        let mut child = self.spawn();
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).expect("guest takes input");
        }
        let output = child.wait_with_output().expect("guest ends");
        let stdout = String::from_utf8_lossy(&output.stdout);
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: after_mark(&stdout).to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn load(&self) -> Result<Prepared, LoadError> {
        load_from(&self.job.cache, &self.job.digest)
    }

    /// The one entry of the cache.
    fn entry(&self) -> PathBuf {
        let mut entries = entries(&self.job.cache);
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }
}

/// What a cache folder holds beside its key and its locks: artifacts, and anything half done.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(cache) else {
        return Vec::new();
    };
    all.map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_none_or(|end| end != "key" && end != "lock"))
        .collect()
}

/// The cache at this path, as large as it likes.
fn cache_at(path: &Path) -> Cache {
    Cache::new(path, u64::MAX)
}

fn file_of(bytes: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(bytes).expect("temporary file is writable");
    file
}

fn load_from(cache: &Path, digest: &Digest) -> Result<Prepared, LoadError> {
    module::load(&mut Engines::default(), &cache_at(cache), &EngineSettings::default(), digest)
}

fn compile_in(cache: &Path, wasm: &[u8]) -> Result<Digest, CompileError> {
    let digest = Digest::of(wasm);
    compile_as(cache, wasm, &digest).map(|()| digest)
}

/// Compiles with other settings than the usual ones.
fn compile_on(
    settings: &EngineSettings,
    cache: &Path,
    wasm: &[u8],
) -> Result<Digest, CompileError> {
    let (digest, file, cache) = (Digest::of(wasm), file_of(wasm), cache_at(cache));
    compile::compile(&mut Engines::default(), Some(&cache), settings, &file, &digest)
        .map(|_| digest)
}

fn compile_as(cache: &Path, wasm: &[u8], expected: &Digest) -> Result<(), CompileError> {
    compile_file(cache, &file_of(wasm), expected).map(drop)
}

fn compile_file(cache: &Path, wasm: &fs::File, digest: &Digest) -> Result<Native, CompileError> {
    let asked = EngineSettings::default();
    compile::compile(&mut Engines::default(), Some(&cache_at(cache)), &asked, wasm, digest)
}

fn after_mark(stdout: &str) -> &str {
    stdout.split_once(MARK).map_or(stdout, |(_, rest)| rest)
}

/// Not a test of its own: the process that a guest of the other tests runs in.
#[test]
fn guest_process() {
    let Some(job) = std::env::var_os(JOB) else {
        return;
    };
    let job: Job = serde_json::from_slice(&fs::read(job).expect("job file")).expect("job");
    print!("{MARK}");
    std::io::stdout().flush().expect("stdout");
    // SAFETY: the harness's other thread waits for this one and holds no lock meanwhile; the C
    // library's fork keeps its allocator usable in the child.
    match unsafe { unistd::fork() }.expect("fork") {
        ForkResult::Child => sys::process::exit_now(keep(&job)),
        ForkResult::Parent { child } => sys::process::exit_now(code_of(child)),
    }
}

/// Does what the keeper does: loads the module, forks, and runs the guest in the child.
fn keep(job: &Job) -> i32 {
    let cache = cache_at(&job.cache);
    let prepared = module::load(&mut Engines::default(), &cache, &job.engine, &job.digest)
        .expect("module loads");
    let filter = engine_filter().expect("filter builds");
    let gauge = fs::File::options().read(true).write(true).open(&job.gauge).expect("gauge opens");
    let gauge = Recorder::map(gauge.into()).expect("gauge maps");
    let single = SingleThreaded::prove().expect("nothing here starts a thread");
    match single.fork(CloneFlags::empty()).expect("fork") {
        Fork::Child => {
            sys::stdio::close_all_except(prepared.descriptors()).expect("descriptors close");
            if job.filter == Filtered::Yes {
                sys::privileges::no_new_privs().expect("no_new_privs");
                filter.install().expect("filter installs");
            }
            sys::process::exit_now(command::run(&prepared, &job.guest, &job.preopens, &gauge))
        }
        Fork::Parent { pid, .. } => {
            let code = code_of(pid);
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("usage");
            fs::write(&job.peak, usage.max_rss().to_string()).expect("peak");
            code
        }
    }
}

fn code_of(child: Pid) -> i32 {
    match waitpid(child, None).expect("child ends") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("unexpected {other:?}"),
    }
}

/// Wraps a body in a module that has a memory and the most used imports.
fn program(data: &str, body: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read"
            (func $fd_read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 1024) "{data}")
          (func $print (param $at i32) (param $length i32)
            (i32.store (i32.const 0) (local.get $at))
            (i32.store (i32.const 4) (local.get $length))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
          {body})"#
    )
}

#[test]
fn a_module_that_prints_ends_with_zero() {
    let hello = program(
        "hello\\n",
        "(func (export \"_start\") (call $print (i32.const 1024) (i32.const 6)))",
    );
    let ended = Lab::with(&hello).run();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "hello\n"));
    assert_eq!(ended.stderr, "");
}

#[test]
fn the_exit_code_is_the_guests_own() {
    for (asked, given) in [(7, 7), (0, 0), (200, 200), (255, 255), (256, 0)] {
        let body = format!("(func (export \"_start\") (call $exit (i32.const {asked})))");
        let ended = Lab::with(&program("", &body)).run();
        assert_eq!(ended.code, given, "proc_exit({asked}): {}", ended.stderr);
        assert_eq!(ended.stderr, "");
    }
}

#[test]
fn a_trap_gives_134_and_a_backtrace() {
    let body = "(func $broken unreachable) (func (export \"_start\") (call $broken))";
    let ended = Lab::with(&program("", body)).run();
    assert_eq!(ended.code, 134);
    assert!(ended.stderr.starts_with("Error: "), "{}", ended.stderr);
    for part in ["/app.wasm", "broken", "unreachable"] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
}

#[test]
fn deep_recursion_traps() {
    let body = "(func $deep (param i64) (result i64)
                  (i64.add (call $deep (i64.add (local.get 0) (i64.const 1))) (local.get 0)))
                (func (export \"_start\") (drop (call $deep (i64.const 0))))";
    let ended = Lab::with(&program("", body)).run();
    assert_eq!(ended.code, 134, "{}", ended.stderr);
    assert!(ended.stderr.contains("stack"), "{}", ended.stderr);
}

#[test]
fn out_of_bounds_access_traps() {
    let body = "(func (export \"_start\") (drop (i32.load (i32.const -8))))";
    let ended = Lab::with(&program("", body)).run();
    assert_eq!(ended.code, 134);
    assert!(ended.stderr.contains("out of bounds"), "{}", ended.stderr);
}

#[test]
fn memory_grows_to_the_limit_and_not_beyond() {
    // Exits with the number of pages it got, counting from one.
    let body = "(func (export \"_start\")
                  (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
                  (call $exit (memory.size)))";
    let limits = Limits { memory: 50 * 65536, ..Limits::default() };
    let ended = Lab::with(&program("", body)).limits(limits).run();
    assert_eq!(ended.code, 50, "{}", ended.stderr);
}

#[test]
fn a_guest_computes_up_to_its_bound_and_not_beyond() {
    let counting = program(
        "",
        "(func (export \"_start\") (local i32)
           (loop $more (br_if $more (i32.lt_u
             (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 100000)))))",
    );
    let fuel = |fuel| Limits { fuel, ..Limits::default() };
    let ended = Lab::metered(&counting).limits(fuel(Some(1000))).run();
    assert_eq!(ended.code, 134, "{}", ended.stderr);
    assert!(ended.stderr.contains("limit reached: fuel = 1000 ("), "{}", ended.stderr);
    for enough in [Some(10_000_000), None] {
        let ended = Lab::metered(&counting).limits(fuel(enough)).run();
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    }
    // A bound that nothing would enforce is no bound: the guest does not run.
    let ended = Lab::with(&counting).limits(fuel(Some(10_000_000))).run();
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("cannot bound what the guest computes"), "{}", ended.stderr);
}

#[test]
fn a_guest_without_input_to_wait_for_can_still_wait_for_a_clock() {
    // Waits a millisecond through poll_oneoff: one subscription to the monotonic clock.
    let sleeper = r#"(module
      (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 1000000))
        (call $exit (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;
    let mut lab = Lab::with(sleeper);
    assert_eq!(lab.run().code, 0, "with a pipe");
    lab.input = Box::new(Stdio::null);
    let ended = lab.run();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "with /dev/null");
}

#[test]
fn a_table_grows_to_the_limit_and_not_beyond() {
    // Exits with 42 when the first growth is granted and the second is not.
    let grow = |first, second| {
        let body = format!(
            "(table $table 1 funcref)
             (func (export \"_start\")
               (if (i32.eq (table.grow $table (ref.null func) (i32.const {first})) (i32.const -1))
                 (then (call $exit (i32.const 1))))
               (if (i32.ne (table.grow $table (ref.null func) (i32.const {second})) (i32.const -1))
                 (then (call $exit (i32.const 2))))
               (call $exit (i32.const 42)))"
        );
        Lab::with(&program("", &body)).run().code
    };
    assert_eq!(grow(999, 1), 42);
    assert_eq!(grow(1000, 1), 1);
    assert_eq!(grow(10, 10), 2);
}

#[test]
fn a_declared_table_may_be_as_large_as_a_real_program_needs() {
    let go_like = "(module (memory (export \"memory\") 1) (table 20000 funcref)
                     (func (export \"_start\")))";
    let ended = Lab::with(go_like).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

/// Prints all arguments, or all variables, as the guest's libc would get them: NUL after each.
fn list(what: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write"
            (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "{what}_sizes_get"
            (func $sizes (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "{what}_get"
            (func $get (param i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start")
            (drop (call $sizes (i32.const 16) (i32.const 20)))
            (drop (call $get (i32.const 1024) (i32.const 8192)))
            (i32.store (i32.const 0) (i32.const 8192))
            (i32.store (i32.const 4) (i32.load (i32.const 20)))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

#[test]
fn arguments_arrive_exactly() {
    let ended = Lab::with(&list("args")).args(&["app", "", "two words", "ü"]).run();
    assert_eq!(ended.stdout, "app\0\0two words\0ü\0");
    assert_eq!(Lab::with(&list("args")).args(&[]).run().stdout, "");
}

#[test]
fn the_environment_is_exactly_what_is_given() {
    let ended = Lab::with(&list("environ")).env(&["A=1", "EMPTY=", "B=x=y"]).run();
    assert_eq!(ended.stdout, "A=1\0EMPTY=\0B=x=y\0");
    assert_eq!(Lab::with(&list("environ")).run().stdout, "");
}

#[test]
fn a_variable_without_a_value_is_refused_by_name() {
    let ended = Lab::with(&list("environ")).env(&["LONELY"]).run();
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("LONELY"), "{}", ended.stderr);
}

#[test]
fn input_reaches_the_guest_to_its_end() {
    // Copies until a read gives nothing.
    let body = "(func (export \"_start\")
        (loop $more
          (i32.store (i32.const 0) (i32.const 4096))
          (i32.store (i32.const 4) (i32.const 4096))
          (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
            (then (call $exit (i32.const 9))))
          (if (i32.load (i32.const 8))
            (then (call $print (i32.const 4096) (i32.load (i32.const 8))) (br $more)))))";
    let text = "line\n".repeat(10_000);
    let ended = Lab::with(&program("", body)).run_with_input(&text);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout == text, "{} bytes came back", ended.stdout.len());
}

#[test]
fn a_guest_that_waits_for_input_has_one_thread() {
    let body = "(func (export \"_start\")
        (call $print (i32.const 1024) (i32.const 1))
        (i32.store (i32.const 0) (i32.const 4096))
        (i32.store (i32.const 4) (i32.const 1))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))))";
    let lab = Lab::with(&program("!", body));
    let mut child = lab.spawn();
    let mut stdout = child.stdout.take().expect("piped");
    let mut seen = Vec::new();
    while !after_mark(&String::from_utf8_lossy(&seen)).ends_with('!') || seen.len() < MARK.len() {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("guest prints before it waits");
        seen.push(byte[0]);
    }
    let guest = only_child_of(only_child_of(child.id()));
    wait_until_asleep(guest);
    let threads = fs::read_dir(format!("/proc/{guest}/task")).expect("guest lives").count();
    assert_eq!(threads, 1);
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("guest ends").code(), Some(0));
}

#[test]
fn a_guest_at_a_terminal_knows_and_reads_lines() {
    // Prints what it reads once, and exits with the file type of its standard input.
    let body = "(func (export \"_start\")
        (i32.store (i32.const 0) (i32.const 4096))
        (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $print (i32.const 4096) (i32.load (i32.const 8)))
        (drop (call $stat (i32.const 0) (i32.const 64)))
        (call $exit (i32.load8_u (i32.const 64))))";
    let import = "(import \"wasi_snapshot_preview1\" \"fd_fdstat_get\"
        (func $stat (param i32 i32) (result i32)))\n(memory";
    let wat = program("", body).replacen("(memory", import, 1);
    let sys::terminal::Terminal { master, slave } = sys::terminal::open_on_host().expect("pty");
    let mut lab = Lab::with(&wat);
    lab.input = Box::new(move || slave.try_clone().expect("slave").into());
    let mut master = fs::File::from(master);
    master.write_all(b"typo\x15a line\n").expect("type");
    let ended = lab.run();
    let character_device = 2;
    assert_eq!((ended.code, ended.stdout.as_str()), (character_device, "a line\n"));
    lab.input = Box::new(Stdio::piped);
    assert_ne!(lab.run_with_input("a line\n").code, character_device);
}

fn only_child_of(pid: u32) -> u32 {
    let mut children = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("process lives") {
        let list = task.expect("task").path().join("children");
        children += &fs::read_to_string(list).expect("children");
    }
    children.trim().parse().expect("one child")
}

fn wait_until_asleep(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')) {
            return;
        }
        assert!(Instant::now() < deadline, "never fell asleep: {stat}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a clock and for input at once; exits with 10 plus the kind of the first event.
#[test]
fn waiting_for_input_and_a_clock_ends_with_the_clock() {
    let poll = r#"(module
      (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store8 (i32.const 8) (i32.const 0))                 ;; clock
        (i32.store (i32.const 16) (i32.const 1))                 ;; monotonic
        (i64.store (i32.const 24) (i64.const 50000000))          ;; 50 ms
        (i32.store8 (i32.const 56) (i32.const 1))                ;; fd_read
        (i32.store (i32.const 64) (i32.const 0))                 ;; stdin
        (if (call $poll (i32.const 0) (i32.const 1024) (i32.const 2) (i32.const 2048))
          (then (call $exit (i32.const 1))))
        (call $exit (i32.add (i32.const 10) (i32.load8_u (i32.const 1034))))))"#;
    let lab = Lab::with(poll);
    let mut child = lab.spawn();
    // Open but silent; waiting for the child would close it.
    let input = child.stdin.take();
    assert_eq!(child.wait().expect("guest ends").code(), Some(10));
    drop(input);
    // With the input at its end, it is the input that is ready.
    assert_eq!(lab.run().code, 11);
}

/// Opens `/data/<name>` and exits with the errno, or prints what is in the file.
fn open(name: &str, flags: u32, rights: u64) -> Lab {
    let length = name.len();
    let body = format!(
        "(func (export \"_start\") (local $errno i32)
           (local.set $errno (call $path_open (i32.const 3) (i32.const 1) (i32.const 1024)
             (i32.const {length}) (i32.const {flags}) (i64.const {rights}) (i64.const 0)
             (i32.const 0) (i32.const 12)))
           (if (local.get $errno) (then (call $exit (local.get $errno))))
           (i32.store (i32.const 0) (i32.const 4096))
           (i32.store (i32.const 4) (i32.const 4096))
           (drop (call $fd_read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
           (call $print (i32.const 4096) (i32.load (i32.const 8))))"
    );
    Lab::with(&program(name, &body))
}

const CREATE: u32 = 1;
const TRUNCATE: u32 = 8;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;

#[test]
fn a_preopened_file_can_be_read() {
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let ended = open("greeting", 0, READ).data(access).run();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "from the file\n"));
    }
}

#[test]
fn writing_needs_write_access() {
    for (name, flags, rights) in [
        ("greeting", 0, READ | WRITE),
        ("greeting", TRUNCATE, READ | WRITE),
        ("new", CREATE, READ | WRITE),
        ("new", CREATE, READ),
    ] {
        let refused = open(name, flags, rights).data(Access::ReadOnly);
        assert_ne!(refused.run().code, 0, "{name} {flags}");
        assert!(!refused.data_file("new").exists());
        let kept = fs::read_to_string(refused.data_file("greeting")).expect("still there");
        assert_eq!(kept, "from the file\n");
        let granted = open(name, flags, rights).data(Access::ReadWrite);
        assert_eq!(granted.run().code, 0, "{name} {flags}");
        assert!(granted.data_file(name).exists());
    }
}

#[test]
fn nothing_outside_a_preopen_can_be_opened() {
    for name in ["../job.json", "/etc/passwd", "link", "folder/../../job.json"] {
        let lab = open(name, 0, READ).data(Access::ReadWrite);
        std::os::unix::fs::symlink("../job.json", lab.data_file("link")).expect("link");
        fs::create_dir(lab.data_file("folder")).expect("folder");
        let ended = lab.run();
        assert_ne!(ended.code, 0, "{name}");
        assert_eq!(ended.stdout, "", "{name}");
    }
}

#[test]
fn a_folder_that_is_not_there_stops_the_start_by_name() {
    let mut lab = Lab::with(&list("args"));
    lab.job.preopens.push(Preopen {
        host: lab.folder.path().join("missing"),
        guest: "/missing".into(),
        access: Access::ReadOnly,
    });
    let ended = lab.run();
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("/missing"), "{}", ended.stderr);
}

#[test]
fn guests_run_alike_without_the_filter() {
    let hello = program(
        "hello\\n",
        "(func (export \"_start\") (call $print (i32.const 1024) (i32.const 6)))",
    );
    let ended = Lab::with(&hello).unfiltered().run();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "hello\n"));
}

/// A component whose `wasi:cli/run` answers with the given discriminant: 0 is ok, 1 an error.
fn component(answer: u32, imports: &str, interface: &str) -> String {
    format!(
        r#"(component
          {imports}
          (core module $m (func (export "run") (result i32) i32.const {answer}))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance (export "{interface}") (export "run" (func $run))))"#
    )
}

#[test]
fn a_component_command_runs_and_its_answer_is_the_exit_code() {
    for version in ["0.2.0", "0.2.6"] {
        let interface = format!("wasi:cli/run@{version}");
        for answer in [0, 1] {
            let ended = Lab::with(&component(answer, "", &interface)).run();
            assert_eq!(ended.code, answer as i32, "{}", ended.stderr);
        }
    }
}

#[test]
fn a_component_that_prints_reaches_standard_output() {
    let hello = r#"(component
      (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
      (alias export $error "error" (type $e))
      (import "wasi:io/streams@0.2.0" (instance $streams
        (alias outer 1 $e (type $outer))
        (export "error" (type $err (eq $outer)))
        (export "output-stream" (type $out (sub resource)))
        (type $failure (variant (case "last-operation-failed" (own $err)) (case "closed")))
        (export "stream-error" (type $stream-error (eq $failure)))
        (export "[method]output-stream.blocking-write-and-flush"
          (func (param "self" (borrow $out)) (param "contents" (list u8))
            (result (result (error $stream-error)))))))
      (alias export $streams "output-stream" (type $stream))
      (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $stream (type $outer))
        (export "output-stream" (type $o (eq $outer)))
        (export "get-stdout" (func (result (own $o))))))
      (core module $memory (memory (export "memory") 1))
      (core instance $mem (instantiate $memory))
      (core func $get (canon lower (func $stdout "get-stdout")))
      (core func $write (canon lower
        (func $streams "[method]output-stream.blocking-write-and-flush")
        (memory (core memory $mem "memory"))))
      (core module $m
        (import "env" "memory" (memory 1))
        (import "env" "get" (func $get (result i32)))
        (import "env" "write" (func $write (param i32 i32 i32 i32)))
        (data (i32.const 64) "from a component\n")
        (func (export "run") (result i32)
          (call $write (call $get) (i32.const 64) (i32.const 17) (i32.const 0))
          (i32.const 0)))
      (core instance $i (instantiate $m (with "env" (instance
        (export "memory" (memory $mem "memory"))
        (export "get" (func $get))
        (export "write" (func $write))))))
      (func $run (result (result)) (canon lift (core func $i "run")))
      (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;
    let ended = Lab::with(hello).run();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "from a component\n"), "{}", ended.stderr);
}

const PLAIN: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\")))";

fn plain() -> Vec<u8> {
    wat::parse_str(PLAIN).expect("valid text")
}

/// What cannot be compiled, each refused with one sentence and without a trace in the cache.
#[test]
fn broken_modules_are_refused() {
    let whole = plain();
    let mut flipped = whole.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 0xff;
    let truncated = &whole[..whole.len() - 3];
    let mut future = whole.clone();
    future[4] = 9;
    let native = engine_output();
    for (name, bytes, says) in [
        ("flipped", flipped.as_slice(), "not valid WebAssembly"),
        ("truncated", truncated, "not valid WebAssembly"),
        ("future version", &future, "not valid WebAssembly"),
        ("empty", &[], "it is empty"),
        ("text", PLAIN.as_bytes(), "not a WebAssembly binary"),
        ("magic alone", b"\0asm", "not a WebAssembly binary"),
        ("precompiled", &native, "native code"),
    ] {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = folder.path().join("cache");
        let refused = compile_in(&cache, bytes).expect_err(name);
        assert!(chain(&refused).contains(says), "{name}: {}", chain(&refused));
        assert!(refused.is_refusal(), "{name}");
        assert_eq!(entries(&cache), Vec::<PathBuf>::new(), "{name}");
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    compile_in(&folder.path().join("cache"), &whole).expect("the whole module compiles");
}

/// Real output of the compiler, as an image might bring it.
fn engine_output() -> Vec<u8> {
    fs::read(Lab::with(PLAIN).entry()).expect("cache entry")
}

#[test]
fn bytes_with_another_digest_are_not_cached() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let cache = folder.path().join("cache");
    let expected = Digest::of(b"another module");
    let refused = compile_as(&cache, &plain(), &expected).expect_err("wrong digest");
    assert!(matches!(refused, CompileError::WrongDigest { .. }), "{refused:?}");
    assert_eq!(entries(&cache), Vec::<PathBuf>::new());
}
