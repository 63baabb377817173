//! What kernels and cuBLAS are called with.

use std::ffi::c_void;

/// Threads of a block; `THREADS` of parts.cuh.
pub(crate) const THREADS: u32 = 256;

/// Pairs of tokens and kv heads in one launch of attention over a cache.
pub(crate) const MOST_ARRIVALS: usize = 4096;

/// A factor of a product: row after row, or that of its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) address: u64,
    pub(crate) is_transposed: bool,
}

/// `C [m, n] = A [m, k] B [k, n]` in float32, or added to what is there.
pub(crate) struct Product {
    /// `m`, `n`, `k`
    pub(crate) shape: (usize, usize, usize),
    pub(crate) a: Factor,
    pub(crate) b: Factor,
    pub(crate) to: u64,
    pub(crate) is_bf16: bool,
    pub(crate) adds: bool,
}

/// Runs of tokens in one launch; `PLACES` of decode.cu.
pub(crate) const PLACES: usize = 8;

/// `Places` of decode.cu.
#[repr(C)]
#[derive(Default)]
pub(crate) struct PlaceTable {
    pub(crate) keys: [u64; PLACES],
    pub(crate) values: [u64; PLACES],
    pub(crate) capacity: [i32; PLACES],
    pub(crate) first: [i32; PLACES],
    pub(crate) run: i32,
}

/// Arguments of a kernel.
#[derive(Default)]
pub(crate) struct Arguments<'a> {
    slots: [u64; 24],
    len: usize,
    table: Option<(usize, &'a mut PlaceTable)>,
}

impl<'a> Arguments<'a> {
    fn push(mut self, slot: u64) -> Self {
        self.slots[self.len] = slot;
        self.len += 1;
        self
    }

    /// A pointer, or a 64-bit number.
    pub(crate) fn wide(self, value: u64) -> Self {
        self.push(value)
    }

    /// An `int`.
    pub(crate) fn int(self, value: usize) -> Self {
        self.push(value as u64)
    }

    /// A `float`.
    pub(crate) fn float(self, value: f32) -> Self {
        self.push(u64::from(value.to_bits()))
    }

    /// A `Places`.
    pub(crate) fn table(mut self, table: &'a mut PlaceTable) -> Self {
        self.table = Some((self.len, table));
        self.push(0)
    }

    /// Where each one lies; the lower bytes come first.
    pub(crate) fn pointers(&mut self) -> [*mut c_void; 24] {
        let mut pointers = self.slots.each_mut().map(|slot| std::ptr::from_mut(slot).cast());
        if let Some((index, table)) = &mut self.table {
            pointers[*index] = std::ptr::from_mut::<PlaceTable>(table).cast();
        }
        pointers
    }
}
