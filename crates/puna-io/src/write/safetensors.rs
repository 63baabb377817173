//! Writes one safetensors file: its header from a plan, or the whole file at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::safetensors::{METADATA, is_storable};
use crate::sha256::Sha256;
use crate::{AtomicFile, IoError, TensorBytes, TensorInfo};

/// The data starts at a multiple of a cache line.
const DATA_ALIGNMENT: usize = 64;

/// What a file that was just written holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its contents.
    pub sha256: [u8; 32],
}

/// Writes a file of tensors in the given order; it appears under its name when it is complete.
///
/// # Errors
/// Bytes that are not as many as the shape says, a type without a name in safetensors, or a disk
/// that is full or fails; what had the name before stays.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(&str, TensorInfo, &[u8])],
    metadata: &BTreeMap<String, String>,
) -> Result<WrittenFile, IoError> {
    let plan: Vec<(String, TensorInfo)> =
        tensors.iter().map(|(name, info, _)| ((*name).to_owned(), info.clone())).collect();
    for (name, info, bytes) in tensors {
        if info.byte_len() != Some(bytes.len()) {
            let expected = format!("the bytes of {} {:?}", info.dtype, info.shape);
            return Err(IoError::tensor(path, name, expected, format!("{} bytes", bytes.len())));
        }
    }
    let header = header(path, &plan.iter().collect::<Vec<_>>(), metadata)?;
    let mut file = AtomicFile::create(path)?;
    let mut written = WrittenFile { bytes: 0, sha256: [0; 32] };
    let mut hash = Sha256::default();
    for part in std::iter::once(header.as_slice()).chain(tensors.iter().map(|(_, _, b)| *b)) {
        file.append(part)?;
        hash.update(part);
        written.bytes += part.len() as u64;
    }
    file.commit()?;
    written.sha256 = hash.finish();
    Ok(written)
}

/// [`write_safetensors`] of tensors that are made one at a time: no more than one is held.
///
/// # Errors
/// As there; what `bytes_of` fails with is returned as it is.
pub fn write_safetensors_from<E: From<IoError>>(
    path: &Path,
    tensors: &[(String, TensorInfo)],
    metadata: &BTreeMap<String, String>,
    mut bytes_of: impl FnMut(&str) -> Result<TensorBytes, E>,
) -> Result<(), E> {
    let header = header(path, &tensors.iter().collect::<Vec<_>>(), metadata)?;
    let mut file = AtomicFile::create(path)?;
    file.append(&header)?;
    for (name, info) in tensors {
        let bytes = bytes_of(name)?;
        super::check_bytes(path, name, info, &bytes)?;
        file.append(&bytes)?;
    }
    Ok(file.commit()?)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::safetensors::SafetensorsFile;

    #[test]
    fn a_file_written_at_once_reads_back_and_its_hash_is_that_of_the_disk() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("x.safetensors");
        let info = TensorInfo { dtype: Dtype::U16, shape: vec![2] };
        let written = write_safetensors(&path, &[("a", info, &[1, 0, 2, 0])], &BTreeMap::new())
            .expect("written");
        let file = SafetensorsFile::open(&path).expect("sound");
        assert_eq!(&*file.tensor("a").expect("there").bytes, &[1, 0, 2, 0]);
        assert_eq!(written.bytes, std::fs::metadata(&path).expect("there").len());
        assert_eq!(written.sha256, Sha256::of_file(&path).expect("read"));
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("x.safetensors");
        let info = TensorInfo { dtype: Dtype::U16, shape: vec![2] };
        let error = write_safetensors(&path, &[("a", info, &[1, 0])], &BTreeMap::new());
        assert!(error.expect_err("too few").to_string().contains("2 bytes"));
        assert!(!path.exists());
    }
}
