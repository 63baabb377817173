//! GGUF, the container of llama.cpp: metadata and tensors in one file, or split over several.
//!
//! Versions 2 and 3, little endian. Tensors are mapped, never copied. Shapes are turned around to
//! row-major, `[out, in]` for matrices; GGUF counts axes from the innermost.
//!
//! Everything in a header is checked when a file is opened, so that [`Gguf::tensor`] only slices.
//! A file with a tensor of a type that puna does not read is refused as a whole: its other tensors
//! alone are not the model.
//!
//! Source: docs/gguf.md of ggml.

mod cursor;
mod ggml_type;
mod metadata;
mod part;
pub(crate) mod split;
mod value;
mod writer;

pub use metadata::Metadata;
pub use value::{Array, Value};
pub use writer::GgufWriter;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::map::map_file;
use crate::{IoError, StoredTensor, TensorBytes, TensorInfo};
use part::Part;

/// A GGUF file, or all parts of a split one.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    source: Source,
    parts: Vec<Part>,
    /// Part and place in the part.
    by_name: HashMap<String, (usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Disk,
    Memory,
}

impl Gguf {
    /// Opens a file, or a split model by any of its parts.
    ///
    /// # Errors
    /// The file cannot be mapped; its header is broken, or of another version or byte order;
    /// tensors overlap, leave the file, or have a type that puna does not read; a part of a split
    /// model is missing or contradicts the others.
    pub fn open(path: &Path) -> Result<Self, IoError> {
        let open = |path: &Path| Part::read(path, TensorBytes::from_map(map_file(path)?));
        let parts = split::open_all(open(path)?, open)?;
        Self::assemble(path, Source::Disk, parts)
    }

    /// Reads a file that is in memory; `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`Gguf::open`]; a split model is refused.
    pub fn from_bytes(name: &str, bytes: TensorBytes) -> Result<Self, IoError> {
        let path = Path::new(name);
        let only = Part::read(path, bytes)?;
        let parts = split::open_all(only, |missing| {
            Err(IoError::MissingFile { path: missing.to_path_buf(), named_by: path.to_path_buf() })
        })?;
        Self::assemble(path, Source::Memory, parts)
    }

    /// Reads a file that is part of the program; its tensors stay where they are.
    ///
    /// # Errors
    /// As [`Gguf::from_bytes`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, IoError> {
        Self::from_bytes(name, TensorBytes::from_static(bytes))
    }

    fn assemble(path: &Path, source: Source, parts: Vec<Part>) -> Result<Self, IoError> {
        let mut by_name = HashMap::new();
        for (p, part) in parts.iter().enumerate() {
            for (e, entry) in part.entries.iter().enumerate() {
                if by_name.insert(entry.name.clone(), (p, e)).is_some() {
                    let got = "a second tensor in another part";
                    return Err(IoError::tensor(&part.path, &entry.name, "each name once", got));
                }
            }
        }
        Ok(Self { path: path.to_path_buf(), source, parts, by_name })
    }

    /// The path it was opened with, or the name given to bytes in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files on disk in the order of the parts; none for bytes in memory.
    pub fn files(&self) -> Vec<PathBuf> {
        match self.source {
            Source::Disk => self.parts.iter().map(|part| part.path.clone()).collect(),
            Source::Memory => Vec::new(),
        }
    }

    /// Bytes of all parts.
    pub fn bytes_len(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// The version of the (first) file: 2 or 3.
    pub fn version(&self) -> u32 {
        self.parts.first().map_or(0, |part| part.version)
    }

    /// Alignment of tensors in the (first) file, in bytes.
    pub fn alignment(&self) -> u32 {
        self.parts.first().map_or(0, |part| part.alignment)
    }

    /// The metadata; that of the first part where there are several.
    pub fn metadata(&self) -> &Metadata {
        // `split::open_all` gives one part or more.
        &self.parts[0].metadata
    }

    /// Names, types and row-major shapes of all tensors in the order of the files.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        let entries = self.parts.iter().flat_map(|part| &part.entries);
        entries.map(|entry| (entry.name.as_str(), &entry.info))
    }

    /// Names of all tensors in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors().map(|(name, _)| name)
    }

    /// Type and row-major shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        let &(part, entry) = self.by_name.get(name)?;
        Some(&self.parts[part].entries[entry].info)
    }

    /// A tensor, in place.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor, IoError> {
        let missing =
            || IoError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() };
        let &(part, entry) = self.by_name.get(name).ok_or_else(missing)?;
        let (part, entry) = (&self.parts[part], &self.parts[part].entries[entry]);
        let bytes = part.bytes.slice(entry.range.clone()).ok_or_else(missing)?;
        Ok(StoredTensor { info: entry.info.clone(), bytes })
    }
}
