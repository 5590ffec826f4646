//! Terminals as a person uses them: typed into, resized, interrupted; and standard input that ends.
//!
//! The clients run in tmux. On real containerd daemons; needs root, and the network once, to fetch them.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use end_to_end::host;
use end_to_end::kind::{Kind, standing};
use end_to_end::lab::{LAYERED, Lab, PATIENCE, lab};
use end_to_end::shared::Shared;
use end_to_end::shim::{HandBundle, Peer, Server};
use end_to_end::streams::Streams;
use serde_json::{Value, json};
use testkit::command::Invocation;
use testkit::containerd::{CRI_NAMESPACE, Daemon, Release, handler, runtime};
use testkit::cri::Pod;
use testkit::process::Process;
use testkit::terminal::Terminal;

static PODS: Shared = Shared::new(|| {
    let daemon = Daemon::options(Release::V2_1).cri().start()?;
    for kind in Kind::all() {
        let programs = kind.programs()?;
        daemon.import(&programs)?;
        daemon.import_in(CRI_NAMESPACE, &programs)?;
    }
    Ok(daemon)
});

/// Returns the words of a program that talks with a person: a shell, or a guest that repeats every line.
fn talker(kind: Kind) -> Vec<String> {
    match kind {
        Kind::Linux => vec!["sh".to_owned()],
        Kind::Wasm => vec!["/console.wasm".to_owned()],
    }
}

/// A person before a program that talks.
struct Person<'daemon> {
    kind: Kind,
    daemon: &'daemon Daemon,
    terminal: Terminal,
}

impl<'daemon> Person<'daemon> {
    fn before(kind: Kind, daemon: &'daemon Daemon, client: &Invocation) -> Result<Self> {
        let person = Self { kind, daemon, terminal: Terminal::run(client)? };
        person.terminal.holds(
            match kind {
                Kind::Linux => "/ #",
                Kind::Wasm => "terminals: 1 1 1",
            },
            PATIENCE,
        )?;
        Ok(person)
    }

    /// Types, is answered, changes the window's size, and leaves with a code.
    fn talks(&self) -> Result<()> {
        let (line, answer) = match self.kind {
            Kind::Linux => ("echo $((40 + 2))", "42"),
            Kind::Wasm => ("good morning", "[good morning]"),
        };
        self.terminal.enter(line)?;
        self.terminal.shows(answer, PATIENCE)?;
        self.sees_size("24 80")?;
        self.terminal.resize(100, 30)?;
        self.sees_size("30 100")
    }

    fn sees_size(&self, size: &str) -> Result<()> {
        host::eventually(&format!("the size is {size}"), PATIENCE, || match self.kind {
            Kind::Linux => {
                self.terminal.enter("stty size")?;
                Ok(self.terminal.shows(size, Duration::from_millis(300)).is_ok())
            }
            // A guest cannot ask for it, so the host looks at its terminal.
            Kind::Wasm => Ok(self.sizes()?.iter().any(|seen| seen == size)),
        })
        .with_context(|| {
            format!("{:?}, {}", self.sizes(), self.terminal.screen().unwrap_or_default())
        })
    }

    /// Returns the sizes of the terminals of the daemon's talking guests.
    fn sizes(&self) -> Result<Vec<String>> {
        let all = Process::all();
        let talking = all.iter().filter(|one| one.program() == "console.wasm");
        let ours = talking.filter(|one| host::shim_of(self.daemon, one.pid).is_ok());
        ours.map(|one| {
            let terminal = format!("/proc/{}/fd/0", one.pid);
            let answer = Invocation::new("stty").args(["-F", &terminal, "size"]).run()?;
            Ok(answer.stdout.trim().to_owned())
        })
        .collect()
    }

    fn leaves(&self) -> Result<i32> {
        self.terminal.enter("exit 3")?;
        self.terminal.code(PATIENCE)
    }
}

fn with_terminal(lab: &Lab, kind: Kind, id: &str, words: Vec<String>) -> Result<Invocation> {
    let image = lab.image(kind.programs());
    Ok(lab.run(&image, id).flags(["--tty"]).args(words).command())
}

#[test]
fn a_person_uses_ctr_run() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let client = with_terminal(&lab, *kind, &lab.unique("person"), talker(*kind))?;
            let person = Person::before(*kind, &lab, &client)?;
            person.talks()?;
            assert_eq!(person.leaves()?, 3, "{release} {kind:?}");
        }
    }
    Ok(())
}

#[test]
fn a_person_uses_ctr_exec() -> Result<()> {
    for release in LAYERED {
        let Some(lab) = lab(release) else { return Ok(()) };
        for kind in Kind::all() {
            let id = standing(&lab, *kind, "person", &[]);
            let client = lab.exec_command(&id, ["--tty"]).args(talker(*kind));
            let person = Person::before(*kind, &lab, &client)?;
            person.talks()?;
            assert_eq!(person.leaves()?, 3, "{release} {kind:?}");
        }
    }
    Ok(())
}

#[test]
fn a_person_uses_nerdctl() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    for kind in Kind::all() {
        let name = daemon.unique("person");
        let image = kind.programs()?;
        let client = daemon.nerdctl_command()?.args(["run", "-it", "--rm", "--name", &name]);
        let client = client.args(["--network", "none", "--runtime", &runtime()]);
        let client = client.arg(image.name.as_str()).args(talker(*kind));
        let person = Person::before(*kind, &daemon, &client)?;
        person.talks()?;
        let client = daemon.nerdctl_command()?.args(["exec", "-it", &name]).args(talker(*kind));
        let other = Person::before(*kind, &daemon, &client)?;
        other.talks()?;
        other.leaves()?;
        assert_eq!(person.leaves()?, 3, "{kind:?}");
    }
    Ok(())
}

#[test]
fn a_person_uses_crictl() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    let pod = Pod::new(&daemon.unique("person")).runtime(handler()).start(&daemon)?;
    for kind in Kind::all() {
        let container = pod.container(&format!("{kind:?}").to_lowercase(), kind.programs()?);
        let id = container.command(kind.sleeper()).start()?;
        let client = daemon.crictl_command()?.args(["exec", "-it", &id]).args(talker(*kind));
        let person = Person::before(*kind, &daemon, &client)?;
        person.talks()?;
        person.leaves()?;
    }
    pod.remove()
}

#[test]
fn a_containers_terminal_is_that_of_its_container() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let id = lab.unique("console");
    let line = "tty; test -c /dev/console && echo console; ls /dev/pts; exit 0";
    let words = ["sh", "-c", line].map(str::to_owned).to_vec();
    let terminal = Terminal::run(&with_terminal(&lab, Kind::Linux, &id, words)?)?;
    assert_eq!(terminal.code(PATIENCE)?, 0);
    terminal.shows("/dev/pts/0", PATIENCE)?;
    terminal.shows("console", PATIENCE)?;
    Ok(())
}

#[test]
fn control_c_interrupts() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        // What is executed is not process 1, and so ends by SIGINT without a handler.
        let id = standing(&lab, *kind, "interrupted", &[]);
        for words in [kind.sleeper(), kind.burner()] {
            let client = lab.exec_command(&id, ["--tty"]).args(&words);
            let terminal = Terminal::run(&client)?;
            host::eventually("the process runs", PATIENCE, || {
                Ok(lab.ctr(["tasks", "ps", &id])?.lines().len() > 2)
            })?;
            // The client may not have handed its terminal over yet.
            terminal.passes_keys_on(PATIENCE)?;
            std::thread::sleep(Duration::from_millis(100));
            terminal.press("C-c")?;
            assert_eq!(terminal.code(PATIENCE)?, 130, "{kind:?} {words:?}");
        }
    }
    let client = with_terminal(&lab, Kind::Linux, &lab.unique("init"), talker(Kind::Linux))?;
    let person = Person::before(Kind::Linux, &lab, &client)?;
    person.terminal.enter("sleep 1000")?;
    std::thread::sleep(Duration::from_millis(300));
    person.terminal.press("C-c")?;
    person.terminal.enter("echo code $?")?;
    person.terminal.shows("code 130", PATIENCE)?;
    assert_eq!(person.leaves()?, 3);
    if Kind::all().contains(&Kind::Wasm) {
        let id = lab.unique("init");
        let terminal = Terminal::run(&with_terminal(&lab, Kind::Wasm, &id, Kind::Wasm.sleeper())?)?;
        terminal.shows("sleeping", PATIENCE)?;
        terminal.press("C-c")?;
        assert_eq!(terminal.code(PATIENCE)?, 130);
    }
    Ok(())
}

#[test]
fn control_d_ends_the_input() -> Result<()> {
    let Some(lab) = lab(Release::V2_1) else { return Ok(()) };
    for kind in Kind::all() {
        let client = with_terminal(&lab, *kind, &lab.unique("ends"), kind.cat())?;
        let terminal = Terminal::run(&client)?;
        std::thread::sleep(Duration::from_millis(500));
        terminal.enter("typed")?;
        terminal.holds("typed\ntyped", PATIENCE)?;
        terminal.press("C-d")?;
        assert_eq!(terminal.code(PATIENCE)?, 0, "{kind:?}");
    }
    Ok(())
}

#[test]
fn much_output_passes_a_terminal_whole() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let id = lab.unique("much");
    let words = ["seq", "1", "200000"].map(str::to_owned).to_vec();
    let client = with_terminal(&lab, Kind::Linux, &id, words)?;
    // `script` gives the client a terminal, and keeps all it prints.
    let kept = lab.folder(&id)?.join("typescript");
    let script = Invocation::new("script").args(["-q", "-e", "-c", &client.shell_line()]);
    script.arg(&kept).run()?.ok()?;
    let text = std::fs::read_to_string(&kept)?;
    let numbers: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    // The first stands behind what `script` itself says.
    assert!(
        numbers == (2..=200_000).collect::<Vec<_>>(),
        "{} numbers, {:?}",
        numbers.len(),
        text.lines().take(2).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn nerdctl_run_ends_with_its_input() -> Result<()> {
    let Some(daemon) = PODS.daemon()? else { return Ok(()) };
    for kind in Kind::all() {
        let command = daemon.nerdctl_command()?.args(["run", "-i", "--rm", "--network", "none"]);
        let command = command.args(["--runtime", &runtime()]).arg(kind.programs()?.name.as_str());
        let output = command.args(kind.cat()).stdin("x\n").timeout(PATIENCE).run()?.ok()?;
        assert_eq!(output.stdout, "x\n", "{kind:?}");
    }
    Ok(())
}

#[test]
fn close_io_ends_the_input_of_init_and_of_what_is_executed() -> Result<()> {
    let Some(lab) = lab(Release::V1_7) else { return Ok(()) };
    let peer = Peer::under_test();
    for kind in Kind::all() {
        let bundle = match kind {
            Kind::Linux => HandBundle::linux(&lab, &["/bin/cat"])?,
            Kind::Wasm => HandBundle::wasm(&lab, "cat", &[])?,
        };
        let bundle = bundle.by(peer);
        let server = bundle.serve()?;
        let words = bundle.spec()["process"]["args"].clone();
        let process = json!({
            "args": words,
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        let mut standing = None;
        for exec in ["", "e1"] {
            let streams = Streams::in_folder(bundle.folder(), &format!("of{exec}"))?;
            let [both_ends, _stdout, _stderr] = streams.open()?;
            let mut writer = File::options().write(true).open(&streams.stdin)?;
            begin(&server, exec, &streams, &process);
            let cat = server.process(bundle.id(), exec);
            writer.write_all(b"typed\n")?;
            drop((both_ends, writer));
            // A writer that goes, as containerd does when it is restarted, is no end yet. (To runc's shim it is one.)
            if peer == Peer::Hybrid {
                let early = cat.wait_within(Duration::from_millis(300));
                assert!(early.is_err(), "{kind:?} {exec:?}: it ended before its input: {early:?}");
            }
            cat.close_input().expect("closed");
            if exec.is_empty() {
                // The init has to stand while something is executed in it, so it is made anew.
                assert_eq!(cat.wait(), Ok(0), "{kind:?}");
                cat.delete().expect("deleted");
                standing = Some(stand(&server, &bundle)?);
            } else {
                assert_eq!(cat.wait(), Ok(0), "{kind:?}");
            }
        }
        drop(standing);
    }
    Ok(())
}

/// Makes the process whose input is to end, and starts it.
fn begin(server: &Server, exec: &str, streams: &Streams, process: &Value) {
    if exec.is_empty() {
        server.create_by(&streams.of_init(server.request())).expect("created");
        server.start().expect("started");
    } else {
        let request = streams.of_exec(server.init().exec_request(exec, process));
        server.init().exec_by(&request).expect("registered").start().expect("started");
    }
}

/// Makes the container again, with an input that does not end.
fn stand(server: &Server, bundle: &HandBundle) -> Result<[File; 3]> {
    let streams = Streams::in_folder(bundle.folder(), "standing")?;
    let held = streams.open()?;
    begin(server, "", &streams, &Value::Null);
    Ok(held)
}
