//! Where memory lies: what the C library does with what is given back, and bytes that are streamed.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes that decoding streams through: they begin at a cache line, so that no vector load crosses
/// two, and may lie on huge pages.
pub struct StreamBytes {
    /// With room for a beginning at a line.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl StreamBytes {
    /// So many zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        // Untouched so far: the system gives zeros page by page, of the size that is advised now.
        let bytes = vec![0; len + LINE - 1];
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        glibc::advise_huge(bytes.as_ptr(), bytes.len());
        let start = bytes.as_ptr().align_offset(LINE);
        Self { bytes, start: if start < LINE { start } else { 0 }, len }
    }
}

impl Deref for StreamBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for StreamBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl Clone for StreamBytes {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl fmt::Debug for StreamBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamBytes({} bytes)", self.len)
    }
}

/// Prepares the heap for work that allocates the same megabytes again and again, for the rest of the
/// program: freed memory is kept instead of given back to the system, which costs a sixth of a
/// training step of a small model, and the first `expected_bytes` of it may lie on huge pages, which
/// saves another twelfth. No memory is taken. Does nothing with another C library than glibc.
pub fn prepare_heap(expected_bytes: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::prepare(expected_bytes);
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = expected_bytes;
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// The most that glibc allows: smaller allocations get no mapping of their own, which is returned
    /// when they are freed.
    const OWN_MAPPING: i32 = 32 << 20;

    /// Of the pieces in which the heap is made to grow.
    const PIECE: usize = 16 << 20;

    const PAGE: usize = 4096;

    pub(super) fn prepare(expected_bytes: usize) {
        // SAFETY: mallopt only sets tunables of the allocator.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        for _ in 0..expected_bytes / PIECE {
            let mut piece: Vec<u8> = Vec::new();
            if piece.try_reserve_exact(PIECE).is_err() {
                break;
            }
            advise_huge(piece.as_ptr(), PIECE);
            pieces.push(piece);
        }
        // The pieces go back to the allocator, which keeps them, advice and all.
    }

    /// Asks for huge pages where some bytes of an allocation lie.
    pub(super) fn advise_huge(first: *const u8, len: usize) {
        let start = (first as usize).next_multiple_of(PAGE);
        let len = (first as usize + len).saturating_sub(start) / PAGE * PAGE;
        if len > 0 {
            // SAFETY: whole pages of an allocation; the advice changes nothing that is in them.
            unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_bytes_begin_at_a_line_and_are_zero() {
        for len in [0, 1, 63, 64, 5_000_000] {
            let mut bytes = StreamBytes::zeros(len);
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 0));
            assert!(bytes.as_ptr().addr().is_multiple_of(LINE));
            bytes.fill(7);
            let copy = bytes.clone();
            assert!(*copy == *bytes && copy.as_ptr().addr().is_multiple_of(LINE));
        }
    }
}
