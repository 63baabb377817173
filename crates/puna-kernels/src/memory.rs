//! What the C library does with memory that is given back.

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
            let mut piece = Vec::new();
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
