//! The copy between a terminal's master, the console, and where containerd wants its
//! input and output.
//!
//! Two tasks of the server's own runtime, each with one small buffer: a side that is
//! slow makes the other wait. The console can hang up without its process having ended
//! (one that closes its terminal, and opens it again as systemd does): the copy is over
//! only once it was told of the process's end and nothing is left to read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use runtime::watched;
use sys::terminal::{Size, slave_of};
use sys::waiting::set_nonblocking;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::passing::{Announcer, Passed, announced};
use super::sink::{Sink, Writer};

/// As much as a terminal gives at once.
const CHUNK: usize = 4096;

/// How long a console that has hung up, and can't be had back, is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// What a console is to be connected with.
#[derive(Debug)]
pub(super) struct Ends {
    /// The reading end of a FIFO.
    pub(super) input: Option<OwnedFd>,
    pub(super) output: Sink,
}

/// A console whose copy runs until this is dropped, or the process has ended and all its
/// output was passed on.
#[derive(Debug)]
pub(super) struct Console {
    master: OwnedFd,
    passed_on: Passed,
    copies: Vec<AbortHandle>,
}

impl Console {
    /// Starts the copy; `ended` tells of the process's end.
    ///
    /// # Errors
    /// What the kernel says to a descriptor that can't be waited on.
    pub(super) fn attach(
        master: OwnedFd,
        ends: Ends,
        ended: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        set_nonblocking(&master)?;
        let mut copies = Vec::new();
        if let Some(input) = ends.input {
            // Another descriptor, since each is waited on by one task alone.
            let console = watched(master.try_clone()?)?;
            let input = Receiver::from_owned_fd(input)?;
            copies.push(tokio::spawn(copy_input(input, console, ended.clone())).abort_handle());
        }
        let console = watched(master.try_clone()?)?;
        let output = Writer::open("a terminal's output".into(), ends.output)?;
        let (announcer, passed_on) = announced();
        let copy = async move {
            if let Err(error) = copy_output(console, output, ended, &announcer).await {
                log::error!("a terminal's output is not passed on any more: {error}");
            }
            announcer.all();
        };
        copies.push(tokio::spawn(copy).abort_handle());
        Ok(Self { master, passed_on, copies })
    }

    /// Tells the terminal how large it is.
    pub(super) fn resize(&self, size: Size) -> io::Result<()> {
        sys::terminal::resize(self.master.as_fd(), size)
    }

    /// Tells how far the output was passed on.
    pub(super) fn passed_on(&self) -> Passed {
        self.passed_on.clone()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.abort();
        }
    }
}

async fn copy_output(
    mut console: AsyncFd<OwnedFd>,
    mut output: Writer,
    mut ended: watch::Receiver<bool>,
    announcer: &Announcer,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut kept_slave = None;
    loop {
        // Looked at before the read: what was written before the end can be read after it.
        let is_over = *ended.borrow_and_update();
        let read = if is_over {
            nix::unistd::read(console.get_ref(), &mut chunk)
        } else {
            tokio::select! {
                ready = console.readable() => {
                    match ready?.try_io(|fd| would_block(nix::unistd::read(fd, &mut chunk))) {
                        Ok(read) => read?,
                        Err(_would_block) => continue,
                    }
                }
                // The sender is gone together with whoever wanted the output.
                changed = ended.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Ok(()),
                },
            }
        };
        match read {
            Ok(0) => return Ok(()),
            Ok(count) => {
                output.write(&chunk[..count]).await;
                announcer.chunk();
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::EIO) if is_over => return Ok(()),
            Err(Errno::EIO) => {
                // Nobody has the terminal open now. With its other end held open here the
                // console can be waited on again.
                match slave_of(console.get_ref().as_fd()) {
                    Ok(slave) => drop(kept_slave.replace(slave)),
                    Err(_) => pause(&mut ended).await,
                }
                console = watched(console.into_inner())?;
            }
            Err(errno) => return Err(errno.into()),
        }
        // Neither reads nor some of the writes count as waiting.
        tokio::task::consume_budget().await;
    }
}

async fn copy_input(
    mut input: Receiver,
    mut console: AsyncFd<OwnedFd>,
    mut ended: watch::Receiver<bool>,
) {
    let copy = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            match input.read(&mut chunk).await? {
                0 => return Ok(()),
                count => console = write_all(console, &chunk[..count]).await?,
            }
        }
    };
    let copied: io::Result<()> = tokio::select! {
        copied = copy => copied,
        // Its sender is gone together with the console.
        _ = ended.wait_for(|ended| *ended) => Ok(()),
    };
    if let Err(error) = copied {
        log::error!("a terminal gets no input any more: {error}");
    }
}

/// Writes to a console as it takes it.
async fn write_all(
    mut console: AsyncFd<OwnedFd>,
    mut bytes: &[u8],
) -> io::Result<AsyncFd<OwnedFd>> {
    while !bytes.is_empty() {
        let mut ready = console.writable().await?;
        let has_hung_up = ready.ready().is_write_closed();
        match ready.try_io(|fd| would_block(nix::unistd::write(fd, bytes))) {
            Ok(written) => match written? {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EIO) => console = renewed(console).await?,
                Err(errno) => return Err(errno.into()),
            },
            // It would count as ready for ever.
            Err(_would_block) if has_hung_up => console = renewed(console).await?,
            Err(_would_block) => {}
        }
    }
    Ok(console)
}

async fn renewed(console: AsyncFd<OwnedFd>) -> io::Result<AsyncFd<OwnedFd>> {
    tokio::time::sleep(PAUSE).await;
    watched(console.into_inner())
}

async fn pause(ended: &mut watch::Receiver<bool>) {
    // Over at the end, or by time, whichever comes first.
    drop(tokio::time::timeout(PAUSE, ended.changed()).await);
}

/// Sorts out the one error that a task waits on.
fn would_block<T>(done: Result<T, Errno>) -> io::Result<Result<T, Errno>> {
    match done {
        Err(Errno::EAGAIN) => Err(Errno::EAGAIN.into()),
        done => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::fcntl::OFlag;
    use sys::terminal::{Terminal, open_on_host};
    use tokio::sync::watch::Sender as Teller;

    use super::*;

    /// A console that is connected with pipes, and what a test has of it.
    struct Setup {
        slave: std::fs::File,
        input: std::fs::File,
        output: std::fs::File,
        /// The reading end that the shim holds.
        held: Option<OwnedFd>,
        ended: Teller<bool>,
        console: Console,
    }

    fn setup() -> Setup {
        let Terminal { master, slave } = open_on_host().expect("a terminal");
        make_raw(&slave);
        let (input, input_writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (output_reader, output) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let held = output_reader.try_clone().expect("another");
        let ended = Teller::new(false);
        let ends = Ends { input: Some(input), output: Sink::Pipe(output, None) };
        let console = Console::attach(master, ends, ended.subscribe()).expect("attached");
        Setup {
            slave: slave.into(),
            input: input_writer.into(),
            output: output_reader.into(),
            held: Some(held),
            ended,
            console,
        }
    }

    fn make_raw(slave: &OwnedFd) {
        let slave = std::fs::File::from(slave.try_clone().expect("another"));
        let stty = std::process::Command::new("stty").args(["raw", "-echo"]).stdin(slave).status();
        assert!(stty.expect("stty").success());
    }

    async fn passed_on(console: &Console) {
        let mut passed_on = console.passed_on();
        tokio::time::timeout(Duration::from_secs(60), passed_on.all()).await.expect("in time");
        assert!(passed_on.is_all(), "given up");
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("no panic")
    }

    /// Bytes of which no two stretches are alike.
    fn pattern(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[tokio::test]
    async fn sixty_four_mebibytes_pass_without_loss_to_a_reader_that_begins_late() {
        let Setup { mut slave, mut output, held, ended, console, input } = setup();
        let bytes = pattern(64 << 20);
        let expected = bytes.clone();
        let writer = std::thread::spawn(move || slave.write_all(&bytes));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!writer.is_finished(), "a full terminal makes the guest wait");
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            output.read_to_end(&mut got).map(|_| got)
        });
        blocking(move || writer.join().expect("joined").expect("written")).await;
        ended.send_replace(true);
        passed_on(&console).await;
        drop(held);
        let got = blocking(move || reader.join().expect("joined").expect("read")).await;
        assert_eq!(got.len(), expected.len());
        assert!(got == expected, "altered on the way");
        drop(input);
    }

    #[tokio::test]
    async fn what_was_written_just_before_the_end_is_passed_on() {
        for _ in 0..50 {
            let Setup { mut slave, mut output, ended, console, .. } = setup();
            blocking(move || slave.write_all(&pattern(3000)).map(|()| drop(slave)))
                .await
                .expect("written");
            ended.send_replace(true);
            passed_on(&console).await;
            drop(console);
            let mut got = vec![0; 3000];
            blocking(move || output.read_exact(&mut got).map(|()| assert_eq!(got, pattern(3000))))
                .await
                .expect("all of it");
        }
    }

    #[tokio::test]
    async fn input_waits_for_a_guest_that_is_slow_and_outlives_its_client() {
        let Setup { mut slave, mut input, console, ended, .. } = setup();
        let second = input.try_clone().expect("the shim's own writer");
        let bytes = pattern(1 << 20);
        let expected = bytes.clone();
        let client = std::thread::spawn(move || input.write_all(&bytes));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!client.is_finished(), "a guest that does not read makes its client wait");
        let got = blocking(move || {
            let mut got = vec![0; 1 << 20];
            slave.read_exact(&mut got).map(|()| (got, slave))
        });
        let (got, mut slave) = got.await.expect("all of it");
        assert!(got == expected, "altered on the way");
        client.join().expect("joined").expect("written");
        // The client is gone; another comes.
        let mut second_client = second;
        second_client.write_all(b"again").expect("room");
        let mut got = [0; 5];
        blocking(move || slave.read_exact(&mut got).map(|()| assert_eq!(&got, b"again")))
            .await
            .expect("served again");
        drop((console, ended));
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_takes_no_guest_with_it() {
        let Setup { mut slave, output, mut held, ended, console, .. } = setup();
        drop((output, held.take()));
        // Far more than anything on the way holds.
        blocking(move || slave.write_all(&pattern(1 << 20))).await.expect("read on");
        ended.send_replace(true);
        passed_on(&console).await;
    }

    #[tokio::test]
    async fn a_terminal_may_be_closed_by_all_and_opened_again() {
        let Setup { slave, mut output, console, ended, mut input, .. } = setup();
        let path = std::fs::read_link(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            slave.as_raw_fd()
        }));
        let path = path.expect("its path");
        for round in [b"one", b"two"] {
            let open = || std::fs::File::options().read(true).write(true).open(&path);
            let mut slave = open().expect("opened again");
            make_raw(&slave.try_clone().expect("another").into());
            slave.write_all(round).expect("written");
            input.write_all(round).expect("written");
            let mut got = [0; 3];
            slave = blocking(move || slave.read_exact(&mut got).map(|()| slave)).await.expect("in");
            drop(slave);
            output = blocking(move || {
                output.read_exact(&mut got).map(|()| assert_eq!(&got, round)).map(|()| output)
            })
            .await
            .expect("out");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!console.passed_on().is_all(), "not the end");
        }
        drop(slave);
        let before = cpu_time();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(cpu_time() - before < Duration::from_millis(100), "it waits busily");
        ended.send_replace(true);
        passed_on(&console).await;
    }

    #[tokio::test]
    async fn a_terminal_is_resized() {
        let Setup { slave, console, .. } = setup();
        console.resize(Size { columns: 132, rows: 43 }).expect("resized");
        let size = std::process::Command::new("stty").arg("size").stdin(slave).output();
        assert_eq!(size.expect("stty").stdout, b"43 132\n");
    }

    #[tokio::test]
    async fn a_terminal_s_output_can_go_to_a_file_or_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        for sink in [Sink::File(std::fs::File::create(&path).expect("a file")), Sink::Nowhere] {
            let Terminal { master, slave } = open_on_host().expect("a terminal");
            make_raw(&slave);
            let ended = Teller::new(false);
            let ends = Ends { input: None, output: sink };
            let console = Console::attach(master, ends, ended.subscribe()).expect("attached");
            let mut slave = std::fs::File::from(slave);
            blocking(move || slave.write_all(&pattern(1 << 20))).await.expect("written");
            ended.send_replace(true);
            passed_on(&console).await;
            assert!(std::fs::read(&path).expect("the file") == pattern(1 << 20));
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "clocks do not run backwards")]
    fn cpu_time() -> Duration {
        use nix::time::{ClockId, clock_gettime};
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
        Duration::new(time.tv_sec() as u64, u32::try_from(time.tv_nsec()).expect("below 10^9"))
    }
}
