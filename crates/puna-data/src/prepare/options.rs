//! What to prepare and how.

use std::path::PathBuf;

use puna_text::{SMALLEST_VOCAB, Tokenizer};
use serde_json::{Value, json};

use crate::DataError;

/// Documents are cut into ones of at most this many bytes unless told otherwise.
pub const DEFAULT_PIECE_BYTES: u64 = 1 << 20;
/// A shard is closed when it has this many tokens unless told otherwise.
pub const DEFAULT_SHARD_TOKENS: u64 = 1 << 24;
/// A tokenizer is trained on at most this much text unless told otherwise: the trainer keeps every
/// different word and every pair in it, some gigabytes for this much text.
pub const DEFAULT_BPE_BYTES: u64 = 1 << 28;

/// A preparation, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// What to read, in this order.
    pub sources: Vec<Source>,
    /// The folder to write.
    pub output: PathBuf,
    /// The tokenizer.
    pub tokenizer: TokenizerChoice,
    /// Whether bos stands before each document.
    pub bos: Mark,
    /// Whether eos stands after each document.
    pub eos: Mark,
    /// Share of the documents that is held out, chosen by the hash of their text.
    pub validation_fraction: f64,
    /// What happens to duplicates.
    pub duplicates: Duplicates,
    /// Which documents are good enough.
    pub quality: Quality,
    /// Key or column of the text in JSON, CSV and Parquet.
    pub text_key: String,
    /// What separates documents in a text file; `None` for one document per file.
    pub separator: Option<String>,
    /// A longer document is cut at line ends into documents of at most this many bytes. Tokenizing
    /// one takes up to about 130 bytes of memory for each of its own, on every thread.
    pub piece_bytes: u64,
    /// What happens to unreadable documents.
    pub bad_documents: BadDocuments,
    /// A shard is closed at the end of the document that brings it to this many tokens.
    pub shard_tokens: u64,
    /// Threads that parse and tokenize; the result does not depend on it.
    pub threads: usize,
    /// What happens to data that is in the folder already.
    pub existing: Existing,
}

impl PrepareOptions {
    /// The defaults: a tokenizer's own bos and eos, one document in a hundred held out, exact
    /// duplicates dropped, nothing filtered, the first bad document ends it.
    pub fn new(sources: Vec<Source>, output: PathBuf, tokenizer: TokenizerChoice) -> Self {
        Self {
            sources,
            output,
            tokenizer,
            bos: Mark::AsTokenizer,
            eos: Mark::AsTokenizer,
            validation_fraction: 0.01,
            duplicates: Duplicates::DropExact,
            quality: Quality::default(),
            text_key: "text".to_owned(),
            separator: None,
            piece_bytes: DEFAULT_PIECE_BYTES,
            bad_documents: BadDocuments::Stop,
            shard_tokens: DEFAULT_SHARD_TOKENS,
            threads: 1,
            existing: Existing::Keep,
        }
    }

    /// Refuses values that cannot be.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let share = |option, value: Option<f64>| match value {
            Some(v) if !(0.0..=1.0).contains(&v) => wrong(option, "a share from 0 to 1", v),
            _ => Ok(()),
        };
        share("validation fraction", Some(self.validation_fraction))?;
        share("largest share of symbols", self.quality.max_symbols)?;
        share("largest share of repeated lines", self.quality.max_repeated_lines)?;
        if let Duplicates::DropNear { threshold } = self.duplicates
            && !(0.1..=1.0).contains(&threshold)
        {
            return wrong("near-duplicate threshold", "a similarity from 0.1 to 1", threshold);
        }
        if self.sources.is_empty() {
            return wrong("sources", "at least one", "none");
        }
        let weighted = self.sources.iter().filter(|s| s.weight.is_some()).count();
        if weighted != 0 && weighted != self.sources.len() {
            let got = format!("{weighted} of {}", self.sources.len());
            return wrong("weights", "one for every source, or none at all", got);
        }
        for (index, source) in self.sources.iter().enumerate() {
            if self.sources[..index].iter().any(|other| other.name == source.name) {
                return wrong("sources", "each name once", format!("{} twice", source.name));
            }
            if source.weight.is_some_and(|w| !w.is_finite() || w <= 0.0) {
                return wrong("weight", "a positive number", format!("{:?}", source.weight));
            }
        }
        if let TokenizerChoice::TrainBpe { vocab_size, .. } = self.tokenizer
            && vocab_size < SMALLEST_VOCAB
        {
            return wrong("vocabulary size", "at least 259 (256 bytes, 3 special)", vocab_size);
        }
        if self.separator.as_ref().is_some_and(String::is_empty) {
            return wrong("document separator", "some text", "nothing");
        }
        let limit = super::read::MOST_DOCUMENT_BYTES;
        if !(64..=limit).contains(&self.piece_bytes) {
            return wrong("longest document", "64 bytes to 64 MiB", self.piece_bytes);
        }
        if self.shard_tokens == 0 || self.threads == 0 {
            return wrong("tokens of a shard and threads", "at least 1", 0);
        }
        Ok(())
    }

    /// What bears on the result, for the manifest and for telling whether an unfinished
    /// preparation asked for the same.
    pub(crate) fn record(&self) -> Value {
        let quality = &self.quality;
        json!({
            "bos": self.bos.name(),
            "eos": self.eos.name(),
            "validation_fraction": self.validation_fraction,
            "duplicates": match self.duplicates {
                Duplicates::Keep => json!("keep"),
                Duplicates::DropExact => json!("drop exact"),
                Duplicates::DropNear { threshold } => json!({ "drop near": threshold }),
            },
            "quality": {
                "min_chars": quality.min_chars,
                "max_chars": quality.max_chars,
                "max_symbols": quality.max_symbols,
                "max_repeated_lines": quality.max_repeated_lines,
            },
            "text_key": self.text_key,
            "separator": self.separator,
            "piece_bytes": self.piece_bytes,
            "bad_documents": match self.bad_documents {
                BadDocuments::Stop => "stop",
                BadDocuments::Skip => "skip",
            },
            "shard_tokens": self.shard_tokens,
            "sources": self.sources.iter().map(|s| json!([s.name, s.text_key])).collect::<Vec<_>>(),
            "trained_tokenizer": match self.tokenizer {
                TokenizerChoice::TrainBpe { vocab_size, most_bytes } => {
                    json!({ "vocab_size": vocab_size, "most_bytes": most_bytes })
                }
                _ => Value::Null,
            },
        })
    }
}

fn wrong<T>(
    option: &'static str,
    expected: &'static str,
    got: impl ToString,
) -> Result<T, DataError> {
    Err(DataError::Setting { option, expected, got: got.to_string() })
}

/// Documents that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Files, folders and patterns (`*`, `**`, `?`, `[a-z]`).
    pub inputs: Vec<String>,
    /// Its share of the rows, relative to those of the other sources; `None` for as many as it has.
    pub weight: Option<f64>,
    /// Its own key or column of the text.
    pub text_key: Option<String>,
}

impl Source {
    /// A source without a weight.
    pub fn new(name: impl Into<String>, inputs: Vec<String>) -> Self {
        Self { name: name.into(), inputs, weight: None, text_key: None }
    }
}

/// Where the tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// A tokenizer file, or a folder with one; its files are copied.
    Path(PathBuf),
    /// Files by name and contents, `tokenizer.json` among them.
    Files(Vec<(String, Vec<u8>)>),
    /// A byte-level BPE trained on the documents that pass the quality filters.
    TrainBpe {
        /// Tokens, the 3 special ones and 256 bytes included.
        vocab_size: usize,
        /// Text to train on at most; of more text a sample of documents is taken.
        most_bytes: u64,
    },
}

impl TokenizerChoice {
    /// A tokenizer that is loaded already, from whatever file.
    ///
    /// # Errors
    /// It cannot be written as a `tokenizer.json`.
    pub fn loaded(tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let fails = DataError::tokenizer("writing tokenizer.json");
        let text = tokenizer.to_tokenizer_json().map_err(fails)?;
        let mut config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
        let named = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos().first().copied()),
            ("pad_token", tokenizer.pad()),
        ];
        for (key, id) in named {
            if let Some(token) = id.and_then(|id| tokenizer.token(id)) {
                config[key] = token.into();
            }
        }
        Ok(Self::Files(vec![
            ("tokenizer.json".to_owned(), text.into_bytes()),
            ("tokenizer_config.json".to_owned(), format!("{config:#}\n").into_bytes()),
        ]))
    }
}

/// Whether a token is put at one end of every document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As the tokenizer's own settings say.
    AsTokenizer,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Self::AsTokenizer => "as the tokenizer",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What happens to documents that were there before. The first one stays.
///
/// # Units
/// Memory per document that is kept: 16 bytes for its hash (about 33 with the hash table's free
/// room) and, for near duplicates, 512 bytes of signature and 8 + about 25 for each band (at
/// threshold 0.8: 9 bands, 0.8 kB in all).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Duplicates {
    /// They stay.
    Keep,
    /// Equal texts, white space aside, are dropped.
    DropExact,
    /// Also texts whose sets of five words in a row are similar.
    DropNear {
        /// The least Jaccard similarity that makes a duplicate.
        threshold: f64,
    },
}

/// Which documents are good enough; by default all that have text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quality {
    /// Least length in characters.
    pub min_chars: usize,
    /// Greatest length in characters.
    pub max_chars: Option<usize>,
    /// Largest share of characters that are neither letters, digits nor white space.
    pub max_symbols: Option<f64>,
    /// Largest share of lines (blank ones aside) that repeat an earlier line of the document.
    pub max_repeated_lines: Option<f64>,
}

/// What happens to documents that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadDocuments {
    /// The first one ends the preparation.
    Stop,
    /// They are skipped and counted.
    Skip,
}

/// What happens to prepared data in the output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Finished data is an error; unfinished data with the same settings is continued.
    Keep,
    /// It is replaced.
    Replace,
}
