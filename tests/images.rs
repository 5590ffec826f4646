//! Every kind of image runs, with what its user asked for: wasm as a layer, as a file, beside files, in an index, and Linux.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them.

use std::fs;

use end_to_end::lab::{LAYERED, Lab, PATIENCE, assert_ran, must, on_each};
use testkit::catalogue::{self, WASM_PLATFORMS};
use testkit::containerd::Release;
use testkit::guest;
use testkit::image::media_type::WASM_LAYERS;
use testkit::image::{Archive, Files, Image, Layer};

#[test]
fn a_module_runs_from_a_layer_of_every_wasm_type() {
    on_each(&LAYERED, |lab| {
        for media_type in WASM_LAYERS {
            let image = lab.image(catalogue::layer_type(media_type));
            let output = must(lab.start(&image, "layer").output());
            assert_ran(&output, 0, "hello from wasm\narg /hello.wasm\n");
        }
    });
}

#[test]
fn a_module_runs_under_every_platform_string() {
    on_each(&LAYERED, |lab| {
        for platform in WASM_PLATFORMS {
            let image = lab.image(catalogue::platform(platform));
            let output = must(lab.start(&image, "platform").output());
            assert_ran(&output, 0, "hello from wasm\n");
        }
    });
}

#[test]
fn the_exit_code_of_a_module_is_the_clients() {
    on_each(&LAYERED, |lab| {
        let image = lab.image(catalogue::guest_image("streams"));
        let output = must(lab.start(&image, "streams").output());
        assert_ran(&output, 3, "to stdout\n");
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("to stdout\n", "to stderr\n")
        );
    });
}

#[test]
fn a_module_reads_the_files_of_its_image_and_cannot_change_them() {
    on_each(&LAYERED, |lab| {
        let image = lab.image(catalogue::files_mixed());
        let files = |words: &[&str]| {
            let args = ["/mixed-files.wasm"].iter().chain(words).copied();
            must(lab.start(&image, "files").args(args).output())
        };
        assert_ran(&files(&["read", "/data/note.txt"]), 0, "a note from the image\n");
        assert_ran(&files(&["list", "/data"]), 0, "note.txt\n");
        let written = files(&["write", "/data/new.txt", "x"]);
        assert_ran(&written, 1, "");
        assert!(written.stderr.contains("write /data/new.txt"), "{}", written.report());
        // The image's own files are read-only; the private /tmp is not.
        assert_ran(&files(&["write", "/tmp/new.txt", "x"]), 0, "");
        assert_ran(&files(&["read", "/tmp/new.txt"]), 1, "");
    });
}

#[test]
fn a_module_runs_as_a_file_of_an_ordinary_image_on_every_release() {
    on_each(&Release::ALL, |lab| {
        let image = lab.image(catalogue::hello_file());
        let output = must(lab.start(&image, "file").env("GREETING", "hi").output());
        assert_ran(&output, 0, "hello from wasm\narg /app.wasm\n");
        assert!(output.lines().contains(&"env GREETING=hi"), "{}", output.report());
    });
}

/// An image with the hello module as `/opt/bin/app.wasm`.
fn hello_in_opt(name: &str) -> Image {
    let hello = must(guest::wat("hello"));
    Image::new(&format!("docker.io/hybrid/{name}:1"))
        .layer(Layer::tar_gzip(Files::new().executable("/opt/bin/app.wasm", hello)))
}

#[test]
fn an_entrypoint_may_be_absolute_relative_or_found_in_the_path() {
    on_each(&Release::ALL, |lab| {
        let absolute = hello_in_opt("absolute").entrypoint(["/opt/bin/app.wasm"]);
        let relative = hello_in_opt("relative").working_dir("/opt").entrypoint(["bin/app.wasm"]);
        let dotted = hello_in_opt("dotted").working_dir("/opt/bin").entrypoint(["./app.wasm"]);
        let in_path = hello_in_opt("in-path").env("PATH=/bin:/opt/bin").entrypoint(["app.wasm"]);
        for (image, argv0) in [
            (absolute, "/opt/bin/app.wasm"),
            (relative, "bin/app.wasm"),
            (dotted, "./app.wasm"),
            (in_path, "app.wasm"),
        ] {
            let image = lab.build(image);
            let output = must(lab.start(&image, "entrypoint").output());
            assert_ran(&output, 0, &format!("hello from wasm\narg {argv0}\n"));
        }
    });
}

#[test]
fn a_module_gets_exactly_the_arguments_and_environment_of_its_container() {
    on_each(&LAYERED, |lab| {
        let hello = must(guest::wat("hello"));
        let as_layer = catalogue::module_image("words-layer", hello.clone());
        let as_file = catalogue::file_image("words-file", hello);
        for image in [as_layer, as_file] {
            let image = image.entrypoint(["/app.wasm", "from the entrypoint"]);
            let image = image.command(["from cmd", ""]).env("IMAGE=from the image");
            let image = lab.build(image);
            let output = must(lab.start(&image, "words").env("RUN", "a=b c").output());
            assert_ran(&output, 0, "hello from wasm\n");
            let (args, env): (Vec<&str>, Vec<&str>) =
                output.lines().into_iter().skip(1).partition(|line| line.starts_with("arg "));
            assert_eq!(args, ["arg /app.wasm", "arg from the entrypoint", "arg from cmd", "arg "]);
            // PATH is containerd's own default; nothing of the shim's environment may come along.
            let known = ["env PATH=", "env IMAGE=", "env RUN=", "env HOSTNAME="];
            let foreign = |line: &&str| !known.iter().any(|start| line.starts_with(start));
            assert!(!env.iter().any(foreign), "{}", output.report());
            assert!(env.contains(&"env IMAGE=from the image"), "{}", output.report());
            assert!(env.contains(&"env RUN=a=b c"), "{}", output.report());
        }
    });
}

#[test]
fn each_platform_of_an_index_runs_its_own_program() {
    on_each(&LAYERED, |lab| {
        let image = lab.image(catalogue::multi());
        for (platform, start) in
            [("linux/amd64", "hello from linux\n"), ("wasip1/wasm", "hello from wasm\n")]
        {
            let output = must(lab.start(&image, "index").platform(platform).output());
            assert_ran(&output, 0, start);
        }
    });
}

#[test]
fn guests_written_in_c_and_go_run() {
    on_each(&LAYERED, |lab| {
        for (image, start) in [
            (catalogue::c_image("hello"), "hello from C\narg /c-hello.wasm\n"),
            (catalogue::go_image("hello"), "hello from Go\narg /go-hello.wasm\n"),
        ] {
            let image = lab.image(image);
            assert_ran(&must(lab.start(&image, "language").output()), 0, start);
        }
        let image = lab.image(catalogue::go_image("hello"));
        let run = lab.start(&image, "primes").args(["/go-hello.wasm", "work", "1000"]);
        let output = must(run.output());
        assert!(output.lines().contains(&"primes 168"), "{}", output.report());
    });
}

/// Runs a shell line in the busybox image.
fn shell(lab: &Lab, flags: &[&str], line: &str) -> testkit::command::Output {
    let busybox = lab.image(catalogue::busybox());
    let run = lab.start(&busybox, "shell").flags(flags.iter().copied());
    must(run.args(["sh", "-c", line]).output())
}

#[test]
fn a_linux_image_prints_and_returns_its_exit_code() {
    on_each(&Release::ALL, |lab| {
        let output = shell(lab, &[], "echo to stdout; echo to stderr >&2; exit 7");
        assert_ran(&output, 7, "to stdout\n");
        assert_eq!(output.stderr, "to stderr\n", "{}", output.report());
    });
}

#[test]
fn env_cwd_and_user_reach_a_linux_container() {
    on_each(&LAYERED, |lab| {
        let plain = shell(lab, &[], "echo \"$NAME|$(pwd)|$(id -u):$(id -g)\"");
        assert_ran(&plain, 0, "|/|0:0\n");
        let flags = ["--env", "NAME=a b", "--cwd", "/tmp", "--user", "1000:1000"];
        let asked = shell(lab, &flags, "echo \"$NAME|$(pwd)|$(id -u):$(id -g)\"");
        assert_ran(&asked, 0, "a b|/tmp|1000:1000\n");
        let status =
            shell(lab, &["--user", "1000:1000"], "grep -E '^(Uid|Gid):' /proc/self/status");
        assert_ran(&status, 0, "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n");
    });
}

#[test]
fn a_read_only_root_refuses_writes() {
    on_each(&LAYERED, |lab| {
        let line = "echo x > /new && echo written";
        assert_ran(&shell(lab, &[], line), 0, "written\n");
        let refused = shell(lab, &["--read-only"], line);
        assert_ran(&refused, 1, "");
        assert!(refused.stderr.contains("Read-only file system"), "{}", refused.report());
    });
}

#[test]
fn a_seccomp_profile_is_in_force() {
    on_each(&LAYERED, |lab| {
        let line = "grep ^Seccomp: /proc/self/status; unshare -U true; echo $?";
        let plain = shell(lab, &[], line);
        assert_ran(&plain, 0, "Seccomp:\t0\n");
        let confined = shell(lab, &["--seccomp"], line);
        assert_ran(&confined, 0, "Seccomp:\t2\n");
    });
}

/// Makes a folder of the host with one file in it.
fn host_folder(lab: &Lab, name: &str) -> std::path::PathBuf {
    let folder = must(lab.folder(&lab.unique(name)));
    fs::write(folder.join("given.txt"), "from the host\n").expect("written");
    folder
}

#[test]
fn a_bind_mount_is_as_writable_as_it_was_given() {
    on_each(&LAYERED, |lab| {
        let busybox = lab.image(catalogue::busybox());
        let files = lab.image(catalogue::files_mixed());
        let host = host_folder(lab, "bind");
        for (options, code, name) in [("rbind:ro", 1, "ro.txt"), ("rbind:rw", 0, "rw.txt")] {
            let mount = format!("type=bind,src={},dst=/host,options={options}", host.display());
            let start = |image: &Archive, args: &[&str]| {
                let run = lab.start(image, "bind").flags(["--mount", &mount]);
                must(run.args(args.iter().copied()).output())
            };
            let linux = start(&busybox, &["cat", "/host/given.txt"]);
            assert_ran(&linux, 0, "from the host\n");
            let line = format!("echo linux > /host/linux-{name}");
            assert_ran(&start(&busybox, &["sh", "-c", &line]), code, "");
            assert_eq!(host.join(format!("linux-{name}")).exists(), code == 0);

            let wasm = start(&files, &["/mixed-files.wasm", "read", "/host/given.txt"]);
            assert_ran(&wasm, 0, "from the host\n");
            let path = format!("/host/wasm-{name}");
            let written = start(&files, &["/mixed-files.wasm", "write", &path, "wasm"]);
            assert_ran(&written, code, "");
            assert_eq!(host.join(format!("wasm-{name}")).exists(), code == 0);
        }
    });
}

/// Reads a limit of a process from the cgroup it is in, of whichever version the host has.
fn limit(pid: i32, v1: (&str, &str), v2: &str) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a running process");
    let rows = table.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    for (controllers, path) in rows {
        let file = if controllers.is_empty() {
            format!("/sys/fs/cgroup{path}/{v2}")
        } else if controllers.split(',').any(|name| name == v1.0) {
            format!("/sys/fs/cgroup/{}{path}/{}", v1.0, v1.1)
        } else {
            continue;
        };
        if let Ok(text) = fs::read_to_string(file) {
            return text.trim().to_owned();
        }
    }
    panic!("process {pid} is in no cgroup with {}:\n{table}", v1.1)
}

#[test]
fn limits_of_memory_and_cpu_are_set_for_both_kinds() {
    on_each(&LAYERED, |lab| {
        let linux = (lab.image(catalogue::busybox()), vec!["sleep", "1000"]);
        let wasm = (lab.image(catalogue::guest_image("sleeper")), vec![]);
        for (image, args) in [linux, wasm] {
            let id = lab.unique("limits");
            let run = lab.run(&image, &id).detach().args(args);
            let run = run.flags(["--memory-limit", "67108864", "--cpus", "0.5"]);
            must(must(run.output()).ok());
            must(lab.wait_for_status(&id, "RUNNING", PATIENCE));
            let pid = must(lab.task_pid(&id));
            let memory = limit(pid, ("memory", "memory.limit_in_bytes"), "memory.max");
            let cpu = limit(pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
            must(must(lab.ctr(["tasks", "kill", "--signal", "SIGKILL", &id])).ok());
            must(lab.wait_for_status(&id, "STOPPED", PATIENCE));
            must(must(lab.ctr(["tasks", "rm", &id])).ok());
            must(must(lab.ctr(["containers", "rm", &id])).ok());
            assert_eq!(memory, "67108864", "{}", image.name);
            assert!(cpu == "50000" || cpu == "50000 100000", "{}: {cpu}", image.name);
        }
    });
}
