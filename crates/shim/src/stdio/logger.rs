//! A logging binary: a program that reads the outputs of one process.
//!
//! It is given what containerd's own shim gives it: the two outputs as descriptors 3
//! and 4, and 5 to tell that it is ready; two variables as its whole environment. It
//! ends by itself at the end of its input. One that does not is asked to (SIGTERM) and
//! then killed, and a task of its own waits for its end in every case, so that it is
//! never a zombie.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::target::{Program, Readiness};
use super::{OpenError, Owner};

/// How long a logging binary may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// To tell that it is ready.
    pub(super) ready: Duration,
    /// To end by itself, once nothing more is to come.
    pub(super) finish: Duration,
    /// To end after SIGTERM.
    pub(super) terminate: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            ready: Duration::from_secs(10),
            finish: Duration::from_secs(2),
            // What runc's shim leaves it.
            terminate: Duration::from_secs(12),
        }
    }
}

/// How long one that has closed descriptor 5 is watched for having done so by ending.
const SETTLING: Duration = Duration::from_millis(5);

/// A logging binary that was started; dropping it ends it.
#[derive(Debug)]
pub(super) struct Logger {
    /// For messages.
    name: String,
    bounds: Bounds,
    /// Held while it is to run.
    wanted: Mutex<Option<oneshot::Sender<Infallible>>>,
    ended: watch::Receiver<Option<String>>,
}

/// One that has not yet told that it is ready.
#[derive(Debug)]
pub(super) struct Starting {
    logger: Logger,
    told: Receiver,
    readiness: Readiness,
}

/// The writing ends of a logging binary's input.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Starting {
    /// Starts the program; to be called where tokio runs.
    ///
    /// # Errors
    /// Says why it can't be started.
    pub(super) fn launch(
        program: &Program,
        owner: &Owner,
        bounds: Bounds,
    ) -> Result<(Self, Inputs), OpenError> {
        let name = format!("the logging binary {} of {}", program.path.display(), owner.id);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            OpenError::Failed(format!("{name} {what}: {error}"))
        };
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| failed("gets no pipe", &error));
        let ((out, stdout), (err, stderr), (told, tells)) = (pipe()?, pipe()?, pipe()?);
        let told = Receiver::from_owned_fd(told)
            .map_err(|error| failed("can't be listened to", &error))?;
        let child = {
            // Gone at the end of the block, and with it our copies of its descriptors.
            let mut command = Command::new(&program.path);
            command
                .args(&program.args)
                .env_clear()
                .env("CONTAINER_ID", &owner.id)
                .env("CONTAINER_NAMESPACE", &owner.namespace)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            sys::signal::unblocked_in(command.as_std_mut());
            let mappings = [(out, 3), (err, 4), (tells, 5)]
                .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
            command
                .as_std_mut()
                .fd_mappings(mappings.into())
                .map_err(|error| failed("can't be given its pipes", &error))?;
            command.spawn().map_err(|error| failed("can't be started", &error))?
        };
        let (wanted, unwanted) = oneshot::channel();
        let (announce, ended) = watch::channel(None);
        tokio::spawn(watch_over(child, name.clone(), bounds, unwanted, announce));
        let logger = Logger { name, bounds, wanted: Mutex::new(Some(wanted)), ended };
        Ok((Self { logger, told, readiness: program.readiness }, Inputs { stdout, stderr }))
    }

    /// Waits until it is ready. If it does not come to that it is ended.
    ///
    /// # Errors
    /// Says what is known of why it is not.
    pub(super) async fn ready(mut self) -> Result<Logger, OpenError> {
        let mut byte = [0];
        let told = timeout(self.logger.bounds.ready, self.told.read(&mut byte)).await;
        let why = match (told, self.readiness) {
            (Ok(Ok(1..)), _) => return Ok(self.logger),
            (Ok(Ok(0)), readiness) => match (self.logger.ended_soon().await, readiness) {
                (None, Readiness::Closes) => return Ok(self.logger),
                (None, Readiness::Writes) => "closed descriptor 5 and wrote nothing to it".into(),
                (Some(how), _) => format!("ended before it was ready ({how})"),
            },
            (Ok(Err(error)), _) => format!("can't be listened to: {error}"),
            (Err(_), _) => format!(
                "is not ready after {:?}: it tells so by closing descriptor 5",
                self.logger.bounds.ready
            ),
        };
        Err(OpenError::Failed(format!("{} {why}", self.logger.name)))
    }
}

impl Logger {
    /// Ends it, and waits for that: it has read all there is to come then, unless it had
    /// to be asked or killed. The other ends of its pipes should be closed.
    pub(super) async fn end(&self) {
        drop(self.wanted.lock().unwrap_or_else(PoisonError::into_inner).take());
        let bound = self.bounds.finish + self.bounds.terminate + Duration::from_secs(1);
        let mut ended = self.ended.clone();
        if timeout(bound, ended.wait_for(Option::is_some)).await.is_err() {
            log::error!("{} does not end after SIGKILL: the kernel holds it", self.name);
        }
    }

    async fn ended_soon(&self) -> Option<String> {
        let mut ended = self.ended.clone();
        let how = timeout(SETTLING, ended.wait_for(Option::is_some)).await.ok()?;
        how.ok()?.clone()
    }
}

/// Waits for the program's end, which it brings about once nobody wants it any more.
async fn watch_over(
    mut child: Child,
    name: String,
    bounds: Bounds,
    mut unwanted: oneshot::Receiver<Infallible>,
    announce: watch::Sender<Option<String>>,
) {
    let ended = tokio::select! {
        ended = child.wait() => ended,
        _ = &mut unwanted => end(child, &name, bounds).await,
    };
    let how = match ended {
        Ok(status) => {
            // Of one that failed the container has an output that nobody reads.
            let level = if status.success() { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "{name} ended: {status}");
            status.to_string()
        }
        Err(error) => {
            log::error!("{name} can't be waited for: {error}");
            error.to_string()
        }
    };
    announce.send_replace(Some(how));
}

async fn end(child: Child, name: &str, bounds: Bounds) -> std::io::Result<ExitStatus> {
    let mut ending = Ending(child);
    if let Ok(ended) = timeout(bounds.finish, ending.0.wait()).await {
        return ended;
    }
    log::info!("{name} reads on though there is nothing more to come: sending it SIGTERM");
    ending.send(Signal::SIGTERM, name);
    if let Ok(ended) = timeout(bounds.terminate, ending.0.wait()).await {
        return ended;
    }
    log::warn!("{name} has not ended {:?} after SIGTERM: killing it", bounds.terminate);
    ending.send(Signal::SIGKILL, name);
    ending.0.wait().await
}

/// A program that is being ended. Should the shim end first, it is killed.
struct Ending(Child);

impl Ending {
    fn send(&self, signal: Signal, name: &str) {
        // It has an id until it is waited for, which only this task does.
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(errno) = kill(pid, signal)
        {
            log::warn!("{name} can't be sent {signal}: {errno}");
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.0.id().is_some() {
            self.send(Signal::SIGKILL, "a logging binary");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::*;

    const SHORT: Bounds = Bounds {
        ready: Duration::from_millis(500),
        finish: Duration::from_millis(200),
        terminate: Duration::from_millis(300),
    };

    fn launch(script: &str, readiness: Readiness) -> Result<(Starting, Inputs), OpenError> {
        let args = vec!["-c".into(), script.into()];
        let program = Program { path: "/bin/sh".into(), args, readiness };
        let owner = Owner { id: "abc".into(), namespace: "tests".into() };
        Starting::launch(&program, &owner, SHORT)
    }

    /// How a script ends once it is not wanted any more, and how long that takes.
    async fn ended(script: &str, close: bool) -> (String, Duration) {
        let (starting, inputs) = launch(script, Readiness::Closes).expect("started");
        let logger = starting.ready().await.expect("ready");
        let begun = Instant::now();
        let inputs = Some(inputs).filter(|_| !close);
        logger.end().await;
        drop(inputs);
        let how = logger.ended.borrow().clone();
        (how.expect("its end"), begun.elapsed())
    }

    async fn refusal(script: &str, readiness: Readiness) -> String {
        let (starting, _inputs) = launch(script, readiness).expect("started");
        let mut ended = starting.logger.ended.clone();
        let error = starting.ready().await.expect_err("not ready").to_string();
        // Nobody ends it but this, and it is waited for.
        let over = timeout(Duration::from_secs(5), ended.wait_for(Option::is_some)).await;
        assert!(over.expect("ended").expect("waited for").is_some());
        error
    }

    #[tokio::test]
    async fn one_that_does_not_get_ready_is_ended_and_said_so() {
        let prefix = "the logging binary /bin/sh of abc";
        for (script, readiness, why) in [
            ("exit 3", Readiness::Closes, "ended before it was ready (exit status: 3)"),
            ("exit 0", Readiness::Closes, "ended before it was ready (exit status: 0)"),
            ("kill -9 $$", Readiness::Writes, "ended before it was ready (signal: 9 (SIGKILL))"),
            ("exec 5>&-; cat <&3", Readiness::Writes, "closed descriptor 5 and wrote nothing"),
            ("exec sleep 60", Readiness::Closes, "is not ready after 500ms"),
            ("trap '' TERM; sleep 60 & wait", Readiness::Closes, "is not ready after 500ms"),
        ] {
            let refusal = refusal(script, readiness).await;
            assert!(refusal.starts_with(prefix) && refusal.contains(why), "{script}: {refusal}");
        }
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let program = Program {
            path: "/nowhere/logger".into(),
            args: Vec::new(),
            readiness: Readiness::Closes,
        };
        let owner = Owner { id: "abc".into(), namespace: "tests".into() };
        let error = Starting::launch(&program, &owner, SHORT).map(drop).expect_err("not there");
        let error = error.to_string();
        assert!(error.contains("/nowhere/logger of abc can't be started: No such"), "{error}");
    }

    #[tokio::test]
    async fn one_is_given_time_to_end_by_itself_then_asked_then_killed() {
        let by_itself = "exec 5>&-; cat <&3; sleep 0.1; exit 7";
        assert_eq!(ended(by_itself, true).await.0, "exit status: 7");
        let asked = "trap 'exit 8' TERM; exec 5>&-; while :; do sleep 0.05; done";
        let (how, after) = ended(asked, true).await;
        assert_eq!(how, "exit status: 8");
        assert!(after >= SHORT.finish && after < SHORT.finish + SHORT.terminate, "{after:?}");
        // What reads on because a process of the container has a writer still.
        assert_eq!(ended("exec 5>&-; exec cat <&3", false).await.0, "signal: 15 (SIGTERM)");
        let killed = "trap '' TERM; exec 5>&-; while :; do sleep 0.05; done";
        let (how, after) = ended(killed, true).await;
        assert_eq!(how, "signal: 9 (SIGKILL)");
        assert!(after >= SHORT.finish + SHORT.terminate, "{after:?}");
    }

    #[tokio::test]
    async fn one_that_is_dropped_is_ended_and_reaped() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let script =
            format!("echo $$ > {}; exec 5>&-; trap '' TERM; exec sleep 60", file.display());
        let (starting, inputs) = launch(&script, Readiness::Closes).expect("started");
        let logger = starting.ready().await.expect("ready");
        let pid = std::fs::read_to_string(&file).expect("its id");
        let process = std::path::PathBuf::from(format!("/proc/{}", pid.trim()));
        assert!(process.exists());
        drop((logger, inputs));
        tokio::time::sleep(SHORT.finish + SHORT.terminate + Duration::from_millis(300)).await;
        assert!(!process.exists(), "neither running nor a zombie");
    }

    #[test]
    fn one_that_is_being_ended_does_not_outlive_the_shim() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        let script =
            format!("echo $$ > {}; exec 5>&-; trap '' TERM; exec sleep 60", file.display());
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let begun = Instant::now();
        let server = runtime().expect("a runtime");
        server.block_on(async {
            let (starting, _inputs) = launch(&script, Readiness::Closes).expect("started");
            drop(starting.ready().await.expect("ready"));
            tokio::task::yield_now().await;
        });
        drop(server);
        let pid = std::fs::read_to_string(&file).expect("its id");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
        match nix::sys::wait::waitpid(pid, None) {
            Ok(status) => {
                assert!(matches!(
                    status,
                    nix::sys::wait::WaitStatus::Signaled(_, Signal::SIGKILL, _)
                ));
            }
            // The runtime of a test beside this one has reaped it.
            Err(errno) => assert_eq!(errno, nix::errno::Errno::ECHILD),
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn one_that_dies_leaves_its_container_an_error_and_no_wait() {
        let (starting, inputs) =
            launch("exec 5>&-; read x <&3; exit 9", Readiness::Closes).expect("started");
        let logger = starting.ready().await.expect("ready");
        let mut stdout = std::fs::File::from(inputs.stdout);
        stdout.write_all(b"line\n").expect("written");
        let mut ended = logger.ended.clone();
        ended.wait_for(Option::is_some).await.expect("ended");
        let error = stdout.write_all(b"line\n").expect_err("nobody reads");
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        logger.end().await;
    }
}
