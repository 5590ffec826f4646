//! Learning that the kernel has killed in a cgroup for want of memory.
//!
//! ```text
//! version 1   an eventfd that memory.oom_control writes to. It also does when the
//!             cgroup is removed and when a cgroup above is out of memory, and it does
//!             so before the kernel has chosen whom to kill
//! version 2   memory.events itself, which polls urgent from a change to the next time
//!             that it is read from its start: after the kill, and on other events too.
//!             (inotify would tell as well, but a user may have only 128 of it)
//! ```
//!
//! So the event only says that it is worth to look; what counts is the counter. On
//! version 1 a look that comes too early is repeated, by a timer, for some seconds.
//!
//! Neither keeps the cgroup from being removed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::Cgroup;
use super::error::{Result, failed};
use super::files::write;
use super::folder::{Folder, children};

/// The first time between an event and a second look; doubled for each further one.
const FIRST_LOOK: Duration = Duration::from_millis(2);

/// The looks after one event: the last comes about 8 s after it. Before it kills, the
/// kernel writes of it to the console, which may be a slow one.
const MOST_LOOKS: u32 = 12;

/// Watches one cgroup for kills of the kernel for want of memory.
///
/// Its descriptor polls readable when it is worth to ask [`OomWatch::taken`].
#[derive(Debug)]
pub struct OomWatch {
    bell: Bell,
    counter: Counter,
    seen: u64,
}

#[derive(Debug)]
enum Bell {
    /// `all` has the other two, `timer` once it is needed.
    V1 { all: Epoll, event: EventFd, timer: Option<TimerFd>, looks: u32 },
    /// Has the counter's file, until the cgroup is gone.
    V2(Epoll),
}

/// Where kills are counted.
#[derive(Debug)]
struct Counter {
    file: File,
    /// The number's name in the file.
    key: &'static str,
    /// Version 1 counts a kill where the process lived, which may be below: the
    /// folder whose children are asked too.
    above: Option<PathBuf>,
}

impl OomWatch {
    /// Starts to watch; what was killed before does not count. `None` when the
    /// cgroup is not there or its memory is not counted.
    ///
    /// # Errors
    /// Those of opening and reading the cgroup's files.
    pub fn of(cgroup: &Cgroup) -> Result<Option<Self>> {
        let Some(folder) = cgroup.counted("memory") else { return Ok(None) };
        let is_v2 = folder.hierarchy.is_v2();
        let path = folder.path.join(if is_v2 { "memory.events" } else { "memory.oom_control" });
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path, error)),
        };
        let key = "oom_kill";
        if is_v2 {
            let watch = Self::of_file(Counter { file, key, above: None });
            return watch.map(Some).map_err(|error| failed("watch", &path, error));
        }
        // Before the first count, or a kill between the two would never ring.
        let bell = Bell::v1(folder, &file, &path)?;
        let counter = Counter { file, key, above: Some(folder.path.clone()) };
        let seen = counter.read().map_err(|error| failed("read", &path, error))?;
        Ok(Some(Self { bell, counter, seen: seen.unwrap_or_default() }))
    }

    /// Watches a file of version 2 that rings by itself.
    fn of_file(counter: Counter) -> io::Result<Self> {
        let all = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Before the first count, as on version 1. Such a file is readable at any time, so
        // that is not what is asked.
        all.add(&counter.file, EpollEvent::new(EpollFlags::EPOLLPRI, 0))?;
        let seen = counter.read()?.unwrap_or_default();
        Ok(Self { bell: Bell::V2(all), counter, seen })
    }

    /// Returns how many processes were killed since the last call; 0 when what made
    /// the descriptor readable was something else. Never waits.
    ///
    /// # Errors
    /// Those of reading the counter. A cgroup that is gone has killed nothing more.
    pub fn taken(&mut self) -> io::Result<u64> {
        // Emptied before the count, so that what comes in between rings again.
        let rang = self.bell.silence()?;
        let Some(now) = self.counter.read()? else {
            self.bell.silence_for_good(&self.counter.file)?;
            return Ok(0);
        };
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        self.bell.look_again(rang, new)?;
        Ok(new)
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.bell {
            Bell::V1 { all, .. } | Bell::V2(all) => all.0.as_fd(),
        }
    }
}

impl Bell {
    fn v1(folder: &Folder, oom_control: &File, path: &Path) -> Result<Self> {
        let refused = |errno: Errno| failed("watch", path, errno.into());
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags).map_err(refused)?;
        let order = format!("{} {}", event.as_fd().as_raw_fd(), oom_control.as_raw_fd());
        write(&folder.path.join("cgroup.event_control"), &order)?;
        let all = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
        all.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(refused)?;
        Ok(Self::V1 { all, event, timer: None, looks: 0 })
    }

    /// Takes what has made it readable; says whether the kernel has.
    fn silence(&mut self) -> nix::Result<bool> {
        match self {
            Self::V1 { event, timer, .. } => {
                if let Some(timer) = timer {
                    // Its time passes by itself; to set it is to silence it.
                    timer.unset()?;
                }
                match event.read() {
                    Ok(_) => Ok(true),
                    Err(Errno::EAGAIN) => Ok(false),
                    Err(errno) => Err(errno),
                }
            }
            // To count is to silence it.
            Self::V2(_) => Ok(false),
        }
    }

    /// A file of version 2 whose cgroup is gone is urgent for ever, and cannot be read.
    fn silence_for_good(&self, file: &File) -> nix::Result<()> {
        let Self::V2(all) = self else { return Ok(()) };
        match all.delete(file) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Has a look without result repeated, as long as the kill may be on its way.
    fn look_again(&mut self, rang: bool, new: u64) -> nix::Result<()> {
        let Self::V1 { all, timer, looks, .. } = self else { return Ok(()) };
        if rang {
            *looks = MOST_LOOKS;
        }
        if new > 0 && !rang {
            *looks = 0;
        }
        if *looks == 0 {
            return Ok(());
        }
        let pause = FIRST_LOOK * (1 << (MOST_LOOKS - *looks));
        *looks -= 1;
        let timer = match timer {
            Some(timer) => timer,
            none => {
                let made = TimerFd::new(
                    ClockId::CLOCK_MONOTONIC,
                    TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
                )?;
                all.add(&made, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
                none.insert(made)
            }
        };
        timer.set(Expiration::OneShot(TimeSpec::from(pause)), TimerSetTimeFlags::empty())
    }
}

impl Counter {
    /// Returns the number; `None` once the cgroup is gone.
    fn read(&self) -> io::Result<Option<u64>> {
        let own = match count_in(&self.file, self.key) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            other => other?,
        };
        let below = self.above.as_deref().map_or(Ok(0), |above| count_below(above, self.key))?;
        Ok(Some(own + below))
    }
}

fn count_below(folder: &Path, key: &str) -> io::Result<u64> {
    let mut count = 0;
    for child in children(folder)? {
        let file = File::open(child.join("memory.oom_control"));
        count += match file.and_then(|file| count_in(&file, key)) {
            Ok(own) => own + count_below(&child, key)?,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ENODEV) =>
            {
                0
            }
            Err(error) => return Err(error),
        };
    }
    Ok(count)
}

fn count_in(file: &File, key: &str) -> io::Result<u64> {
    let mut text = [0; 512];
    let length = file.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(&text[..length]);
    let count = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    count.and_then(|count| count.trim().parse().ok()).ok_or_else(|| {
        let sentence = format!("its counters read {text:?}, without a number of {key}");
        io::Error::new(io::ErrorKind::InvalidData, sentence)
    })
}

#[cfg(test)]
mod tests;
