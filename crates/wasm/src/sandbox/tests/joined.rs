//! Further processes in a sandbox that stands.

use std::io::{PipeReader, PipeWriter};

use sys::pidfd::Identity;

use super::*;

/// A process whose guest waits for the end of its input.
struct Running {
    pid: Pid,
    pidfd: PidFd,
    input: Option<PipeWriter>,
    output: PipeReader,
}

impl Running {
    /// Has it started, once it is ready.
    #[track_caller]
    fn started(
        made: Result<Launched, LaunchError>,
        input: PipeWriter,
        output: PipeReader,
    ) -> Result<Self, String> {
        let Launched { pid, pidfd, link } = made.map_err(|error| sys::error::chain(&error))?;
        let said = link.recv().unwrap().expect("it reports").body;
        if said != READY {
            assert_eq!(pidfd.wait().unwrap(), ExitStatus::Exited(1));
            return Err(String::from_utf8(said).unwrap());
        }
        link.send(START, &[]).unwrap();
        Ok(Self { pid, pidfd, input: Some(input), output })
    }

    /// Waits for the guest's first words.
    fn hear(&mut self) -> String {
        let mut text = vec![0; 1000];
        let length = self.output.read(&mut text).unwrap();
        text.truncate(length);
        String::from_utf8(text).unwrap()
    }

    fn end(mut self) -> ExitStatus {
        self.input.take();
        self.pidfd.wait().unwrap()
    }
}

fn streams() -> ([OwnedFd; 3], PipeWriter, PipeReader) {
    let (stdin, input) = std::io::pipe().unwrap();
    let (output, stdout) = std::io::pipe().unwrap();
    let stderr = stdout.try_clone().unwrap();
    ([stdin.into(), stdout.into(), stderr.into()], input, output)
}

impl Lab {
    /// Launches an init that says a word and waits.
    fn stand(&self, spec: Value) -> (Running, Joined) {
        let plan = self.plan(spec);
        let (stdio, input, output) = streams();
        let init = |inside: Inside| {
            // A folder of its own in memory, so that nobody else has the file.
            fs::write("/g/1/mine", "of the init").unwrap();
            say(&format!("{:?}", inside.preopens));
            await_end_of_input();
            5
        };
        let launched = launch(self.kit(), &plan, stdio, &[], &self.recorder, init);
        let init = Running::started(launched, input, output).unwrap();
        let identity = Identity::of(init.pid).unwrap();
        (init, Joined { init: identity, plan })
    }

    fn join(
        &self,
        joined: &Joined,
        guest: impl FnOnce(&[Preopen]) -> i32,
    ) -> Result<Running, String> {
        let (stdio, input, output) = streams();
        let made = join(self.kit(), joined, stdio, &[], &self.recorder, guest);
        Running::started(made, input, output)
    }

    fn tidy(&self, joined: &Joined) {
        sys::cgroup::remove(&joined.plan.cgroup).unwrap();
        assert!(!self.cgroup(&joined.plan).exists());
    }
}

const ALL_KINDS: [Kind; 6] =
    [Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts, Kind::Mount, Kind::Cgroup];

#[test]
fn a_joined_process_is_where_the_init_is_and_somebody_else() {
    alone("join", |lab| {
        let mut spec = lab.spec();
        spec["hostname"] = json!("box");
        spec["linux"]["namespaces"] = json!([
            { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
            { "type": "network" }, { "type": "cgroup" },
        ]);
        // A file that lands in the root, before a folder: the folder's place is not the third.
        fs::write(lab.path("hosts"), "127.0.0.1 me").unwrap();
        fs::create_dir(lab.path("data")).unwrap();
        let bind = |target: &str, source: &str| json!({ "destination": target, "type": "bind", "source": lab.path(source), "options": ["rbind", "ro"] });
        spec["mounts"] = json!([bind("/etc/hosts", "hosts"), bind("/data", "data")]);
        let (mut init, mut joined) = lab.stand(spec);
        let preopens_of_init = init.hear();
        assert!(preopens_of_init.contains("/g/3"), "{preopens_of_init}");

        let process: oci_spec::runtime::Process = serde_json::from_value(json!({
            "user": { "uid": 77, "gid": 88 }, "args": ["/tool.wasm", "x"], "env": ["A=2"], "cwd": "/",
        }))
        .unwrap();
        joined.plan = joined.plan.for_process(&process).unwrap();
        let guest = |preopens: &[Preopen]| {
            assert_ne!(getpid().as_raw(), 1);
            assert_eq!(gethostname().unwrap(), "box");
            assert_eq!(fs::read_to_string("/g/1/mine").unwrap(), "of the init");
            assert_eq!(fs::read_to_string("/g/0/etc/hosts").unwrap(), "127.0.0.1 me");
            assert_eq!(errno(fs::write("/g/0/etc/motd", "x")), Some(libc::EROFS));
            assert_eq!(errno(fs::write("/g/3/new", "x")), Some(libc::EROFS));
            assert!(
                !Path::new("/proc/self").exists() && !Path::new("/g/0/../../etc/passwd").exists()
            );
            let open = (0..1024).filter(|fd| {
                // SAFETY: F_GETFD reads a flag of a number that need not be open.
                unsafe { libc::fcntl(*fd, libc::F_GETFD) != -1 }
            });
            assert_eq!(open.collect::<Vec<i32>>(), [0, 1, 2]);
            say(&format!("{preopens:?}"));
            await_end_of_input();
            23
        };
        let mut process = lab.join(&joined, guest).unwrap();
        assert_eq!(process.hear(), preopens_of_init);
        for kind in ALL_KINDS {
            assert_eq!(namespace(process.pid, kind), namespace(init.pid, kind), "{kind:?}");
            assert_ne!(namespace(process.pid, kind), namespace(getpid(), kind), "{kind:?}");
        }
        let mut pids = lab.cgroup(&joined.plan).pids().unwrap();
        pids.sort();
        let mut expected = vec![init.pid, process.pid];
        expected.sort();
        assert_eq!(pids, expected);
        let cgroup = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert_eq!(cgroup(process.pid), cgroup(init.pid));
        let of = |file: &str| fs::read(format!("/proc/{}/{file}", process.pid)).unwrap();
        assert_eq!(of("cmdline"), b"/tool.wasm\0x\0");
        assert_eq!(of("environ"), b"A=2\0");
        assert_eq!(status_line(process.pid, "Uid"), "77\t77\t77\t77");
        assert_eq!(status_line(process.pid, "Groups"), "");
        assert_eq!(status_line(init.pid, "Uid"), "0\t0\t0\t0");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status_line(process.pid, set), "0000000000000000", "{set}");
        }
        for (key, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Threads", "1")] {
            assert_eq!(status_line(process.pid, key), value, "{key}");
        }
        assert_eq!(process.end(), ExitStatus::Exited(23));
        assert_eq!(init.end(), ExitStatus::Exited(5));
        lab.tidy(&joined);
    });
}

#[test]
fn several_join_at_once_and_each_has_its_own_end() {
    alone("several", |lab| {
        let (init, joined) = lab.stand(lab.spec());
        let mut running: Vec<Running> = (0..5)
            .map(|number| {
                let guest = move |_: &[Preopen]| {
                    fs::write(format!("/g/1/{number}"), "here").unwrap();
                    say("here");
                    await_end_of_input();
                    let others = fs::read_dir("/g/1").unwrap().count();
                    if others == 6 { 40 + number } else { 1 }
                };
                lab.join(&joined, guest).unwrap()
            })
            .collect();
        for process in &mut running {
            assert_eq!(process.hear(), "here");
        }
        running.reverse();
        for (number, process) in (0..5).rev().zip(running) {
            assert_eq!(process.end(), ExitStatus::Exited(40 + number));
        }
        assert_eq!(init.end(), ExitStatus::Exited(5));
        lab.tidy(&joined);
    });
}

#[test]
fn the_namespaces_of_the_host_and_of_a_pod_are_the_joined_processes_too() {
    alone("shared", |lab| {
        let pod = Pod::new(&lab.single);
        let mut spec = lab.spec();
        spec["linux"]["namespaces"] = json!([
            { "type": "mount" },
            { "type": "pid", "path": pod.file(Kind::Pid) },
            { "type": "uts", "path": pod.file(Kind::Uts) },
        ]);
        let on_the_host = json!([{ "type": "mount" }]);
        let in_the_pod = spec["linux"]["namespaces"].clone();
        for namespaces in [in_the_pod, on_the_host] {
            spec["linux"]["namespaces"] = namespaces;
            let (mut init, joined) = lab.stand(spec.clone());
            init.hear();
            let guest = |_: &[Preopen]| {
                say(&fs::read_to_string("/g/1/mine").unwrap());
                await_end_of_input();
                6
            };
            let mut process = lab.join(&joined, guest).unwrap();
            assert_eq!(process.hear(), "of the init");
            for kind in ALL_KINDS {
                assert_eq!(namespace(process.pid, kind), namespace(init.pid, kind), "{kind:?}");
            }
            assert_eq!(process.end(), ExitStatus::Exited(6));
            assert_eq!(init.end(), ExitStatus::Exited(5));
            lab.tidy(&joined);
        }
    });
}

#[test]
fn nobody_joins_a_sandbox_whose_init_has_ended() {
    alone("gone", |lab| {
        let (mut init, joined) = lab.stand(lab.spec());
        init.hear();
        let refused = |joined: &Joined| {
            let (stdio, _input, _output) = streams();
            let made = join(lab.kit(), joined, stdio, &[], &lab.recorder, |_| 0);
            assert!(matches!(made, Err(LaunchError::Gone)), "{made:?}");
            made.unwrap_err().to_string()
        };
        // The same id, of a process that began at another time.
        let mut other = serde_json::to_value(&joined).unwrap();
        other["init"]["started"] = json!(other["init"]["started"].as_u64().unwrap() - 1);
        assert!(refused(&serde_json::from_value(other).unwrap()).contains("has ended"));
        assert_eq!(lab.join(&joined, |_| 3).unwrap().end(), ExitStatus::Exited(3));

        // Ended but not reaped, then gone.
        init.input.take();
        assert!(init.pidfd.ends_within(std::time::Duration::from_secs(10)).unwrap());
        refused(&joined);
        assert_eq!(init.end(), ExitStatus::Exited(5));
        refused(&joined);
        lab.tidy(&joined);
    });
}

#[test]
fn an_init_that_ends_while_it_is_joined_takes_nobody_elsewhere() {
    alone("race", |lab| {
        for patience in (0..2000).step_by(100) {
            let (mut init, joined) = lab.stand(lab.spec());
            init.hear();
            let host = namespace(getpid(), Kind::Mount);
            let Fork::Parent { pidfd: killer, .. } = ({
                let forked = lab.single.fork(CloneFlags::empty()).unwrap();
                if matches!(forked, Fork::Child) {
                    std::thread::sleep(std::time::Duration::from_micros(patience));
                    init.pidfd.send_signal(libc::SIGKILL).unwrap();
                    exit_now(0);
                }
                forked
            }) else {
                unreachable!()
            };
            let (stdio, _input, _output) = streams();
            match join(lab.kit(), &joined, stdio, &[], &lab.recorder, |_| 0) {
                Err(error) => assert!(matches!(error, LaunchError::Gone), "{error:?}"),
                Ok(Launched { pid, pidfd, link }) => {
                    if let Ok(Some(said)) = link.recv() {
                        let text = String::from_utf8(said.body).unwrap();
                        if text == "ready" {
                            let there = fs::metadata(format!("/proc/{pid}/ns/mnt"));
                            assert!(there.is_err() || there.unwrap().ino() != host);
                        } else {
                            assert!(text.contains("has ended"), "{text}");
                        }
                    }
                    drop(link);
                    pidfd.wait().unwrap();
                }
            }
            killer.wait().unwrap();
            assert_eq!(init.end(), ExitStatus::Signalled(libc::SIGKILL));
            lab.tidy(&joined);
        }
    });
}

#[test]
fn process_one_takes_those_who_joined_it_along() {
    alone("along", |lab| {
        let (mut init, joined) = lab.stand(lab.spec());
        let guest = |_: &[Preopen]| {
            say("here");
            await_end_of_input();
            0
        };
        let mut process = lab.join(&joined, guest).unwrap();
        process.hear();
        init.input.take();
        // Process 1 does not end before all in its namespace are reaped, whoever's children they
        // are: in this order, as the keeper's loop comes to it by itself.
        assert_eq!(process.pidfd.wait().unwrap(), ExitStatus::Signalled(libc::SIGKILL));
        assert_eq!(init.end(), ExitStatus::Exited(5));
        lab.tidy(&joined);
    });
}

#[test]
fn a_process_that_cannot_join_says_why_and_harms_nobody() {
    alone("cannot-join", |lab| {
        let (mut init, joined) = lab.stand(lab.spec());
        init.hear();
        let mut bad = joined.clone();
        bad.plan.oom_score_adj = Some(4000);
        let error = lab.join(&bad, |_| 0).err().unwrap();
        assert!(error.contains("cannot set process.oomScoreAdj to 4000"), "{error}");
        assert_eq!(lab.cgroup(&joined.plan).pids().unwrap(), [init.pid]);
        assert_eq!(lab.join(&joined, |_| 4).unwrap().end(), ExitStatus::Exited(4));
        assert_eq!(init.end(), ExitStatus::Exited(5));
        lab.tidy(&joined);
    });
}

#[test]
fn a_joined_process_leaves_nothing_open_and_is_quick() {
    alone("join-many", |lab| {
        const ROUNDS: usize = 100;
        let (mut init, joined) = lab.stand(lab.spec());
        init.hear();
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        let mut times: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let begun = std::time::Instant::now();
                assert_eq!(lab.join(&joined, |_| 0).unwrap().end(), ExitStatus::Exited(0));
                begun.elapsed()
            })
            .collect();
        assert_eq!(descriptors(), before);
        times.sort();
        eprintln!("join to end: fastest {:?}, median {:?}", times[0], times[ROUNDS / 2]);
        assert_eq!(init.end(), ExitStatus::Exited(5));
        lab.tidy(&joined);
    });
}

/// A neighbour in the PID namespace of a sandbox, as powerful as can be, with
/// `/proc` in a mount namespace of its own. It calls `look` with the folder and
/// the id of each process there but itself and process 1, until it is killed.
fn neighbour(lab: &Lab, init: &Running, mut look: impl FnMut(&Path, i32)) -> Launched {
    let proc = lab.path("proc");
    fs::create_dir(&proc).unwrap();
    let namespace = PathBuf::from(format!("/proc/{}/ns/pid", init.pid));
    let way = Way { flags: CloneFlags::empty(), door: None };
    let body = |link: Seqpacket| {
        copy_the_hosts_mounts();
        let plain = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("proc"), proc.as_str(), Some("proc"), plain, None::<&str>).unwrap();
        link.send(READY, &[]).unwrap();
        let mut newest = getpid().as_raw();
        let mut living = Vec::new();
        loop {
            // A listing of the folder would take longer than what it is to find.
            // One that this process slept through must not be waited for.
            let is_there = |pid: &i32| Path::new(&proc).join(pid.to_string()).exists();
            if let Some(pid) = (newest + 1..newest + 30).find(is_there) {
                newest = pid;
                living.push(pid);
            }
            living.retain(|pid| {
                let folder = Path::new(&proc).join(pid.to_string());
                look(&folder, *pid);
                folder.exists()
            });
        }
    };
    let launched = clone_into(&namespace, &lab.single, way, body).unwrap();
    assert_eq!(launched.link.recv().unwrap().unwrap().body, READY);
    launched
}

#[test]
fn a_neighbour_never_finds_the_host_through_a_process_that_joins() {
    alone("unseen", |lab| {
        const ROUNDS: usize = 20;
        fs::write(lab.path("of-the-host"), "secret").unwrap();
        let secret = lab.path("of-the-host");
        assert!(Path::new(&format!("/proc/self/root{secret}")).exists());
        let (mut init, joined) = lab.stand(lab.spec());
        init.hear();
        let (seen, found) = (lab.path("seen"), lab.path("found"));
        let mut last = 0;
        let watcher = neighbour(&lab, &init, |folder, pid| {
            if last != pid {
                last = pid;
                let old = fs::read_to_string(&seen).unwrap_or_default();
                fs::write(&seen, format!("{old}{pid}\n")).unwrap();
            }
            let mut complaints = String::new();
            if folder.join("root").join(&secret[1..]).exists() {
                complaints += &format!("{pid} has the host's root\n");
            }
            for entry in fs::read_dir(folder.join("fd")).into_iter().flatten().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                // The grants are opened for Landlock. On version 2 the cgroup's door is open for a
                // moment: a tree of its own, with nothing above its root.
                let leads_out = entry.path().join("../../../..").join(&secret[1..]).exists();
                let is_door = target == Path::new("/") && !leads_out;
                if target.is_absolute() && !target.starts_with("/g") && !is_door {
                    complaints += &format!("{pid} has {}\n", target.display());
                }
            }
            if !complaints.is_empty() {
                fs::write(&found, complaints).unwrap();
            }
        });
        for _ in 0..ROUNDS {
            let guest = |_: &[Preopen]| {
                std::thread::sleep(Duration::from_millis(20));
                0
            };
            assert_eq!(lab.join(&joined, guest).unwrap().end(), ExitStatus::Exited(0));
        }
        watcher.pidfd.send_signal(libc::SIGKILL).unwrap();
        watcher.pidfd.wait().unwrap();
        assert_eq!(fs::read_to_string(&found).unwrap_or_default(), "");
        assert!(fs::read_to_string(&seen).unwrap().lines().count() > ROUNDS / 2);
        assert_eq!(init.end(), ExitStatus::Exited(5));
        lab.tidy(&joined);
    });
}

#[test]
fn a_process_that_a_neighbour_stops_holds_nobody_up_and_ends_with_the_cgroup() {
    alone("stopped", |lab| {
        let (mut init, joined) = lab.stand(lab.spec());
        init.hear();
        let watcher = neighbour(&lab, &init, |_, pid| {
            let _ended = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::SIGSTOP);
        });
        let stopped: Vec<_> = (0..10)
            .map(|_| {
                let (stdio, input, output) = streams();
                let begun = std::time::Instant::now();
                let guest = |_: &[Preopen]| 0;
                let made = join(lab.kit(), &joined, stdio, &[], &lab.recorder, guest).unwrap();
                assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
                assert!(lab.cgroup(&joined.plan).pids().unwrap().contains(&made.pid));
                (made, input, output)
            })
            .collect();
        lab.cgroup(&joined.plan).signal_all(libc::SIGKILL).unwrap();
        for (made, ..) in stopped {
            assert_eq!(made.pidfd.wait().unwrap(), ExitStatus::Signalled(libc::SIGKILL));
        }
        watcher.pidfd.wait().unwrap();
        assert_eq!(init.end(), ExitStatus::Signalled(libc::SIGKILL));
        lab.tidy(&joined);
    });
}

#[test]
fn a_harmless_door_opens_a_cgroup_of_version_2() {
    alone("door", |lab| {
        copy_the_hosts_mounts();
        let mounted = lab.path("cgroup2");
        fs::create_dir(&mounted).unwrap();
        let plain = nix::mount::MsFlags::empty();
        let kind = Some("cgroup2");
        if let Err(error) = nix::mount::mount(kind, mounted.as_str(), kind, plain, None::<&str>) {
            eprintln!("SKIPPED: no cgroups of version 2 here: {error}");
            return;
        }
        let folder = Path::new(&mounted).join(&lab.id);
        fs::create_dir(&folder).unwrap();
        let opened = fs::File::open(&folder).unwrap();
        let door = join::harmless(opened.as_fd()).unwrap();
        let above = sys::path::path_of(door.as_fd()).unwrap();
        assert_eq!(above, Path::new("/"), "it has nothing above it");
        match lab.single.fork_into(CloneFlags::empty(), Some(door.as_fd())).unwrap() {
            Fork::Child => {
                let places = fs::read_to_string("/proc/self/cgroup").unwrap();
                exit_now(i32::from(!places.contains(&format!("0::/{}\n", lab.id))))
            }
            Fork::Parent { pidfd, .. } => assert_eq!(pidfd.wait().unwrap(), ExitStatus::Exited(0)),
        }
        drop((door, opened));
        fs::remove_dir(&folder).unwrap();
    });
}
