//! What went wrong with a request, in one line on the container's standard error.

use http::Request;
use wasmtime::{Error, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// Characters of a request's target that are shown.
const TARGET_SHOWN: usize = 80;
/// Characters of a cause that are shown.
const CAUSE_SHOWN: usize = 300;

/// A request as the line names it: its method and its path, without the query, which may hold what
/// is no one's business.
pub(super) fn label<Body>(request: &Request<Body>) -> String {
    format!("{} {}", request.method(), cut(request.uri().path(), TARGET_SHOWN))
}

/// Says why an instance has failed: the cause, and where the guest was.
pub(super) fn line(label: &str, error: &Error) -> String {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("{label}: the guest has exited with code {code} instead of answering\n");
    }
    let cause = cut(&error.root_cause().to_string(), CAUSE_SHOWN);
    match error.downcast_ref::<WasmBacktrace>().and_then(first_frame) {
        Some(frame) => format!("{label}: {cause}, in {frame}\n"),
        None => format!("{label}: {cause}\n"),
    }
}

/// As in `app.wasm!handle`. The backtrace shows each frame in a line of its own: number, address,
/// a hyphen, and the demangled name.
fn first_frame(backtrace: &WasmBacktrace) -> Option<String> {
    let text = backtrace.to_string();
    let line = text.lines().nth(1)?;
    let name = line.split_once(" - ").map_or(line, |(_, name)| name);
    Some(cut(name.trim(), CAUSE_SHOWN))
}

/// Keeps a text to one line of this length: the client and the guest have written it.
fn cut(text: &str, length: usize) -> String {
    let mut shown: String = text.chars().take(length).flat_map(char::escape_debug).collect();
    if text.chars().nth(length).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_in_one_short_line_without_its_query() {
        let request = |target: &str| Request::builder().uri(target).body(()).unwrap();
        assert_eq!(label(&request("/a/b?token=secret")), "GET /a/b");
        assert_eq!(label(&request("http://host/")), "GET /");
        let long = label(&request(&format!("/{}", "x".repeat(5000))));
        assert_eq!(long.chars().count(), 4 + TARGET_SHOWN + 1);
    }

    #[test]
    fn a_cause_is_one_line() {
        let error = Error::msg("first\nsecond").context("around");
        assert_eq!(line("GET /", &error), "GET /: first\\nsecond\n");
        let exit = Error::from(I32Exit(3)).context("around");
        assert!(line("GET /", &exit).contains("exited with code 3"));
    }
}
