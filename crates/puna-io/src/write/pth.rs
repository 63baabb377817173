//! Writes one `.pth` file as torch.save does: a zip archive with a pickle and aligned storages.
//!
//! The pickle is an OrderedDict-free plain dict of `_rebuild_tensor_v2` calls, one storage per
//! tensor, which `torch.load(weights_only=True)` accepts. Source: `torch/serialization.py`.

use std::path::Path;

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::atomic::AtomicFile;
use crate::pickle::storage_class;
use crate::{IoError, TensorInfo};

/// Where torch aligns storages.
const ALIGNMENT: u16 = 64;
/// Entries from here on need zip64 sizes; with a margin for what the format adds.
const ZIP64_FROM: u64 = u32::MAX as u64 - 4096;

/// A `.pth` file whose tensors are appended in the order of its plan.
pub(super) struct PthWriter {
    zip: ZipWriter<AtomicFile>,
    archive: String,
    next: usize,
    path: std::path::PathBuf,
}

impl PthWriter {
    /// Writes the pickle; the tensors follow in the same order.
    pub(super) fn start(
        file: AtomicFile,
        archive: &str,
        tensors: &[(String, TensorInfo)],
    ) -> Result<Self, IoError> {
        let path = file.target().to_path_buf();
        let pickle = pickle(&path, tensors)?;
        let zip = ZipWriter::new(file);
        let mut writer = Self { zip, archive: archive.to_owned(), next: 0, path };
        writer.entry("data.pkl", &pickle)?;
        writer.entry("byteorder", b"little")?;
        Ok(writer)
    }

    /// Appends the next tensor's bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        let name = format!("data/{}", self.next);
        self.next += 1;
        self.entry(&name, bytes)
    }

    /// Writes the directory; the file is to be committed then.
    pub(super) fn finish(mut self) -> Result<AtomicFile, IoError> {
        self.entry("version", b"3\n")?;
        let path = self.path;
        self.zip.finish().map_err(|e| zip_error(&path, e))
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), IoError> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(bytes.len() as u64 >= ZIP64_FROM);
        let name = format!("{}/{name}", self.archive);
        self.zip.start_file(name, options).map_err(|e| zip_error(&self.path, e))?;
        std::io::Write::write_all(&mut self.zip, bytes).map_err(IoError::os(&self.path, "write"))
    }
}

fn zip_error(path: &Path, error: zip::result::ZipError) -> IoError {
    IoError::os(path, "write")(error.into())
}

/// The pickle of a dict from names to tensors, protocol 2.
fn pickle(path: &Path, tensors: &[(String, TensorInfo)]) -> Result<Vec<u8>, IoError> {
    let mut out = b"\x80\x02}(".to_vec();
    for (number, (name, info)) in tensors.iter().enumerate() {
        let class = storage_class(info.dtype).ok_or_else(|| IoError::UnsupportedType {
            path: path.to_path_buf(),
            tensor: name.clone(),
            kind: format!("{}, which torch has no storage for", info.dtype),
        })?;
        let elements = info.elements().unwrap_or(0);
        string(&mut out, name);
        out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        string(&mut out, "storage");
        out.extend_from_slice(format!("ctorch\n{class}\n").as_bytes());
        string(&mut out, &number.to_string());
        string(&mut out, "cpu");
        integer(&mut out, elements);
        out.extend_from_slice(b"tQ");
        integer(&mut out, 0);
        integers(&mut out, &info.shape);
        integers(&mut out, &row_major_strides(&info.shape));
        out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend_from_slice(b"u.");
    Ok(out)
}

fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn integers(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    for &value in values {
        integer(out, value);
    }
    out.push(b't');
}

fn integer(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(small) => {
            out.push(b'J');
            out.extend_from_slice(&small.to_le_bytes());
        }
        Err(_) => {
            out.extend_from_slice(b"\x8a\x08"); // LONG1, eight bytes; sizes are below 2⁶³
            out.extend_from_slice(&(value as u64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_row_major() {
        assert_eq!(row_major_strides(&[2, 3, 5]), [15, 5, 1]);
        assert!(row_major_strides(&[]).is_empty());
    }

    #[test]
    fn integers_beyond_32_bits_are_long() {
        let mut out = Vec::new();
        integer(&mut out, 300);
        integer(&mut out, 1 << 33);
        assert_eq!(out, b"J\x2c\x01\0\0\x8a\x08\0\0\0\0\x02\0\0\0");
    }
}
