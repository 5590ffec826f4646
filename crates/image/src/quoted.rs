//! Shows a stranger's text in a log line or an error.
//!
//! Image authors choose annotation values, titles and file names; written out
//! raw they could forge a second log line or turn the text direction.

use std::fmt;

/// How many characters are shown before the text is cut.
const SHOWN: usize = 200;

/// Displays a text in double quotes, control characters escaped, cut at 200
/// characters.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{:?} (cut, {} bytes)", &self.0[..end], self.0.len()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// Displays several texts as [`Quoted`], separated by commas.
pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|text| Quoted(text).to_string()).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        let shown = Quoted("a\nb\r\0\u{202e}c").to_string();
        assert_eq!(shown, "\"a\\nb\\r\\0\\u{202e}c\"");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let shown = Quoted(&"é".repeat(1000)).to_string();
        assert!(shown.ends_with("(cut, 2000 bytes)"), "{shown}");
        assert!(shown.chars().count() < 230);
    }
}
