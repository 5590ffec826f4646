//! Takes packages of any Debian suite without touching this machine's own package lists.
//!
//! Each suite has its own lists folder and an empty status file (else apt would insist on what is installed), and is
//! verified by Debian's archive keyring. The mirror is the one this machine already uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{Invocation, Output};
use crate::place;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const ATTEMPTS: u32 = 3;
const APT_TIMEOUT: Duration = Duration::from_secs(300);

/// The package lists of one Debian suite, such as `trixie`.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    name: String,
    folder: PathBuf,
}

impl Suite {
    /// Prepares the lists folder; nothing is downloaded yet.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let folder = place::scratch().join(format!("apt-{name}"));
        for child in ["lists/partial", "cache/archives/partial", "sources", "packages"] {
            let path = folder.join(child);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let source = format!(
            "Types: deb\nURIs: {}\nSuites: {name}\nComponents: main\nSigned-By: {KEYRING}\n",
            mirror()?
        );
        write(&folder.join("sources/suite.sources"), &source)?;
        write(&folder.join("status"), "")?;
        Ok(Self { name: name.to_owned(), folder })
    }

    /// Downloads `package` and unpacks it into `into`, which is replaced as a whole.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        eprintln!("testkit: fetching {package} of Debian {} ...", self.name);
        let archive = self.download(package)?;
        let partial = into.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)
                .with_context(|| format!("removing {}", partial.display()))?;
        }
        Invocation::new("dpkg-deb")
            .arg("-x")
            .args([archive.as_path(), &partial])
            .timeout(APT_TIMEOUT)
            .run()?
            .ok()
            .with_context(|| format!("unpacking {}", archive.display()))?;
        if into.exists() {
            fs::remove_dir_all(into).with_context(|| format!("removing {}", into.display()))?;
        }
        fs::rename(&partial, into).with_context(|| format!("placing {}", into.display()))?;
        fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))?;
        eprintln!("testkit: {package} is in {}", into.display());
        Ok(())
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        self.retry("update")?;
        self.retry(&format!("download {package}"))?;
        let packages = self.folder.join("packages");
        let prefix = format!("{package}_");
        for entry in fs::read_dir(&packages).context("listing downloaded packages")? {
            let path = entry.context("listing downloaded packages")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(".deb") {
                return Ok(path);
            }
        }
        bail!("apt reported success, but {} holds no {prefix}*.deb", packages.display())
    }

    fn retry(&self, action: &str) -> Result<Output> {
        retry(&format!("apt-get {action} for Debian {}", self.name), || {
            self.apt_get().args(action.split(' ')).run()?.ok()
        })
    }

    fn apt_get(&self) -> Invocation {
        let at = |child: &str| self.folder.join(child).display().to_string();
        let options = [
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::sourceparts={}", at("sources")),
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            // The Release file of a suite that is being developed may be weeks old on a mirror.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The _apt user may not be able to reach our folder.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Invocation::new("apt-get")
            .args(options.iter().flat_map(|option| ["-o", option.as_str()]))
            .directory(self.folder.join("packages"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .timeout(APT_TIMEOUT)
    }
}

/// Runs `attempt` up to three times with growing pauses; the last error is returned with what was tried.
pub(crate) fn retry<T>(what: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let mut tried = 1;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if tried < ATTEMPTS => {
                eprintln!("testkit: {what} failed, trying again: {error:#}");
                thread::sleep(Duration::from_secs(u64::from(3 * tried)));
                tried += 1;
            }
            Err(error) => return Err(error.context(format!("{what} failed {ATTEMPTS} times"))),
        }
    }
}

/// Returns the first Debian mirror this machine is set up with.
pub(crate) fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| debian_uri(&text))
        .context("no Debian mirror is named in /etc/apt/sources.list or sources.list.d: the tests fetch containerd from one")
}

/// Finds the first URI of a Debian archive in a sources file of either format.
fn debian_uri(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))
        })
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_either_format() {
        let cases = [
            (
                "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n",
                Some("http://mirror.example/debian"),
            ),
            (
                "deb [signed-by=/k.gpg] https://m.example/debian/ bookworm main\n",
                Some("https://m.example/debian/"),
            ),
            ("deb https://other.example/node_20.x nodistro main\n", None),
            ("URIs: http://mirror.example/debian-security\n", None),
            ("# deb http://commented.example/debian x main\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(debian_uri(text).as_deref(), expected, "{text}");
        }
    }
}
