//! What a container wrote, kept and read back.

use std::time::SystemTime;

use futures::StreamExt;
use runtime::Error;
use runtime::logs::{Follow, LogEntry, LogOptions, LogStream, Output};
use runtime::process::ExitStatus::Exited;

use crate::guests::tool;
use crate::lab::Lab;
use crate::running::Running;
use crate::world::World;

crate::cases![
    both_outputs_come_back_byte_for_byte_with_their_times,
    a_wasm_guests_output_is_kept_as_well,
    who_follows_gets_the_last_line_and_then_the_end,
    the_last_lines_or_the_latest_can_be_asked_for,
    output_that_is_not_kept_cannot_be_read,
    a_terminals_output_cannot_be_kept,
];

async fn logs(container: &Running<'_>, options: LogOptions) -> LogStream {
    container.runtime.logs(&container.handle, options).await.unwrap()
}

async fn all(stream: LogStream) -> Vec<LogEntry> {
    stream.map(Result::unwrap).collect().await
}

fn following() -> LogOptions {
    LogOptions { follow: Follow::Yes, ..LogOptions::default() }
}

fn bytes_of(entries: &[LogEntry], source: Output) -> Vec<u8> {
    let of_it = entries.iter().filter(|entry| entry.source == source);
    of_it.flat_map(|entry| entry.bytes.clone()).collect()
}

fn texts(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(|entry| str::from_utf8(&entry.bytes).unwrap()).collect()
}

async fn both_outputs_come_back_byte_for_byte_with_their_times(world: &World) {
    let script = "echo one; echo oops >&2; head -c 40000 /dev/zero; printf '\\n\\nlast'";
    let begun = SystemTime::now();
    let container = Lab::linux(script).logged().run(&world.first).await;
    // Followed, so that all of it is there.
    let entries = all(logs(&container, following()).await).await;
    let expected = [b"one\n".as_slice(), &[0; 40000], b"\n\nlast"].concat();
    assert!(bytes_of(&entries, Output::Stdout) == expected);
    assert_eq!(bytes_of(&entries, Output::Stderr), b"oops\n");
    assert!(entries.iter().all(|entry| begun <= entry.at && entry.at <= SystemTime::now()));
    assert!(entries.is_sorted_by_key(|entry| entry.at));
    assert_eq!(all(logs(&container, LogOptions::default()).await).await, entries);
    container.delete().await;
}

async fn a_wasm_guests_output_is_kept_as_well(world: &World) {
    let lab = Lab::wasm(&tool("")).arguments(&["/app.wasm", "argument"]).logged();
    let container = lab.run(&world.first).await;
    assert_eq!(container.wait().await, Exited(2));
    let entries = all(logs(&container, following()).await).await;
    assert_eq!(bytes_of(&entries, Output::Stdout), b"hello\n");
    assert_eq!(bytes_of(&entries, Output::Stderr), b"oops\n");
    container.delete().await;
    assert!(lab.log_file().exists(), "the file is its owner's");
}

async fn who_follows_gets_the_last_line_and_then_the_end(world: &World) {
    let lab = Lab::linux("echo one; read line; echo $line; sleep 0.1; printf last").logged();
    let mut container = lab.create(&world.first).await;
    let mut follower = logs(&container, following()).await;
    container.start().await;
    let next = follower.next().await.unwrap().unwrap();
    assert_eq!(next.bytes, b"one\n", "while it runs");
    container.ends().write("two\n").await;
    let entries = all(follower).await;
    assert_eq!(texts(&entries), ["two\n", "last"]);
    assert_eq!(container.wait().await, Exited(0));
    container.delete().await;
}

async fn the_last_lines_or_the_latest_can_be_asked_for(world: &World) {
    let lab = Lab::linux("echo one; sleep 0.05; echo two; sleep 0.05; echo three >&2").logged();
    let container = lab.run(&world.first).await;
    let entries = all(logs(&container, following()).await).await;
    assert_eq!(texts(&entries), ["one\n", "two\n", "three\n"]);
    for (tail, since, expected) in [
        (Some(2), None, &entries[1..]),
        (Some(0), None, &entries[3..]),
        (Some(9), None, &entries[..]),
        (None, Some(entries[1].at), &entries[1..]),
        (Some(1), Some(entries[0].at), &entries[2..]),
        (None, Some(SystemTime::now()), &entries[3..]),
    ] {
        let options = LogOptions { tail, since, ..LogOptions::default() };
        assert_eq!(all(logs(&container, options).await).await, expected, "{tail:?} {since:?}");
    }
    container.delete().await;
}

async fn output_that_is_not_kept_cannot_be_read(world: &World) {
    for lab in [Lab::linux("exit 2"), Lab::wasm(&tool("")).arguments(&["/app.wasm", "argument"])] {
        let container = lab.run(&world.first).await;
        let options = LogOptions::default();
        let Err(refused) = container.runtime.logs(&container.handle, options).await else {
            panic!("there is nothing to read")
        };
        assert!(matches!(refused, Error::NotFound(_)), "{refused:?}");
        let says = format!("the output of container {} is not kept here", lab.id);
        assert!(refused.to_string().contains(&says), "{refused}");
        assert_eq!(container.wait().await, Exited(2));
        container.delete().await;
    }
}

async fn a_terminals_output_cannot_be_kept(world: &World) {
    for new in [|| Lab::linux("exit 2"), || Lab::wasm(&tool(""))] {
        let lab = new().on_terminal().logged();
        let Err(refused) = lab.try_create(&world.first).await else { panic!("it is refused") };
        assert!(matches!(refused, Error::InvalidSpec(_)), "{refused:?}");
        let says = "the output of a terminal cannot be kept";
        assert!(refused.to_string().contains(says), "{refused}");
        assert_eq!(lab.bundle_files(), ["config.json", "rootfs"]);
        assert!(!lab.log_file().exists());
        for lab in [new().on_terminal(), new().logged()] {
            lab.create(&world.first).await.delete().await;
        }
    }
}
