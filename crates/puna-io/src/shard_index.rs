//! `model.safetensors.index.json` and `pytorch_model.bin.index.json`: which shard holds what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::IoError;

/// Far above the index of the largest published models (a few MB).
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// An index: for each shard, the names of its tensors.
pub(crate) struct ShardIndex {
    pub(crate) shards: BTreeMap<PathBuf, Vec<String>>,
}

#[derive(Deserialize)]
struct IndexJson {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads an index and checks that its shards are files beside it.
    pub(crate) fn open(path: &Path) -> Result<Self, IoError> {
        let bytes = read_small(path, MAX_INDEX_BYTES)?;
        let json: IndexJson = serde_json::from_slice(&bytes)
            .map_err(|e| IoError::invalid(path, "index", "JSON with a `weight_map`", e))?;
        let mut shards: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for (tensor, file) in json.weight_map {
            if !is_plain_name(&file) {
                let expected = "the name of a file beside the index";
                return Err(IoError::tensor(path, &tensor, expected, format!("`{file}`")));
            }
            shards.entry(path.with_file_name(file)).or_default().push(tensor);
        }
        if shards.is_empty() {
            return Err(IoError::invalid(path, "weight_map", "at least one tensor", "none"));
        }
        if let Some(missing) = shards.keys().find(|s| !s.is_file()) {
            return Err(IoError::MissingFile { path: missing.clone(), named_by: path.into() });
        }
        Ok(Self { shards })
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, IoError> {
    let size = std::fs::metadata(path).map_err(IoError::os(path, "open"))?.len();
    if size > limit {
        let at = "file size in bytes".to_owned();
        return Err(IoError::Limit { path: path.to_path_buf(), at, limit, got: size });
    }
    std::fs::read(path).map_err(IoError::os(path, "read"))
}

/// Whether a name from a file stays in the folder it is used in.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', '\0'])
        && !(cfg!(windows) && name.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x", "/etc/x", "a/b", "a\\b", "..", "", "."] {
            assert!(!is_plain_name(name), "{name}");
        }
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
    }
}
