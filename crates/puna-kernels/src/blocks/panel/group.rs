//! Panels of group matrices: integers with a scale and a zero per group (GPTQ, AWQ, int8).
//!
//! The zeros become biases, `-scale * zero`: they differ from group to group, so they cannot be
//! folded into the integers' sums as a constant zero is.

use super::{Blocks, ROWS, Sink, nibbles};
use crate::simd::Simd;

/// Groups whose factors are asked for before they are needed: theirs are two thin streams beside that
/// of the integers.
const GROUPS_AHEAD: usize = 8;

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
    /// The integers of the panel at column `col`: `[cols / 32, dwords of a block, 16]` dwords.
    pub(crate) integers_at: *const u8,
    /// [`Integers::Nibbles`] or [`Integers::Bytes`].
    pub(crate) integers: Integers,
    /// `[groups, 16]` of the panel.
    pub(crate) scales: ScalesAt,
    /// `[groups, 16]` of the panel.
    pub(crate) zeros: *const u8,
    pub(crate) group_size: usize,
    /// First column of the panel in its row.
    pub(crate) col: usize,
}

/// Scales of a panel.
#[derive(Clone, Copy)]
pub(crate) enum ScalesAt {
    F16(*const u16),
    F32(*const f32),
}

/// Where the integers and factors of 16 rows come from.
pub(super) trait GroupSource<S: Simd>: Copy {
    fn integers(self) -> Integers;
    /// The group of the first column, and how many columns of it are left from there on.
    fn first_group(self) -> (usize, usize);
    /// Columns of a group.
    fn group_size(self) -> usize;
    /// Dwords `4 quad ..` of block `index`, which has `dwords` of them.
    ///
    /// # Safety
    /// They must exist.
    unsafe fn dwords4(self, s: S, index: usize, quad: usize, dwords: usize) -> [S::I; 4];
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
    unsafe fn dwords4(self, s: S, index: usize, quad: usize, dwords: usize) -> [S::I; 4] {
        // SAFETY: by contract.
        unsafe { s.rows16(self.integers_at.add(4 * dwords * index + 16 * quad), self.stride) }
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

impl<S: Simd> GroupSource<S> for GroupPanel {
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
    unsafe fn dwords4(self, s: S, index: usize, quad: usize, dwords: usize) -> [S::I; 4] {
        let first = dwords * index + 4 * quad;
        // SAFETY: by contract.
        std::array::from_fn(|i| unsafe { s.load_i(self.integers_at.add(4 * ROWS * (first + i))) })
    }
    #[inline(always)]
    unsafe fn factors(self, s: S, group: usize) -> (S::F, S::F) {
        let ahead = ROWS * (group + GROUPS_AHEAD);
        s.prefetch(self.zeros.wrapping_add(ahead));
        // SAFETY: by contract.
        unsafe {
            let scale = match self.scales {
                ScalesAt::F16(scales) => {
                    s.prefetch(scales.wrapping_add(ahead).cast());
                    s.load_f16(scales.add(ROWS * group).cast())
                }
                ScalesAt::F32(scales) => {
                    s.prefetch(scales.wrapping_add(ahead).cast());
                    s.load(scales.add(ROWS * group))
                }
            };
            let zeros = s.to_f(s.widen_b(&*self.zeros.add(ROWS * group).cast()));
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
    if blocks.count == 0 {
        return;
    }
    // Counted, not divided: a division per block takes as long as its products.
    let (mut group, mut left) = from.first_group();
    // SAFETY: there is a block, so that its group exists.
    let mut factors = unsafe { from.factors(s, group) };
    for i in 0..blocks.count {
        // SAFETY: block i and its group exist.
        unsafe {
            if left == 0 {
                (group, left) = (group + 1, from.group_size());
                factors = from.factors(s, group);
            }
            left = left.saturating_sub(32);
            match from.integers() {
                Integers::Nibbles => {
                    blocks.prefetch(s, 16, i, (0, 1));
                    out.put(s, 32 * i, nibbles(s, from.dwords4(s, i, 0, 4)));
                }
                Integers::Bytes | Integers::Signed => {
                    let signed = matches!(from.integers(), Integers::Signed);
                    let flip = s.splat_i(if signed { 0x8080_8080_u32.cast_signed() } else { 0 });
                    blocks.prefetch(s, 32, i, (0, 1));
                    for half in 0..2 {
                        let bytes = from.dwords4(s, i, half, 8);
                        out.put(s, 32 * i + 16 * half, bytes.map(|q| s.xor_i(q, flip)));
                    }
                }
            }
            out.scale(s, i, factors.0);
            out.bias(s, i, factors.1);
        }
    }
}
