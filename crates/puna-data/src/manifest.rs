//! `manifest.json`: what a folder of token shards holds, what it was made of, and how.
//!
//! It is written last, so that a folder with a manifest is complete. Nothing in it depends on when
//! or on how many threads the data was made: the same inputs and options give the same bytes.

use std::path::Path;

use puna_io::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::DataError;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// What `format` says.
pub(crate) const FORMAT: &str = "puna-tokens";
/// What `version` says.
pub(crate) const VERSION: u32 = 1;
/// Largest manifest that is read.
const MOST_BYTES: u64 = 1 << 30;

/// Which part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held out.
    Validation,
}

impl Split {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// As in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How tokens are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenType {
    /// Two bytes, for vocabularies of at most 65,536 tokens.
    U16,
    /// Four bytes.
    U32,
}

impl TokenType {
    /// The smaller one that holds every id below `vocab_size`.
    pub fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes per token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

/// What a folder of token shards holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `puna-tokens`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// The tokenizer beside the shards.
    pub tokenizer: TokenizerEntry,
    /// One more than the highest token id.
    pub vocab_size: usize,
    /// How tokens are stored.
    pub dtype: TokenType,
    /// How the data was made: the options that bear on the result, by name.
    pub options: serde_json::Value,
    /// What it was made of.
    pub sources: Vec<SourceEntry>,
    /// Shards of the training split, in order.
    pub train: Vec<ShardEntry>,
    /// Shards of the validation split, in order.
    pub validation: Vec<ShardEntry>,
}

/// The tokenizer that made the tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerEntry {
    /// Its file in the folder.
    pub file: String,
    /// SHA-256 of that file, in hexadecimal.
    pub sha256: String,
    /// The token put before each document.
    pub bos: Option<u32>,
    /// The token put after each document.
    pub eos: Option<u32>,
}

/// One source of documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// Its name.
    pub name: String,
    /// Its share of the rows, relative to those of the other sources; `None` for as many as it has.
    pub weight: Option<f64>,
    /// The inputs as they were given.
    pub inputs: Vec<String>,
    /// Files read.
    pub files: u64,
    /// Files in folders and patterns that were left out for their ending.
    pub files_left_out: u64,
    /// What became of its documents.
    pub documents: Counts,
}

/// What became of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Read, bad ones included.
    pub read: u64,
    /// Unreadable and skipped, as asked.
    pub bad: u64,
    /// Without any text.
    pub empty: u64,
    /// Shorter than the least length.
    pub too_short: u64,
    /// Longer than the greatest length.
    pub too_long: u64,
    /// Too many symbols.
    pub symbols: u64,
    /// Too many repeated lines.
    pub repeated_lines: u64,
    /// Equal to an earlier document.
    pub exact_duplicates: u64,
    /// Nearly equal to an earlier document.
    pub near_duplicates: u64,
    /// Kept for training.
    pub train: u64,
    /// Kept for validation.
    pub validation: u64,
}

impl Counts {
    /// Each count with its name, in order.
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("read", self.read),
            ("bad", self.bad),
            ("empty", self.empty),
            ("too short", self.too_short),
            ("too long", self.too_long),
            ("symbols", self.symbols),
            ("repeated lines", self.repeated_lines),
            ("exact duplicates", self.exact_duplicates),
            ("near duplicates", self.near_duplicates),
            ("train", self.train),
            ("validation", self.validation),
        ]
    }
}

/// One shard: a safetensors file with `tokens` and `document_starts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Its name in the folder.
    pub file: String,
    /// Index of its source.
    pub source: usize,
    /// Tokens in it.
    pub tokens: u64,
    /// Documents in it; each lies wholly in one shard.
    pub documents: u64,
    /// Bytes of text these documents had.
    pub text_bytes: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// SHA-256 over the SHA-256 of every document's text, in order.
    pub text_sha256: String,
}

impl Manifest {
    /// The shards of a split.
    pub fn shards(&self, split: Split) -> &[ShardEntry] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    /// Tokens of a split.
    pub fn tokens(&self, split: Split) -> u64 {
        self.shards(split).iter().map(|shard| shard.tokens).sum()
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// There is none, or it is not a manifest of this version.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST);
        if !path.is_file() {
            let unfinished = dir.join(crate::prepare::PROGRESS).is_file();
            return Err(DataError::NoManifest { path: dir.to_path_buf(), unfinished });
        }
        let manifest: Self = read_json(&path, "the manifest")?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            let got = format!("{} {}", manifest.format, manifest.version);
            return Err(DataError::damaged(&path, "format", format!("{FORMAT} {VERSION}"), got));
        }
        let is_name = |file: &str| Path::new(file).file_name().is_some_and(|name| name == file);
        if !is_name(&manifest.tokenizer.file) {
            let got = &manifest.tokenizer.file;
            return Err(DataError::damaged(&path, "tokenizer", "a file name", got));
        }
        let sources = manifest.sources.len();
        for shard in manifest.train.iter().chain(&manifest.validation) {
            if !is_name(&shard.file) {
                return Err(DataError::damaged(&path, "shard", "a file name", &shard.file));
            }
            if shard.source >= sources {
                let expected = format!("one of {sources} sources");
                return Err(DataError::damaged(&path, "source", expected, shard.source));
            }
        }
        Ok(manifest)
    }
}

/// Reads a JSON file of a sensible size.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<T, DataError> {
    let os = |action| puna_io::IoError::os(path, action);
    let bytes = std::fs::metadata(path).map_err(os("read the size"))?.len();
    if bytes > MOST_BYTES {
        return Err(DataError::damaged(path, what, format!("at most {MOST_BYTES} bytes"), bytes));
    }
    let text = std::fs::read(path).map_err(os("read"))?;
    serde_json::from_slice(&text)
        .map_err(|e| DataError::damaged(path, what, "JSON that puna wrote", e))
}

/// Writes a JSON file, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| DataError::damaged(path, "JSON", "a value that can be written", e))?;
    text.push(b'\n');
    let mut file = AtomicFile::create(path)?;
    file.append(&text)?;
    Ok(file.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_type_is_the_smallest_that_holds_the_vocabulary() {
        assert_eq!(TokenType::for_vocab(65_536), TokenType::U16);
        assert_eq!(TokenType::for_vocab(65_537), TokenType::U32);
    }

    #[test]
    fn a_shard_outside_the_folder_is_refused() {
        let dir = tempfile::tempdir().expect("temp");
        let manifest = serde_json::json!({
            "format": "puna-tokens", "version": 1, "vocab_size": 3, "dtype": "U16", "options": {},
            "tokenizer": {"file": "tokenizer.json", "sha256": "", "bos": 0, "eos": null},
            "sources": [{"name": "a", "weight": null, "inputs": [], "files": 0,
                "files_left_out": 0, "documents": Counts::default()}],
            "train": [{"file": "../x", "source": 0, "tokens": 0, "documents": 0, "text_bytes": 0,
                "bytes": 0, "sha256": "", "text_sha256": ""}],
            "validation": [],
        });
        std::fs::write(dir.path().join(MANIFEST), manifest.to_string()).expect("write");
        let error = Manifest::read(dir.path()).expect_err("outside");
        assert!(error.to_string().contains("../x"), "{error}");
    }
}
