//! Where memory lies: what the C library does with what is given back, and bytes that are streamed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// The system's allocator, with every allocation of a KiB or more at the beginning of a cache line.
/// glibc's begin 16 bytes behind it, so that each load and store of 64 bytes crosses two lines:
/// products in tiles then take a third longer.
///
/// Such an allocation is asked for a line larger and begins at the first line behind its start, whose
/// distance lies in the word before. The system's own aligned allocations would do, too, but glibc
/// cannot use one that was freed for the next of the same size, and the heap grows by a twentieth.
pub struct LineAligned;

/// Bytes from which allocations begin at a line.
const ALIGNED: usize = 1024;

const LINE: usize = size_of::<crate::line::Line>();

/// What is asked of the system for an allocation that is to begin at a line; `None` for others.
#[inline]
fn larger(layout: Layout) -> Option<Layout> {
    if layout.size() < ALIGNED || layout.align() > HEAP_ALIGN {
        return None;
    }
    Layout::from_size_align(layout.size().checked_add(LINE)?, HEAP_ALIGN).ok()
}

/// What every allocator of a 64-bit system gives: room for a word before the line.
const HEAP_ALIGN: usize = 16;

/// The first line behind `start`, which may be null; the distance goes into the word before it.
///
/// # Safety
/// `start` is null, or the beginning of an allocation of more than a line.
#[inline]
unsafe fn to_line(start: *mut u8) -> *mut u8 {
    if start.is_null() {
        return start;
    }
    let distance = LINE - start.addr() % LINE;
    // SAFETY: at least 16 and at most 64 bytes further lies within the allocation, and so does the
    // word before.
    unsafe {
        let at = start.add(distance);
        at.cast::<usize>().sub(1).write(distance);
        at
    }
}

/// Where the allocation that holds `at` begins.
///
/// # Safety
/// `at` came from [`to_line`] and is not null.
#[inline]
unsafe fn start_of(at: *mut u8) -> *mut u8 {
    // SAFETY: the word before it is the distance.
    unsafe { at.sub(at.cast::<usize>().sub(1).read()) }
}

// SAFETY: all memory is the system's; an allocation lies within the larger one that was asked for, and
// whether it does follows from its layout alone, which is the same when it is freed.
unsafe impl GlobalAlloc for LineAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe {
            match larger(layout) {
                Some(larger) => to_line(System.alloc(larger)),
                None => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe {
            match larger(layout) {
                Some(larger) => to_line(System.alloc_zeroed(larger)),
                None => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller's; the layout says how it was allocated.
        unsafe {
            match larger(layout) {
                Some(larger) => System.dealloc(start_of(at), larger),
                None => System.dealloc(at, layout),
            }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller's: `size` is not zero and does not overflow with this alignment.
        unsafe {
            let wanted = Layout::from_size_align_unchecked(size, layout.align());
            match (larger(layout), larger(wanted)) {
                (Some(old), Some(new)) => {
                    let start = start_of(at);
                    let before = at.offset_from_unsigned(start);
                    let start = System.realloc(start, old, new.size());
                    if start.is_null() {
                        return start;
                    }
                    // Elsewhere the line may lie at another distance.
                    let distance = LINE - start.addr() % LINE;
                    if distance != before {
                        let kept = layout.size().min(size);
                        start.add(distance).copy_from(start.add(before), kept);
                    }
                    to_line(start)
                }
                (None, None) => System.realloc(at, layout, size),
                _ => {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        new.copy_from_nonoverlapping(at, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                    new
                }
            }
        }
    }
}

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
    fn large_allocations_begin_at_a_line_and_grow_and_shrink() {
        for size in [16, 700, 1024, 5000, 1 << 20, 40 << 20] {
            let layout = Layout::from_size_align(size, 4).unwrap();
            // SAFETY: what is written lies within the allocation, which is freed once.
            unsafe {
                let at = LineAligned.alloc(layout);
                assert!(!at.is_null() && (size < ALIGNED || at.addr().is_multiple_of(64)));
                at.write_bytes(7, size);
                let at = LineAligned.realloc(at, layout, 2 * size);
                assert!(2 * size < ALIGNED || at.addr().is_multiple_of(64));
                assert!(std::slice::from_raw_parts(at, size).iter().all(|byte| *byte == 7));
                let layout = Layout::from_size_align(2 * size, 4).unwrap();
                let at = LineAligned.realloc(at, layout, size / 2 + 1);
                assert!(std::slice::from_raw_parts(at, size / 2).iter().all(|byte| *byte == 7));
                LineAligned.dealloc(at, Layout::from_size_align(size / 2 + 1, 4).unwrap());
                let layout = Layout::from_size_align(size, 4).unwrap();
                let zeros = LineAligned.alloc_zeroed(layout);
                assert!(std::slice::from_raw_parts(zeros, size).iter().all(|byte| *byte == 0));
                LineAligned.dealloc(zeros, layout);
            }
        }
    }

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
