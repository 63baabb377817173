//! Maps files and buffers into memory: the only place of the crate with `unsafe`.
//!
//! Weights are read in place, so that a model starts at once, several processes share its pages
//! and the kernel may drop them. The alternative, reading into a buffer, doubles the memory.

use std::fs::File;
use std::ops::Range;
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

/// Drops the pages that lie wholly in `range`.
pub(crate) fn release(map: &Mmap, range: &Range<usize>) {
    /// At least the page size of every platform: whole multiples are whole pages.
    const PAGES: usize = 64 * 1024;
    let first = range.start.next_multiple_of(PAGES);
    let end = range.end / PAGES * PAGES;
    #[cfg(unix)]
    if first < end {
        #[expect(unsafe_code, reason = "memmap2 marks MADV_DONTNEED as unsafe for private writes")]
        // SAFETY: a read-only map of a file has no changes to lose; pages come back from the file.
        let dropped = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first)
        };
        // A system that keeps the pages costs memory, nothing else.
        drop(dropped);
    }
    #[cfg(not(unix))]
    let _ = (map, first, end);
}
