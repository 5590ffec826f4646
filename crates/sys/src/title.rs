//! What /proc/PID/cmdline and /proc/PID/environ show of a guest's init process.
//!
//! A wasm guest is a fork of the keeper, which was started with the shim's arguments and
//! environment. Tools that look at the process must see the guest's own instead, and nothing of
//! the shim's.

use std::io;

use crate::process::{self, SingleThreaded};

/// Where the kernel believes the parts of this process's memory to be, as it was at exec.
///
/// Taken once, early; forked children inherit a true copy.
#[derive(Clone, Debug)]
pub struct TitleMap {
    start_code: u64,
    end_code: u64,
    start_stack: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    args: (u64, u64),
    env: (u64, u64),
}

/// Reads the memory layout of the calling process from /proc/self/stat.
///
/// # Errors
/// When the file cannot be read or lacks a field.
pub fn remember() -> io::Result<TitleMap> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    TitleMap::parse(&stat).ok_or_else(|| io::Error::other("/proc/self/stat lacks a field"))
}

impl TitleMap {
    fn parse(stat: &str) -> Option<Self> {
        // The second field, a name in parentheses, may hold anything; the third follows the last
        // parenthesis.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            args: (field(48)?, field(49)?),
            env: (field(50)?, field(51)?),
        })
    }

    /// Shows exactly these arguments and variables (`NAME=value`) from now on, and names the
    /// thread after the last path component of the first argument.
    ///
    /// Where the kernel was built without CHECKPOINT_RESTORE they are written over the old ones,
    /// cut to the room there is and padded with NULs.
    ///
    /// # Errors
    /// `InvalidInput` for a string with a NUL in it; when the process has threads, which could be
    /// growing the heap or reading the environment at the same time; what mmap(2) and prctl(2) say.
    pub fn show(&self, args: &[String], env: &[String]) -> io::Result<()> {
        let _nobody_else_runs = SingleThreaded::prove()?;
        let (args_text, env_text) = (joined(args)?, joined(env)?);
        match self.show_elsewhere(&args_text, &env_text) {
            Err(error) if not_provided(&error) => self.show_in_place(&args_text, &env_text),
            other => other,
        }?;
        match args.first().and_then(|path| path.rsplit('/').next()) {
            Some(name) => process::set_name(name),
            None => Ok(()),
        }
    }

    /// Puts both texts on fresh pages and points the kernel there.
    fn show_elsewhere(&self, args: &[u8], env: &[u8]) -> io::Result<()> {
        let start = leaked_pages(&[args, env])?;
        let middle = start + args.len() as u64;
        let end = middle + env.len() as u64;
        let map = MemoryMap {
            start_code: self.start_code,
            end_code: self.end_code,
            start_data: self.start_data,
            end_data: self.end_data,
            start_brk: self.start_brk,
            brk: current_brk()?,
            start_stack: self.start_stack,
            arg_start: start,
            arg_end: middle,
            env_start: middle,
            env_end: end,
            auxv: 0,
            auxv_size: 0,
            exe_fd: u32::MAX,
        };
        // SAFETY: `map` is a whole prctl_mm_map. The kernel only keeps the numbers: code, data and
        // stack bounds are those it told us itself; `brk` is its present value, which cannot have
        // moved meanwhile because no other thread exists; the text bounds lie in pages that stay
        // mapped. Neither the auxiliary vector nor the executable is replaced.
        let result = unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP,
                &raw const map,
                size_of::<MemoryMap>(),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn show_in_place(&self, args: &[u8], env: &[u8]) -> io::Result<()> {
        for (area, text) in [(self.args, args), (self.env, env)] {
            let (start, end) = area;
            let room = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
            let mut padded = vec![0; room];
            // The last byte stays NUL: the strings that `environ` points into must end.
            let length = text.len().min(room.saturating_sub(1));
            padded[..length].copy_from_slice(&text[..length]);
            let start = std::ptr::with_exposed_provenance_mut::<u8>(
                usize::try_from(start).map_err(io::Error::other)?,
            );
            // SAFETY: the kernel put the strings of exec at start..end, on the main stack above
            // every frame, writable, for the life of the process and of its forks. No reference
            // into them lives: the standard library copies arguments and variables out, and no
            // other thread exists that could be at it. Every string still ends with a NUL.
            unsafe { start.copy_from_nonoverlapping(padded.as_ptr(), room) };
        }
        Ok(())
    }
}

/// `struct prctl_mm_map`.
#[repr(C)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// Without CHECKPOINT_RESTORE the kernel asks for CAP_SYS_RESOURCE first and then does not know
/// the operation.
fn not_provided(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL | libc::ENOSYS))
}

fn joined(strings: &[String]) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(strings.iter().map(|string| string.len() + 1).sum());
    for string in strings {
        if string.bytes().any(|byte| byte == 0) {
            let what = format!("{string:?} has a NUL in it");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        text.extend_from_slice(string.as_bytes());
        text.push(0);
    }
    Ok(text)
}

/// Copies the parts, one after the other, to new private pages that are never unmapped, and
/// returns their address: /proc reads anonymous memory only, and at any later time.
fn leaked_pages(parts: &[&[u8]; 2]) -> io::Result<u64> {
    let text = parts.concat();
    // SAFETY: a new anonymous mapping at an address of the kernel's choice disturbs no other.
    let pages = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            text.len().max(1),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if pages == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is new, writable, ours alone and at least as long as `text`.
    unsafe { pages.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    Ok(pages.expose_provenance() as u64)
}

/// Asks the kernel for the end of the heap; an impossible request changes nothing and tells.
fn current_brk() -> io::Result<u64> {
    // SAFETY: brk(0) moves nothing.
    let result = unsafe { libc::syscall(libc::SYS_brk, 0) };
    u64::try_from(result).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forked::in_child;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|item| (*item).to_owned()).collect()
    }

    fn shown() -> (String, String) {
        let read = |file: &str| std::fs::read_to_string(file).expect("read");
        (read("/proc/self/cmdline"), read("/proc/self/environ"))
    }

    #[test]
    fn the_guests_arguments_and_environment_are_all_that_is_shown() {
        let map = remember().expect("remember");
        let long = format!("LONG={}", "x".repeat(100_000));
        let cases = [
            (strings(&["/app.wasm", "--flag", ""]), strings(&["A=1", &long])),
            (strings(&["app"]), Vec::new()),
            (Vec::new(), Vec::new()),
            (strings(&["a", "b c"]), strings(&["PATH=/bin"])),
        ];
        in_child(|| {
            // One after the other in the same process: it can be done again.
            for (args, env) in &cases {
                map.show(args, env).expect("show");
                let nul = |list: &[String]| list.iter().map(|item| format!("{item}\0")).collect();
                assert!(shown() == (nul(args), nul(env)), "{args:?} are not what is shown");
                // The heap still grows and shrinks.
                let block = std::hint::black_box(vec![1_u8; 64 * 1024]);
                assert_eq!(block[block.len() - 1], 1);
            }
        });
    }

    #[test]
    fn the_thread_is_named_after_the_program() {
        let map = remember().expect("remember");
        in_child(|| {
            map.show(&strings(&["/usr/bin/guest.wasm"]), &[]).expect("show");
            assert_eq!(std::fs::read_to_string("/proc/self/comm").expect("comm"), "guest.wasm\n");
        });
    }

    #[test]
    fn written_in_place_nothing_of_the_old_remains() {
        let map = remember().expect("remember");
        in_child(|| {
            let before = shown();
            let room = map.args.1 - map.args.0;
            assert_eq!(before.0.len() as u64, room, "cmdline is the whole area");
            map.show_in_place(b"app\0x\0", b"A=1\0").expect("show");
            let after = shown();
            assert_eq!(after.0.trim_end_matches('\0'), "app\0x");
            assert_eq!(after.1.trim_end_matches('\0'), "A=1");
            let long = vec![b'y'; 1 << 20];
            map.show_in_place(&long, &long).expect("show");
            assert_eq!(shown().0.matches('y').count() as u64, room - 1);
        });
    }

    #[test]
    fn strings_with_a_nul_are_refused() {
        let map = remember().expect("remember");
        in_child(|| {
            let error = map.show(&strings(&["a\0b"]), &[]).expect_err("NUL");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        });
    }

    #[test]
    fn a_process_with_threads_keeps_its_title() {
        let map = remember().expect("remember");
        assert!(map.show(&strings(&["app"]), &[]).is_err());
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let numbers: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("1 (a) (b c) {}", numbers.join(" "));
        let map = TitleMap::parse(&stat).expect("parse");
        assert_eq!((map.start_code, map.args, map.env), (26, (48, 49), (50, 51)));
        assert!(TitleMap::parse("1 (a) S 2 3").is_none());
    }
}
