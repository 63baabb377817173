//! One file of tensors, whatever its format: what shards are made of.

use std::path::Path;

use crate::pytorch::PyTorchFile;
use crate::safetensors::SafetensorsFile;
use crate::{IoError, StoredTensor, TensorInfo};

/// A safetensors or PyTorch file.
#[derive(Debug)]
pub(crate) enum TensorFile {
    Safetensors(SafetensorsFile),
    PyTorch(PyTorchFile),
}

impl TensorFile {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Safetensors(f) => f.path(),
            Self::PyTorch(f) => f.path(),
        }
    }

    pub(crate) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Safetensors(f) => Box::new(f.names()),
            Self::PyTorch(f) => Box::new(f.names()),
        }
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self {
            Self::Safetensors(f) => f.info(name),
            Self::PyTorch(f) => f.info(name),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<StoredTensor, IoError> {
        match self {
            Self::Safetensors(f) => f.tensor(name),
            Self::PyTorch(f) => f.tensor(name),
        }
    }
}
