//! A document between the file and the tokens, and how its bytes become text.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::html;
use crate::DataError;
use crate::error::{At, Problem, Within};

/// A document as the reading thread finds it; the rest is work for the others.
#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) path: Arc<Path>,
    pub(crate) at: At,
    pub(crate) body: Body,
}

/// What is to be made into text.
#[derive(Debug)]
pub(crate) enum Body {
    /// It is text.
    Ready(String),
    /// Bytes that should be UTF-8, from this byte of the file.
    Text { bytes: Vec<u8>, offset: u64 },
    /// An HTML page.
    Html(Vec<u8>),
    /// A line of JSON.
    JsonLine(Vec<u8>),
}

impl RawDocument {
    /// Bytes it holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &self.body {
            Body::Ready(text) => text.len(),
            Body::Text { bytes, .. } | Body::Html(bytes) | Body::JsonLine(bytes) => bytes.len(),
        }
    }

    /// Its text; `key` is that of JSON objects.
    pub(crate) fn into_text(self, key: &str) -> Result<String, DataError> {
        let text = match self.body {
            Body::Ready(text) => Ok(text),
            Body::Text { bytes, offset } => utf8(bytes, offset, Within::File),
            Body::Html(bytes) => utf8(bytes, 0, Within::File).map(|page| html::text(&page)),
            Body::JsonLine(bytes) => utf8(bytes, 0, Within::Line).and_then(|line| {
                // Without its end: the parser would find what is missing in column 0 of a next line.
                let line = line.trim_end_matches(['\n', '\r']);
                let value = serde_json::from_str(line).map_err(|e| json_problem(&e))?;
                text_of(value, key)
            }),
        };
        text.map_err(|problem| DataError::document(&self.path, self.at, problem))
    }
}

/// Bytes as text.
pub(crate) fn utf8(bytes: Vec<u8>, offset: u64, of: Within) -> Result<String, Problem> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() as u64;
        let utf16 = offset == 0 && matches!(error.as_bytes(), [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]);
        Problem::NotUtf8 { offset: offset + at, of, utf16 }
    })
}

/// The parser's reason without its line number, which is counted in another way here.
pub(crate) fn json_problem(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let reason = match text.rsplit_once(" at line ") {
        Some((reason, _)) => format!("{reason} at column {}", error.column()),
        None => text,
    };
    Problem::Json { reason }
}

/// The text of a JSON value: a string, or an object with a string under `key`.
pub(crate) fn text_of(value: Value, key: &str) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text),
        Value::Object(mut object) => match object.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                Err(Problem::Shape { expected: "a string under the text's key", got: kind(&other) })
            }
            None => {
                let found = list(object.keys().map(String::as_str));
                Err(Problem::MissingKey { key: key.to_owned(), found })
            }
        },
        other => Err(Problem::Shape { expected: "an object or a string", got: kind(&other) }),
    }
}

/// Where to cut a piece of UTF-8: after the last line end, else before the last character that
/// begins in it; never in the last `room` bytes, where a separator may begin.
pub(crate) fn cut(piece: &[u8], room: usize) -> usize {
    let piece = &piece[..piece.len() - room.min(piece.len() / 2)];
    if let Some(at) = memchr::memrchr(b'\n', piece) {
        return at + 1;
    }
    // A continuation byte belongs to the character before it, of at most four bytes.
    let character = (piece.len().saturating_sub(4)..piece.len())
        .rev()
        .find(|&at| piece[at] & 0xC0 != 0x80)
        .unwrap_or(piece.len());
    if character == 0 { piece.len() } else { character }
}

/// A text in pieces of at most `most` bytes (at least 64), cut at line ends where there are any.
pub(crate) fn pieces(mut text: String, most: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut from = 0;
    while text.len() - from > most {
        let piece = &text.as_bytes()[from..from + most];
        let mut end = from + cut(piece, 0);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        pieces.push(text[from..end].to_owned());
        from = end;
    }
    pieces.push(if from == 0 { text } else { text.split_off(from) });
    pieces
}

/// Some names for an error.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const LISTED: usize = 12;
    let mut names: Vec<&str> = names.take(LISTED + 1).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    if names.len() > LISTED {
        names[LISTED] = "…";
    }
    names.join(", ")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str) -> Result<String, String> {
        let body = Body::JsonLine(json.as_bytes().to_vec());
        let raw = RawDocument { path: Path::new("a.jsonl").into(), at: At::Line(3), body };
        raw.into_text("text").map_err(|e| e.to_string())
    }

    #[test]
    fn a_line_is_an_object_or_a_string() {
        assert_eq!(line(r#"{"text": "a", "url": 1}"#), Ok("a".into()));
        assert_eq!(line(r#""b\n""#), Ok("b\n".into()));
    }

    #[test]
    fn a_bad_line_says_what_is_wrong_with_it() {
        for end in ["", "\n", "\r\n"] {
            let broken = line(&format!(r#"{{"text": "a{end}"#)).expect_err("broken");
            assert!(broken.starts_with("a.jsonl: line 3: not valid JSON: EOF"), "{broken}");
            assert!(broken.ends_with("column 11"), "{broken}");
        }
        let missing = line(r#"{"body": "a", "url": 1}"#).expect_err("no text");
        assert_eq!(missing, "a.jsonl: line 3: no key or column `text`; there are: body, url");
        let number = line("7").expect_err("a number");
        assert_eq!(number, "a.jsonl: line 3: expected an object or a string, got a number");
    }

    #[test]
    fn a_long_text_is_cut_and_nothing_is_lost() {
        assert_eq!(pieces("ab".to_owned(), 64), ["ab"]);
        let text = format!("{}\n{}", "é".repeat(30), "草".repeat(50));
        let got = pieces(text.clone(), 64);
        assert_eq!(got.concat(), text);
        assert_eq!(got[0], format!("{}\n", "é".repeat(30)));
        assert!(got.iter().all(|piece| piece.len() <= 64 && piece.len() > 2));
    }

    #[test]
    fn bytes_that_are_no_text_are_located() {
        let problem = utf8(b"ab\xFF".to_vec(), 100, Within::File).expect_err("no UTF-8");
        assert_eq!(problem.to_string(), "not UTF-8 at byte 102 of the file");
        let problem = utf8(b"\xFF\xFEa\0".to_vec(), 0, Within::File).expect_err("UTF-16");
        assert!(problem.to_string().ends_with("convert it to UTF-8"), "{problem}");
    }
}
