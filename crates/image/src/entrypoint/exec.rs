//! Which module a further process in a wasm container runs.

use std::path::PathBuf;

use super::{candidates, guest_arguments};
use crate::detect::{ImageFacts, LayerFacts, Source};
use crate::digest::Digest;
use crate::quoted::Quoted;

/// What a further process in a wasm container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecTarget {
    /// Its module.
    pub module: ExecModule,
    /// The function of it to call; none for the module's command.
    pub function: Option<String>,
    /// The arguments that the guest sees, its name first.
    pub args: Vec<String>,
}

/// Where the module of a further process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecModule {
    /// It is the container's own.
    Running,
    /// Another wasm layer of the image.
    Layer {
        /// Its name in the content store.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
    /// The first of these files in the rootfs that is there.
    File {
        /// As [`candidates`] returns them.
        candidates: Vec<PathBuf>,
    },
}

/// What a container runs, as far as a further process in it may mean the same.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// The container's own arguments.
    pub args: &'a [String],
    /// Its module.
    pub source: &'a Source,
    /// The image it was made from.
    pub image: Option<&'a ImageFacts>,
}

/// Asks for a function of the container's module instead of a module.
const INVOKE: &str = "--invoke";

/// A further process names nothing that could be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// There is no first argument, or it is empty.
    #[error(
        "process.args names no module: give the title of a wasm layer, a path, or {INVOKE} and a function"
    )]
    NoModule,
    /// The option stands alone.
    #[error("{INVOKE} names no function: give {INVOKE}, the function's name and its arguments")]
    NoFunction,
    /// No file could have this name.
    #[error("{} can be no module: it is neither the container's own, nor the title of a wasm layer, nor a path or a name to look up in PATH", Quoted(.0))]
    NoSuchModule(String),
}

/// Returns what a further process with the arguments `args` runs.
///
/// - `--invoke FUNCTION ARGUMENTS...` (or `--invoke=FUNCTION`) calls a function of
///   the container's own module;
/// - the container's own first argument, or the title of its layer, is that module;
/// - the title of another wasm layer of the image is that layer; in both cases
///   with or without a slash before it;
/// - anything else is a file in the rootfs, found as an entrypoint is.
///
/// # Errors
/// When nothing is named.
pub fn exec_target(
    args: &[String],
    running: Running<'_>,
    path_variable: Option<&str>,
    cwd: &str,
) -> Result<ExecTarget, ExecError> {
    let argv0 = args.first().filter(|argv0| !argv0.is_empty()).ok_or(ExecError::NoModule)?;
    if let Some((function, rest)) = invoked(args)? {
        let own_name = guest_arguments(running.args, running.layer()).swap_remove(0);
        return Ok(ExecTarget {
            module: ExecModule::Running,
            function: Some(function.to_owned()),
            args: [own_name].into_iter().chain(rest.iter().cloned()).collect(),
        });
    }
    let module = match running.layer_titled(argv0) {
        _ if running.args.first() == Some(argv0) => ExecModule::Running,
        Some(layer) if Some(layer.digest) == running.digest() => ExecModule::Running,
        Some(layer) => ExecModule::Layer { digest: layer.digest, size: layer.size },
        None => {
            let candidates = candidates(argv0, path_variable, cwd);
            if candidates.is_empty() {
                return Err(ExecError::NoSuchModule(argv0.clone()));
            }
            ExecModule::File { candidates }
        }
    };
    Ok(ExecTarget { module, function: None, args: args.to_vec() })
}

/// Returns the function that `args` ask for, and its arguments.
fn invoked(args: &[String]) -> Result<Option<(&str, &[String])>, ExecError> {
    let (function, rest) = match args {
        [option, function, rest @ ..] if option == INVOKE => (function.as_str(), rest),
        [option] if option == INVOKE => return Err(ExecError::NoFunction),
        [option, rest @ ..] => {
            match option.strip_prefix(INVOKE).and_then(|value| value.strip_prefix('=')) {
                Some(function) => (function, rest),
                None => return Ok(None),
            }
        }
        [] => return Ok(None),
    };
    if function.is_empty() { Err(ExecError::NoFunction) } else { Ok(Some((function, rest))) }
}

impl<'a> Running<'a> {
    fn digest(&self) -> Option<Digest> {
        match self.source {
            Source::Layer { digest, .. } => Some(*digest),
            Source::File { .. } => None,
        }
    }

    fn layers(&self) -> &'a [LayerFacts] {
        self.image.map_or(&[], |image| &image.wasm_layers)
    }

    /// Its own layer.
    fn layer(&self) -> Option<&'a LayerFacts> {
        self.layers().iter().find(|layer| Some(layer.digest) == self.digest())
    }

    /// The layer of this title; of several its own, else the first.
    fn layer_titled(&self, name: &str) -> Option<&'a LayerFacts> {
        let plain = |text: &'a str| text.strip_prefix('/').unwrap_or(text);
        let wanted = name.strip_prefix('/').unwrap_or(name);
        let has_title = |layer: &&'a LayerFacts| {
            layer.title.as_deref().is_some_and(|title| !wanted.is_empty() && plain(title) == wanted)
        };
        self.layer().filter(has_title).or_else(|| self.layers().iter().find(has_title))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::annotations::Annotations;

    fn layer(content: &[u8], title: Option<&str>) -> LayerFacts {
        let title = title.map(str::to_owned);
        LayerFacts { title, ..LayerFacts::new(Digest::of(content), 8, crate::media_type::WASM) }
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn own_layer() -> Source {
        Source::Layer { digest: Digest::of(b"app"), size: 8 }
    }

    fn target(args: &[&str], source: &Source) -> Result<ExecTarget, ExecError> {
        let image = ImageFacts {
            wasm_layers: vec![
                layer(b"app", Some("app.wasm")),
                layer(b"tool", Some("tool.wasm")),
                layer(b"deep", Some("/bin/deep.wasm")),
                layer(b"other tool", Some("tool.wasm")),
                layer(b"untitled", None),
                layer(b"empty title", Some("")),
            ],
            name: "hybrid/tools:1".to_owned(),
            digest: Digest::of(b"manifest"),
            platform: None,
            config_media_type: String::new(),
            labels: HashMap::new(),
            annotations: Annotations::default(),
            tar_layers: 0,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            chain_id: None,
        };
        let own = owned(&["server", "--port", "80"]);
        let running = Running { args: &own, source, image: Some(&image) };
        exec_target(&owned(args), running, Some("/bin"), "/srv")
    }

    #[test]
    fn a_further_process_names_its_module() {
        let of_layer = |content: &[u8]| ExecModule::Layer { digest: Digest::of(content), size: 8 };
        let file = |paths: &[&str]| ExecModule::File {
            candidates: paths.iter().map(PathBuf::from).collect(),
        };
        let table = [
            // The container's own first argument need not be a title.
            ("server", ExecModule::Running),
            ("app.wasm", ExecModule::Running),
            ("/app.wasm", ExecModule::Running),
            ("tool.wasm", of_layer(b"tool")),
            ("/tool.wasm", of_layer(b"tool")),
            ("/bin/deep.wasm", of_layer(b"deep")),
            ("bin/deep.wasm", of_layer(b"deep")),
            ("deep.wasm", file(&["/bin/deep.wasm", "/srv/deep.wasm"])),
            ("/usr/tool.wasm", file(&["/usr/tool.wasm"])),
            ("./tool.wasm", file(&["/srv/./tool.wasm"])),
            ("/", file(&["/"])),
            ("sh", file(&["/bin/sh"])),
            ("--invoked", file(&["/bin/--invoked"])),
        ];
        for (argv0, module) in table {
            let found = target(&[argv0, "x", "--invoke"], &own_layer()).unwrap();
            assert_eq!((found.module, found.function), (module, None), "{argv0}");
            assert_eq!(found.args, [argv0, "x", "--invoke"], "{argv0}");
        }
    }

    #[test]
    fn the_titles_of_its_layers_are_other_modules_to_a_container_that_runs_a_file() {
        let file = Source::File { path: "/srv/app.wasm".into() };
        let found = target(&["app.wasm"], &file).unwrap();
        assert_eq!(found.module, ExecModule::Layer { digest: Digest::of(b"app"), size: 8 });
        assert_eq!(target(&["server"], &file).unwrap().module, ExecModule::Running);
    }

    #[test]
    fn of_layers_with_one_title_the_containers_own_is_meant() {
        let second = Source::Layer { digest: Digest::of(b"other tool"), size: 8 };
        assert_eq!(target(&["tool.wasm"], &second).unwrap().module, ExecModule::Running);
    }

    #[test]
    fn a_function_of_the_containers_module_is_invoked() {
        for args in [&["--invoke", "add", "1", "-2"][..], &["--invoke=add", "1", "-2"]] {
            let found = target(args, &own_layer()).unwrap();
            assert_eq!(found.module, ExecModule::Running);
            assert_eq!(found.function.as_deref(), Some("add"));
            assert_eq!(found.args, ["server", "1", "-2"]);
        }
        let source = own_layer();
        let bare = Running { args: &[], source: &source, image: None };
        let found = exec_target(&owned(&["--invoke", "add"]), bare, None, "/").unwrap();
        assert_eq!(found.args, ["main.wasm"]);
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let table: [(&[&str], &str); 6] = [
            (&[], "names no module"),
            (&["", "x"], "names no module"),
            (&["--invoke"], "names no function"),
            (&["--invoke", "", "1"], "names no function"),
            (&["--invoke="], "names no function"),
            (&["a\0b"], "\"a\\0b\" can be no module"),
        ];
        for (args, says) in table {
            let error = target(args, &own_layer()).unwrap_err().to_string();
            assert!(error.contains(says), "{args:?}: {error}");
        }
    }
}
