//! Where the blocks of 16 rows are read from: rows as a file has them, or panels.
//!
//! A block consists of halfs (its scales) and dwords (everything else). A stored panel holds, block
//! after block, the 16 rows' first half, their second half if there is one, then their dwords, 16
//! lanes each: the same bytes in another order. Reading it needs no transposition and is one stream
//! of memory, which is what decoding lives on; 16 rows read where they lie are 16 streams.

use crate::BlockFormat;
use crate::blocks::{Layout, layout};
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;

/// Where the halfs and the dwords of a block lie; together they are the whole block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) halfs_at: usize,
    pub(crate) halfs: usize,
    pub(crate) dwords_at: usize,
    pub(crate) dwords: usize,
}

/// The fields of a quantized format.
pub(crate) const fn fields(format: BlockFormat) -> Fields {
    use BlockFormat as F;
    let halfs = match format {
        F::Q4_1 | F::Q5_1 | F::Q2K | F::Q4K | F::Q5K => 2,
        _ => 1,
    };
    let rest = format.block_bytes() - 2 * halfs;
    // The superblocks of 2, 3 and 6 bits end with their halfs, all others start with them.
    let (halfs_at, dwords_at) = match format {
        F::Q2K | F::Q3K | F::Q6K => (rest, 0),
        _ => (0, 2 * halfs),
    };
    Fields { halfs_at, halfs, dwords_at, dwords: rest / 4 }
}

/// A quantized format as a type.
pub(crate) trait Block: Copy {
    const FORMAT: BlockFormat;
    const FIELDS: Fields = fields(Self::FORMAT);
    const BYTES: usize = Self::FORMAT.block_bytes();
    const LAYOUT: Layout = match layout(Self::FORMAT) {
        Some(layout) => layout,
        None => panic!("floats have no blocks"),
    };
}

/// Block `index` of 16 rows.
pub(crate) trait Source<S: Simd>: Copy {
    /// The block `index` blocks further.
    ///
    /// # Safety
    /// It must exist.
    unsafe fn block(self, index: usize) -> Self;
    /// Dwords `index` to `index + 3`.
    ///
    /// # Safety
    /// They must be in the block.
    unsafe fn dwords4(self, s: S, index: usize) -> [S::I; 4];
    /// Dword `index`.
    ///
    /// # Safety
    /// It must be in the block.
    unsafe fn dword(self, s: S, index: usize) -> S::I;
    /// The bits of half `index`, in the low words.
    ///
    /// # Safety
    /// It must be in the block.
    unsafe fn half_bits(self, s: S, index: usize) -> S::I;
    /// Half `index`.
    ///
    /// # Safety
    /// It must be in the block.
    #[inline(always)]
    unsafe fn half(self, s: S, index: usize) -> S::F {
        // SAFETY: by contract.
        s.low_halfs(unsafe { self.half_bits(s, index) })
    }
}

/// Rows as a file has them, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<B> {
    pub(super) p: *const u8,
    pub(super) stride: usize,
    pub(super) format: PhantomData<B>,
}

impl<B: Block> Rows<B> {
    #[inline(always)]
    pub(crate) fn new(p: *const u8, stride: usize) -> Self {
        Self { p, stride, format: PhantomData }
    }
}

impl<S: Simd, B: Block> Source<S> for Rows<B> {
    #[inline(always)]
    unsafe fn block(self, index: usize) -> Self {
        // SAFETY: by contract.
        Self { p: unsafe { self.p.add(index * B::BYTES) }, ..self }
    }
    #[inline(always)]
    unsafe fn dwords4(self, s: S, index: usize) -> [S::I; 4] {
        // SAFETY: by contract.
        unsafe { s.rows16(self.p.add(B::FIELDS.dwords_at + 4 * index), self.stride) }
    }
    #[inline(always)]
    unsafe fn dword(self, s: S, index: usize) -> S::I {
        // SAFETY: by contract.
        unsafe { s.rows4(self.p.add(B::FIELDS.dwords_at + 4 * index), self.stride) }
    }
    #[inline(always)]
    unsafe fn half_bits(self, s: S, index: usize) -> S::I {
        let at = B::FIELDS.halfs_at + 2 * index;
        // SAFETY: four bytes that end or start with the half and lie in the block.
        unsafe {
            if at + 4 <= B::BYTES {
                s.rows4(self.p.add(at), self.stride)
            } else {
                s.shr_i(s.rows4(self.p.add(at - 2), self.stride), 16)
            }
        }
    }
}

/// A stored panel.
#[derive(Clone, Copy)]
pub(crate) struct Panel<B> {
    p: *const u8,
    format: PhantomData<B>,
}

impl<B: Block> Panel<B> {
    /// Bytes of a block's halfs.
    const HALFS: usize = 2 * LANES * B::FIELDS.halfs;

    #[inline(always)]
    pub(crate) fn new(p: *const u8) -> Self {
        Self { p, format: PhantomData }
    }
}

impl<S: Simd, B: Block> Source<S> for Panel<B> {
    #[inline(always)]
    unsafe fn block(self, index: usize) -> Self {
        // SAFETY: by contract.
        Self { p: unsafe { self.p.add(index * B::BYTES * LANES) }, ..self }
    }
    #[inline(always)]
    unsafe fn dwords4(self, s: S, index: usize) -> [S::I; 4] {
        // SAFETY: by contract.
        unsafe { four!(i => self.dword(s, index + i)) }
    }
    #[inline(always)]
    unsafe fn dword(self, s: S, index: usize) -> S::I {
        // SAFETY: by contract.
        unsafe { s.load_i(self.p.add(Self::HALFS + 4 * LANES * index)) }
    }
    #[inline(always)]
    unsafe fn half_bits(self, s: S, index: usize) -> S::I {
        // SAFETY: by contract.
        unsafe { s.load_words(self.p.add(2 * LANES * index)) }
    }
    #[inline(always)]
    unsafe fn half(self, s: S, index: usize) -> S::F {
        // SAFETY: by contract.
        unsafe { s.load_f16(self.p.add(2 * LANES * index)) }
    }
}

/// Writes `blocks` blocks of 16 rows at `rows`, `stride` bytes apart, as a panel at `out`.
///
/// # Safety
/// The rows must be readable and `16 * blocks` blocks at `out` writable.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, B: Block>(s: S, rows: Rows<B>, blocks: usize, out: *mut u8) {
    for i in 0..blocks {
        // SAFETY: block i of the rows, and its place in the panel.
        unsafe {
            let block = Source::<S>::block(rows, i);
            let out = out.add(i * B::BYTES * LANES);
            for half in 0..B::FIELDS.halfs {
                let bits = block.half_bits(s, half);
                s.store_low_words(out.add(2 * LANES * half), bits);
            }
            let out = out.add(Panel::<B>::HALFS);
            for dword in 0..B::FIELDS.dwords / 4 {
                for (k, v) in block.dwords4(s, 4 * dword).into_iter().enumerate() {
                    s.store_i(out.add(4 * LANES * (4 * dword + k)), v);
                }
            }
            for dword in B::FIELDS.dwords / 4 * 4..B::FIELDS.dwords {
                s.store_i(out.add(4 * LANES * dword), block.dword(s, dword));
            }
        }
    }
}
