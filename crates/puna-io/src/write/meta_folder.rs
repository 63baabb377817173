//! Writes Meta's layout: `params.json` and one `consolidated.NN.pth` per model-parallel rank.
//!
//! Tensors come whole, under Meta's names; each is cut as `fairscale`'s parallel layers want it
//! and its parts go to all shards at once, so that no more than one tensor is held.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::pth::PthWriter;
use super::staging::Staging;
use super::{ExtraFile, check_bytes, check_plan};
use crate::meta::{PARAMS, SINGLE_SAFETENSORS, Split, shard_name, shard_rank, split_of};
use crate::{IoError, TensorBytes, TensorInfo};

/// The axis along which the token embedding is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingSplit {
    /// The hidden axis, as LLaMA 1 and Llama 2 have it.
    Hidden,
    /// The vocabulary, as Llama 3 has it.
    Vocabulary,
}

/// How Meta's layout is written.
#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// Model-parallel degree, 1 to 64: the number of shards.
    pub shards: usize,
    /// How the token embedding is split.
    pub embedding: EmbeddingSplit,
    /// The contents of `params.json`.
    pub params_json: Vec<u8>,
    /// Tokenizer files that appear together with the weights.
    pub extra_files: Vec<ExtraFile>,
}

/// The largest model-parallel degree; Meta's own releases have at most 16.
const MAX_SHARDS: usize = 64;

/// Writes whole tensors under Meta's names into `dir` and returns the paths written; shards of an
/// older checkpoint in `dir` are removed once the new ones are in place.
///
/// `bytes_of` is called once per tensor, in order.
///
/// # Errors
/// The degree is not 1 to 64, or does not divide the number of heads or the split axis of a
/// tensor; a name is not Meta's (above one shard); a type has no torch storage; the disk fails; or
/// `bytes_of` fails. In all cases the folder keeps what it had.
pub fn write_meta_folder<E: From<IoError>>(
    dir: &Path,
    tensors: &[(String, TensorInfo)],
    options: &MetaOptions,
    mut bytes_of: impl FnMut(&str) -> Result<TensorBytes, E>,
) -> Result<Vec<PathBuf>, E> {
    check_plan(dir, tensors)?;
    check_degree(dir, options)?;
    let plan = plan(dir, tensors, options)?;
    let parts: Vec<(String, TensorInfo)> =
        plan.iter().map(|p| (p.name.to_owned(), p.part.clone())).collect();
    let mut staging = Staging::create(dir)?;
    let mut shards = Vec::new();
    for rank in 0..options.shards {
        let name = shard_name(rank);
        let archive = name.trim_end_matches(".pth");
        shards.push(PthWriter::start(staging.start(&name)?, archive, &parts)?);
    }
    for (planned, (name, info)) in plan.iter().zip(tensors) {
        let bytes = bytes_of(name)?;
        check_bytes(dir, name, info, &bytes)?;
        for (rank, shard) in shards.iter_mut().enumerate() {
            planned.append_part(&bytes, rank, options.shards, shard)?;
        }
    }
    for (rank, shard) in shards.into_iter().enumerate() {
        staging.finish(&shard_name(rank), shard.finish()?)?;
    }
    staging.add_all(&options.extra_files)?;
    staging.add_all(&[(PARAMS.to_owned(), options.params_json.clone())])?;
    Ok(staging.commit(|name| shard_rank(name).is_some() || name == SINGLE_SAFETENSORS)?)
}

/// A tensor and how it is cut.
struct Planned<'a> {
    name: &'a str,
    split: Split,
    part: TensorInfo,
}

impl Planned<'_> {
    /// Writes the part of `rank` into its shard.
    fn append_part(
        &self,
        whole: &[u8],
        rank: usize,
        shards: usize,
        to: &mut PthWriter,
    ) -> Result<(), IoError> {
        match self.split {
            Split::Replicated => to.append(whole),
            Split::Rows => {
                let part = whole.len() / shards;
                to.append(&whole[rank * part..(rank + 1) * part])
            }
            Split::Columns => {
                let rows = self.part.shape.first().copied().unwrap_or(0);
                let row = whole.len().checked_div(rows).unwrap_or(0);
                let part = row / shards;
                let mut bytes = Vec::with_capacity(whole.len() / shards);
                for at in 0..rows {
                    let start = at * row + rank * part;
                    bytes.extend_from_slice(&whole[start..start + part]);
                }
                to.append(&bytes)
            }
        }
    }
}

fn plan<'a>(
    dir: &Path,
    tensors: &'a [(String, TensorInfo)],
    options: &MetaOptions,
) -> Result<Vec<Planned<'a>>, IoError> {
    let embedding = match options.embedding {
        EmbeddingSplit::Hidden => Split::Columns,
        EmbeddingSplit::Vocabulary => Split::Rows,
    };
    let mut plan = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let mut part = info.clone();
        if options.shards == 1 {
            plan.push(Planned { name, split: Split::Replicated, part });
            continue;
        }
        let split = split_of(name, embedding)
            .ok_or_else(|| IoError::tensor(dir, name, "a name of Meta's models", "another"))?;
        if split == Split::Columns && part.shape.len() != 2 {
            return Err(IoError::tensor(dir, name, "a matrix", format!("{:?}", part.shape)));
        }
        let axis = match split {
            Split::Replicated => None,
            Split::Rows => part.shape.first_mut(),
            Split::Columns => part.shape.last_mut(),
        };
        if let Some(length) = axis {
            if !length.is_multiple_of(options.shards) {
                let expected = format!("an axis that {} shards divide", options.shards);
                return Err(IoError::tensor(dir, name, expected, *length));
            }
            *length /= options.shards;
        }
        plan.push(Planned { name, split, part });
    }
    Ok(plan)
}

/// The parts of `params.json` that bound the degree: a shard has whole heads.
#[derive(Deserialize)]
struct Heads {
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
}

fn check_degree(dir: &Path, options: &MetaOptions) -> Result<(), IoError> {
    let path = dir.join(PARAMS);
    if !(1..=MAX_SHARDS).contains(&options.shards) {
        let expected = format!("1 to {MAX_SHARDS} shards");
        return Err(IoError::invalid(&path, "model-parallel degree", expected, options.shards));
    }
    let heads: Heads = serde_json::from_slice(&options.params_json)
        .map_err(|e| IoError::invalid(&path, "contents", "a JSON object", e))?;
    for (key, heads) in [("n_heads", heads.n_heads), ("n_kv_heads", heads.n_kv_heads)] {
        if let Some(heads) = heads
            && !heads.is_multiple_of(options.shards)
        {
            let expected = format!("a number that {} shards divide", options.shards);
            return Err(IoError::invalid(&path, key, expected, heads));
        }
    }
    Ok(())
}
