//! Prepared token shards, mapped from disk.
//!
//! Opening checks what is cheap: sizes, headers, and that document starts ascend. Tokens are
//! checked against the vocabulary when they are read, hashes when [`TokenData::verify`] is asked,
//! so that opening a terabyte takes no longer than opening a megabyte.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use puna_io::safetensors::SafetensorsFile;
use puna_io::{Dtype, IoError, Sha256, TensorBytes, hex};

use crate::DataError;
use crate::manifest::{MANIFEST, Manifest, ShardEntry, Split, TokenType};

/// The tensor of token ids, one axis.
pub(crate) const TOKENS: &str = "tokens";
/// The tensor of document starts: for each document, the index of its first token in the shard.
pub(crate) const DOCUMENT_STARTS: &str = "document_starts";

/// A folder of token shards, open for reading.
#[derive(Debug, Clone)]
pub struct TokenData {
    dir: PathBuf,
    manifest: Arc<Manifest>,
    shards: [Vec<Arc<Shard>>; 2],
}

impl TokenData {
    /// Opens the folder that `puna data prepare` wrote.
    ///
    /// # Errors
    /// There is no manifest, the tokenizer or a shard is missing, or a shard is of another size than
    /// the manifest says or malformed.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let manifest = Manifest::read(dir)?;
        // Tokens without it can be trained on, but no one could ever read what the model writes.
        size_of(dir, &manifest.tokenizer.file)?;
        let open = |split: Split| -> Result<Vec<Arc<Shard>>, DataError> {
            let shards = manifest.shards(split).iter();
            shards.map(|entry| Shard::open(dir, entry, &manifest).map(Arc::new)).collect()
        };
        let shards = [open(Split::Train)?, open(Split::Validation)?];
        Ok(Self { dir: dir.to_path_buf(), manifest: Arc::new(manifest), shards })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Tokens of a split.
    pub fn tokens(&self, split: Split) -> u64 {
        self.manifest.tokens(split)
    }

    /// One more than the highest token id: what a model's embedding must have at least.
    pub fn vocab_size(&self) -> usize {
        self.manifest.vocab_size
    }

    /// Reads everything: hashes of shards and tokenizer, and every token against the vocabulary.
    /// `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// The first difference.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<(), DataError> {
        let tokenizer = &self.manifest.tokenizer;
        check_hash(&self.dir.join(&tokenizer.file), &tokenizer.sha256)?;
        let mut read = 0;
        for split in Split::ALL {
            for (shard, entry) in self.shards(split).iter().zip(self.manifest.shards(split)) {
                check_hash(&shard.path, &entry.sha256)?;
                let mut tokens = Vec::new();
                let mut at = 0;
                while at < shard.tokens {
                    let count = (shard.tokens - at).min(1 << 20);
                    tokens.clear();
                    shard.read(at, count as usize, &mut tokens)?;
                    at += count;
                }
                read += entry.bytes;
                progress(read);
            }
        }
        Ok(())
    }

    pub(crate) fn shards(&self, split: Split) -> &[Arc<Shard>] {
        &self.shards[split.index()]
    }
}

/// The size of a file that the manifest names.
fn size_of(dir: &Path, name: &str) -> Result<u64, IoError> {
    let path = dir.join(name);
    match std::fs::metadata(&path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(IoError::MissingFile { path, named_by: dir.join(MANIFEST) })
        }
        Err(error) => Err(IoError::os(&path, "read the size")(error)),
    }
}

fn check_hash(path: &Path, expected: &str) -> Result<(), DataError> {
    let got = hex(&Sha256::of_file(path)?);
    if got == expected {
        return Ok(());
    }
    Err(DataError::damaged(path, "SHA-256", expected, got))
}

/// One mapped shard.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    /// Index of the source it belongs to.
    pub(crate) source: usize,
    /// How many tokens it has.
    pub(crate) tokens: u64,
    token_type: TokenType,
    vocab_size: usize,
    data: TensorBytes,
    starts: TensorBytes,
}

impl Shard {
    fn open(dir: &Path, entry: &ShardEntry, manifest: &Manifest) -> Result<Self, DataError> {
        let path = dir.join(&entry.file);
        let bytes = size_of(dir, &entry.file)?;
        if bytes != entry.bytes {
            let expected = format!("{} bytes, as the manifest says", entry.bytes);
            return Err(DataError::damaged(&path, "size", expected, format!("{bytes} bytes")));
        }
        let file = SafetensorsFile::open(&path)?;
        let token_type = manifest.dtype;
        let dtype = dtype(token_type);
        let data = tensor(&file, TOKENS, dtype, entry.tokens)?;
        let starts = tensor(&file, DOCUMENT_STARTS, Dtype::U64, entry.documents)?;
        let shard = Self {
            source: entry.source,
            tokens: entry.tokens,
            token_type,
            vocab_size: manifest.vocab_size,
            data,
            starts,
            path,
        };
        shard.check_starts()?;
        Ok(shard)
    }

    /// The first document starts at 0, none before an earlier one, all inside.
    fn check_starts(&self) -> Result<(), DataError> {
        let mut least = 0;
        for index in 0..self.documents() {
            let start = self.start(index);
            let sound = start >= least && start <= self.tokens && (index > 0 || start == 0);
            if !sound {
                let expected = format!("document {index} to start in {least}..={}", self.tokens);
                return Err(DataError::damaged(&self.path, DOCUMENT_STARTS, expected, start));
            }
            least = start;
        }
        Ok(())
    }

    fn documents(&self) -> usize {
        self.starts.len() / 8
    }

    fn start(&self, document: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.starts[document * 8..document * 8 + 8]);
        u64::from_le_bytes(bytes)
    }

    /// Appends `count` tokens from `at`, all inside the shard.
    pub(crate) fn read(&self, at: u64, count: usize, out: &mut Vec<u32>) -> Result<(), DataError> {
        let width = self.token_type.bytes();
        let first = at as usize * width;
        let bytes = &self.data[first..first + count * width];
        let from = out.len();
        match self.token_type {
            TokenType::U16 => out
                .extend(bytes.as_chunks::<2>().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)))),
            TokenType::U32 => {
                out.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)));
            }
        }
        let outside = |token: &u32| *token as usize >= self.vocab_size;
        match out[from..].iter().position(outside) {
            None => Ok(()),
            Some(index) => {
                let expected = format!("ids below {}", self.vocab_size);
                let got = format!("{} at token {}", out[from + index], at + index as u64);
                Err(DataError::damaged(&self.path, TOKENS, expected, got))
            }
        }
    }

    /// Document starts in `from..to`, relative to `from`, shifted by `base`.
    pub(crate) fn starts_in(&self, from: u64, to: u64, base: usize, out: &mut Vec<usize>) {
        let (mut low, mut high) = (0, self.documents());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.start(middle) < from {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let starts = (low..self.documents()).map(|d| self.start(d)).take_while(|s| *s < to);
        out.extend(starts.map(|start| base + (start - from) as usize));
    }
}

/// As safetensors calls it.
pub(crate) fn dtype(token_type: TokenType) -> Dtype {
    match token_type {
        TokenType::U16 => Dtype::U16,
        TokenType::U32 => Dtype::U32,
    }
}

fn tensor(
    file: &SafetensorsFile,
    name: &'static str,
    dtype: Dtype,
    len: u64,
) -> Result<TensorBytes, DataError> {
    let tensor = file.tensor(name)?;
    if tensor.info.dtype == dtype && tensor.info.shape == [len as usize] {
        return Ok(tensor.bytes);
    }
    let got = format!("{} {:?}", tensor.info.dtype, tensor.info.shape);
    Err(DataError::damaged(file.path(), name, format!("{dtype} [{len}]"), got))
}
