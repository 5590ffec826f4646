//! Where a guest's execution begins: at its command, or at a function that is called by name with
//! arguments given as text.
//!
//! [`Prepared::check`] decides that from the program's types alone, before there is a process; the
//! same decision is then carried out inside the sandbox.

use std::fmt::{self, Write};

use image::annotations::WIT_WORLD;
use serde::{Deserialize, Serialize};
use settings::http::HttpError;
use settings::limits::{Limit, Limits, Setter};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::command::{Guest, Host};
use crate::module::{Linked, Prepared};
use crate::world::{self, World};

pub(crate) mod component;
pub(crate) mod core;

/// Before the name of a function, among the arguments of a library.
const INVOKE: &str = "--invoke";

/// Exports are listed up to this many; a module may have a hundred thousand.
const EXPORTS_SHOWN: usize = 8;

/// Characters of a name, a type or an argument that are shown.
const TEXT_SHOWN: usize = 96;

/// What of a program is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// `_start` of a core module, `wasi:cli/run` of a component. Of a program that has neither, a
    /// library, the function that its arguments name: `PROGRAM --invoke FUNCTION ARGUMENT...`.
    #[default]
    Command,
    /// One exported function, as `wasmtime run --invoke` does it: the guest's arguments but for the
    /// first are the function's, its results are printed. A core module's `_initialize` is called
    /// before. Arguments of a component's function are in WAVE, and a function of an exported
    /// interface is named `interface#function`, or by its name alone where that is unique.
    Invoke { function: String },
}

/// A call of an exported function, as text.
#[derive(Clone, Copy)]
struct Invoked<'a> {
    function: &'a str,
    arguments: &'a [String],
}

/// A program cannot be run as asked. It never can: this is the request's or the module's fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error(
        "module has no `_start` function without parameters and results; it exports {exports}; \
         to call a function, give the arguments `{INVOKE} FUNCTION ARGUMENT...`"
    )]
    MissingStart { exports: String },
    #[error(
        "component is not a command: it does not export wasi:cli/run; it exports {exports}; \
         to call a function, give the arguments `{INVOKE} FUNCTION ARGUMENT...`"
    )]
    NotACommand { exports: String },
    #[error("`{INVOKE}` is not followed by the name of a function; the functions are {functions}")]
    NoFunctionNamed { functions: String },
    #[error("annotation {WIT_WORLD} says that it is {asked}; it exports {exports}")]
    AnotherWorld { asked: &'static str, exports: String },
    #[error(
        "annotation com.wasm.limits.deadline bounds a command from its start, and this is an HTTP \
         server: give com.wasm.http.deadline, which bounds each request"
    )]
    DeadlineOfServer,
    #[error("the HTTP server has no address")]
    Address(#[from] HttpError),
    #[error("there is no function `{function}` to call; the functions are {functions}")]
    NoSuchFunction { function: String, functions: String },
    #[error("there are several functions `{function}`; call one of {functions}")]
    Ambiguous { function: String, functions: String },
    #[error("{function} takes {expected} arguments, and {given} were given")]
    ArgumentCount { function: String, expected: usize, given: usize },
    #[error("argument {position} of {function}, `{text}`, is not a value of type {wanted}{why}")]
    Argument { position: usize, function: String, text: String, wanted: String, why: String },
    #[error("{function} cannot be called from outside: a value of type {kind} has no text")]
    Unspeakable { function: String, kind: String },
}

impl Prepared {
    /// Checks that the program has what this guest is to run, and that the function's arguments
    /// are of its types. Nothing is run.
    ///
    /// # Errors
    /// Lists what there is instead.
    pub fn check(&self, guest: &Guest) -> Result<(), EntryError> {
        match &self.program {
            Linked::Core(linked) => core::plan(linked.module(), guest).map(drop),
            Linked::Component { library, command, .. } => match self.server(guest)? {
                Some(_) => Ok(()),
                None => component::plan(library, command.as_ref(), &self.engine, guest).map(drop),
            },
        }
    }

    /// Returns the program as a server, if that is what this guest is to run.
    pub(crate) fn server(&self, guest: &Guest) -> Result<Option<&ProxyPre<Host>>, EntryError> {
        if guest.entry != Entry::Command || guest.http.is_none() {
            return Ok(None);
        }
        let (is_command, server, exports) = match &self.program {
            Linked::Core(linked) => (true, None, core::exports(linked.module())),
            Linked::Component { library, command, server } => {
                let exports = component::exports(library, &self.engine);
                (command.is_some(), server.as_ref(), exports)
            }
        };
        match world::choose(is_command, server.is_some(), guest.world) {
            Ok(World::HttpServer) if has_asked_for_an_end(&guest.limits) => {
                Err(EntryError::DeadlineOfServer)
            }
            Ok(World::HttpServer) => Ok(server),
            Ok(World::Command | World::Library) => Ok(None),
            Err(asked) => Err(EntryError::AnotherWorld { asked: asked.name(), exports }),
        }
    }
}

/// Says whether image or pod want it to end after a time; what the node says is meant for commands.
fn has_asked_for_an_end(limits: &Limits) -> bool {
    let setter = limits.set_by.of(Limit::Deadline);
    limits.deadline.is_some() && matches!(setter, Setter::Image | Setter::Pod)
}

/// What a library's guest is to call, if its arguments say so. A command's arguments are its own,
/// whatever they are.
fn invoked_by_arguments(guest: &Guest) -> Option<Result<Invoked<'_>, Nameless>> {
    match guest.args.get(1..).unwrap_or_default() {
        [word, function, arguments @ ..] if word == INVOKE => {
            Some(Ok(Invoked { function, arguments }))
        }
        [word] if word == INVOKE => Some(Err(Nameless)),
        _ => None,
    }
}

/// `--invoke`, and nothing after it.
struct Nameless;

/// The call of a guest that was executed with a function's name.
fn invoked<'a>(function: &'a str, guest: &'a Guest) -> Invoked<'a> {
    Invoked { function, arguments: guest.args.get(1..).unwrap_or_default() }
}

/// Writes a type or name that is the module's to choose: it may be long, or hold control characters.
pub(crate) fn shown(text: impl fmt::Display) -> String {
    let mut cut = Cut { text: String::new(), left: TEXT_SHOWN };
    if write!(cut, "{text}").is_err() {
        cut.text.push('…');
    }
    cut.text
}

/// Takes so many characters and no more. What is too long is not even written: a type can be small
/// in the module and a hundred megabytes as a text.
struct Cut {
    text: String,
    left: usize,
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.extend(character.escape_debug());
        }
        Ok(())
    }
}

fn listed(exports: impl Iterator<Item = String>) -> String {
    let mut shown = Vec::new();
    let mut rest = 0_usize;
    for export in exports {
        if shown.len() < EXPORTS_SHOWN {
            shown.push(format!("`{export}`"));
        } else {
            rest += 1;
        }
    }
    match (shown.is_empty(), rest) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown.join(", "),
        (false, rest) => format!("{} and {rest} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short() {
        let names = |count: usize| listed((0..count).map(|number| number.to_string()));
        assert_eq!(names(0), "none");
        assert_eq!(names(2), "`0`, `1`");
        assert_eq!(names(20), "`0`, `1`, `2`, `3`, `4`, `5`, `6`, `7` and 12 more");
    }

    #[test]
    fn a_text_is_cut_and_harmless() {
        assert_eq!(shown("add(i32)"), "add(i32)");
        assert_eq!(shown("a\n\u{202e}b"), "a\\n\\u{202e}b");
        let long = shown("x".repeat(1 << 20));
        assert_eq!(long.chars().count(), TEXT_SHOWN + 1);
        assert!(long.ends_with('…'));
    }
}
