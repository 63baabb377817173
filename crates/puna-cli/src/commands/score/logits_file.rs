//! A safetensors file with one float32 tensor, written row by row.
//!
//! The header's sizes are known before the first row, so that the rows (a gigabyte for 2,000 tokens
//! of a 128,000-word vocabulary) are never held together, as the `safetensors` crate would need.

use std::path::Path;

use puna_io::{AtomicFile, IoError};
use serde_json::json;

/// Header lengths are a multiple of this, so that the data is aligned.
const ALIGNMENT: usize = 8;

/// The file; it appears under its name when complete.
pub(super) struct LogitsFile {
    file: AtomicFile,
    /// The first error; the scorer's callback cannot return one.
    failed: Option<IoError>,
}

impl LogitsFile {
    /// For a tensor `logits` of shape `[tokens, vocab_size]`.
    pub(super) fn create(path: &Path, tokens: usize, vocab_size: usize) -> anyhow::Result<Self> {
        let bytes = tokens * vocab_size * size_of::<f32>();
        let header = json!({
            "logits": {
                "dtype": "F32",
                "shape": [tokens, vocab_size],
                "data_offsets": [0, bytes],
            }
        });
        let mut header = header.to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(ALIGNMENT) - header.len()));
        let mut file = AtomicFile::create(path)?;
        file.append(&(header.len() as u64).to_le_bytes())?;
        file.append(header.as_bytes())?;
        Ok(Self { file, failed: None })
    }

    /// Appends a row `[V]`.
    pub(super) fn push(&mut self, row: &[f32]) {
        if self.failed.is_none() {
            let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.failed = self.file.append(&bytes).err();
        }
    }

    /// Gives the file its name.
    pub(super) fn commit(self) -> anyhow::Result<()> {
        match self.failed {
            Some(error) => Err(error.into()),
            None => Ok(self.file.commit()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LogitsFile;
    use safetensors::SafeTensors;

    #[test]
    fn the_safetensors_crate_reads_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.safetensors");
        let mut file = LogitsFile::create(&path, 2, 3).unwrap();
        file.push(&[0.0, 1.0, 2.0]);
        file.push(&[3.0, 4.0, 5.5]);
        file.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let logits = tensors.tensor("logits").unwrap();
        assert_eq!(logits.shape(), [2, 3]);
        assert_eq!(logits.data()[20..], 5.5f32.to_le_bytes());
    }
}
