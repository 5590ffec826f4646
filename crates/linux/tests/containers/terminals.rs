//! Containers and further processes on a terminal.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use oci_spec::runtime::UserBuilder;
use sys::terminal::{Size, resize};

use crate::lab::{Lab, bind, mount};
use crate::{Case, keeper};

pub(crate) const CASES: &[Case] = &[
    ("a_containers_terminal_is_its_own", a_containers_terminal_is_its_own),
    ("an_execs_terminal_is_the_containers", an_execs_terminal_is_the_containers),
    ("the_keys_of_a_terminal_reach_its_foreground", the_keys_of_a_terminal_reach_its_foreground),
    (
        "a_container_can_have_a_long_path_and_a_terminal",
        a_container_can_have_a_long_path_and_a_terminal,
    ),
    ("a_hostile_multiplexer_is_never_opened", a_hostile_multiplexer_is_never_opened),
    ("streams_and_terminal_must_agree", streams_and_terminal_must_agree),
];

const SHOW: &str = "tty; stty size; ls -ln $(tty); echo job control; sleep 0 & wait; echo -n > /dev/tty && echo controlled";

/// Reads what is shown until the last process has closed the terminal.
pub(crate) fn read_to_end(mut master: File) -> String {
    let (mut shown, mut part) = (String::new(), [0; 4096]);
    loop {
        match master.read(&mut part) {
            Ok(0) => break,
            Ok(length) => shown.push_str(std::str::from_utf8(&part[..length]).unwrap()),
            // The kernel's word for "no slave is open".
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
            Err(error) => panic!("{error}"),
        }
    }
    shown.replace("\r\n", "\n")
}

/// Reads until `text` was shown.
fn expect(master: &mut File, text: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    let (mut shown, mut part) = (String::new(), [0; 4096]);
    while !shown.contains(text) {
        assert!(Instant::now() < deadline, "{text:?} is not in {shown:?}");
        let mut polled = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, 100u16).unwrap() > 0 {
            let length = master.read(&mut part).unwrap_or_else(|error| panic!("{shown}: {error}"));
            shown.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
    }
    shown
}

fn console_size() -> Option<oci_spec::runtime::Box> {
    Some(serde_json::from_str(r#"{"width": 132, "height": 43}"#).unwrap())
}

fn assert_shown(shown: &str, uid: u32) {
    let owner = format!(" {uid} 5 ");
    let squeezed = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.starts_with("/dev/pts/0\n43 132\n"), "{shown}");
    assert!(squeezed.contains(&owner), "{shown}");
    assert!(shown.ends_with("job control\ncontrolled\n"), "{shown}");
}

fn a_containers_terminal_is_its_own() {
    for uid in [0u32, 1000] {
        let mut lab =
            Lab::new(&format!("{SHOW}; ls -l /dev/console | grep -q ^c || echo no console"));
        lab.process().set_console_size(console_size());
        lab.process().set_user(UserBuilder::default().uid(uid).gid(uid).build().unwrap());
        let (pid, master) = lab.create_on_terminal().unwrap();
        assert!(!lab.state_root().join(&lab.id).join("console.sock").exists());
        lab.start().unwrap();
        assert_shown(&read_to_end(master), uid);
        assert_eq!(keeper::wait(pid), 0);
        lab.delete().unwrap();
        assert_eq!(lab.remains(), Vec::<String>::new());
    }
}

fn an_execs_terminal_is_the_containers() {
    let lab = Lab::new("sleep 600");
    let init = lab.up();
    for uid in [0u32, 1000] {
        let mut process = lab.another(SHOW);
        process.set_console_size(console_size());
        process.set_user(UserBuilder::default().uid(uid).gid(uid).build().unwrap());
        let (pid, master) = lab.exec_on_terminal(process).unwrap();
        assert!(keeper::is_my_child(pid));
        assert_shown(&read_to_end(master), uid);
        assert_eq!(keeper::wait(pid), 0);
    }
    let (pid, master) = lab.exec_on_terminal(lab.another("ls /proc/self/fd")).unwrap();
    // The fourth is the one that the listing is read by.
    assert_eq!(read_to_end(master).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    keeper::wait(pid);
    lab.end(init.pid);
}

fn the_keys_of_a_terminal_reach_its_foreground() {
    let lab = Lab::new("sleep 600");
    let init = lab.up();
    let begin = |script: &str| {
        let (pid, mut master) = lab.exec_on_terminal(lab.another(script)).unwrap();
        expect(&mut master, "ready");
        (pid, master)
    };
    let (pid, mut master) = begin("echo ready; exec sleep 600");
    master.write_all(b"\x03").unwrap();
    assert_eq!(keeper::wait(pid), 128 + 2, "Ctrl-C");
    let (pid, mut master) = begin("echo ready; exec cat");
    master.write_all(b"typed\n\x04").unwrap();
    assert!(read_to_end(master).contains("typed\n"));
    assert_eq!(keeper::wait(pid), 0, "Ctrl-D");
    let (pid, master) = begin("echo ready; exec sleep 600");
    drop(master);
    assert_eq!(keeper::wait(pid), 128 + 1, "hang-up");
    let (pid, mut master) =
        begin("trap 'stty size; exit 3' WINCH; echo ready; while true; do sleep 0.01; done");
    resize(master.as_fd(), Size { columns: 77, rows: 33 }).unwrap();
    expect(&mut master, "33 77");
    assert_eq!(keeper::wait(pid), 3, "a new size");
    lab.end(init.pid);

    // The same for the first process, which ignores what it has no handler for.
    let mut lab =
        Lab::new("trap 'echo caught; exit 3' INT; echo ready; while true; do sleep 0.01; done");
    let (pid, mut master) = lab.create_on_terminal().unwrap();
    lab.start().unwrap();
    expect(&mut master, "ready");
    master.write_all(b"\x03").unwrap();
    expect(&mut master, "caught");
    assert_eq!(keeper::wait(pid), 3);
    lab.delete().unwrap();
    // Nobody but its owner holds the master: not even the first process itself.
    let mut lab =
        Lab::new("trap 'exit 4' HUP; ls /proc/1/fd; echo ready; while true; do sleep 0.01; done");
    let (pid, mut master) = lab.create_on_terminal().unwrap();
    lab.start().unwrap();
    let shown = expect(&mut master, "ready");
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "ready"]);
    drop(master);
    assert_eq!(keeper::wait(pid), 4, "hang-up");
    lab.delete().unwrap();
}

fn a_container_can_have_a_long_path_and_a_terminal() {
    let mut lab = Lab::new("tty");
    lab.lengthen_state_root(&"long/".repeat(40));
    assert!(lab.state_root().as_os_str().len() > 200);
    let (pid, master) = lab.create_on_terminal().unwrap();
    lab.start().unwrap();
    assert_eq!(read_to_end(master), "/dev/pts/0\n");
    assert_eq!(keeper::wait(pid), 0);
    lab.delete().unwrap();
    assert_eq!(lab.remains(), Vec::<String>::new());
}

fn a_hostile_multiplexer_is_never_opened() {
    // Of a volume that is the container's /dev, so that what it holds is anybody's.
    let prepare = |spoil: &dyn Fn(&std::path::Path)| {
        let mut lab = Lab::new("sleep 600");
        let dev = lab.path("dev");
        fs::create_dir(&dev).unwrap();
        spoil(&dev);
        let kept = |it: &oci_spec::runtime::Mount| !it.destination().starts_with("/dev");
        let mut mounts: Vec<_> = lab.spec.mounts().clone().unwrap();
        mounts.retain(kept);
        mounts.push(bind(&dev, "/dev", "rw"));
        lab.spec.set_mounts(Some(mounts));
        lab
    };
    let folder = |dev: &std::path::Path| fs::create_dir(dev.join("pts")).unwrap();
    let spoils: [&dyn Fn(&std::path::Path); 4] = [
        &|_| (),
        &|dev| {
            folder(dev);
            fs::write(dev.join("pts/ptmx"), "").unwrap();
        },
        &|dev| {
            folder(dev);
            let null = dev.join("pts/ptmx");
            mknod(&null, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(5, 2)).unwrap();
        },
        &|dev| symlink("/tmp", dev.join("pts")).unwrap(),
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let mut lab = prepare(spoil);
        let error = lab.create_on_terminal().map(drop).unwrap_err();
        assert!(error.contains("unable to start container process"), "{number}: {error}");
        keeper::reap_all();
        assert_eq!(lab.remains(), Vec::<String>::new(), "{number}");
        let lab = prepare(spoil);
        let init = lab.up();
        let error = lab.exec_on_terminal(lab.another("tty")).map(drop).unwrap_err();
        assert!(error.contains("make a terminal"), "{number}: {error}");
        assert_eq!(keeper::children_alive(), 1);
        // Without a terminal it runs.
        assert_eq!(lab.exec_to_end(lab.another("echo in")).stdout, "in\n");
        lab.end(init.pid);
    }
    // With a devpts in its place it has a terminal, whatever /dev/ptmx is.
    let mut lab = prepare(&|dev| folder(dev));
    let options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    lab.add_mount(mount("devpts", "devpts", "/dev/pts", &options));
    let init = lab.up();
    for hostile in ["ln -s /tmp/trap /dev/ptmx", "echo > /dev/ptmx", "mkdir /dev/ptmx"] {
        let made = lab.exec_to_end(lab.another(&format!("rm -rf /dev/ptmx; {hostile}")));
        assert_eq!(made.code, 0, "{made:?}");
        let (pid, master) = lab.exec_on_terminal(lab.another("tty")).unwrap();
        assert_eq!(read_to_end(master), "/dev/pts/0\n");
        assert_eq!(keeper::wait(pid), 0);
    }
    assert!(!lab.rootfs().join("tmp/trap").exists());
    assert_eq!(fs::metadata("/dev/null").unwrap().rdev(), makedev(1, 3));
    lab.end(init.pid);
}

fn streams_and_terminal_must_agree() {
    let mut lab = Lab::new("true");
    lab.process().set_terminal(Some(true));
    let error = lab.create().map(|it| it.pid).unwrap_err();
    assert!(error.contains("process.terminal is true, but its streams are given"), "{error}");
    assert_eq!(lab.remains(), Vec::<String>::new());
    lab.process().set_terminal(None);
    let request = lab.request();
    let call = || linux::create(&request, sys::stdio::Stdio::Terminal);
    let error = keeper::make(call).map(drop).unwrap_err();
    assert!(error.contains("process.terminal is false, but its streams are not given"), "{error}");
    assert_eq!(lab.run().code, 0);
}
