//! What can go wrong between files and rows, always with the file and, where there is one, the
//! line, row or byte, so that the reader can open it there.

use std::path::{Path, PathBuf};

use puna_io::IoError;
use puna_text::TextError;

use crate::manifest::Split;

/// Error of preparing or reading training data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be written, mapped or listed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The tokenizer is malformed, cannot be trained, or cannot express a text.
    #[error("tokenizer: {place}")]
    Tokenizer {
        /// The tokenizer's file, or the document it failed on.
        place: String,
        /// What it says.
        source: Box<TextError>,
    },
    /// A document that cannot be used.
    #[error("{}{at}: {problem}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Where in it.
        at: At,
        /// What is wrong.
        problem: Problem,
    },
    /// An input that names nothing.
    #[error("{input}: no such file or folder, and no file matches it as a pattern")]
    NoInput {
        /// As given.
        input: String,
    },
    /// A folder or pattern without a single file of a known format.
    #[error("{input}: {}", match files {
        0 => "there is no file in it".to_owned(),
        _ => format!("none of its {files} files has a known ending ({})", crate::FORMATS),
    })]
    NothingToRead {
        /// As given.
        input: String,
        /// Files that were seen.
        files: usize,
    },
    /// A file whose ending says nothing.
    #[error("{}: unknown ending; known are {known}", path.display(), known = crate::FORMATS)]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// An option that cannot be.
    #[error("{option}: expected {expected}, got {got}")]
    Setting {
        /// Its name.
        option: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// Every document was dropped.
    #[error("no document is left of {read}: {dropped}")]
    NothingKept {
        /// Documents read.
        read: u64,
        /// How many were dropped by what.
        dropped: String,
    },
    /// The output folder holds finished data.
    #[error("{}: the folder holds prepared data already", path.display())]
    AlreadyPrepared {
        /// The folder.
        path: PathBuf,
    },
    /// The output folder holds something else.
    #[error("{}: the folder is not empty and holds no prepared data", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The output folder holds the beginning of a preparation that asked for something else.
    #[error("{}: the folder holds an unfinished preparation with other settings", path.display())]
    OtherSettings {
        /// The folder.
        path: PathBuf,
    },
    /// An input changed since the finished shards were written.
    #[error("{}: the inputs are not those this shard was made of", path.display())]
    InputsChanged {
        /// The shard.
        path: PathBuf,
    },
    /// The preparation was asked to stop.
    #[error("stopped after {documents} documents; what is finished is kept")]
    Stopped {
        /// Documents read so far.
        documents: u64,
    },
    /// A folder without a manifest.
    #[error("{}: no manifest.json here{}", path.display(), if *unfinished {
        "; its preparation is not finished"
    } else {
        ""
    })]
    NoManifest {
        /// The folder.
        path: PathBuf,
        /// Whether a preparation has begun here.
        unfinished: bool,
    },
    /// A manifest or shard that is not what it should be.
    #[error("{}: {what}: expected {expected}, got {got}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: &'static str,
        /// What should be there.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A split that does not fill one row.
    #[error(
        "{}: the {split} split{} has {tokens} tokens, and one row needs {needed}",
        path.display(),
        source_name.as_ref().map(|name| format!(" of source {name}")).unwrap_or_default()
    )]
    TooFewTokens {
        /// The folder.
        path: PathBuf,
        /// The split.
        split: Split,
        /// The source, where sources are mixed by weight.
        source_name: Option<String>,
        /// Tokens it has.
        tokens: u64,
        /// Tokens of a row and the target after it.
        needed: u64,
    },
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The file as a whole.
    File,
    /// A line, from 1.
    Line(u64),
    /// A row of a table, from 1, the header not counted.
    Row(u64),
    /// An element of a JSON array, from 1.
    Element(u64),
    /// A byte, from 0.
    Byte(u64),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(n) => write!(f, ": line {n}"),
            Self::Row(n) => write!(f, ": row {n}"),
            Self::Element(n) => write!(f, ": element {n}"),
            Self::Byte(n) => write!(f, ": byte {n}"),
        }
    }
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file has no byte, or no document.
    #[error("the file is empty")]
    Empty,
    /// Bytes that are no UTF-8.
    #[error("not UTF-8 at byte {offset} {}{}", of.as_ref(), if *utf16 {
        "; it looks like UTF-16, convert it to UTF-8"
    } else {
        ""
    })]
    NotUtf8 {
        /// The first wrong byte, from 0.
        offset: u64,
        /// What the byte is counted in.
        of: Within,
        /// Whether the file begins like UTF-16.
        utf16: bool,
    },
    /// Text that is not JSON.
    #[error("not valid JSON: {reason}")]
    Json {
        /// The parser's reason, with its column.
        reason: String,
    },
    /// JSON of another shape.
    #[error("expected {expected}, got {got}")]
    Shape {
        /// What can be read.
        expected: &'static str,
        /// What is there.
        got: &'static str,
    },
    /// The text's key or column is missing.
    #[error("no key or column `{key}`; there are: {found}")]
    MissingKey {
        /// The key asked for.
        key: String,
        /// Those that are there.
        found: String,
    },
    /// A table that is damaged.
    #[error("damaged {format} file: {reason}")]
    Table {
        /// The format's name.
        format: &'static str,
        /// Its reader's reason.
        reason: String,
    },
    /// A document or line beyond the bound on memory.
    #[error("longer than {limit} bytes, the most one document may have")]
    TooLong {
        /// The bound.
        limit: u64,
    },
    /// The system cannot read on, or the compressed stream is damaged.
    #[error("cannot read on: {reason}")]
    Read {
        /// The system's or the decoder's reason.
        reason: String,
    },
}

/// What a byte offset is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// The (decompressed) file.
    File,
    /// The line.
    Line,
    /// The field of a table.
    Field,
}

impl AsRef<str> for Within {
    fn as_ref(&self) -> &str {
        match self {
            Self::File => "of the file",
            Self::Line => "of the line",
            Self::Field => "of the field",
        }
    }
}

impl DataError {
    /// A [`DataError::Document`].
    pub(crate) fn document(path: &Path, at: At, problem: Problem) -> Self {
        Self::Document { path: path.to_path_buf(), at, problem }
    }

    /// A [`DataError::Damaged`] from anything printable.
    pub(crate) fn damaged(
        path: &Path,
        what: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        let (expected, got) = (expected.to_string(), got.to_string());
        Self::Damaged { path: path.to_path_buf(), what, expected, got }
    }

    /// A [`DataError::Tokenizer`].
    pub(crate) fn tokenizer(place: impl ToString) -> impl FnOnce(TextError) -> Self {
        let place = place.to_string();
        move |source| Self::Tokenizer { place, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_error_names_file_line_and_reason() {
        let problem = Problem::MissingKey { key: "text".into(), found: "url, body".into() };
        let error = DataError::document(Path::new("a.jsonl"), At::Line(7), problem);
        assert_eq!(
            error.to_string(),
            "a.jsonl: line 7: no key or column `text`; there are: url, body"
        );
        let problem = Problem::NotUtf8 { offset: 12, of: Within::File, utf16: false };
        let error = DataError::document(Path::new("a.txt"), At::File, problem);
        assert_eq!(error.to_string(), "a.txt: not UTF-8 at byte 12 of the file");
    }
}
