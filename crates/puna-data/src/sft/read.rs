//! Files of conversations: a JSON array, JSON Lines, or one pretty-printed object.
//!
//! What a file is shows in its content, not in its name: many `.json` files of the field hold a
//! record per line. Files of conversations fit in memory, so that they are read whole.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::alpaca;
use super::conversation::Conversation;
use super::error::{At, Place, SftError};
use super::layout::{Columns, SftFormat};
use super::turns;

/// What happens to a record that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unusable {
    /// It ends the work with its error.
    #[default]
    Refuse,
    /// It is left out and counted.
    Skip,
}

/// How files of conversations are read.
#[derive(Debug, Clone, Default)]
pub struct SftReader {
    /// The format; found out from the first record's keys where it is not given.
    pub format: Option<SftFormat>,
    /// Names of keys, where a file has its own.
    pub columns: Columns,
    /// What happens to broken records. Text that is not JSON, or not UTF-8, always ends the work.
    pub unusable: Unusable,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct SftFile {
    /// Its conversations, in order.
    pub conversations: Vec<Conversation>,
    /// Why records were left out; empty unless [`Unusable::Skip`].
    pub unusable: Vec<SftError>,
}

impl SftReader {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is empty, is not UTF-8 or not JSON, has no known format, or, unless
    /// such records are skipped, has a record that is no conversation.
    pub fn read(&self, path: &Path) -> Result<SftFile, SftError> {
        let bytes = std::fs::read(path)
            .map_err(|source| SftError::Read { path: path.to_path_buf(), source })?;
        self.parse(&bytes, path)
    }

    /// Reads a file's bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`SftReader::read`].
    pub fn parse(&self, bytes: &[u8], path: &Path) -> Result<SftFile, SftError> {
        let text = utf8(bytes, path)?;
        let records = records(text, path)?;
        let Some((first, place)) = records.first() else {
            return Err(SftError::Empty { path: path.to_path_buf() });
        };
        let format = match self.format {
            Some(format) => format,
            None => self.columns.detect(first, place)?,
        };
        let mut file = SftFile::default();
        for (record, place) in &records {
            match self.conversations(record, format, place) {
                Ok(found) => file.conversations.extend(found),
                Err(error) if self.unusable == Unusable::Skip => file.unusable.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(file)
    }

    fn conversations(
        &self,
        record: &Value,
        format: SftFormat,
        place: &Place,
    ) -> Result<Vec<Conversation>, SftError> {
        let found = match format {
            SftFormat::Alpaca => alpaca::read(record, &self.columns, place)?,
            SftFormat::ShareGpt | SftFormat::Messages => {
                let list = self.columns.list(format);
                vec![turns::read(record, list, &self.columns, place)?]
            }
        };
        found.iter().try_for_each(Conversation::check_order)?;
        Ok(found)
    }
}

/// The bytes as text, without a byte order mark.
fn utf8<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, SftError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        SftError::Encoding {
            path: path.to_path_buf(),
            line: 1 + before.iter().filter(|&&b| b == b'\n').count(),
            byte: before.len() - line_start + 1,
        }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The records of a text, each with its place.
fn records(text: &str, path: &Path) -> Result<Vec<(Value, Place)>, SftError> {
    let shared = Arc::new(path.to_path_buf());
    let place = |at| Place { path: Arc::clone(&shared), at };
    if text.trim_start().starts_with('[') {
        let list: Vec<Value> =
            serde_json::from_str(text).map_err(|error| broken(&error, path, error.line()))?;
        let numbered = list.into_iter().enumerate();
        return Ok(numbered.map(|(i, value)| (value, place(At::Record(i + 1)))).collect());
    }
    let mut records = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(value) => records.push((value, place(At::Line(index + 1)))),
            // One object over several lines, as `puna chat` saves a conversation.
            Err(error) if records.is_empty() && error.is_eof() => {
                return match serde_json::from_str(text) {
                    Ok(value) => Ok(vec![(value, place(At::Record(1)))]),
                    Err(whole) if whole.line() > index + 1 && !is_lines(path) => {
                        Err(broken(&whole, path, whole.line()))
                    }
                    Err(_) => Err(broken(&error, path, index + 1)),
                };
            }
            Err(error) => return Err(broken(&error, path, index + 1)),
        }
    }
    Ok(records)
}

/// Whether a file's name says that it has a record per line.
fn is_lines(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "jsonl" || ext == "ndjson")
}

fn broken(error: &serde_json::Error, path: &Path, line: usize) -> SftError {
    let said = error.to_string();
    let reason = said.split(" at line ").next().unwrap_or(&said).to_owned();
    SftError::Json { path: path.to_path_buf(), line, column: error.column(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8], name: &str) -> Result<SftFile, String> {
        SftReader::default().parse(text, Path::new(name)).map_err(|e| e.to_string())
    }

    const GOOD: &str = r#"{"instruction": "Hi", "output": "Hello"}"#;

    #[test]
    fn arrays_lines_and_single_objects_are_told_apart_by_content() {
        let count = |text: &str, name| parse(text.as_bytes(), name).unwrap().conversations.len();
        assert_eq!(count(&format!("\u{feff}\n [{GOOD},\n{GOOD}]"), "a.jsonl"), 2);
        assert_eq!(count(&format!("{GOOD}\n\n{GOOD}\n"), "a.json"), 2);
        assert_eq!(count(&GOOD.replace(", ", ",\n"), "a.json"), 1);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error =
            parse(format!("{GOOD}\n{{\"instruction\": \"Hi\"\n{GOOD}").as_bytes(), "a.jsonl");
        assert_eq!(
            error.unwrap_err(),
            "a.jsonl, line 2, column 20: not valid JSON: EOF while parsing an object"
        );
        let error = parse(format!("[{GOOD},\n{{]").as_bytes(), "a.json").unwrap_err();
        assert!(error.starts_with("a.json, line 2, column 2: not valid JSON"), "{error}");
        let error = parse(format!("{{\"instruction\n{GOOD}").as_bytes(), "a.jsonl").unwrap_err();
        assert!(error.starts_with("a.jsonl, line 1, column 13: not valid JSON"), "{error}");
    }

    #[test]
    fn empty_and_foreign_files_say_what_they_are() {
        assert_eq!(parse(b"", "a.json").unwrap_err(), "a.json holds no conversations");
        assert_eq!(parse(b" \n", "a.json").unwrap_err(), "a.json holds no conversations");
        assert_eq!(parse(b"[]", "a.json").unwrap_err(), "a.json holds no conversations");
        assert_eq!(
            parse(b"{}\n{\"a\": \"\xff\"}", "a.json").unwrap_err(),
            "a.json, line 2: not UTF-8 (byte 8 of the line)"
        );
        assert_eq!(
            parse(b"{\"text\": 1, \"id\": 2}", "a.json").unwrap_err(),
            "a.json, line 1: keys `text`, `id` fit no known format (`messages`, `conversations`, or \
             `instruction` with `output`)"
        );
        assert_eq!(
            parse(b"[1]", "a.json").unwrap_err(),
            "a.json, record 1: record: expected an object, got a number"
        );
        let missing = SftReader::default().read(Path::new("/no/such/file"));
        assert_eq!(missing.unwrap_err().to_string(), "cannot read /no/such/file");
    }

    #[test]
    fn broken_records_are_refused_or_counted() {
        let text = format!("{GOOD}\n{{\"instruction\": \"Hi\"}}\n{GOOD}");
        let refused = parse(text.as_bytes(), "a.jsonl").unwrap_err();
        assert_eq!(refused, "a.jsonl, line 2: key `output` is missing");
        let reader = SftReader { unusable: Unusable::Skip, ..SftReader::default() };
        let file = reader.parse(text.as_bytes(), Path::new("a.jsonl")).unwrap();
        assert_eq!((file.conversations.len(), file.unusable.len()), (2, 1));
        assert_eq!(file.unusable[0].to_string(), refused);
    }
}
