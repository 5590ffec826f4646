//! Finds out which file of the rootfs a container's first argument means, and
//! ([`exec_target`]) which module that of a further process in a wasm container.
//!
//! Only words are handled here. The caller opens the candidates one after the
//! other below the rootfs (symlinks resolved inside it) and takes the first
//! regular file.

use std::path::{Path, PathBuf};

use crate::detect::LayerFacts;

mod exec;

pub use exec::{ExecError, ExecModule, ExecTarget, Running, exec_target};

/// How many folders of PATH are looked at.
const MAX_FOLDERS: usize = 64;
/// The first argument of a wasm guest when nothing else names it.
const DEFAULT_NAME: &str = "main.wasm";

/// What a file's name says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// `.wasm`
    Wasm,
    /// `.wat`, the text form
    Wat,
    /// `.cwasm`, precompiled by Wasmtime
    Cwasm,
    /// Any other, or none.
    Other,
}

/// Returns what the name of `path` says, in any case of letters.
pub fn extension(path: &Path) -> Extension {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "wasm" => Extension::Wasm,
        "wat" => Extension::Wat,
        "cwasm" => Extension::Cwasm,
        _ => Extension::Other,
    }
}

/// Returns the absolute paths inside the rootfs that `argv0` may mean, in the
/// order to try them.
///
/// With a slash in it, it is one path, relative to `cwd`. Without, it is looked
/// up in the absolute folders of `path_variable`, as execvp does; a name that ends
/// in `.wasm` then also in `cwd`, since wasm images seldom set PATH. Nothing
/// comes back for an empty name or one with a NUL.
pub fn candidates(argv0: &str, path_variable: Option<&str>, cwd: &str) -> Vec<PathBuf> {
    if argv0.is_empty() || argv0.contains('\0') {
        return Vec::new();
    }
    let in_cwd = Path::new("/").join(cwd).join(argv0);
    if argv0.contains('/') {
        return vec![in_cwd];
    }
    let mut found: Vec<PathBuf> = path_variable
        .unwrap_or_default()
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .take(MAX_FOLDERS)
        .map(|folder| Path::new(folder).join(argv0))
        .collect();
    if extension(Path::new(argv0)) == Extension::Wasm && !found.contains(&in_cwd) {
        found.push(in_cwd);
    }
    found
}

/// Returns the value of PATH among `K=V` entries; the last one wins.
pub fn path_variable(env: &[String]) -> Option<&str> {
    env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="))
}

/// Returns the arguments a wasm guest sees.
///
/// They are the container's own. A container without any has the title of the
/// layer it runs as its first argument, or `main.wasm`.
pub fn guest_arguments(args: &[String], layer: Option<&LayerFacts>) -> Vec<String> {
    match args {
        [] => {
            let title = layer.and_then(|layer| layer.title.as_deref());
            vec![title.unwrap_or(DEFAULT_NAME).to_owned()]
        }
        args => args.to_vec(),
    }
}

/// Returns the last part of a path, which titles are compared with.
pub(crate) fn basename(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Digest;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_taken_as_it_is() {
        let path = Some("/usr/bin:bin::/bin");
        let table: [(&str, Option<&str>, &str, &[&str]); 11] = [
            ("sh", path, "/", &["/usr/bin/sh", "/bin/sh"]),
            ("sh", None, "/", &[]),
            ("/bin/sh", path, "/srv", &["/bin/sh"]),
            ("./run", path, "/srv", &["/srv/./run"]),
            ("bin/run", path, "srv", &["/srv/bin/run"]),
            ("bin/run", path, "", &["/bin/run"]),
            ("app.wasm", path, "/srv", &["/usr/bin/app.wasm", "/bin/app.wasm", "/srv/app.wasm"]),
            ("app.wasm", None, "/", &["/app.wasm"]),
            ("app.wasm", Some("/srv"), "/srv", &["/srv/app.wasm"]),
            ("", path, "/", &[]),
            ("a\0b", path, "/", &[]),
        ];
        for (argv0, path, cwd, expected) in table {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(candidates(argv0, path, cwd), expected, "{argv0:?} {path:?} {cwd:?}");
        }
    }

    #[test]
    fn extensions_are_read_in_any_case() {
        let table = [
            ("/app.wasm", Extension::Wasm),
            ("/APP.WASM", Extension::Wasm),
            ("/a.wat", Extension::Wat),
            ("/a.cwasm", Extension::Cwasm),
            ("/wasm", Extension::Other),
            ("/.wasm", Extension::Other),
            ("/a.wasm.gz", Extension::Other),
            ("/a.wasm/b", Extension::Other),
        ];
        for (path, expected) in table {
            assert_eq!(extension(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn the_last_path_variable_wins() {
        let env = ["A=1", "PATH=/a", "XPATH=/x", "PATH=/b"].map(str::to_owned);
        assert_eq!(path_variable(&env), Some("/b"));
        assert_eq!(path_variable(&env[..1]), None);
    }

    #[test]
    fn a_guest_without_arguments_is_named_after_its_layer() {
        let mut layer = LayerFacts::new(Digest::of(b""), 8, crate::media_type::WASM);
        assert_eq!(guest_arguments(&[], None), ["main.wasm"]);
        assert_eq!(guest_arguments(&[], Some(&layer)), ["main.wasm"]);
        layer.title = Some("hello.wasm".into());
        assert_eq!(guest_arguments(&[], Some(&layer)), ["hello.wasm"]);
        let args = ["x".to_owned(), "y".to_owned()];
        assert_eq!(guest_arguments(&args, Some(&layer)), args);
    }

    proptest! {
        #[test]
        fn candidates_are_few_and_absolute(argv0 in any::<String>(), path in any::<String>(), cwd in any::<String>()) {
            let found = candidates(&argv0, Some(&path), &cwd);
            prop_assert!(found.len() <= MAX_FOLDERS + 1);
            prop_assert!(found.iter().all(|path| path.is_absolute()));
        }
    }
}
