//! Writes GGUF version 3, in one file or split as llama.cpp splits.
//!
//! As the other writers, it gets the list of all tensors first, plans headers and parts without
//! data, then asks for one tensor's bytes after the other. All parts are written aside and get
//! their names when the last one is complete.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::part::{ALIGNMENT_KEY, MAGIC, MAX_AXES, MAX_KEY_BYTES, alignment_of};
use super::value::{Array, Value};
use super::{ggml_type, split};
use crate::{AtomicFile, IoError, TensorBytes, TensorInfo};

const VERSION: u32 = 3;
/// Bytes of a tensor's name at most (`GGML_MAX_NAME` less the final zero).
const MAX_NAME_BYTES: usize = 63;

/// A tensor to be written: name, type and row-major shape.
type Planned = (String, TensorInfo);

/// What is written beside the tensors, and into how many files.
///
/// # Examples
/// ```
/// use puna_io::{Dtype, GgufValue, GgufWriter, IoError, TensorBytes, TensorInfo};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("one.gguf");
/// let metadata = vec![("general.architecture".into(), GgufValue::String("llama".into()))];
/// let tensors = [("w".to_owned(), TensorInfo { dtype: Dtype::F32, shape: vec![1, 2] })];
/// GgufWriter::new(metadata).write(&path, &tensors, |_name| {
///     Ok::<_, IoError>(TensorBytes::from_vec(vec![0; 8]))
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    max_part_bytes: Option<u64>,
}

impl GgufWriter {
    /// A writer of these keys in this order. `general.alignment` (32 where absent) is obeyed;
    /// `split.*` keys are left out, since they belong to the files that were read.
    pub fn new(metadata: Vec<(String, Value)>) -> Self {
        let mut metadata = metadata;
        metadata.retain(|(key, _)| !key.starts_with(split::KEY_PREFIX));
        Self { metadata, max_part_bytes: None }
    }

    /// Splits so that no part has more bytes of tensors, unless a single tensor has more.
    #[must_use]
    pub fn max_part_bytes(self, limit: Option<u64>) -> Self {
        Self { max_part_bytes: limit, ..self }
    }

    /// Writes tensors in the order given and returns the files: `path`, or, where the limit asks
    /// for more than one, `STEM-00001-of-0000N.gguf` beside it. Parts of an older model of the same
    /// stem are removed once the new files are in place.
    ///
    /// `bytes_of` is called once per tensor, in order; no more than one tensor is held at a time.
    ///
    /// # Errors
    /// A key or tensor occurs twice; a name is too long for llama.cpp; a type or shape has no
    /// place in GGUF; a tensor comes with another number of bytes than its shape says; the disk
    /// fails; or `bytes_of` fails, whose error is returned as it is. Old files stay in all cases.
    pub fn write<E: From<IoError>>(
        &self,
        path: &Path,
        tensors: &[(String, TensorInfo)],
        mut bytes_of: impl FnMut(&str) -> Result<TensorBytes, E>,
    ) -> Result<Vec<PathBuf>, E> {
        self.check_keys(path)?;
        check_tensors(path, tensors)?;
        let alignment = self.alignment(path)?;
        let plan = plan(tensors, alignment, self.max_part_bytes);
        if plan.len() > u16::MAX.into() {
            return Err(IoError::Limit {
                path: path.to_path_buf(),
                at: "the number of parts".to_owned(),
                limit: u16::MAX.into(),
                got: plan.len() as u64,
            }
            .into());
        }
        let paths = split::part_paths(path, plan.len());
        let mut files = Vec::with_capacity(plan.len());
        for (number, (part, path)) in plan.iter().zip(&paths).enumerate() {
            let mut file = AtomicFile::create(path)?;
            let header = self.header(part, number, plan.len(), tensors.len(), alignment);
            append_padded(&mut file, &header, alignment)?;
            for (name, info) in *part {
                let bytes = bytes_of(name)?;
                if info.byte_len() != Some(bytes.len()) {
                    let expected = format!("the bytes of {} {:?}", info.dtype, info.shape);
                    let got = format!("{} bytes", bytes.len());
                    return Err(IoError::tensor(path, name, expected, got).into());
                }
                append_padded(&mut file, &bytes, alignment)?;
            }
            // A full disk shows here, before any old file is replaced.
            file.flush().map_err(IoError::os(path, "write"))?;
            files.push(file);
        }
        for file in files {
            file.commit()?;
        }
        remove_stale(path, &paths)?;
        Ok(paths)
    }

    fn check_keys(&self, path: &Path) -> Result<(), IoError> {
        let mut keys = HashSet::new();
        for (key, _) in &self.metadata {
            let at = || format!("metadata key `{key}`");
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                let expected = format!("1 to {MAX_KEY_BYTES} bytes");
                return Err(IoError::invalid(path, at(), expected, key.len()));
            }
            if !keys.insert(key.as_str()) {
                return Err(IoError::invalid(path, at(), "each key once", "a second one"));
            }
        }
        Ok(())
    }

    fn alignment(&self, path: &Path) -> Result<u32, IoError> {
        let value = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        alignment_of(path, value.map(|(_, value)| value))
    }

    /// The header of a part: the first has all keys, the others those that they need.
    fn header(
        &self,
        part: &[Planned],
        number: usize,
        parts: usize,
        all_tensors: usize,
        alignment: u32,
    ) -> Vec<u8> {
        let mut keys: Vec<(&str, Value)> = Vec::new();
        for (key, value) in &self.metadata {
            if number == 0 || key == ALIGNMENT_KEY {
                keys.push((key, value.clone()));
            }
        }
        if parts > 1 {
            keys.push((split::NUMBER_KEY, Value::U16(number as u16)));
            keys.push((split::COUNT_KEY, Value::U16(parts as u16)));
            keys.push((split::TENSORS_KEY, Value::I32(all_tensors as i32)));
        }
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((part.len() as u64).to_le_bytes());
        header.extend((keys.len() as u64).to_le_bytes());
        for (key, value) in &keys {
            put_string(&mut header, key);
            header.extend(value.type_id().to_le_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for (name, info) in part {
            put_string(&mut header, name);
            header.extend((info.shape.len() as u32).to_le_bytes());
            for &length in info.shape.iter().rev() {
                header.extend((length as u64).to_le_bytes());
            }
            // `check_tensors` has seen that the type has a number and the size fits.
            header.extend(ggml_type::id(info.dtype).unwrap_or(u32::MAX).to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += padded_bytes(info, alignment);
        }
        header
    }
}

/// Every name once and short enough, every type and shape one that GGUF has.
fn check_tensors(path: &Path, tensors: &[Planned]) -> Result<(), IoError> {
    let mut names = HashSet::new();
    for (name, info) in tensors {
        let wrong = |expected: String, got: String| IoError::tensor(path, name, expected, got);
        if !names.insert(name.as_str()) {
            return Err(wrong("each name once".into(), "a second tensor".into()));
        }
        if name.len() > MAX_NAME_BYTES {
            let expected = format!("a name of at most {MAX_NAME_BYTES} bytes");
            return Err(wrong(expected, name.len().to_string()));
        }
        if ggml_type::id(info.dtype).is_none() {
            let kind = format!("{}, which GGUF does not have", info.dtype);
            return Err(IoError::UnsupportedType {
                path: path.to_path_buf(),
                tensor: name.clone(),
                kind,
            });
        }
        if info.shape.is_empty() || info.shape.len() > MAX_AXES || info.shape.contains(&0) {
            let expected = format!("1 to {MAX_AXES} axes of 1 or more items");
            return Err(wrong(expected, format!("{:?}", info.shape)));
        }
        if info.byte_len().is_none_or(|n| n > isize::MAX as usize) {
            let expected = format!("a shape that {} can store", info.dtype);
            return Err(wrong(expected, format!("{:?}", info.shape)));
        }
    }
    Ok(())
}

fn padded_bytes(info: &TensorInfo, alignment: u32) -> u64 {
    (info.byte_len().unwrap_or(0) as u64).next_multiple_of(alignment.into())
}

/// Fills parts in order; a tensor that does not fit opens the next. One part at least.
fn plan(tensors: &[Planned], alignment: u32, limit: Option<u64>) -> Vec<&[Planned]> {
    let mut parts = Vec::new();
    let (mut start, mut filled) = (0, 0u64);
    for (i, (_, info)) in tensors.iter().enumerate() {
        let bytes = padded_bytes(info, alignment);
        if i > start && limit.is_some_and(|limit| filled.saturating_add(bytes) > limit) {
            parts.push(&tensors[start..i]);
            (start, filled) = (i, 0);
        }
        filled = filled.saturating_add(bytes);
    }
    parts.push(&tensors[start..]);
    parts
}

fn append_padded(file: &mut AtomicFile, bytes: &[u8], alignment: u32) -> Result<(), IoError> {
    file.append(bytes)?;
    let padding = bytes.len().next_multiple_of(alignment as usize) - bytes.len();
    file.append(&vec![0; padding])
}

/// Removes the parts of an older model of the same stem.
fn remove_stale(path: &Path, written: &[PathBuf]) -> Result<(), IoError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    for entry in fs::read_dir(folder).map_err(IoError::os(folder, "list"))? {
        let entry = entry.map_err(IoError::os(folder, "list"))?;
        let file_name = entry.file_name();
        let Some(other) = file_name.to_str() else { continue };
        let is_new = written.iter().any(|w| w.file_name() == Some(&file_name));
        if split::is_part_of(other, split::stem(name)) && !is_new {
            let stale = entry.path();
            fs::remove_file(&stale).map_err(IoError::os(&stale, "remove"))?;
        }
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.item_type_id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::U16(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::I16(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::U32(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::I32(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::U64(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::I64(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::F32(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::F64(v) => put_items(out, v, |i| i.to_le_bytes()),
        Array::Bool(v) => put_items(out, v, |i| [u8::from(i)]),
        Array::Strings(v) => v.iter().for_each(|text| put_string(out, text)),
    }
}

fn put_items<T: Copy, const N: usize>(out: &mut Vec<u8>, items: &[T], bytes: fn(T) -> [u8; N]) {
    out.extend(items.iter().flat_map(|&item| bytes(item)));
}
