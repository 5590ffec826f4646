//! Output that goes to no client: into a file, or to a logger that the client names; and what nerdctl makes of it.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::host;
use end_to_end::kind::{Kind, standing};
use end_to_end::lab::{LAYERED, Lab, PATIENCE, lab};
use end_to_end::shared::Shared;
use testkit::catalogue;
use testkit::containerd::{Daemon, Release, runtime};
use testkit::image::Archive;

static NERDCTL: Shared = Shared::new(|| {
    let daemon = Daemon::start(Release::V2_1)?;
    daemon.import(&catalogue::busybox()?)?;
    if Kind::all().contains(&Kind::Wasm) {
        daemon.import(&catalogue::guest_image("streams")?)?;
        daemon.import(&catalogue::guest_image("sleeper")?)?;
    }
    Ok(daemon)
});

/// Returns an image and words that write "to stdout" and "to stderr", each to its stream, and end with 3.
fn both_streams(kind: Kind) -> Result<(Archive, Vec<String>)> {
    match kind {
        Kind::Linux => {
            let line = "echo to stdout; echo to stderr >&2; exit 3";
            Ok((catalogue::busybox()?, ["sh", "-c", line].map(str::to_owned).to_vec()))
        }
        Kind::Wasm => Ok((catalogue::guest_image("streams")?, Vec::new())),
    }
}

/// Returns words that write numbers, one on a line, and their count.
fn much(kind: Kind) -> Result<(Archive, Vec<String>, usize)> {
    match kind {
        Kind::Linux => {
            let words = ["seq", "1", "300000"].map(str::to_owned).to_vec();
            let bytes = (1..=300_000).map(|number: u32| number.to_string().len() + 1).sum();
            Ok((catalogue::busybox()?, words, bytes))
        }
        Kind::Wasm => Ok((catalogue::guest_image("flood")?, Vec::new(), 64 << 20)),
    }
}

/// Runs a container in the foreground with its output going to `uri`, and returns its exit code.
fn run_with_log(lab: &Lab, image: &Archive, words: Vec<String>, uri: &str) -> Result<Option<i32>> {
    let image = lab.image(Ok(image.clone()));
    let output = lab.start(&image, "logged").flags(["--log-uri", uri]).args(words).output()?;
    assert_eq!(output.stdout, "", "{}", output.report());
    Ok(output.status)
}

#[test]
fn output_goes_to_a_file() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let file = lab.folder(&lab.unique("file"))?.join("made/by/need/output.log");
            let uri = format!("file://{}", file.display());
            let (image, words) = both_streams(*kind)?;
            assert_eq!(run_with_log(&lab, &image, words.clone(), &uri)?, Some(3), "{kind:?}");
            let sorted = |text: &str| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let text = fs::read_to_string(&file)?;
            assert_eq!(sorted(&text), ["to stderr", "to stdout"], "{release} {kind:?}");
            // A second container is told after the first.
            run_with_log(&lab, &image, words, &uri)?;
            let longer = fs::read_to_string(&file)?;
            assert!(longer.starts_with(&text) && longer.len() == 2 * text.len(), "{longer}");
        }
    }
    Ok(())
}

#[test]
fn a_file_has_all_of_a_large_output_once_the_container_is_gone() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let file = lab.folder(&lab.unique("file"))?.join("output.log");
        let (image, words, bytes) = much(*kind)?;
        let uri = format!("file://{}", file.display());
        assert_eq!(run_with_log(&lab, &image, words, &uri)?, Some(0));
        assert_eq!(fs::metadata(&file)?.len(), bytes as u64, "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_container_can_only_append_to_its_file() -> Result<()> {
    if !Kind::all().contains(&Kind::Linux) {
        return Ok(());
    }
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let file = lab.folder(&lab.unique("file"))?.join("output.log");
    fs::write(&file, "of another\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
    let line = "truncate -c -s 0 /proc/self/fd/1; : > /proc/self/fd/1; chmod 777 /proc/self/fd/1; \
                chown 1000 /proc/self/fd/1; test -p /proc/self/fd/1 && echo a pipe";
    let words = ["sh", "-c", line].map(str::to_owned).to_vec();
    let uri = format!("file://{}", file.display());
    assert_eq!(run_with_log(&lab, &catalogue::busybox()?, words, &uri)?, Some(0));
    let text = fs::read_to_string(&file)?;
    assert!(text.starts_with("of another\n") && text.contains("a pipe\n"), "{text}");
    let found = fs::metadata(&file)?;
    assert_eq!((found.mode() & 0o777, found.uid()), (0o640, 0));
    Ok(())
}

#[test]
fn the_output_of_what_is_executed_goes_to_a_file() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let id = standing(&lab, *kind, "logs", &[]);
        let file = lab.folder(&lab.unique("file"))?.join("output.log");
        let uri = format!("file://{}", file.display());
        let (words, told) = match kind {
            Kind::Linux => (["echo", "hello", "there"], "hello there\n"),
            Kind::Wasm => (
                ["/hello.wasm", "hello", "there"],
                "hello from wasm\narg /hello.wasm\narg hello\narg there\n",
            ),
        };
        let command = ["tasks", "exec", "--exec-id", "e1", "--log-uri", &uri, &id];
        lab.ctr_command().args(command).args(words).run()?.ok()?;
        let text = fs::read_to_string(&file)?;
        assert!(text.starts_with(told), "{kind:?}: {text}");
        // A test beside this one counts what is left.
        host::end(&lab, &id)?;
    }
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_refused_by_name() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let folder = lab.folder(&lab.unique("taken"))?;
        let (image, words) = both_streams(*kind)?;
        let image = lab.image(Ok(image));
        let uri = format!("file://{}", folder.display());
        let refused = lab.start(&image, "logged").flags(["--log-uri", &uri]).args(words);
        let refused = refused.output()?;
        assert!(!refused.success(), "{kind:?}: {}", refused.report());
        let name = folder.file_name().context("no name")?.to_string_lossy().into_owned();
        assert!(refused.stderr.contains(&name), "{kind:?}: {}", refused.report());
    }
    Ok(())
}

/// A logger that keeps each stream in a file beside it, and what it was started with.
struct Logger {
    folder: PathBuf,
}

impl Logger {
    /// Writes the script; `body` runs after the readiness was told.
    fn new(daemon: &Daemon, name: &str, body: &str) -> Result<Self> {
        // In the daemon's own folder, so that the census sees the process.
        let folder = daemon.state().with_file_name(daemon.unique(name));
        fs::create_dir(&folder).context("making a logger's folder")?;
        let here = folder.display();
        let script = format!(
            // runc's shim ends a logger by SIGTERM when it deletes the container, whatever that has still to read.
            "#!/bin/sh\ntrap '' TERM\ncd {here} || exit 1\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $*\" > told\n\
             ls -l /proc/$$/fd > held\nexec 5>&-\n{body}\ntouch done\n"
        );
        let path = folder.join("logger");
        fs::write(&path, script).context("writing a logger")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { folder })
    }

    fn uri(&self, query: &str) -> String {
        format!("binary://{}{query}", self.folder.join("logger").display())
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Keeps both streams.
const KEEP: &str = "cat <&3 > out & cat <&4 > err; wait";

#[test]
fn output_goes_to_a_logger() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let logger = Logger::new(&lab, "logger", KEEP)?;
            let (image, words) = both_streams(*kind)?;
            let image = lab.image(Ok(image));
            let id = lab.unique("logged");
            let run = lab.run(&image, &id).flags(["--log-uri", &logger.uri("?key=value")]);
            let output = run.args(words).output()?;
            assert_eq!(output.status, Some(3), "{release} {kind:?}: {}", output.report());
            assert_eq!(logger.read("told")?, format!("{} {id} key value\n", lab.namespace()));
            // The streams end with the container, and so the logger ends by itself.
            host::eventually("the logger ends", PATIENCE, || Ok(logger.path("done").exists()))?;
            assert_eq!(logger.read("out")?, "to stdout\n", "{release} {kind:?}");
            assert_eq!(logger.read("err")?, "to stderr\n", "{release} {kind:?}");
        }
    }
    Ok(())
}

#[test]
fn a_logger_is_given_all_of_it_and_three_descriptors() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let logger = Logger::new(&lab, "logger", "sleep 0.5; wc -c <&3 > count")?;
        let (image, words, bytes) = much(*kind)?;
        assert_eq!(run_with_log(&lab, &image, words, &logger.uri(""))?, Some(0));
        host::eventually("the logger ends", PATIENCE, || Ok(logger.path("done").exists()))?;
        assert_eq!(logger.read("count")?.trim(), bytes.to_string(), "{kind:?}");
        let held = logger.read("held")?;
        let targets = held.lines().filter_map(|line| line.split_once(" -> "));
        let numbers = targets.filter_map(|(line, _)| line.split_whitespace().next_back());
        let mut numbers: Vec<u32> = numbers.filter_map(|number| number.parse().ok()).collect();
        // From 10 on they are the script's own.
        numbers.retain(|number| *number < 10);
        if runtime() == testkit::containerd::HYBRID {
            assert_eq!(numbers, [0, 1, 2, 3, 4, 5], "{kind:?}: {held}");
        }
        assert!(!held.contains("containerd/s/"), "{held}");
    }
    Ok(())
}

#[test]
fn a_logger_that_is_missing_stops_the_create_and_one_that_dies_delays_nobody() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    let quiet = lab.quiet();
    for kind in Kind::all() {
        let (image, words) = both_streams(*kind)?;
        let image = lab.image(Ok(image));
        let dies = Logger::new(&lab, "dies", "")?;
        fs::write(dies.path("logger"), "#!/bin/sh\necho because >&2\nexit 1\n")?;
        let run = |uri: &str| {
            let run = lab.start(&image, "logged").flags(["--log-uri", uri]).args(words.clone());
            run.timeout(Duration::from_secs(30)).output()
        };
        let refused = run("binary:///no/such/logger")?;
        assert!(!refused.success() && !refused.timed_out, "{kind:?}: {}", refused.report());
        assert_ne!(refused.status, Some(3), "it ran: {}", refused.report());
        assert!(refused.stderr.contains("/no/such/logger"), "{kind:?}: {}", refused.report());
        // One that dies without a word: to runc's shim it is ready. Here or there, nobody waits for it.
        let unheard = run(&dies.uri(""))?;
        assert!(!unheard.timed_out, "{kind:?}: {}", unheard.report());
        let logger = Logger::new(&lab, "control", KEEP)?;
        assert_eq!(run_with_log(&lab, &image, words, &logger.uri(""))?, Some(3));
    }
    quiet.nothing_left();
    Ok(())
}

#[test]
fn a_scheme_nobody_knows_is_refused_by_name() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let (image, words) = both_streams(*kind)?;
        let image = lab.image(Ok(image));
        let run = lab.start(&image, "logged").flags(["--log-uri", "gopher:///tmp/x"]).args(words);
        let refused = run.output()?;
        assert!(!refused.success() && refused.status != Some(3), "{}", refused.report());
        assert!(refused.stderr.contains("gopher"), "{kind:?}: {}", refused.report());
    }
    Ok(())
}

/// Runs a container in the background with nerdctl.
fn in_background(daemon: &Daemon, name: &str, image: &Archive, words: &[String]) -> Result<()> {
    let run = daemon.nerdctl_command()?.args(["run", "-d", "--name", name, "--network", "none"]);
    let run = run.args(["--runtime", &runtime()]).arg(image.name.as_str()).args(words);
    run.run()?.ok()?;
    Ok(())
}

#[test]
fn nerdctl_shows_the_logs_of_a_container_in_the_background() -> Result<()> {
    let Some(daemon) = NERDCTL.daemon()? else { return Ok(()) };
    for kind in Kind::all() {
        let name = daemon.unique("logs");
        let (image, words) = both_streams(*kind)?;
        in_background(&daemon, &name, &image, &words)?;
        assert_eq!(daemon.nerdctl(["wait", &name])?.ok()?.stdout, "3\n", "{kind:?}");
        let mut logs = None;
        host::eventually("the logs are whole", PATIENCE, || {
            let shown = daemon.nerdctl(["logs", &name])?.ok()?;
            let whole = !shown.stdout.is_empty() && !shown.stderr.is_empty();
            logs = Some(shown);
            Ok(whole)
        })?;
        let logs = logs.context("no logs")?;
        assert_eq!(logs.stdout, "to stdout\n", "{kind:?}: {}", logs.report());
        assert!(logs.stderr.ends_with("to stderr\n"), "{kind:?}: {}", logs.report());
        daemon.nerdctl(["rm", &name])?.ok()?;
    }
    Ok(())
}

#[test]
fn nerdctl_follows_cuts_and_dates_logs() -> Result<()> {
    let Some(daemon) = NERDCTL.daemon()? else { return Ok(()) };
    let name = daemon.unique("follows");
    let line = "for i in 1 2 3; do echo line $i; sleep 1.1; done";
    let words = ["sh", "-c", line].map(str::to_owned);
    in_background(&daemon, &name, &catalogue::busybox()?, &words)?;
    let mut follows = daemon.nerdctl_command()?.args(["logs", "-f", &name]).spawn()?;
    follows.wait_for_stdout("line 1\n", PATIENCE)?;
    assert!(!follows.stdout_so_far().contains("line 3"), "it was not followed but read at once");
    let all = follows.wait(PATIENCE)?.ok()?;
    assert_eq!(all.stdout, "line 1\nline 2\nline 3\n");
    let tail = daemon.nerdctl(["logs", "--tail", "1", &name])?.ok()?;
    assert_eq!(tail.stdout, "line 3\n");
    let dated = daemon.nerdctl(["logs", "-t", &name])?.ok()?;
    let dates: Vec<&str> = dated
        .lines()
        .iter()
        .filter_map(|line| line.split_once(' '))
        .map(|(date, _)| date)
        .collect();
    assert_eq!(dates.len(), 3, "{}", dated.report());
    let since = daemon.nerdctl(["logs", "--since", dates[1], &name])?.ok()?;
    assert!(
        !since.stdout.contains("line 1") && since.stdout.contains("line 3"),
        "{}",
        since.report()
    );
    daemon.nerdctl(["rm", &name])?.ok()?;

    if Kind::all().contains(&Kind::Wasm) {
        let name = daemon.unique("follows");
        in_background(&daemon, &name, &catalogue::guest_image("sleeper")?, &[])?;
        let mut follows = daemon.nerdctl_command()?.args(["logs", "-f", &name]).spawn()?;
        follows.wait_for_stdout("sleeping\n", PATIENCE)?;
        daemon.nerdctl(["stop", "-t", "2", &name])?.ok()?;
        assert_eq!(follows.wait(PATIENCE)?.ok()?.stdout, "sleeping\n");
        daemon.nerdctl(["rm", &name])?.ok()?;
    }
    Ok(())
}

#[test]
fn a_logger_outlives_a_restart_of_containerd() -> Result<()> {
    if !testkit::ready() {
        return Ok(());
    }
    let mut daemon = Daemon::start(Release::V2_1)?;
    for kind in Kind::all() {
        let (image, gate) = match kind {
            Kind::Linux => (catalogue::busybox()?, true),
            Kind::Wasm => (catalogue::guest_image("sleeper")?, false),
        };
        daemon.import(&image)?;
        let logger = Logger::new(&daemon, "logger", KEEP)?;
        let id = daemon.unique("logged");
        let run = daemon.run(&image, &id).detach().flags(["--log-uri", &logger.uri("")]);
        let line = "echo before; while ! test -e /tmp/gate; do sleep 0.05; done; echo after";
        let run = if gate { run.args(["sh", "-c", line]) } else { run };
        run.output()?.ok()?;
        let told = |text: &str| {
            let path = logger.path("out");
            host::eventually("the logger is told", PATIENCE, || {
                Ok(fs::read_to_string(&path).is_ok_and(|out| out == text))
            })
        };
        told(if gate { "before\n" } else { "sleeping\n" })?;
        daemon.restart()?;
        if gate {
            daemon.exec(&id, ["touch", "/tmp/gate"])?.ok()?;
            told("before\nafter\n")?;
        } else {
            daemon.ctr(["tasks", "kill", "--signal", "SIGTERM", &id])?.ok()?;
        }
        daemon.wait_for_status(&id, "STOPPED", PATIENCE)?;
        daemon.ctr(["tasks", "delete", &id])?;
        host::eventually("the logger ends", PATIENCE, || Ok(logger.path("done").exists()))?;
    }
    Ok(())
}

#[test]
fn a_path_is_not_taken_from_an_annotation() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let logger = Logger::new(&lab, "never", KEEP)?;
        let (image, words) = both_streams(*kind)?;
        let image = lab.image(Ok(image));
        let mut run = lab.start(&image, "annotated");
        for key in ["stdout", "io.containerd.log-uri", "org.example.stdout", "nerdctl/log-uri"] {
            run = run.annotation(key, &logger.uri(""));
        }
        let output = run.args(words).output()?;
        assert_eq!(output.stdout, "to stdout\n", "{kind:?}: {}", output.report());
        assert!(!Path::exists(&logger.path("told")), "the logger was started");
    }
    Ok(())
}
