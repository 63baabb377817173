//! Meta's own layout: `params.json` and one `consolidated.NN.pth` per model-parallel rank,
//! merged into whole tensors as they are asked for.
//!
//! Column-parallel weights are split along their rows, row-parallel ones along their columns,
//! norms are in every shard. The embedding is split along the hidden axis up to Llama 2 and along
//! the vocabulary since Llama 3; the final norm's length tells which. Source: `fairscale`'s
//! parallel layers as used by `llama/model.py` of Meta's repositories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::pytorch::PyTorchFile;
use crate::safetensors::SafetensorsFile;
use crate::tensor_file::TensorFile;
use crate::{IoError, StoredTensor, TensorBytes, TensorInfo};

/// The file that makes a folder Meta's.
pub(crate) const PARAMS: &str = "params.json";
/// Mistral's single-file form of the same layout.
pub(crate) const SINGLE_SAFETENSORS: &str = "consolidated.safetensors";
/// Rotary frequencies stored by some releases; they follow from the parameters.
const ROPE_FREQS: &str = "rope.freqs";

/// How a tensor's shards make the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// Stacked along the first axis.
    Rows,
    /// Side by side along the last axis.
    Columns,
    /// The same in every shard.
    Replicated,
}

/// An open folder in Meta's layout.
#[derive(Debug)]
pub(crate) struct MetaFolder {
    shards: Vec<TensorFile>,
    tensors: BTreeMap<String, (TensorInfo, Split)>,
}

impl MetaFolder {
    /// Opens all shards of a folder and works out the whole tensors.
    pub(crate) fn open(dir: &Path) -> Result<Self, IoError> {
        let shards = open_shards(dir)?;
        let first = &shards[0];
        let dim = first.info("norm.weight").and_then(|i| i.shape.first().copied());
        let mut tensors = BTreeMap::new();
        for name in first.names().filter(|n| *n != ROPE_FREQS) {
            if let Some(info) = first.info(name) {
                let (whole, split) = merge_info(first.path(), name, info, shards.len(), dim)?;
                for shard in &shards[1..] {
                    check_same(shard, name, info)?;
                }
                tensors.insert(name.to_owned(), (whole, split));
            }
        }
        for shard in &shards[1..] {
            if let Some(extra) =
                shard.names().find(|n| *n != ROPE_FREQS && !tensors.contains_key(*n))
            {
                let expected = format!("the tensors of {}", first.path().display());
                return Err(IoError::tensor(shard.path(), extra, expected, "one more"));
            }
        }
        Ok(Self { shards, tensors })
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(TensorFile::path)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|(info, _)| info)
    }

    /// A whole tensor; mapped if there is one shard or every shard has it, else assembled.
    pub(crate) fn tensor(&self, name: &str) -> Result<StoredTensor, IoError> {
        let Some((info, split)) = self.tensors.get(name) else {
            let path = self.shards[0].path().with_file_name("");
            return Err(IoError::MissingTensor { path, tensor: name.to_owned() });
        };
        let parts = self.shards.iter().map(|s| s.tensor(name)).collect::<Result<Vec<_>, _>>()?;
        let Some((first, others)) = parts.split_first() else {
            return Err(IoError::tensor(self.shards[0].path(), name, "a shard", "none"));
        };
        if others.is_empty() {
            return Ok(first.clone());
        }
        let bytes = match split {
            Split::Replicated => {
                if let Some(at) = others.iter().position(|p| *p.bytes != *first.bytes) {
                    let expected =
                        format!("the same values as {}", self.shards[0].path().display());
                    return Err(IoError::tensor(
                        self.shards[at + 1].path(),
                        name,
                        expected,
                        "others",
                    ));
                }
                first.bytes.clone()
            }
            Split::Rows => {
                TensorBytes::from_vec(parts.iter().flat_map(|p| p.bytes.iter().copied()).collect())
            }
            Split::Columns => TensorBytes::from_vec(side_by_side(&parts)),
        };
        Ok(StoredTensor { info: info.clone(), bytes })
    }
}

/// Row by row, the parts of each shard one after the other.
fn side_by_side(parts: &[StoredTensor]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|p| p.bytes.len()).sum());
    let rows = parts[0].info.shape[0]; // Split::Columns is for matrices only
    let row_bytes = parts[0].bytes.len().checked_div(rows).unwrap_or(0);
    for row in 0..rows {
        for part in parts {
            out.extend_from_slice(&part.bytes[row * row_bytes..(row + 1) * row_bytes]);
        }
    }
    out
}

fn open_shards(dir: &Path) -> Result<Vec<TensorFile>, IoError> {
    let paths = shard_paths(dir)?;
    if paths.is_empty() {
        let path = dir.join(SINGLE_SAFETENSORS);
        if path.is_file() {
            return Ok(vec![TensorFile::Safetensors(SafetensorsFile::open(&path)?)]);
        }
        let (path, named_by) = (dir.join(shard_name(0)), dir.join(PARAMS));
        return Err(IoError::MissingFile { path, named_by });
    }
    paths.iter().map(|p| Ok(TensorFile::PyTorch(PyTorchFile::open(p)?))).collect()
}

/// `consolidated.00.pth`, `consolidated.01.pth`, …
pub(crate) fn shard_name(rank: usize) -> String {
    format!("consolidated.{rank:02}.pth")
}

/// The rank in a shard's file name.
pub(crate) fn shard_rank(file_name: &str) -> Option<usize> {
    let digits = file_name.strip_prefix("consolidated.")?.strip_suffix(".pth")?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The shards of a folder in order; a gap in the numbering is an error.
fn shard_paths(dir: &Path) -> Result<Vec<PathBuf>, IoError> {
    let mut ranks = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(IoError::os(dir, "list"))? {
        let entry = entry.map_err(IoError::os(dir, "list"))?;
        ranks.extend(entry.file_name().to_str().and_then(shard_rank));
    }
    ranks.sort_unstable();
    for (expected, rank) in ranks.iter().enumerate() {
        if *rank != expected {
            return Err(IoError::MissingFile {
                path: dir.join(shard_name(expected)),
                named_by: dir.join(shard_name(*rank)),
            });
        }
    }
    Ok(ranks.into_iter().map(|rank| dir.join(shard_name(rank))).collect())
}

/// How Meta splits the tensor of that name; `None` if the name is not Meta's. `embedding` is the
/// answer for the token embedding.
pub(crate) fn split_of(name: &str, embedding: Split) -> Option<Split> {
    let (module, kind) = name.rsplit_once('.')?;
    let module = module.rsplit('.').next().unwrap_or(module);
    match (module, kind) {
        ("wq" | "wk" | "wv", "weight" | "bias") | ("w1" | "w3" | "output", "weight") => {
            Some(Split::Rows)
        }
        ("wo" | "w2", "weight") => Some(Split::Columns),
        ("tok_embeddings", "weight") => Some(embedding),
        ("norm" | "attention_norm" | "ffn_norm" | "q_norm" | "k_norm" | "gate", "weight")
        | ("wo" | "w2", "bias") => Some(Split::Replicated),
        _ => None,
    }
}

/// The whole tensor's type and shape from one shard's.
fn merge_info(
    path: &Path,
    name: &str,
    part: &TensorInfo,
    shards: usize,
    dim: Option<usize>,
) -> Result<(TensorInfo, Split), IoError> {
    if shards == 1 {
        return Ok((part.clone(), Split::Replicated));
    }
    let columns = part.shape.last().copied().unwrap_or(0);
    let embedding = if dim.is_some() && columns.checked_mul(shards) == dim {
        Split::Columns
    } else {
        Split::Rows
    };
    let split = split_of(name, embedding)
        .ok_or_else(|| IoError::tensor(path, name, "a name of Meta's models", "another"))?;
    if name == "tok_embeddings.weight" && embedding == Split::Rows && Some(columns) != dim {
        let expected = match dim {
            Some(dim) => format!("{dim} columns, or {dim} / {shards}"),
            None => "a `norm.weight` that tells the hidden size".to_owned(),
        };
        return Err(IoError::tensor(path, name, expected, format!("{:?}", part.shape)));
    }
    let mut whole = part.clone();
    let axis = match split {
        Split::Rows => whole.shape.first_mut(),
        Split::Columns if part.shape.len() == 2 => whole.shape.last_mut(),
        Split::Columns => None,
        Split::Replicated => return Ok((whole, split)),
    };
    let merged = axis.and_then(|n| n.checked_mul(shards).map(|m| *n = m));
    if merged.is_none() || whole.byte_len().is_none() {
        let got = format!("{:?}", part.shape);
        return Err(IoError::tensor(path, name, format!("a part of {shards}"), got));
    }
    Ok((whole, split))
}

fn check_same(shard: &TensorFile, name: &str, info: &TensorInfo) -> Result<(), IoError> {
    match shard.info(name) {
        Some(other) if other == info => Ok(()),
        Some(other) => Err(IoError::tensor(
            shard.path(),
            name,
            format!("{} {:?} as in the first shard", info.dtype, info.shape),
            format!("{} {:?}", other.dtype, other.shape),
        )),
        None => Err(IoError::MissingTensor {
            path: shard.path().to_path_buf(),
            tensor: name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_read_strictly() {
        assert_eq!(shard_rank("consolidated.07.pth"), Some(7));
        assert_eq!(shard_rank("consolidated.7.pth"), None);
        assert_eq!(shard_rank("consolidated.+7.pth"), None);
        assert_eq!(shard_rank("consolidated.00.safetensors"), None);
    }

    #[test]
    fn splits_follow_the_layer() {
        let of = |name| split_of(name, Split::Columns);
        assert_eq!(of("layers.0.attention.wq.weight"), Some(Split::Rows));
        assert_eq!(of("layers.0.feed_forward.w2.weight"), Some(Split::Columns));
        assert_eq!(of("layers.0.feed_forward.experts.3.w1.weight"), Some(Split::Rows));
        assert_eq!(of("output.weight"), Some(Split::Rows));
        assert_eq!(of("layers.3.ffn_norm.weight"), Some(Split::Replicated));
        assert_eq!(of("tok_embeddings.weight"), Some(Split::Columns));
        assert_eq!(of("layers.0.something.weight"), None);
    }

    #[test]
    fn a_gap_in_the_numbering_names_the_missing_shard() {
        let dir = tempfile::tempdir().expect("temp");
        std::fs::write(dir.path().join(shard_name(0)), b"").expect("write");
        std::fs::write(dir.path().join(shard_name(2)), b"").expect("write");
        let error = shard_paths(dir.path()).expect_err("a gap").to_string();
        assert!(error.contains("consolidated.01.pth: missing"), "{error}");
    }
}
