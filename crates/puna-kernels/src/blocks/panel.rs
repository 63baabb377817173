//! Sixteen rows at a time: quantized blocks unpacked so that lanes are rows.
//!
//! A [`Source`] gives the dwords and halfs of a block for 16 rows, a format's function does its bit
//! arithmetic on them, with scales and minimums for 16 rows at once, and a [`Sink`] or [`SuperSink`]
//! takes what comes out: dwords of four columns, a scale and perhaps a bias per sub-block. One kind of
//! sink writes it down for many tokens to come by, the other multiplies it at once with the only one.
//! The values are those of [`super::unpack`], which does single rows for exact dequantization; a test
//! compares.

/// A loop written out, so that what depends on its counter is known when it is compiled. Not for the
/// parts of superblocks: their loads would be too far apart for the hardware to follow
/// (docs/performance.md).
macro_rules! unrolled {
    ($i:ident in [$($n:literal)*] $body:block) => {
        $({
            let $i: usize = $n;
            $body
        })*
    };
}

/// Four times the same. Closures are not inlined for certain, and then each instruction is a call.
macro_rules! four {
    ($i:ident => $each:expr) => {
        [
            {
                let $i: usize = 0;
                $each
            },
            {
                let $i: usize = 1;
                $each
            },
            {
                let $i: usize = 2;
                $each
            },
            {
                let $i: usize = 3;
                $each
            },
        ]
    };
}

mod group;
mod k_quant;
mod legacy;
mod sink;
mod source;
pub(crate) use group::{GroupPanel, GroupRows, Integers};
pub(crate) use sink::{Columns, DIGIT, PanelBuffers, add_minimums, add_superblock};
pub(crate) use source::{Panel, Rows, Source, fields};

use crate::BlockFormat;
use crate::blocks::{Layout, Width, Zero};
use crate::simd::{LANES, Simd};
use group::PanelOf;
use sink::{Dots, Fill, Sink, SuperDots, SuperSink};
use source::Block;
use std::marker::PhantomData;

/// Rows of a panel.
pub(crate) const ROWS: usize = LANES;

/// What 16 rows are read from.
#[derive(Clone, Copy)]
pub(crate) enum From16 {
    /// Rows as a file has them: the first block of row 0, and the bytes between rows.
    Rows { format: BlockFormat, at: *const u8, stride: usize },
    /// Interleaved blocks; see [`source`].
    Panel { format: BlockFormat, at: *const u8 },
    /// Rows of integers with group scales.
    Group(GroupRows),
    /// The same interleaved.
    GroupPanel(GroupPanel),
}

/// Some blocks of 16 rows.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    pub(crate) from: From16,
    pub(crate) count: usize,
    /// What will be wanted next; as many bytes as these blocks have are prefetched from here on.
    pub(crate) ahead: *const u8,
}

impl Blocks {
    /// Asks for the lines of part `part` of `parts` of a block's share of the memory ahead. Spread over
    /// the block, since a burst of requests keeps loads waiting; counted from the block's first byte,
    /// so that how many they are is known when it is compiled.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, bytes: usize, index: usize, (part, parts): (usize, usize)) {
        let len = bytes * ROWS;
        let ahead = self.ahead.wrapping_add(index * len);
        for line in (part * len / parts).div_ceil(64)..((part + 1) * len / parts).div_ceil(64) {
            s.prefetch(ahead.wrapping_add(64 * line));
        }
    }
}

/// Format types, and the choices among them.
macro_rules! formats {
    ($($format:ident => $module:ident::$body:ident, $dots:ident;)*) => {
        $(#[derive(Clone, Copy)]
        pub(crate) struct $format;
        impl Block for $format {
            const FORMAT: BlockFormat = BlockFormat::$format;
        })*

        /// Writes blocks down in uniform form.
        ///
        /// # Safety
        /// The blocks must be readable and the buffers have room for them.
        #[inline(always)]
        pub(crate) unsafe fn fill<S: Simd>(s: S, blocks: &Blocks, to: &PanelBuffers) {
            let out = &mut Fill(*to);
            // SAFETY: the caller vouches for the pointers.
            unsafe {
                match blocks.from {
                    $(From16::Rows { format: BlockFormat::$format, at, stride } => {
                        let rows = Rows::<$format> { p: at, stride, format: PhantomData };
                        $module::$body(s, rows, blocks, out);
                    }
                    From16::Panel { format: BlockFormat::$format, at } => {
                        $module::$body(s, Panel::<$format>::new(at), blocks, out);
                    })*
                    From16::Rows { .. } | From16::Panel { .. } => {}
                    From16::Group(rows) => group::unpack(s, rows, blocks, out),
                    From16::GroupPanel(panel) => match panel.layout.bits {
                        4 => group::unpack(s, PanelOf::<4>(panel), blocks, out),
                        _ => group::unpack(s, PanelOf::<8>(panel), blocks, out),
                    },
                }
            }
        }

        /// Multiplies blocks with one token: 16 outputs.
        ///
        /// # Safety
        /// The blocks and the token's columns must be readable.
        #[inline(always)]
        pub(crate) unsafe fn dot<S: Simd>(
            s: S,
            blocks: &Blocks,
            x: &Columns,
            out: &mut [f32; ROWS],
        ) {
            // SAFETY: the caller vouches for the pointers; a format's sub-blocks and zero are those
            // of its layout.
            unsafe {
                let y = match blocks.from {
                    $(From16::Panel { format: BlockFormat::$format, at } => {
                        const LAYOUT: Layout = $format::LAYOUT;
                        const BIAS: bool = matches!(LAYOUT.zero, Zero::Bias);
                        const SUBS: usize = $format::FORMAT.block_len() / LAYOUT.sub;
                        let mut out = $dots::<S, { LAYOUT.sub }, SUBS, BIAS>::new(s, x, LAYOUT.width());
                        $module::$body(s, Panel::<$format>::new(at), blocks, &mut out);
                        out.total()
                    })*
                    From16::Panel { .. } | From16::Rows { .. } => return,
                    From16::Group(rows) => {
                        let mut out = Dots::<S, 32, 1, true>::new(s, x, rows.integers.width());
                        group::unpack(s, rows, blocks, &mut out);
                        out.total()
                    }
                    From16::GroupPanel(panel) => {
                        let mut out = Dots::<S, 32, 1, true>::new(s, x, panel.width());
                        match panel.layout.bits {
                            4 => group::unpack(s, PanelOf::<4>(panel), blocks, &mut out),
                            _ => group::unpack(s, PanelOf::<8>(panel), blocks, &mut out),
                        }
                        out.total()
                    }
                };
                s.store(out.as_mut_ptr(), y);
            }
        }

        /// Interleaves `blocks` blocks of 16 rows; see [`source`].
        ///
        /// # Safety
        /// Rows `stride` bytes apart must be readable at `rows`, and `16 * blocks` blocks at `out`
        /// writable.
        #[inline(always)]
        pub(crate) unsafe fn pack<S: Simd>(
            s: S,
            format: BlockFormat,
            (rows, stride): (*const u8, usize),
            blocks: usize,
            out: *mut u8,
        ) {
            // SAFETY: the caller vouches for the pointers.
            unsafe {
                match format {
                    $(BlockFormat::$format => {
                        let rows = Rows::<$format> { p: rows, stride, format: PhantomData };
                        source::pack(s, rows, blocks, out);
                    })*
                    BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16 => {}
                }
            }
        }
    };
}

formats! {
    Q4_0 => legacy::q4_0, Dots;
    Q4_1 => legacy::q4_1, Dots;
    Q5_0 => legacy::q5_0, Dots;
    Q5_1 => legacy::q5_1, Dots;
    Q8_0 => legacy::q8_0, Dots;
    Iq4Nl => legacy::iq4_nl, Dots;
    Q2K => k_quant::q2_k, SuperDots;
    Q3K => k_quant::q3_k, SuperDots;
    Q4K => k_quant::q4_k, SuperDots;
    Q5K => k_quant::q5_k, SuperDots;
    Q6K => k_quant::q6_k, SuperDots;
}

/// The low nibbles of four dwords, then the high ones.
#[inline(always)]
fn nibbles<S: Simd>(s: S, packed: [S::I; 4]) -> [S::I; 8] {
    let mask = s.splat_i(0x0f0f_0f0f);
    let low = four!(i => s.and_i(packed[i], mask));
    let high = four!(i => s.and_i(s.shr_i(packed[i], 4), mask));
    [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
}

impl GroupPanel {
    #[inline(always)]
    fn width(self) -> Width {
        if self.layout.bits == 4 { Width::Four } else { Width::Eight }
    }
}

impl Integers {
    /// Bits that the integers need.
    #[inline(always)]
    fn width(self) -> Width {
        if matches!(self, Integers::Nibbles) { Width::Four } else { Width::Eight }
    }
}
