//! Reads one safetensors file: a JSON header, then the tensors' bytes, mapped.
//!
//! The header parser is puna's own rather than the `safetensors` crate's, because the checks of
//! foreign files are the point here: duplicate names, unknown fields, gaps and overlaps are
//! errors that name the tensor, and the types puna does not read are named too.
//! Format: <https://huggingface.co/docs/safetensors>, "Format".

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::map::map_file;
use crate::{Dtype, IoError, StoredTensor, TensorBytes, TensorInfo};

/// The reference implementation's bound on the header.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The header's length, a little-endian u64.
const PREFIX_BYTES: usize = 8;
/// The key of the free-form metadata among the tensors' names.
pub(crate) const METADATA: &str = "__metadata__";

/// One open safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    data: TensorBytes,
    entries: BTreeMap<String, (TensorInfo, Range<usize>)>,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// The file cannot be mapped, or its header breaks the format: too long, no JSON, a tensor
    /// named twice, an unknown type, a shape that does not give the byte range, ranges that
    /// overlap, leave a gap or end before or after the file.
    pub fn open(path: &Path) -> Result<Self, IoError> {
        Self::from_bytes(path, TensorBytes::from_map(map_file(path)?))
    }

    /// Checks the header of a file's bytes; `path` is for errors.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn from_bytes(path: &Path, bytes: TensorBytes) -> Result<Self, IoError> {
        let (header, data) = split(path, &bytes)?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|e| IoError::invalid(path, "header", "a safetensors JSON header", e))?;
        let entries = check(path, header.tensors, data.len())?;
        Ok(Self { path: path.to_path_buf(), data, entries, metadata: header.metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The free-form `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.entries.get(name).map(|(info, _)| info)
    }

    /// A tensor, mapped.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor, IoError> {
        self.entries
            .get(name)
            .and_then(|(info, range)| {
                let bytes = self.data.slice(range.clone())?;
                Some(StoredTensor { info: info.clone(), bytes })
            })
            .ok_or_else(|| IoError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            })
    }
}

/// Copies the header out and gives the rest of the file.
fn split(path: &Path, bytes: &TensorBytes) -> Result<(Vec<u8>, TensorBytes), IoError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return Err(IoError::invalid(
            path,
            "header length",
            format!("{PREFIX_BYTES} bytes"),
            format!("a file of {} bytes", bytes.len()),
        ));
    };
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER_BYTES {
        return Err(IoError::Limit {
            path: path.to_path_buf(),
            at: "header length".to_owned(),
            limit: MAX_HEADER_BYTES,
            got: length,
        });
    }
    let end = PREFIX_BYTES + length as usize;
    match bytes.slice(end..bytes.len()) {
        Some(data) => Ok((bytes[PREFIX_BYTES..end].to_vec(), data)),
        None => Err(IoError::invalid(
            path,
            "header length",
            format!("at most the {} bytes after it", bytes.len() - PREFIX_BYTES),
            length,
        )),
    }
}

/// Checks every entry against its shape and all of them against each other and the data.
fn check(
    path: &Path,
    tensors: BTreeMap<String, Entry>,
    data_bytes: usize,
) -> Result<BTreeMap<String, (TensorInfo, Range<usize>)>, IoError> {
    let mut entries = BTreeMap::new();
    for (name, entry) in tensors {
        let dtype = dtype(&entry.dtype).ok_or_else(|| IoError::UnsupportedType {
            path: path.to_path_buf(),
            tensor: name.clone(),
            kind: entry.dtype.clone(),
        })?;
        let info = TensorInfo { dtype, shape: entry.shape };
        let [start, end] = entry.data_offsets;
        let stored = end.checked_sub(start);
        if stored.is_none() || stored != info.byte_len() {
            return Err(IoError::tensor(
                path,
                &name,
                match info.byte_len() {
                    Some(n) => format!("{n} bytes for {dtype} {:?}", info.shape),
                    None => "a shape whose size fits in memory".to_owned(),
                },
                format!("the byte range {start}..{end} for {dtype} {:?}", info.shape),
            ));
        }
        entries.insert(name, (info, start..end));
    }
    check_cover(path, &entries, data_bytes)?;
    Ok(entries)
}

/// The ranges, sorted, must cover the data exactly.
fn check_cover(
    path: &Path,
    entries: &BTreeMap<String, (TensorInfo, Range<usize>)>,
    data_bytes: usize,
) -> Result<(), IoError> {
    let mut ranges: Vec<(&str, &Range<usize>)> =
        entries.iter().map(|(name, (_, range))| (name.as_str(), range)).collect();
    ranges.sort_by_key(|(_, range)| (range.start, range.end));
    let mut end = 0;
    for (name, range) in ranges {
        if range.start != end || range.end > data_bytes {
            return Err(IoError::tensor(
                path,
                name,
                format!("a byte range that starts at {end} and ends by {data_bytes}"),
                format!("{}..{}", range.start, range.end),
            ));
        }
        end = range.end;
    }
    if end == data_bytes {
        return Ok(());
    }
    Err(IoError::invalid(
        path,
        "tensor data",
        format!("{end} bytes, the end of the last tensor"),
        format!("{data_bytes} bytes"),
    ))
}

/// The types safetensors can hold, by its names.
const DTYPES: [Dtype; 15] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F8E4M3,
    Dtype::F8E5M2,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::Bool,
];

/// Whether safetensors has a name for the type.
pub(crate) fn is_storable(dtype: Dtype) -> bool {
    DTYPES.contains(&dtype)
}

fn dtype(name: &str) -> Option<Dtype> {
    DTYPES.into_iter().find(|d| d.name() == name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header's JSON object; a map type of its own because serde_json's lets a name occur twice.
struct Header {
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        let mut seen_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if std::mem::replace(&mut seen_metadata, true) {
                    return Err(A::Error::custom("__metadata__ occurs twice"));
                }
                header.metadata = map.next_value()?;
                continue;
            }
            // The value comes first: a type error inside it has no name of its own.
            let entry: Entry = map
                .next_value()
                .map_err(|e| A::Error::custom(format_args!("tensor `{name}`: {e}")))?;
            if header.tensors.contains_key(&name) {
                return Err(A::Error::custom(format_args!("tensor `{name}` occurs twice")));
            }
            header.tensors.insert(name, entry);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(header: &str, data: &[u8]) -> Result<SafetensorsFile, IoError> {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("x.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        std::fs::write(&path, bytes).expect("write");
        SafetensorsFile::open(&path)
    }

    fn message(header: &str, data: &[u8]) -> String {
        open(header, data).expect_err("the file is broken").to_string()
    }

    #[test]
    fn a_sound_file_gives_its_tensors() {
        let file = open(
            r#"{"__metadata__":{"format":"pt"},
                "b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},
                "a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},
                "none":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}}"#,
            &[1, 2, 3, 4, 5, 6],
        )
        .expect("sound");
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "none"]);
        let b = file.tensor("b").expect("there");
        assert!(b.bytes.is_mapped());
        assert_eq!(&*b.bytes, &[5, 6]);
        assert_eq!(file.info("a").expect("there").shape, [1, 2]);
        assert!(file.tensor("c").is_err());
    }

    #[test]
    fn broken_headers_name_the_tensor_and_what_is_wrong() {
        let overlap = message(
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
            &[0; 6],
        );
        assert!(overlap.contains("tensor `b`") && overlap.contains("starts at 4"), "{overlap}");
        let gap = message(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}"#, &[0; 5]);
        assert!(gap.contains("tensor `a`") && gap.contains("starts at 0"), "{gap}");
        let short = message(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 3]);
        assert!(short.contains("ends by 3"), "{short}");
        let long = message(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 9]);
        assert!(long.contains("expected 4 bytes") && long.contains("got 9"), "{long}");
        let shape = message(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]);
        assert!(shape.contains("16 bytes for F32 [4]"), "{shape}");
        let reversed = message(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#, &[0; 4]);
        assert!(reversed.contains("4..0"), "{reversed}");
        let twice = message(
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            &[0; 4],
        );
        assert!(twice.contains("tensor `a` occurs twice"), "{twice}");
        let kind = message(r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]);
        assert!(kind.contains("unsupported type F4"), "{kind}");
        let huge = format!(
            r#"{{"a":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,4]}}}}"#,
            u64::MAX
        );
        assert!(message(&huge, &[0; 4]).contains("fits in memory"));
        assert!(message("[]", &[]).contains("header"));
        assert!(
            message(r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,4]}}"#, &[0; 4])
                .contains("tensor `a`")
        );
    }

    #[test]
    fn impossible_header_lengths_are_refused_before_reading() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("x.safetensors");
        for (length, data) in [(u64::MAX, 100), (1 << 40, 100), (101, 100), (5, 0)] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(8 + data, b' ');
            std::fs::write(&path, &bytes).expect("write");
            let error = SafetensorsFile::open(&path).expect_err("too long").to_string();
            assert!(error.contains("header length"), "{error}");
        }
        std::fs::write(&path, [0; 7]).expect("write");
        assert!(SafetensorsFile::open(&path).is_err());
        std::fs::write(&path, []).expect("write");
        assert!(SafetensorsFile::open(&path).is_err());
    }
}
