//! Proves the kit itself, with runc's shim in place of ours: what fails here is not the shim's fault.
//!
//! Needs root, and the network once, to fetch containerd.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::catalogue;
use testkit::containerd::{CRI_NAMESPACE, Daemon, RUNC, Release};
use testkit::cri::Pod;
use testkit::image::media_type::WASM_LAYERS;
use testkit::leftovers::{Census, Item, cgroups, mounts};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_release_runs_a_linux_image_and_leaves_nothing() {
    if !testkit::ready() {
        return;
    }
    let busybox = catalogue::busybox().unwrap();
    for release in Release::ALL {
        let daemon = Daemon::start(release).unwrap();
        daemon.import(&busybox).unwrap();
        let before = Census::of(&daemon).unwrap();
        let id = daemon.unique("hello");
        let run = |words: &[&str]| {
            let run = daemon.run(&busybox, &id).runtime(RUNC);
            run.args(words.iter().copied()).output().unwrap()
        };
        let output = run(&["sh", "-c", "echo hello; exit 7"]);
        assert_eq!(
            (output.status, output.stdout.as_str()),
            (Some(7), "hello\n"),
            "{release}: {}",
            output.report()
        );
        let again = || Census::of(&daemon);
        before.settles(again, PATIENCE).unwrap();
    }
}

#[test]
fn a_running_task_is_seen_and_a_dropped_daemon_takes_it_along() {
    if !testkit::ready() {
        return;
    }
    let busybox = catalogue::busybox().unwrap();
    let daemon = Daemon::start(Release::V1_7).unwrap();
    daemon.import(&busybox).unwrap();
    let before = Census::of(&daemon).unwrap();
    let id = daemon.unique("sleeper");
    let sleeper = daemon.run(&busybox, &id).runtime(RUNC).detach();
    sleeper.args(["sleep", "1000"]).output().unwrap().ok().unwrap();
    daemon.wait_for_status(&id, "RUNNING", PATIENCE).unwrap();
    let pid = daemon.task_pid(&id).unwrap();
    assert_eq!(daemon.shims().len(), 1);

    let during = Census::of(&daemon).unwrap();
    let has = |wanted: fn(&Item) -> bool| during.items().any(wanted);
    assert!(has(|item| matches!(item, Item::Process { line, .. } if line == "sleep 1000")));
    assert!(has(|item| matches!(item, Item::Mount(path) if path.ends_with("rootfs"))));
    assert!(has(|item| matches!(item, Item::Cgroup(_))));
    assert!(has(|item| matches!(item, Item::Socket(_))), "{during:?}");
    assert!(has(|item| matches!(item, Item::State(_))));
    assert!(!before.difference(&during).is_empty());

    let (namespace, state) = (daemon.namespace().to_owned(), daemon.state());
    drop(daemon);
    let gone = kill(Pid::from_raw(pid), None).is_err()
        || testkit::process::Process::read(pid).is_none_or(|process| process.is_zombie());
    assert!(gone, "process {pid} lives on");
    assert!(!state.exists());
    assert!(cgroups(&[&namespace]).is_empty());
    assert!(mounts().iter().all(|mount| !mount.starts_with(&state)));
}

#[test]
fn a_task_lives_on_while_containerd_is_killed_and_started_again() {
    if !testkit::ready() {
        return;
    }
    let busybox = catalogue::busybox().unwrap();
    let mut daemon = Daemon::start(Release::V2_1).unwrap();
    daemon.import(&busybox).unwrap();
    let id = daemon.unique("survivor");
    let survivor = daemon.run(&busybox, &id).runtime(RUNC).detach();
    survivor.args(["sleep", "1000"]).output().unwrap().ok().unwrap();
    let pid = daemon.task_pid(&id).unwrap();
    daemon.kill().unwrap();
    assert!(daemon.pid().is_err());
    daemon.restart().unwrap();
    assert_eq!(daemon.task_pid(&id).unwrap(), pid);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    daemon.wait_for_status(&id, "STOPPED", PATIENCE).unwrap();
}

#[test]
fn wasm_images_of_every_kind_can_be_imported() {
    if !testkit::ready() {
        return;
    }
    let mut archives = vec![catalogue::hello_wasm().unwrap(), catalogue::hello_mixed().unwrap()];
    archives.extend(WASM_LAYERS.map(|media_type| catalogue::layer_type(media_type).unwrap()));
    archives.extend(catalogue::WASM_PLATFORMS.map(|name| catalogue::platform(name).unwrap()));
    for release in Release::ALL {
        let daemon = Daemon::start(release).unwrap();
        // Every release takes a tar layer, and of an index the part that it understands.
        daemon.import(&catalogue::hello_file().unwrap()).unwrap();
        daemon.import(&catalogue::multi().unwrap()).unwrap();
        for archive in &archives {
            let imported = daemon.import(archive);
            if release.takes_wasm_layers() {
                imported.unwrap_or_else(|error| panic!("{release}: {error:#}"));
                let listed = daemon.ctr(["images", "ls"]).unwrap().ok().unwrap();
                let line = listed.lines().into_iter().find(|line| line.contains(&archive.name));
                assert!(
                    line.is_some_and(|line| line.contains(&archive.digest)),
                    "{}",
                    listed.stdout
                );
            } else {
                assert!(imported.is_err(), "containerd {release} took {}", archive.name);
            }
        }
    }
}

#[test]
fn input_reaches_a_container_and_its_end_ends_it() {
    if !testkit::ready() {
        return;
    }
    let busybox = catalogue::busybox().unwrap();
    let daemon = Daemon::start(Release::V1_7).unwrap();
    daemon.import(&busybox).unwrap();
    let run = daemon.run(&busybox, &daemon.unique("cat")).runtime(RUNC);
    let output = run.args(["cat"]).stdin("typed\n").output().unwrap().ok().unwrap();
    assert_eq!(output.stdout, "typed\n");
}

#[test]
fn a_pod_runs_a_container_on_every_release() {
    if !testkit::ready() {
        return;
    }
    let busybox = catalogue::busybox().unwrap();
    for release in Release::ALL {
        let daemon = Daemon::options(release).cri().start().unwrap();
        daemon.import_in(CRI_NAMESPACE, &busybox).unwrap();
        let before = Census::of(&daemon).unwrap();
        let pod = Pod::new("web").runtime("runc").start(&daemon).unwrap();
        let address = pod.address().unwrap().expect("a pod has an address");
        assert!(address.starts_with("10.88."), "{address}");
        let container = pod.container("hello", &busybox).env("NAME", "pod");
        let container = container.command(["sh", "-c", "echo hello $NAME; ip route; exit 3"]);
        let (code, log) = container.run(PATIENCE).unwrap();
        assert_eq!(code, 3, "{release}: {log}");
        assert!(log.starts_with("hello pod\n"), "{release}: {log}");
        assert!(!log.contains("default"), "a pod must not reach the outside: {log}");
        pod.remove().unwrap();
        before.settles(|| Census::of(&daemon), PATIENCE).unwrap();
    }
}

#[test]
fn nerdctl_runs_a_container_with_a_published_port_network() {
    if !testkit::ready() {
        return;
    }
    let busybox = catalogue::busybox().unwrap();
    let daemon = Daemon::options(Release::V2_1).cri().start().unwrap();
    daemon.import(&busybox).unwrap();
    let output =
        daemon.nerdctl(["run", "--rm", "--runtime", RUNC, busybox.as_ref(), "echo", "by nerdctl"]);
    assert_eq!(output.unwrap().ok().unwrap().stdout, "by nerdctl\n");
    let command = daemon.nerdctl_command().unwrap();
    let piped = command.args(["run", "-i", "--rm", "--runtime", RUNC, busybox.as_ref(), "cat"]);
    assert_eq!(piped.stdin("piped\n").run().unwrap().ok().unwrap().stdout, "piped\n");
}

#[test]
fn only_the_listed_annotations_of_a_pod_reach_its_containers() {
    if !testkit::ready() {
        return;
    }
    // runc's shim under the handler's name: only what containerd writes into the bundle is looked at.
    let busybox = catalogue::busybox().unwrap();
    for release in Release::ALL {
        let stand_in = release.fetch().unwrap().join("containerd-shim-runc-v2");
        let daemon = Daemon::options(release)
            .cri()
            .shim(stand_in)
            .configure(without_options)
            .start()
            .unwrap();
        daemon.import_in(CRI_NAMESPACE, &busybox).unwrap();
        let pod = Pod::new("asking").runtime("hybrid");
        let pod = pod.annotation("com.wasm.capabilities.filesystem", "read:/data");
        let pod = pod.annotation("example.com/other", "x").start(&daemon).unwrap();
        let container = pod.container("main", &busybox).annotation("run.oci.handler", "wasm");
        let id = container.command(["sleep", "1000"]).start().unwrap();
        let bundle = daemon.state().join("io.containerd.runtime.v2.task/k8s.io").join(id);
        let spec = std::fs::read_to_string(bundle.join("config.json")).unwrap();
        assert!(
            spec.contains(r#""com.wasm.capabilities.filesystem":"read:/data""#),
            "{release}: {spec}"
        );
        assert!(spec.contains(r#""run.oci.handler":"wasm""#), "{release}: {spec}");
        assert!(!spec.contains("example.com/other"), "{release}: {spec}");
    }
}

/// runc's shim refuses our options.
fn without_options(config: &mut toml::Table) {
    for (_, plugin) in config["plugins"].as_table_mut().expect("plugins is a table") {
        let hybrid = plugin
            .get_mut("containerd")
            .and_then(|table| table.get_mut("runtimes"))
            .and_then(|table| table.get_mut("hybrid"));
        if let Some(hybrid) = hybrid.and_then(|table| table.as_table_mut()) {
            hybrid.remove("options");
        }
    }
}
