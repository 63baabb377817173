//! One GGUF file: its header, checked, over its bytes.
//!
//! ```text
//! magic "GGUF" | version u32 | tensor count u64 | key count u64
//! keys:    name, value type u32, value
//! tensors: name, axes u32, lengths u64 (innermost first), type u32, offset u64
//! padding to the alignment, then the data that the offsets count from
//! ```
//! Source: docs/gguf.md of ggml. llama.cpp asks the tensors to follow each other without gaps;
//! here gaps are allowed, overlaps are not.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Flaw};
use super::ggml_type;
use super::metadata::Metadata;
use super::value::Value;
use crate::{IoError, TensorBytes, TensorInfo};

/// The first bytes of every file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Key of the alignment of tensor data.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment where the file does not name one.
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
/// Axes of a tensor at most (`GGML_MAX_DIMS`).
pub(super) const MAX_AXES: usize = 4;
/// Bytes of a key at most, by the specification.
pub(super) const MAX_KEY_BYTES: usize = 65_535;

const MIN_KEY_BYTES: u64 = 8 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// A tensor's place in a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) info: TensorInfo,
    /// In the bytes of the file.
    pub(super) range: Range<usize>,
}

/// A file with its header read.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) bytes: TensorBytes,
    pub(super) version: u32,
    pub(super) alignment: u32,
    pub(super) metadata: Metadata,
    pub(super) entries: Vec<Entry>,
}

impl Part {
    /// Reads and checks the header.
    pub(super) fn read(path: &Path, bytes: TensorBytes) -> Result<Self, IoError> {
        let mut cursor = Cursor::new(&bytes);
        let version = read_version(path, &mut cursor)?;
        let (tensors, keys) = read_counts(path, &mut cursor)?;
        let metadata = read_metadata(path, &mut cursor, keys)?;
        let alignment = alignment_of(path, metadata.get(ALIGNMENT_KEY))?;
        let headers = read_tensors(path, &mut cursor, tensors)?;
        let entries = place(path, headers, cursor.position(), bytes.len(), alignment)?;
        Ok(Self { path: path.to_path_buf(), bytes, version, alignment, metadata, entries })
    }
}

fn read_version(path: &Path, cursor: &mut Cursor<'_>) -> Result<u32, IoError> {
    let at = "the header";
    let magic = cursor.take(4).map_err(|flaw| flaw.error(path, at))?;
    if magic != MAGIC {
        return Err(IoError::invalid(path, at, "the magic `GGUF`", magic.escape_ascii()));
    }
    let version = cursor.u32().map_err(|flaw| flaw.error(path, at))?;
    let unsupported = |feature: String| {
        Err(IoError::Unsupported { path: path.to_path_buf(), at: at.to_owned(), feature })
    };
    match version {
        2 | 3 => Ok(version),
        1 => unsupported("GGUF version 1".to_owned()),
        v if v.swap_bytes() <= 16 && v != 0 => unsupported("big-endian GGUF".to_owned()),
        v => unsupported(format!("GGUF version {v}")),
    }
}

/// The numbers of tensors and of keys, possible with the bytes that are left.
fn read_counts(path: &Path, cursor: &mut Cursor<'_>) -> Result<(u64, u64), IoError> {
    let mut count = || cursor.u64().map_err(|flaw| flaw.error(path, "the header"));
    let (tensors, keys) = (count()?, count()?);
    let left = cursor.left() as u64;
    for (at, count, size) in [
        ("the number of keys", keys, MIN_KEY_BYTES),
        ("the number of tensors", tensors, MIN_TENSOR_BYTES),
    ] {
        if count > left / size {
            let expected = format!("at most {}, as many as fit in the file", left / size);
            return Err(IoError::invalid(path, at, expected, count));
        }
    }
    Ok((tensors, keys))
}

fn read_metadata(path: &Path, cursor: &mut Cursor<'_>, keys: u64) -> Result<Metadata, IoError> {
    let mut metadata = Metadata::default();
    for number in 0..keys {
        let key = cursor
            .string()
            .map_err(|flaw| flaw.error(path, format!("the name of metadata key {number}")))?;
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let at = format!("the name of metadata key {number}");
            let expected = format!("1 to {MAX_KEY_BYTES} bytes");
            return Err(IoError::invalid(path, at, expected, key.len()));
        }
        let value =
            cursor.value().map_err(|flaw| flaw.error(path, format!("metadata key `{key}`")))?;
        if metadata.get(&key).is_some() {
            let at = format!("metadata key `{key}`");
            return Err(IoError::invalid(path, at, "each key once", "a second one"));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

/// The alignment that a file's metadata names, or the default.
pub(super) fn alignment_of(path: &Path, value: Option<&Value>) -> Result<u32, IoError> {
    match value {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment),
        Some(other) => {
            let at = format!("metadata key `{ALIGNMENT_KEY}`");
            let got = match other {
                Value::U32(alignment) => alignment.to_string(),
                other => format!("a value of type {}", other.type_name()),
            };
            Err(IoError::invalid(path, at, "a power of two as uint32", got))
        }
    }
}

/// A tensor's header: its offset counts from the start of the data.
struct Header {
    name: String,
    info: TensorInfo,
    bytes: usize,
    offset: u64,
}

fn read_tensors(path: &Path, cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Header>, IoError> {
    let mut names = HashSet::new();
    let mut headers = Vec::new();
    for number in 0..count {
        let name = cursor
            .string()
            .map_err(|flaw| flaw.error(path, format!("the name of tensor {number}")))?;
        if !names.insert(name.clone()) {
            return Err(IoError::tensor(path, &name, "each name once", "a second tensor"));
        }
        headers.push(read_tensor(path, cursor, name)?);
    }
    Ok(headers)
}

fn read_tensor(path: &Path, cursor: &mut Cursor<'_>, name: String) -> Result<Header, IoError> {
    let flawed = |flaw: Flaw| flaw.error(path, format!("the header of tensor `{name}`"));
    let axes = cursor.u32().map_err(flawed)? as usize;
    if axes == 0 || axes > MAX_AXES {
        return Err(IoError::tensor(path, &name, format!("1 to {MAX_AXES} axes"), axes));
    }
    let mut shape = Vec::with_capacity(axes);
    for _ in 0..axes {
        let length = cursor.u64().map_err(flawed)?;
        match usize::try_from(length) {
            Ok(length) if length > 0 => shape.push(length),
            _ => return Err(IoError::tensor(path, &name, "axes of 1 or more items", length)),
        }
    }
    shape.reverse(); // innermost first in the file
    let type_id = cursor.u32().map_err(flawed)?;
    let offset = cursor.u64().map_err(flawed)?;
    let dtype = match ggml_type::dtype(type_id) {
        Ok(dtype) => dtype,
        Err(kind) => {
            return Err(IoError::UnsupportedType { path: path.to_path_buf(), tensor: name, kind });
        }
    };
    let info = TensorInfo { dtype, shape };
    let Some(bytes) = info.byte_len() else {
        let expected = match dtype.block_len() {
            1 => "a size that fits in memory".to_owned(),
            n => format!("rows of a multiple of {n} items, as {dtype} asks for"),
        };
        return Err(IoError::tensor(path, &name, expected, format!("shape {:?}", info.shape)));
    };
    Ok(Header { name, info, bytes, offset })
}

/// Finds each tensor's bytes: aligned, inside the file, no byte in two tensors.
fn place(
    path: &Path,
    headers: Vec<Header>,
    header_end: usize,
    file_bytes: usize,
    alignment: u32,
) -> Result<Vec<Entry>, IoError> {
    let Some(data_start) = header_end.checked_next_multiple_of(alignment as usize) else {
        return Err(IoError::invalid(path, ALIGNMENT_KEY, "one inside the file", alignment));
    };
    let data_bytes = file_bytes.saturating_sub(data_start);
    let mut entries = Vec::with_capacity(headers.len());
    for Header { name, info, bytes, offset } in headers {
        if !offset.is_multiple_of(alignment.into()) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(IoError::tensor(path, &name, expected, offset));
        }
        let start = usize::try_from(offset).ok();
        match start.and_then(|start| Some((start, start.checked_add(bytes)?))) {
            Some((start, end)) if end <= data_bytes => {
                let range = data_start + start..data_start + end;
                entries.push(Entry { name, info, range });
            }
            _ => {
                let expected = format!("bytes within the {data_bytes} bytes of data");
                let got = format!("{bytes} bytes at offset {offset}");
                return Err(IoError::tensor(path, &name, expected, got));
            }
        }
    }
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| entry.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let got = format!("some that tensor `{}` has too", pair[0].name);
            return Err(IoError::tensor(path, &pair[1].name, "bytes of its own", got));
        }
    }
    Ok(entries)
}
