//! Errors as people read them: in one line, with what caused them.

/// Writes an error and its causes in one line. A cause whose words are there already is left out:
/// libraries repeat them on the way up.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, below) = texts.split_first().expect("a layer");
        let source = (!below.is_empty()).then(|| Box::new(layers(below)));
        Layer { text, source }
    }

    #[test]
    fn causes_follow_and_none_is_said_twice() {
        let table = [
            (&["cannot open the cache", "no such file"][..], "cannot open the cache: no such file"),
            (&["alone"], "alone"),
            (&["a: deep cause", "deep cause", "errno 5"], "a: deep cause: errno 5"),
        ];
        for (texts, expected) in table {
            assert_eq!(chain(&layers(texts)), expected);
        }
    }
}
