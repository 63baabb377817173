//! Writes a Hugging Face folder: `model.safetensors`, or shards with an index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::staging::Staging;
use super::{ExtraFile, check_bytes, check_plan, safetensors};
use crate::{IoError, TensorBytes, TensorInfo};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How a Hugging Face folder is written.
#[derive(Debug, Clone)]
pub struct HfOptions {
    /// Bytes of tensors per file at most, unless a single tensor has more; `None` for one file.
    pub max_shard_bytes: Option<u64>,
    /// The safetensors metadata of every file; Transformers wants `format`.
    pub metadata: BTreeMap<String, String>,
    /// Configuration and tokenizer files that appear together with the weights.
    pub extra_files: Vec<ExtraFile>,
}

impl Default for HfOptions {
    /// One file, `{"format": "pt"}`, nothing beside it.
    fn default() -> Self {
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Self { max_shard_bytes: None, metadata, extra_files: Vec::new() }
    }
}

/// Writes tensors in the order given into `dir` and returns the paths written; shards and index
/// of an older checkpoint in `dir` are removed once the new ones are in place.
///
/// `bytes_of` is called once per tensor, in order; no more than one tensor is held at a time.
///
/// # Errors
/// A tensor occurs twice, has a block format, or comes with another number of bytes than its
/// shape says; the disk fails; or `bytes_of` fails, whose error is returned as it is. In all cases
/// the folder keeps what it had.
pub fn write_hf_folder<E: From<IoError>>(
    dir: &Path,
    tensors: &[(String, TensorInfo)],
    options: &HfOptions,
    mut bytes_of: impl FnMut(&str) -> Result<TensorBytes, E>,
) -> Result<Vec<PathBuf>, E> {
    check_plan(dir, tensors)?;
    let shards = plan(tensors, options.max_shard_bytes);
    let mut staging = Staging::create(dir)?;
    staging.add_all(&options.extra_files)?;
    let mut weight_map = BTreeMap::new();
    let mut total_bytes = 0u64;
    for (number, shard) in shards.iter().enumerate() {
        let name = shard_name(number, shards.len());
        let mut file = staging.start(&name)?;
        file.append(&safetensors::header(&dir.join(&name), shard, &options.metadata)?)?;
        for (tensor, info) in shard {
            let bytes = bytes_of(tensor)?;
            check_bytes(&dir.join(&name), tensor, info, &bytes)?;
            file.append(&bytes)?;
            total_bytes += bytes.len() as u64;
            weight_map.insert(tensor.as_str(), name.clone());
        }
        staging.finish(&name, file)?;
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
        staging.add_all(&[(INDEX.to_owned(), format!("{index:#}\n").into_bytes())])?;
    }
    Ok(staging.commit(is_weights)?)
}

/// `model.safetensors`, or `model-00001-of-00003.safetensors` for the first of three.
fn shard_name(number: usize, count: usize) -> String {
    if count == 1 {
        SINGLE.to_owned()
    } else {
        format!("model-{:05}-of-{count:05}.safetensors", number + 1)
    }
}

/// Fills shards in order; a tensor that does not fit opens the next.
fn plan(
    tensors: &[(String, TensorInfo)],
    max_bytes: Option<u64>,
) -> Vec<Vec<&(String, TensorInfo)>> {
    let mut shards: Vec<Vec<&(String, TensorInfo)>> = vec![Vec::new()];
    let mut filled = 0u64;
    for tensor in tensors {
        let bytes = tensor.1.byte_len().unwrap_or(0) as u64;
        if filled > 0 && max_bytes.is_some_and(|max| filled.saturating_add(bytes) > max) {
            shards.push(Vec::new());
            filled = 0;
        }
        filled = filled.saturating_add(bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    for shard in &mut shards {
        // Wide elements first keeps every tensor aligned to its element; stable otherwise.
        shard.sort_by_key(|(_, info)| std::cmp::Reverse(info.dtype.block_bytes()));
    }
    shards
}

/// Whether a file name is one that a checkpoint of this kind has.
fn is_weights(name: &str) -> bool {
    let is_shard = |name: &str| -> Option<()> {
        let middle = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
        let (number, count) = middle.split_once("-of-")?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(count)).then_some(())
    };
    name == SINGLE || name == INDEX || is_shard(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    fn tensor(name: &str, bytes: usize) -> (String, TensorInfo) {
        (name.to_owned(), TensorInfo { dtype: Dtype::U8, shape: vec![bytes] })
    }

    #[test]
    fn shards_are_filled_in_order_up_to_the_limit() {
        let tensors = [tensor("a", 4), tensor("b", 6), tensor("c", 30), tensor("d", 1)];
        let shards = plan(&tensors, Some(10));
        let names: Vec<Vec<&str>> =
            shards.iter().map(|s| s.iter().map(|t| t.0.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"], vec!["d"]]);
        assert_eq!(plan(&tensors, None).len(), 1);
    }

    #[test]
    fn only_weights_of_this_kind_are_stale() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors", INDEX] {
            assert!(is_weights(name), "{name}");
        }
        for name in ["config.json", "model-1-of-2.safetensors", "adapter_model.safetensors"] {
            assert!(!is_weights(name), "{name}");
        }
    }
}
