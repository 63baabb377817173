//! Panels of group matrices: integers with a scale and a zero per group (GPTQ, AWQ, int8).
//!
//! The zeros become biases, `-scale * zero`: they differ from group to group, so they cannot be
//! folded into the integers' sums as a constant zero is.

use super::{Blocks, ROWS, Sink, nibbles};
use crate::GroupScales;
use crate::panels::GroupLayout;
use crate::simd::Simd;

/// How the integers of a row are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Integers {
    /// 16 bytes per 32 columns: low nibbles, then high ones.
    Nibbles,
    /// Unsigned bytes.
    Bytes,
    /// Signed bytes.
    Signed,
}

/// Blocks of 32 columns of 16 rows, none of which straddles groups.
#[derive(Clone, Copy)]
pub(crate) struct GroupRows {
    /// The integers of row 0 at column `col`.
    pub(crate) integers_at: *const u8,
    /// Bytes between rows.
    pub(crate) stride: usize,
    pub(crate) integers: Integers,
    /// Scales of row 0, all groups.
    pub(crate) scales: *const f32,
    /// Zeros of row 0, all groups; null where they are zero.
    pub(crate) zeros: *const u8,
    /// Groups per row: the distance of rows in `scales` and `zeros`.
    pub(crate) groups: usize,
    pub(crate) group_size: usize,
    /// First column of the panel in its row.
    pub(crate) col: usize,
}

/// Blocks of 32 columns of 16 interleaved rows, none of which straddles groups.
#[derive(Clone, Copy)]
pub(crate) struct GroupPanel {
    /// The first byte of the panel.
    pub(crate) panel: *const u8,
    pub(crate) layout: GroupLayout,
    /// First column of the blocks in the row.
    pub(crate) col: usize,
    /// How many bytes ahead of its use memory is asked for.
    pub(crate) ahead: usize,
}

/// Where the integers and factors of 16 rows come from.
pub(super) trait GroupSource<S: Simd>: Copy {
    fn integers(self) -> Integers;
    /// The group of the first column, and how many columns of it are left from there on.
    fn first_group(self) -> (usize, usize);
    /// Columns of a group.
    fn group_size(self) -> usize;
    /// Block `index`, whose columns are of group `group`.
    ///
    /// # Safety
    /// It must exist.
    unsafe fn block(self, index: usize, group: usize) -> *const u8;
    /// From one block of a group to the next.
    fn block_bytes(self) -> usize;
    /// Dwords `4 quad ..` of a block.
    ///
    /// # Safety
    /// They must exist.
    unsafe fn dwords4(self, s: S, block: *const u8, quad: usize) -> [S::I; 4];
    /// Asks for what comes some time after a block of `bytes` bytes.
    fn prefetch(self, s: S, blocks: &Blocks, index: usize, block: (*const u8, usize));
    /// The scales of a group, and `-scale * zero`.
    ///
    /// # Safety
    /// The group must exist.
    unsafe fn factors(self, s: S, group: usize) -> (S::F, S::F);
}

impl<S: Simd> GroupSource<S> for GroupRows {
    #[inline(always)]
    fn integers(self) -> Integers {
        self.integers
    }
    #[inline(always)]
    fn first_group(self) -> (usize, usize) {
        (self.col / self.group_size, self.group_size - self.col % self.group_size)
    }
    #[inline(always)]
    fn group_size(self) -> usize {
        self.group_size
    }
    #[inline(always)]
    fn block_bytes(self) -> usize {
        if matches!(self.integers, Integers::Nibbles) { 16 } else { 32 }
    }
    #[inline(always)]
    unsafe fn block(self, index: usize, _group: usize) -> *const u8 {
        // SAFETY: by contract.
        unsafe { self.integers_at.add(GroupSource::<S>::block_bytes(self) * index) }
    }
    #[inline(always)]
    unsafe fn dwords4(self, s: S, block: *const u8, quad: usize) -> [S::I; 4] {
        // SAFETY: by contract.
        unsafe { s.rows16(block.add(16 * quad), self.stride) }
    }
    #[inline(always)]
    fn prefetch(self, s: S, blocks: &Blocks, index: usize, (_, bytes): (*const u8, usize)) {
        blocks.prefetch(s, bytes / ROWS, index, (0, 1));
    }
    #[inline(always)]
    unsafe fn factors(self, s: S, group: usize) -> (S::F, S::F) {
        let offset = if matches!(self.integers, Integers::Signed) { 128.0 } else { 0.0 };
        let mut zeros = [offset; ROWS];
        if !self.zeros.is_null() {
            for (row, zero) in zeros.iter_mut().enumerate() {
                // SAFETY: by contract.
                *zero += f32::from(unsafe { *self.zeros.add(row * self.groups + group) });
            }
        }
        // SAFETY: scales by contract, zeros because of the array's size.
        unsafe {
            let scale = s.of_bits(s.rows4(self.scales.add(group).cast(), 4 * self.groups));
            (scale, minus_product(s, scale, s.load(zeros.as_ptr())))
        }
    }
}

/// A panel whose integers have `BITS` bits.
#[derive(Clone, Copy)]
pub(super) struct PanelOf<const BITS: usize>(pub(super) GroupPanel);

impl<S: Simd, const BITS: usize> GroupSource<S> for PanelOf<BITS> {
    #[inline(always)]
    fn integers(self) -> Integers {
        if BITS == 4 { Integers::Nibbles } else { Integers::Bytes }
    }
    #[inline(always)]
    fn first_group(self) -> (usize, usize) {
        let size = self.0.layout.group_size;
        (self.0.col / size, size - self.0.col % size)
    }
    #[inline(always)]
    fn group_size(self) -> usize {
        self.0.layout.group_size
    }
    #[inline(always)]
    fn block_bytes(self) -> usize {
        4 * ROWS * BITS
    }
    #[inline(always)]
    unsafe fn block(self, index: usize, group: usize) -> *const u8 {
        // SAFETY: by contract.
        unsafe { self.0.panel.add(self.0.layout.integers_at(self.0.col / 32 + index, group)) }
    }
    #[inline(always)]
    unsafe fn dwords4(self, s: S, block: *const u8, quad: usize) -> [S::I; 4] {
        // SAFETY: by contract.
        unsafe { four!(i => s.load_i(block.add(4 * ROWS * (4 * quad + i)))) }
    }
    #[inline(always)]
    fn prefetch(self, s: S, _blocks: &Blocks, _index: usize, (block, bytes): (*const u8, usize)) {
        for line in 0..bytes / 64 {
            s.prefetch(block.wrapping_add(self.0.ahead + 64 * line));
        }
    }
    #[inline(always)]
    unsafe fn factors(self, s: S, group: usize) -> (S::F, S::F) {
        let GroupPanel { panel, layout, ahead, .. } = self.0;
        if GroupLayout::begins_bundle(group) {
            let bundle = panel.wrapping_add(layout.scales_at(group));
            for line in 0..layout.factor_bytes() / 64 {
                s.prefetch(bundle.wrapping_add(ahead + 64 * line));
            }
        }
        // SAFETY: by contract.
        unsafe {
            let scales = panel.add(layout.scales_at(group));
            let scale = match layout.scales {
                GroupScales::F16 => s.load_f16(scales),
                GroupScales::F32 => s.load(scales.cast()),
            };
            let zeros = s.to_f(s.widen_b(&*panel.add(layout.zeros_at(group)).cast()));
            (scale, minus_product(s, scale, zeros))
        }
    }
}

#[inline(always)]
fn minus_product<S: Simd>(s: S, a: S::F, b: S::F) -> S::F {
    s.mul(s.sub(s.splat(0.0), a), b)
}

/// Unpacks blocks of 32 columns.
///
/// # Safety
/// The blocks must be readable, and `out` has room for them.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, R: GroupSource<S>, K: Sink<S>>(
    s: S,
    from: R,
    blocks: &Blocks,
    out: &mut K,
) {
    // Counted, not divided: a division per block takes as long as its products.
    let (mut group, mut left) = from.first_group();
    let mut first = 0;
    while first < blocks.count {
        let end = blocks.count.min(first.saturating_add(left.div_ceil(32)));
        // SAFETY: there is a block left, so that its group exists, and blocks up to `end` are of it.
        unsafe {
            let factors = from.factors(s, group);
            let mut block = from.block(first, group);
            for i in first..end {
                match from.integers() {
                    Integers::Nibbles => {
                        from.prefetch(s, blocks, i, (block, 16 * ROWS));
                        out.put(s, 32 * i, nibbles(s, from.dwords4(s, block, 0)));
                    }
                    Integers::Bytes | Integers::Signed => {
                        let signed = matches!(from.integers(), Integers::Signed);
                        let flip =
                            s.splat_i(if signed { 0x8080_8080_u32.cast_signed() } else { 0 });
                        from.prefetch(s, blocks, i, (block, 32 * ROWS));
                        unrolled!(half in [0 1] {
                            let bytes = from.dwords4(s, block, half);
                            out.put(s, 32 * i + 16 * half, four!(k => s.xor_i(bytes[k], flip)));
                        });
                    }
                }
                out.scale(s, i, factors.0);
                out.bias(s, i, factors.1);
                block = block.wrapping_add(from.block_bytes());
            }
        }
        (first, group, left) = (end, group + 1, from.group_size());
    }
}
