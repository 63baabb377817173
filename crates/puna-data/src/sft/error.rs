//! What can be wrong with conversations, each with the place a reader has to look at.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use puna_text::TextError;

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<PathBuf>,
    /// The record's place in the file, from 1.
    pub at: At,
}

/// How a file counts its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Line of a JSON Lines file.
    Line(usize),
    /// Element of a JSON array.
    Record(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.at {
            At::Line(line) => write!(f, "{path}, line {line}"),
            At::Record(record) => write!(f, "{path}, record {record}"),
        }
    }
}

/// Error of reading conversations or of making rows of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SftError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file without a single record.
    #[error("{} holds no conversations", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are not text.
    #[error("{}, line {line}: not UTF-8 (byte {byte} of the line)", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Byte in the line, from 1.
        byte: usize,
    },
    /// Text that is not JSON.
    #[error("{}, line {line}, column {column}: not valid JSON: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 where a line is missing.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// A record of none of the known formats.
    #[error(
        "{place}: keys `{}` fit no known format (`messages`, `conversations`, or `instruction` with \
         `output`)", keys.join("`, `")
    )]
    UnknownFormat {
        /// The record.
        place: Place,
        /// The keys it has.
        keys: Vec<String>,
    },
    /// A key that a record needs and lacks.
    #[error("{place}: key `{key}` is missing")]
    Missing {
        /// The record.
        place: Place,
        /// The key, with the way to it.
        key: String,
    },
    /// A value that cannot be.
    #[error("{place}: {key}: expected {expected}, got {got}")]
    Invalid {
        /// The record.
        place: Place,
        /// The key, with the way to it.
        key: String,
        /// What is allowed.
        expected: &'static str,
        /// What was found.
        got: String,
    },
    /// A conversation whose turns do not follow each other.
    #[error("{place}: message {message} is from `{got}`, expected {expected}")]
    RoleOrder {
        /// The record.
        place: Place,
        /// The message, from 1.
        message: usize,
        /// Who may speak there.
        expected: &'static str,
        /// Who does.
        got: String,
    },
    /// A conversation that does not end with an answer.
    #[error("{place}: the conversation ends without an answer")]
    NoAnswer {
        /// The record.
        place: Place,
    },
    /// A conversation with tools under a template that leaves them out.
    #[error("{place}: the chat template has no place for {what} (tools can be written as text)")]
    NoTools {
        /// The record.
        place: Place,
        /// What would be lost.
        what: &'static str,
    },
    /// The template or the tokenizer refuses the conversation.
    #[error("{place}")]
    Text {
        /// The record.
        place: Place,
        /// Its reason.
        source: TextError,
    },
    /// A template that writes an answered conversation otherwise than its prompt.
    #[error(
        "{place}: message {message}: the chat template's prompt does not begin the answered \
         conversation, so that the answer cannot be told apart"
    )]
    Unstable {
        /// The record.
        place: Place,
        /// The answer, from 1.
        message: usize,
    },
    /// An answer whose tokens cannot be put after those of its prompt.
    #[error("{place}: message {message}: no tokens continue the prompt with this answer")]
    Inseparable {
        /// The record.
        place: Place,
        /// The answer, from 1.
        message: usize,
    },
    /// Rows that cannot hold a token and its target.
    #[error("rows of {sequence_length} tokens hold no conversation")]
    NoRoom {
        /// The length asked for.
        sequence_length: usize,
    },
    /// Nothing to train on.
    #[error(
        "none of {conversations} conversations is left to train on: {unusable} unusable, \
         {too_long} longer than a row, {unanswered} without a trained answer"
    )]
    NothingLeft {
        /// Conversations there were.
        conversations: usize,
        /// Broken ones, skipped.
        unusable: usize,
        /// Too long ones, skipped.
        too_long: usize,
        /// Ones in which no token is trained.
        unanswered: usize,
    },
}
