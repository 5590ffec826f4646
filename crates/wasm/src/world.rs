//! What a program is, told by what it exports and not by its name.
//!
//! | exports | world |
//! |---|---|
//! | core module: a procedure `_start` | a command |
//! | component: `wasi:cli/run@0.2` | a command |
//! | component: `wasi:http/incoming-handler@0.2` | an HTTP server |
//! | neither | a library: its functions can be called |
//!
//! Of a component that exports both, the annotation `com.wasm.wit.world` decides; it is a command
//! unless that says otherwise.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

/// What a component exports that answers requests, but for the version.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// What a program can be run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// It is started, and ends with an exit code.
    Command,
    /// It answers one request after the other.
    HttpServer,
    /// It has functions to call.
    Library,
}

/// The world that an annotation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// `command`, `wasi:cli/command`
    Command,
    /// `http-server`, `wasi:http/proxy`
    HttpServer,
}

/// A text that names no world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected http-server, command, or the full name of a world, as wasi:http/proxy@0.2.0; what a \
     component is run as is told by its exports, so it can be left out"
)]
pub struct NotAWorld;

impl Asked {
    /// Reads the annotation. A world of the author's own says nothing of how it is run: `None`.
    ///
    /// # Errors
    /// When the text is the name of no world.
    pub fn parse(text: &str) -> Result<Option<Self>, NotAWorld> {
        let unversioned = text.split('@').next().unwrap_or_default();
        match unversioned {
            "command" | "wasi:cli/command" => Ok(Some(Self::Command)),
            "http-server" | "wasi:http/proxy" => Ok(Some(Self::HttpServer)),
            name => {
                let (package, world) = name.split_once('/').ok_or(NotAWorld)?;
                let parts = package.split(':').chain(world.split('/'));
                let is_word = |part: &str| {
                    !part.is_empty()
                        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                };
                let is_name = package.contains(':') && parts.into_iter().all(is_word);
                if is_name { Ok(None) } else { Err(NotAWorld) }
            }
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Command => "a command (it would export wasi:cli/run@0.2)",
            Self::HttpServer => "an HTTP server (it would export wasi:http/incoming-handler@0.2)",
        }
    }
}

/// Decides what a component is run as, from what it exports and what an annotation asks for.
///
/// # Errors
/// Returns what was asked for when the component does not export it.
pub(crate) fn choose(
    is_command: bool,
    is_server: bool,
    asked: Option<Asked>,
) -> Result<World, Asked> {
    match asked {
        Some(Asked::Command) if is_command => Ok(World::Command),
        Some(Asked::HttpServer) if is_server => Ok(World::HttpServer),
        Some(asked) => Err(asked),
        None if is_command => Ok(World::Command),
        None if is_server => Ok(World::HttpServer),
        None => Ok(World::Library),
    }
}

/// Says whether these are the bytes of a component that answers HTTP requests. Of bytes that are
/// no component, or a broken one, it says no: to say what is wrong is the compiler's.
pub(crate) fn answers_http(mut bytes: &[u8]) -> bool {
    let mut parser = Parser::new(0);
    while let Ok(wasmparser::Chunk::Parsed { consumed, payload }) = parser.parse(bytes, true) {
        bytes = &bytes[consumed..];
        let inner = match payload {
            // What is inside is passed over: it exports to the component around it.
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. } => unchecked_range.len(),
            Payload::ComponentExportSection(exports) => {
                let mut names = exports.into_iter().flatten().map(|export| export.name.name);
                if names.any(|name| name.starts_with(HANDLER)) {
                    return true;
                }
                0
            }
            Payload::End(_) => return false,
            _ => 0,
        };
        match bytes.get(inner..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_decide_and_the_annotation_where_there_is_a_choice() {
        use Asked as A;
        let table = [
            (true, false, None, Ok(World::Command)),
            (false, true, None, Ok(World::HttpServer)),
            (false, false, None, Ok(World::Library)),
            (true, true, None, Ok(World::Command)),
            (true, true, Some(A::HttpServer), Ok(World::HttpServer)),
            (true, true, Some(A::Command), Ok(World::Command)),
            (true, false, Some(A::HttpServer), Err(A::HttpServer)),
            (false, true, Some(A::Command), Err(A::Command)),
            (false, false, Some(A::HttpServer), Err(A::HttpServer)),
        ];
        for (is_command, is_server, asked, expected) in table {
            let found = choose(is_command, is_server, asked);
            assert_eq!(found, expected, "{is_command} {is_server} {asked:?}");
        }
    }

    #[test]
    fn worlds_are_named_in_short_and_in_full() {
        let table = [
            ("http-server", Ok(Some(Asked::HttpServer))),
            ("wasi:http/proxy", Ok(Some(Asked::HttpServer))),
            ("wasi:http/proxy@0.2.3", Ok(Some(Asked::HttpServer))),
            ("command", Ok(Some(Asked::Command))),
            ("wasi:cli/command@0.2.0", Ok(Some(Asked::Command))),
            ("my-company:shop/cart", Ok(None)),
            ("my-company:shop/cart@1.0.0", Ok(None)),
            ("server", Err(NotAWorld)),
            ("http-servr", Err(NotAWorld)),
            ("a/b", Err(NotAWorld)),
            ("a:b/", Err(NotAWorld)),
            ("a:b/c d", Err(NotAWorld)),
            ("../../x", Err(NotAWorld)),
        ];
        for (text, expected) in table {
            assert_eq!(Asked::parse(text), expected, "{text}");
        }
    }

    fn parse(text: &str) -> bool {
        answers_http(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn a_server_is_told_by_its_own_export() {
        let export = |name: &str, around: &str| {
            format!("(component {around} (instance $i) (export \"{name}\" (instance $i)))")
        };
        assert!(parse(&export("wasi:http/incoming-handler@0.2.0", "")));
        let after = "(core module (func (export \"f\"))) (component (instance $x))";
        assert!(parse(&export("wasi:http/incoming-handler@0.2.8", after)));
        let inside = export("wasi:http/incoming-handler@0.2.0", "");
        for other in [
            export("wasi:cli/run@0.2.0", ""),
            export("wasi:http/incoming-handler@0.3.0", ""),
            export("wasi:cli/run@0.2.0", &inside),
            "(module (func (export \"wasi:http/incoming-handler@0.2.0\")))".to_owned(),
        ] {
            assert!(!parse(&other), "{other}");
        }
    }

    #[test]
    fn broken_bytes_are_no_server() {
        let whole = wat::parse_str(
            "(component (core module) (instance $i)
               (export \"wasi:http/incoming-handler@0.2.0\" (instance $i)))",
        )
        .unwrap();
        assert!(answers_http(&whole));
        for cut in 0..whole.len() / 2 {
            assert!(!answers_http(&whole[..cut]), "{cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            let _whatever = answers_http(&flipped);
        }
    }
}
