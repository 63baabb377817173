//! What can go wrong between text and ids, each with what a reader needs to act on it.

use std::path::PathBuf;

/// Error of a foreign library, kept whole as a source.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is larger than any tokenizer or template.
    #[error("{} has {bytes} bytes; at most {limit} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A folder without tokenizer files.
    #[error("{} holds neither tokenizer.json nor a tokenizer.model", path.display())]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
    /// An error inside a named file.
    #[error("{}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<TextError>,
    },
    /// Text that is not JSON.
    #[error("not valid JSON")]
    Json(#[from] serde_json::Error),
    /// A field with a value that cannot be.
    #[error("{key}: expected {expected}, got {got}")]
    Invalid {
        /// Field, key or place.
        key: String,
        /// What is allowed.
        expected: &'static str,
        /// What was found.
        got: String,
    },
    /// A SentencePiece model that is cut off or damaged.
    #[error("SentencePiece model: {expected} at byte {offset}")]
    Protobuf {
        /// Where, from the beginning of the file.
        offset: usize,
        /// What should have been there.
        expected: &'static str,
    },
    /// The `tokenizers` library refused or failed.
    #[error("tokenizer.json: cannot {step}")]
    Library {
        /// What it was asked to do.
        step: &'static str,
        /// Its reason.
        source: Source,
    },
    /// The `tokenizers` library panicked on a malformed file or text.
    #[error("tokenizer.json: the tokenizers library failed to {step} (internal error)")]
    LibraryPanic {
        /// What it was asked to do.
        step: &'static str,
    },
    /// A regular expression that does not compile, or gives up on a text.
    #[error("split pattern `{pattern}`")]
    Pattern {
        /// The expression.
        pattern: String,
        /// The engine's reason.
        source: Box<fancy_regex::Error>,
    },
    /// A GGUF vocabulary of a kind that is not read.
    #[error("tokenizer.ggml.model `{model}` is not supported (llama and gpt2 are)")]
    UnknownGgufModel {
        /// Value of the key.
        model: String,
    },
    /// A GGUF pre-tokenizer that is not known: splitting by another would give wrong ids.
    #[error("tokenizer.ggml.pre `{pre}` is not known")]
    UnknownPreTokenizer {
        /// Value of the key.
        pre: String,
    },
    /// A character that the vocabulary has no token for.
    #[error("byte 0x{byte:02X} has no token in the vocabulary, which has no unknown token either")]
    NoTokenForByte {
        /// The byte.
        byte: u8,
    },
    /// An id that no token has.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids.
        vocab: usize,
    },
    /// Tokenizer and model do not belong together.
    #[error("token `{token}` has id {id}, but the model's vocabulary has {rows} rows")]
    VocabMismatch {
        /// The token with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the model's embedding.
        rows: usize,
    },
    /// This tokenizer cannot be written in that format.
    #[error("this tokenizer cannot be written as {target}: {reason}")]
    Inexpressible {
        /// The format.
        target: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A chat template that does not compile or fails while it runs.
    #[error("chat template: {detail}")]
    Template {
        /// Message with line number, from the template engine.
        detail: String,
        /// The engine's error.
        source: Source,
    },
    /// The template itself refused the conversation (`raise_exception`).
    #[error("the chat template refuses this conversation: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
    /// A named template that is not there.
    #[error("no chat template named `{name}` (there are: {known})")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A conversation that a format cannot hold.
    #[error("message {index}: expected {expected}, got {got}")]
    Conversation {
        /// Index of the message.
        index: usize,
        /// What the format allows there.
        expected: &'static str,
        /// What was there.
        got: String,
    },
}

impl TextError {
    /// The same error, with the file it happened in.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        Self::InFile { path: path.to_path_buf(), source: Box::new(self) }
    }

    /// Shorthand for [`TextError::Invalid`].
    pub(crate) fn invalid(
        key: impl Into<String>,
        expected: &'static str,
        got: impl ToString,
    ) -> Self {
        Self::Invalid { key: key.into(), expected, got: got.to_string() }
    }
}
