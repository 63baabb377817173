//! Writes one safetensors file from a plan.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::safetensors::{METADATA, is_storable};
use crate::{IoError, TensorInfo};

/// The data starts at a multiple of a cache line.
const DATA_ALIGNMENT: usize = 64;

/// The length prefix and header of a file that holds `tensors` in this order.
///
/// # Errors
/// A block format, which safetensors cannot name.
pub(super) fn header(
    path: &Path,
    tensors: &[&(String, TensorInfo)],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, IoError> {
    let mut json = Map::new();
    if !metadata.is_empty() {
        json.insert(METADATA.to_owned(), json!(metadata));
    }
    let mut end = 0usize;
    for (name, info) in tensors {
        if name == METADATA {
            return Err(IoError::tensor(path, name, "another name", "the metadata's key"));
        }
        if !is_storable(info.dtype) {
            return Err(IoError::UnsupportedType {
                path: path.to_path_buf(),
                tensor: name.clone(),
                kind: format!("{}, which safetensors has no name for", info.dtype),
            });
        }
        let start = end;
        end = info.byte_len().and_then(|n| end.checked_add(n)).ok_or_else(|| {
            IoError::tensor(path, name, "a file of representable size", "an overflow")
        })?;
        json.insert(
            name.clone(),
            json!({"dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [start, end]}),
        );
    }
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(Value::Object(json).to_string().as_bytes());
    bytes.resize(bytes.len().next_multiple_of(DATA_ALIGNMENT), b' ');
    let length = (bytes.len() - 8) as u64;
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}
