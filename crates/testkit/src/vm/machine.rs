//! QEMU: boots the machine, shows what it reports while it runs, and ends it when it takes too long.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::folder;
use super::root::Root;
use crate::command::Invocation;

const RESULTS_SIZE: u64 = 1 << 20;
const GLANCE: Duration = Duration::from_millis(300);
const TAIL: usize = 30;

/// What the machine had to say.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) text: String,
    pub(super) took: Duration,
    /// The path of the log of the machine's console.
    pub(super) console: String,
}

impl Report {
    /// Whether the kernel gave up: under emulated processors one that changes its own code while another
    /// runs it does so now and then.
    pub(super) fn kernel_panicked(&self) -> bool {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains("Kernel panic")
    }

    /// The last lines of the console.
    pub(super) fn console_tail(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

/// Boots the machine and waits for its end.
pub(super) fn boot(root: &Root, payload: &Path, patience: Duration) -> Result<Report> {
    let results = folder()?.join("results.img");
    let console = folder()?.join("console.log");
    // A block device holds what was written and then zeros.
    File::create(&results)
        .and_then(|file| file.set_len(RESULTS_SIZE))
        .with_context(|| format!("making {}", results.display()))?;
    let ended = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        scope.spawn(|| show(&results, &ended));
        let output = qemu(root, payload, &results, &console).timeout(patience).run();
        ended.store(true, Ordering::Release);
        output
    })?;
    let report = Report {
        text: text_of(&results),
        took: output.took,
        console: console.display().to_string(),
    };
    if !output.success() {
        bail!("{}\nconsole: {}", output.report(), report.console_tail());
    }
    Ok(report)
}

fn qemu(root: &Root, payload: &Path, results: &Path, console: &Path) -> Invocation {
    let drive = |id: &str, path: &Path, more: &str| {
        format!("if=none,format=raw,id={id},file={}{more}", path.display())
    };
    Invocation::new("qemu-system-x86_64")
        // Without -cx16: emulating cmpxchg16b, QEMU 7.2 makes current kernels panic.
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-cx16"])
        .args(["-smp", "2", "-m", "4096", "-nodefaults", "-no-reboot", "-display", "none"])
        .arg("-kernel")
        .arg(&root.kernel)
        .args(["-append", "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1"])
        // The only NVMe disk, so that its name is sure; the others are found by their serial.
        .args(["-drive", &drive("root", &root.image, ",snapshot=on")])
        .args(["-device", "nvme,drive=root,serial=root"])
        .args(["-drive", &drive("payload", payload, ",snapshot=on")])
        .args(["-device", "virtio-blk-pci,drive=payload,serial=payload"])
        .args(["-drive", &drive("results", results, "")])
        .args(["-device", "virtio-blk-pci,drive=results,serial=results"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
}

/// Prints what the machine reports, line by line, all but the closing line.
fn show(results: &Path, ended: &AtomicBool) {
    let mut shown = 0;
    loop {
        let last = ended.load(Ordering::Acquire);
        let text = text_of(results);
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        for line in text.get(shown..whole).unwrap_or_default().lines() {
            if super::summary(line).is_none() {
                println!("{line}");
            }
        }
        shown = shown.max(whole);
        if last {
            return;
        }
        thread::sleep(GLANCE);
    }
}

fn text_of(results: &Path) -> String {
    let bytes = fs::read(results).unwrap_or_default();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
