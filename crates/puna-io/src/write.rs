//! Writes whole checkpoints: Hugging Face folders and Meta's layout.
//!
//! A writer first gets the list of all tensors with their types and shapes, so that headers and
//! shards are planned without data; then it asks for the bytes of one tensor after the other. All
//! files are written aside and appear together at the end; see [`crate::write::hf_folder`] and
//! [`crate::write::meta_folder`].

pub mod hf_folder;
pub mod meta_folder;
mod pth;
mod safetensors;
mod size;
mod staging;

pub use hf_folder::{HfOptions, write_hf_folder};
pub use meta_folder::{EmbeddingSplit, MetaOptions, write_meta_folder};
pub use safetensors::{WrittenFile, write_safetensors, write_safetensors_from};
pub use size::parse_size;

use std::collections::HashSet;
use std::path::Path;

use crate::{IoError, TensorBytes, TensorInfo};

/// A file beside the weights that is written with them: its name and contents.
pub type ExtraFile = (String, Vec<u8>);

/// Every name once, every size representable.
fn check_plan(dir: &Path, tensors: &[(String, TensorInfo)]) -> Result<(), IoError> {
    let mut names = HashSet::new();
    for (name, info) in tensors {
        if !names.insert(name.as_str()) {
            return Err(IoError::tensor(dir, name, "each name once", "twice"));
        }
        if info.byte_len().is_none() {
            let got = format!("{} {:?}", info.dtype, info.shape);
            return Err(IoError::tensor(dir, name, "a shape whose size fits in memory", got));
        }
    }
    Ok(())
}

/// The bytes that were given for a tensor must be as many as its shape says.
fn check_bytes(
    path: &Path,
    name: &str,
    info: &TensorInfo,
    bytes: &TensorBytes,
) -> Result<(), IoError> {
    if info.byte_len() == Some(bytes.len()) {
        return Ok(());
    }
    let expected = format!("the bytes of {} {:?}", info.dtype, info.shape);
    Err(IoError::tensor(path, name, expected, format!("{} bytes", bytes.len())))
}
