//! Guests at a terminal.

use std::io::{IsTerminal, Write};

use sys::pidfd::Identity;
use sys::terminal::{Terminal, open_on_host};

use super::*;

/// Waits for a line that contains `words`; a terminal echoes what is typed as well.
fn hear(master: &mut fs::File, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        let mut more = [0; 256];
        let length = master.read(&mut more).unwrap();
        assert_ne!(length, 0, "{text}");
        text.push_str(std::str::from_utf8(&more[..length]).unwrap());
    }
    text
}

/// Says what it finds, then computes for ever, as a guest that never looks at its input.
fn busy() -> i32 {
    let streams = [
        std::io::stdin().is_terminal(),
        std::io::stdout().is_terminal(),
        std::io::stderr().is_terminal(),
    ];
    say(if streams == [true; 3] { "at a terminal\n" } else { "elsewhere\n" });
    loop {
        std::hint::spin_loop();
    }
}

/// The sandbox's process 1, or one that has joined it, at a terminal of its own.
fn at_a_terminal(lab: &Lab, into: Option<&Joined>) -> (Launched, fs::File) {
    let Terminal { master, slave } = open_on_host().unwrap();
    let stdio = [slave.try_clone().unwrap(), slave.try_clone().unwrap(), slave];
    let launched = match into {
        None => {
            let mut spec = lab.spec();
            spec["process"]["terminal"] = json!(true);
            launch(lab.kit(), &lab.plan(spec), stdio, &[], &lab.recorder, |_| busy())
        }
        Some(joined) => {
            let mut joined = joined.clone();
            joined.plan.terminal = true;
            join(lab.kit(), &joined, stdio, &[], &lab.recorder, |_| busy())
        }
    };
    let launched = launched.unwrap();
    let said = launched.link.recv().unwrap().unwrap().body;
    assert_eq!(said, READY, "{}", String::from_utf8_lossy(&said));
    launched.link.send(START, &[]).unwrap();
    let mut master = fs::File::from(master);
    hear(&mut master, "at a terminal");
    (launched, master)
}

#[test]
fn a_key_ends_a_guest_at_its_terminal_and_so_does_the_terminals_end() {
    alone("terminal", |lab| {
        let plan = lab.plan(lab.spec());
        let keys: [(&[u8], i32); 3] =
            [(b"\x03", libc::SIGINT), (b"\x1c", libc::SIGQUIT), (b"", libc::SIGHUP)];
        for (key, signal) in keys {
            let (init, mut master) = at_a_terminal(&lab, None);
            if key.is_empty() {
                drop(master);
            } else {
                master.write_all(key).unwrap();
            }
            assert_eq!(init.pidfd.wait().unwrap(), ExitStatus::Exited(128 + signal));
            sys::cgroup::remove(&plan.cgroup).unwrap();
        }
    });
}

#[test]
fn a_key_ends_one_process_and_not_those_at_other_terminals() {
    alone("terminals", |lab| {
        let plan = lab.plan(lab.spec());
        let (init, mut first) = at_a_terminal(&lab, None);
        let joined = Joined { init: Identity::of(init.pid).unwrap(), plan: plan.clone() };
        let (process, mut second) = at_a_terminal(&lab, Some(&joined));
        second.write_all(b"\x03").unwrap();
        assert_eq!(process.pidfd.wait().unwrap(), ExitStatus::Exited(130));
        let size = sys::terminal::Size { columns: 132, rows: 43 };
        sys::terminal::resize(first.as_fd(), size).unwrap();
        assert_eq!(init.pidfd.try_wait().unwrap(), None);
        first.write_all(b"\x03").unwrap();
        assert_eq!(init.pidfd.wait().unwrap(), ExitStatus::Exited(130));
        sys::cgroup::remove(&plan.cgroup).unwrap();
    });
}
