//! Writes shards, remembers which are finished, and takes up where a killed run stopped.
//!
//! A run that continues sees all documents again, in the same order. Those of finished shards are
//! counted and hashed until the shard is through; its hash must then be the one recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use puna_io::write::write_safetensors;
use puna_io::{IoError, Sha256, TensorInfo, hex};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::Existing;
use super::tokenizer;
use crate::DataError;
use crate::manifest::{
    MANIFEST, Manifest, ShardEntry, Split, TokenType, TokenizerEntry, read_json, write_json,
};
use crate::token_data::{DOCUMENT_STARTS, TOKENS, dtype};

/// What is finished, while the manifest is not there yet.
pub(crate) const PROGRESS: &str = "progress.json";

/// The contents of the progress file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The settings that bear on the result.
    options: Value,
    /// SHA-256 of the tokenizer's file, once it is there.
    tokenizer: Option<String>,
    /// Finished shards of both splits.
    shards: [Vec<ShardEntry>; 2],
}

/// A document on its way into a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted<'a> {
    pub(crate) split: Split,
    pub(crate) source: usize,
    /// SHA-256 of its text.
    pub(crate) text: &'a [u8; 32],
}

/// Whether a document is in a finished shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is.
    Finished,
    /// Its tokens are needed.
    Needed,
}

/// The output folder.
#[derive(Debug)]
pub(crate) struct Output {
    dir: PathBuf,
    state: State,
    replay: [Replay; 2],
    open: [OpenShard; 2],
    token_type: TokenType,
    shard_tokens: u64,
}

/// How far the finished shards of a split are through.
#[derive(Debug, Default)]
struct Replay {
    /// Shards that are.
    shards: usize,
    /// Documents of the next one.
    documents: u64,
    hash: Sha256,
}

/// A shard that is being filled.
#[derive(Debug, Default)]
struct OpenShard {
    source: usize,
    /// Tokens as they are stored.
    bytes: Vec<u8>,
    tokens: u64,
    starts: Vec<u64>,
    text_bytes: u64,
    hash: Sha256,
}

/// The manifest of a preparation that was killed behind writing it, if that is what the folder
/// holds: only the progress file is left to remove. With other settings it is not the caller's.
pub(crate) fn finish_killed(
    dir: &Path,
    options: &Value,
    existing: Existing,
) -> Result<Option<Manifest>, DataError> {
    let progress = dir.join(PROGRESS);
    let both = progress.is_file() && dir.join(MANIFEST).is_file();
    if !both || existing == Existing::Replace {
        return Ok(None);
    }
    let state: State = read_json(&progress, "the progress file")?;
    if state.options != *options {
        return Ok(None);
    }
    let manifest = Manifest::read(dir)?;
    fs::remove_file(&progress).map_err(IoError::os(&progress, "remove"))?;
    remove_temporary(dir)?;
    Ok(Some(manifest))
}

impl Output {
    /// Makes the folder, or takes up the unfinished preparation in it.
    pub(crate) fn open(dir: &Path, options: Value, existing: Existing) -> Result<Self, DataError> {
        fs::create_dir_all(dir).map_err(IoError::os(dir, "create"))?;
        let progress = dir.join(PROGRESS);
        let (finished, unfinished) = (dir.join(MANIFEST).is_file(), progress.is_file());
        if !finished && !unfinished && has_files(dir)? {
            return Err(DataError::NotEmpty { path: dir.to_path_buf() });
        }
        if existing == Existing::Replace {
            remove_all(dir)?;
        } else if finished {
            return Err(DataError::AlreadyPrepared { path: dir.to_path_buf() });
        }
        let mut state = State { options, tokenizer: None, shards: [Vec::new(), Vec::new()] };
        if progress.is_file() {
            let earlier: State = read_json(&progress, "the progress file")?;
            if earlier.options == state.options {
                state = earlier;
            } else if earlier.shards.iter().any(|shards| !shards.is_empty()) {
                return Err(DataError::OtherSettings { path: dir.to_path_buf() });
            } else {
                // Nothing is finished that other settings could contradict.
                remove_all(dir)?;
            }
        }
        for shards in &mut state.shards {
            let whole = |shard: &ShardEntry| {
                fs::metadata(dir.join(&shard.file)).is_ok_and(|meta| meta.len() == shard.bytes)
            };
            let sound = shards.iter().take_while(|shard| whole(shard)).count();
            shards.truncate(sound);
        }
        remove_temporary(dir)?;
        write_json(&progress, &state)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            state,
            replay: Default::default(),
            open: Default::default(),
            token_type: TokenType::U32,
            shard_tokens: u64::MAX,
        })
    }

    /// Whether the tokenizer in the folder is the finished one; `digest` is that of the files to
    /// be put there, if it is known.
    pub(crate) fn has_tokenizer(&mut self, digest: Option<&str>) -> Result<bool, DataError> {
        match (&self.state.tokenizer, digest) {
            (None, _) => Ok(false),
            (Some(earlier), Some(now)) if earlier != now => {
                if self.state.shards.iter().any(|shards| !shards.is_empty()) {
                    return Err(DataError::OtherSettings { path: self.dir.clone() });
                }
                self.state.tokenizer = None;
                remove_all(&self.dir)?;
                write_json(&self.dir.join(PROGRESS), &self.state)?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Notes the tokenizer, which is in the folder, and starts writing its tokens.
    pub(crate) fn start(
        &mut self,
        entry: &TokenizerEntry,
        vocab_size: usize,
        shard_tokens: u64,
    ) -> Result<(), DataError> {
        self.token_type = TokenType::for_vocab(vocab_size);
        self.shard_tokens = shard_tokens;
        match &self.state.tokenizer {
            Some(earlier) if *earlier != entry.sha256 => {
                let path = self.dir.join(&entry.file);
                Err(DataError::damaged(&path, "SHA-256", earlier, &entry.sha256))
            }
            Some(_) => Ok(()),
            None => {
                self.state.tokenizer = Some(entry.sha256.clone());
                write_json(&self.dir.join(PROGRESS), &self.state)
            }
        }
    }

    /// Counts a document, which is in a finished shard or has to be pushed next.
    pub(crate) fn admit(&mut self, document: Admitted<'_>) -> Result<Admission, DataError> {
        let replay = &mut self.replay[document.split.index()];
        let Some(shard) = self.state.shards[document.split.index()].get(replay.shards) else {
            return Ok(Admission::Needed);
        };
        let changed = || DataError::InputsChanged { path: self.dir.join(&shard.file) };
        if shard.source != document.source {
            return Err(changed());
        }
        replay.hash.update(document.text);
        replay.documents += 1;
        if replay.documents == shard.documents {
            let hash = std::mem::take(&mut replay.hash).finish();
            if hex(&hash) != shard.text_sha256 {
                return Err(changed());
            }
            replay.documents = 0;
            replay.shards += 1;
        }
        Ok(Admission::Finished)
    }

    /// Appends the tokens of a document that was needed.
    pub(crate) fn push(
        &mut self,
        document: Admitted<'_>,
        tokens: &[u32],
        text_bytes: u64,
    ) -> Result<(), DataError> {
        let shard = &mut self.open[document.split.index()];
        shard.source = document.source;
        shard.starts.push(shard.tokens);
        shard.tokens += tokens.len() as u64;
        shard.text_bytes += text_bytes;
        shard.hash.update(document.text);
        match self.token_type {
            TokenType::U16 => {
                shard.bytes.extend(tokens.iter().flat_map(|t| (*t as u16).to_le_bytes()));
            }
            TokenType::U32 => shard.bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes())),
        }
        if shard.tokens >= self.shard_tokens {
            self.flush(document.split)?;
        }
        Ok(())
    }

    /// Ends a source: no shard goes on into the next one.
    pub(crate) fn end_source(&mut self, source: usize) -> Result<(), DataError> {
        for split in Split::ALL {
            let replay = &self.replay[split.index()];
            if let Some(shard) = self.state.shards[split.index()].get(replay.shards)
                && (shard.source == source || replay.documents > 0)
            {
                return Err(DataError::InputsChanged { path: self.dir.join(&shard.file) });
            }
            self.flush(split)?;
        }
        Ok(())
    }

    /// Writes the open shard of a split.
    fn flush(&mut self, split: Split) -> Result<(), DataError> {
        let shard = std::mem::take(&mut self.open[split.index()]);
        if shard.starts.is_empty() {
            return Ok(());
        }
        let finished = &mut self.state.shards[split.index()];
        let file = format!("{}-{:05}.safetensors", split.name(), finished.len());
        let starts: Vec<u8> = shard.starts.iter().flat_map(|s| s.to_le_bytes()).collect();
        let info = |dtype, len: usize| TensorInfo { dtype, shape: vec![len] };
        let documents = info(puna_io::Dtype::U64, shard.starts.len());
        let tokens = info(dtype(self.token_type), shard.tokens as usize);
        // Starts come first: their eight bytes then are aligned whatever the tokens have.
        let tensors =
            [(DOCUMENT_STARTS, documents, starts.as_slice()), (TOKENS, tokens, &shard.bytes)];
        let written = write_safetensors(&self.dir.join(&file), &tensors, &BTreeMap::new())?;
        finished.push(ShardEntry {
            file,
            source: shard.source,
            tokens: shard.tokens,
            documents: shard.starts.len() as u64,
            text_bytes: shard.text_bytes,
            bytes: written.bytes,
            sha256: hex(&written.sha256),
            text_sha256: hex(&shard.hash.finish()),
        });
        self.replay[split.index()].shards = finished.len();
        write_json(&self.dir.join(PROGRESS), &self.state)
    }

    /// Tokens in finished and open shards.
    pub(crate) fn tokens(&self) -> u64 {
        let finished = self.state.shards.iter().flatten().map(|shard| shard.tokens);
        finished.sum::<u64>() + self.open.iter().map(|shard| shard.tokens).sum::<u64>()
    }

    /// Writes the manifest, which makes the data complete.
    pub(crate) fn finish(self, mut manifest: Manifest) -> Result<Manifest, DataError> {
        let [train, validation] = self.state.shards;
        manifest.train = train;
        manifest.validation = validation;
        write_json(&self.dir.join(MANIFEST), &manifest)?;
        let progress = self.dir.join(PROGRESS);
        fs::remove_file(&progress).map_err(IoError::os(&progress, "remove"))?;
        Ok(manifest)
    }
}

/// The names in a folder.
fn names(dir: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(IoError::os(dir, "list"))? {
        let entry = entry.map_err(IoError::os(dir, "list"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn has_files(dir: &Path) -> Result<bool, DataError> {
    Ok(names(dir)?.iter().any(|name| !is_temporary(name)))
}

/// Removes what an earlier preparation wrote, the manifest first.
fn remove_all(dir: &Path) -> Result<(), DataError> {
    let shards = names(dir)?.into_iter().filter(|name| is_shard(name));
    let fixed = [MANIFEST, PROGRESS].into_iter().chain(tokenizer::FILES).map(str::to_owned);
    for name in fixed.chain(shards) {
        let path = dir.join(name);
        if path.is_file() {
            fs::remove_file(&path).map_err(IoError::os(&path, "remove"))?;
        }
    }
    Ok(())
}

/// Removes files that a killed run was writing.
fn remove_temporary(dir: &Path) -> Result<(), DataError> {
    for name in names(dir)?.iter().filter(|name| is_temporary(name)) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(IoError::os(&path, "remove"))?;
    }
    Ok(())
}

fn is_shard(name: &str) -> bool {
    let number = Split::ALL.iter().find_map(|split| {
        name.strip_prefix(split.name())?.strip_prefix('-')?.strip_suffix(".safetensors")
    });
    number.is_some_and(|n| n.len() >= 5 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// `.NAME.PID.tmp` of one of our files.
fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
    inner.and_then(|n| n.rsplit_once('.')).is_some_and(|(file, pid)| {
        let ours = is_shard(file)
            || [MANIFEST, PROGRESS].contains(&file)
            || tokenizer::FILES.contains(&file);
        ours && pid.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_files_are_taken_for_shards_and_leftovers() {
        assert!(is_shard("train-00012.safetensors") && is_shard("validation-123456.safetensors"));
        assert!(!is_shard("train-1.safetensors") && !is_shard("model-00001.safetensors"));
        assert!(is_temporary(".train-00000.safetensors.77.tmp"));
        assert!(is_temporary(".progress.json.77.tmp"));
        assert!(!is_temporary(".other.json.77.tmp") && !is_temporary("progress.json"));
    }
}
