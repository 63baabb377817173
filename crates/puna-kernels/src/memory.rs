//! Where memory lies: what the C library does with what is given back, and bytes that are streamed.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes that decoding streams through: they begin at a cache line, so that no vector load crosses
/// two, and lie on huge pages where the system has them, since a page of 4 KiB every few hundred
/// nanoseconds costs the walk of its address.
pub struct StreamBytes(Memory);

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use pages::Pages as Memory;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
use lines::Lines as Memory;

impl StreamBytes {
    /// So many zeros; `None` if the system has no memory for them.
    #[must_use]
    pub fn zeros(len: usize) -> Option<Self> {
        Memory::zeros(len).map(Self)
    }
}

impl Deref for StreamBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for StreamBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl AsRef<[u8]> for StreamBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for StreamBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamBytes({} bytes)", self.len())
    }
}

/// Mappings of their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod pages {
    /// Bytes of a huge page.
    const HUGE: usize = 2 << 20;

    pub(super) struct Pages {
        map: *mut libc::c_void,
        mapped: usize,
        first: *mut u8,
        len: usize,
    }

    // SAFETY: the mapping belongs to this value alone and is borrowed as any other memory.
    unsafe impl Send for Pages {}
    // SAFETY: as above.
    unsafe impl Sync for Pages {}

    impl Pages {
        pub(super) fn zeros(len: usize) -> Option<Self> {
            // Room to begin at a huge page, which is never touched and takes no memory.
            let slack = if len < HUGE { 0 } else { HUGE };
            let mapped = len.checked_add(slack)?.max(1);
            // SAFETY: a new mapping that nothing else knows.
            let map = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    mapped,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if map == libc::MAP_FAILED {
                return None;
            }
            let offset =
                if slack == 0 { 0 } else { map.cast::<u8>().align_offset(HUGE).min(slack) };
            let first = map.cast::<u8>().wrapping_add(offset);
            // Only whole ones: the end would take a huge page for a few bytes.
            let whole = len / HUGE * HUGE;
            if whole > 0 {
                // SAFETY: pages of the mapping. Where huge pages are off, small ones do.
                unsafe { libc::madvise(first.cast(), whole, libc::MADV_HUGEPAGE) };
            }
            Some(Self { map, mapped, first, len })
        }

        pub(super) fn bytes(&self) -> &[u8] {
            // SAFETY: `len` readable bytes of the mapping, zero or written.
            unsafe { std::slice::from_raw_parts(self.first, self.len) }
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            // SAFETY: `len` writable bytes of the mapping, which this borrows mutably.
            unsafe { std::slice::from_raw_parts_mut(self.first, self.len) }
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping of this value, which nobody borrows any more.
            unsafe { libc::munmap(self.map, self.mapped) };
        }
    }
}

/// A vector with room to begin at a line.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod lines {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    pub(super) struct Lines {
        bytes: Vec<u8>,
        start: usize,
        len: usize,
    }

    impl Lines {
        pub(super) fn zeros(len: usize) -> Option<Self> {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len.checked_add(LINE)?).ok()?;
            bytes.resize(len + LINE, 0);
            let start = bytes.as_ptr().align_offset(LINE).min(LINE);
            Some(Self { bytes, start, len })
        }

        pub(super) fn bytes(&self) -> &[u8] {
            &self.bytes[self.start..self.start + self.len]
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.bytes[self.start..self.start + self.len]
        }
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
            let start = (piece.as_mut_ptr() as usize).next_multiple_of(PAGE);
            let len = (piece.as_ptr() as usize + PIECE - start) / PAGE * PAGE;
            // SAFETY: whole pages of an allocation; the advice changes nothing that is in them.
            unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
            pieces.push(piece);
        }
        // The pieces go back to the allocator, which keeps them, advice and all.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_bytes_begin_at_a_line_and_are_zero() {
        for len in [0, 1, 63, 64, 5_000_000] {
            let mut bytes = StreamBytes::zeros(len).unwrap();
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 0));
            assert!(bytes.as_ptr().addr().is_multiple_of(64));
            bytes.fill(7);
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
        assert!(StreamBytes::zeros(usize::MAX).is_none());
    }
}
