//! Reads one file of `torch.save`: a pickled state dict and the storages it refers to.
//!
//! Two formats, told apart by their first bytes: the zip archive of torch 1.6 and later, whose
//! stored entries are mapped, and the sequence of pickles before it, which is mapped as well. The
//! pickle goes through a restricted unpickler; nothing of it is run.

mod archive;
mod legacy;
mod state_dict;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::map::map_file;
use crate::{IoError, StoredTensor, TensorBytes, TensorInfo};
use state_dict::NamedView;
use view::View;

/// The first bytes of a zip archive's first entry.
pub(crate) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// The first byte of a pickle of protocol 2 or later.
pub(crate) const PICKLE_MAGIC: &[u8] = b"\x80";

/// One open file of `torch.save`.
#[derive(Debug)]
pub struct PyTorchFile {
    path: PathBuf,
    views: BTreeMap<String, View>,
}

impl PyTorchFile {
    /// Maps a file and reads its state dict, unwrapping one level of `state_dict`, `model` or
    /// `module`.
    ///
    /// # Errors
    /// The file cannot be mapped or is neither of torch's formats; entries are compressed or
    /// encrypted; the pickle wants to call something; a storage is missing or too short; a tensor
    /// reaches beyond its storage, has a type puna does not read, or occurs twice.
    pub fn open(path: &Path) -> Result<Self, IoError> {
        Self::from_bytes(path, TensorBytes::from_map(map_file(path)?))
    }

    /// Reads the state dict in a file's bytes; `path` is for errors.
    ///
    /// # Errors
    /// As [`PyTorchFile::open`].
    pub fn from_bytes(path: &Path, bytes: TensorBytes) -> Result<Self, IoError> {
        let (named, storages) = if bytes.starts_with(ZIP_MAGIC) {
            archive::read(path, &bytes)?
        } else if bytes.starts_with(PICKLE_MAGIC) {
            legacy::read(path, &bytes)?
        } else {
            let first = &bytes[..bytes.len().min(8)];
            let got = format!("a file that starts with {}", first.escape_ascii());
            return Err(IoError::invalid(path, "format", "a file of torch.save", got));
        };
        let mut views = BTreeMap::new();
        for (name, view) in named {
            let view = View::resolve(path, &name, view, &storages)?;
            if views.insert(name.clone(), view).is_some() {
                return Err(IoError::tensor(path, &name, "one entry", "two"));
            }
        }
        Ok(Self { path: path.to_path_buf(), views })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.views.keys().map(String::as_str)
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.views.get(name).map(View::info)
    }

    /// A tensor: mapped if its view is contiguous, else gathered into memory of its own.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn tensor(&self, name: &str) -> Result<StoredTensor, IoError> {
        match self.views.get(name) {
            Some(view) => Ok(view.read()),
            None => {
                Err(IoError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() })
            }
        }
    }
}

/// What both formats give: views by name, and the storages they refer to by key.
type Contents = (Vec<(String, NamedView)>, HashMap<String, TensorBytes>);
