//! Maps a file into memory: the crate's one `unsafe`.
//!
//! Weights are read in place, so that a model starts at once, several processes share its pages
//! and the kernel may drop them. The alternative, reading into a buffer, doubles the memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::IoError;

/// Maps a whole file for reading.
///
/// # Errors
/// The file cannot be opened, is not a regular file, or cannot be mapped.
pub(crate) fn map_file(path: &Path) -> Result<Arc<Mmap>, IoError> {
    let file = File::open(path).map_err(IoError::os(path, "open"))?;
    let meta = file.metadata().map_err(IoError::os(path, "read the size"))?;
    if !meta.is_file() {
        return Err(IoError::invalid(path, "the path", "a file", "a folder or device"));
    }
    #[expect(unsafe_code, reason = "a file can only be mapped with memmap2's unsafe constructor")]
    // SAFETY: the map is read-only and private to the process. What Rust cannot see is another
    // process changing or truncating the file meanwhile; every loader of model files accepts that
    // (truncation ends the process with SIGBUS), and all parsing copies headers before checking
    // them, so that no checked length or offset is read from the map a second time.
    let map = unsafe { Mmap::map(&file) }.map_err(IoError::os(path, "map"))?;
    Ok(Arc::new(map))
}
