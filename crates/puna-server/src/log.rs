//! The server's log: one line per event on stderr, without any text of a request.

use std::error::Error;
use std::io::Write;

/// Writes a line; if stderr is closed there is nobody to tell.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// An error with its causes, in a line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// A text that came from outside as one harmless line.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(200).collect::<String>())
}
