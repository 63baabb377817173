//! Quantized blocks in one uniform form.
//!
//! Every quantized format becomes unsigned bytes with an f32 scale (and where the format has one
//! an f32 bias) per sub-block of 16 or 32 weights: for single rows here, as exact dequantization
//! takes them, and for 16 rows side by side in [`panel`], as the integer products do. ggml instead
//! has a dequantizer and a dot product per format and instruction set.

mod k_quant;
mod legacy;
pub(crate) mod panel;

use crate::BlockFormat;
use crate::simd::Simd;

/// Columns that are unpacked at a time; a multiple of every block length.
pub(crate) const CHUNK: usize = 512;

/// Where a sub-block's zero lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    /// `w = scale (q - zero)`, the same zero in every block.
    Constant(u8),
    /// `w = scale q + bias`.
    Bias,
}

/// How many bits the unsigned quants may need, and so how many products with activations of 8 bits fit
/// into 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// At most 15: sixteen products.
    Four,
    /// At most 31: eight.
    Five,
    /// At most 63: four.
    Six,
    /// At most 127: two.
    Seven,
    /// Up to 255.
    Eight,
    /// Up to 255, from 128 on counted: bytes with a sign, of which two products fit.
    Signed,
}

/// What the scales of sub-blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// Floats, and so are biases.
    Floats,
    /// Integers times a float of their superblock, and so are biases.
    Integers,
}

/// Columns of a superblock.
pub(crate) const SUPERBLOCK: usize = 256;

/// The uniform form of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Weights per scale: 16 or 32.
    pub(crate) sub: usize,
    pub(crate) zero: Zero,
    /// The largest quant; from a constant zero it is not farther than 0 is.
    pub(crate) top: u8,
    pub(crate) scales: Scales,
}

impl Layout {
    /// Bits of the quants.
    pub(crate) const fn width(self) -> Width {
        match (self.top, self.zero) {
            (..=15, _) => Width::Four,
            (..=31, _) => Width::Five,
            (..=63, _) => Width::Six,
            (..=127, _) => Width::Seven,
            (_, Zero::Constant(128)) => Width::Signed,
            _ => Width::Eight,
        }
    }

    /// Columns of 8-bit activations with one scale.
    pub(crate) const fn activations_per_scale(self) -> usize {
        match self.scales {
            Scales::Floats => 32,
            Scales::Integers => SUPERBLOCK,
        }
    }
}

/// The uniform form of a quantized format; `None` for floats.
pub(crate) const fn layout(format: BlockFormat) -> Option<Layout> {
    use BlockFormat as F;
    let scales = match format {
        F::Q2K | F::Q3K | F::Q4K | F::Q5K | F::Q6K => Scales::Integers,
        _ => Scales::Floats,
    };
    let (sub, zero, top) = match format {
        F::F32 | F::F16 | F::BF16 => return None,
        F::Q4_0 => (32, Zero::Constant(8), 15),
        F::Q5_0 => (32, Zero::Constant(16), 31),
        F::Q4_1 | F::Q4K => (32, Zero::Bias, 15),
        F::Q5_1 | F::Q5K => (32, Zero::Bias, 31),
        F::Q8_0 | F::Iq4Nl => (32, Zero::Constant(128), 255),
        F::Q2K => (16, Zero::Bias, 3),
        F::Q3K => (16, Zero::Constant(4), 7),
        F::Q6K => (16, Zero::Constant(32), 63),
    };
    Some(Layout { sub, zero, top, scales })
}

/// Weights of a piece of a row in the uniform form.
pub(crate) struct Unpacked<'a> {
    /// `[cols]`.
    pub(crate) quants: &'a mut [u8],
    /// `[cols / sub]`.
    pub(crate) scales: &'a mut [f32],
    /// `[cols / sub]`; left alone where the zero is constant.
    pub(crate) bias: &'a mut [f32],
}

/// Unpacks whole blocks; safe whatever the lengths are (the shortest one decides).
#[inline(always)]
pub(crate) fn unpack<S: Simd>(s: S, format: BlockFormat, bytes: &[u8], out: &mut Unpacked) {
    use BlockFormat as F;
    match format {
        F::F32 | F::F16 | F::BF16 => {}
        F::Q4_0 => legacy::q4_0(s, bytes, out),
        F::Q4_1 => legacy::q4_1(s, bytes, out),
        F::Q5_0 => legacy::q5_0(s, bytes, out),
        F::Q5_1 => legacy::q5_1(s, bytes, out),
        F::Q8_0 => legacy::q8_0(s, bytes, out),
        F::Iq4Nl => legacy::iq4_nl(s, bytes, out),
        F::Q2K => k_quant::q2_k(s, bytes, out),
        F::Q3K => k_quant::q3_k(s, bytes, out),
        F::Q4K => k_quant::q4_k(s, bytes, out),
        F::Q5K => k_quant::q5_k(s, bytes, out),
        F::Q6K => k_quant::q6_k(s, bytes, out),
    }
}

/// Widens a float format to f32.
#[inline(always)]
pub(crate) fn widen(format: BlockFormat, bytes: &[u8], out: &mut [f32]) {
    use crate::numbers::{bf16_to_f32, f16_to_f32};
    match format {
        BlockFormat::F32 => {
            for (y, &b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *y = f32::from_le_bytes(b);
            }
        }
        BlockFormat::F16 => {
            for (y, &b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *y = f16_to_f32(u16::from_le_bytes(b));
            }
        }
        _ => {
            for (y, &b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *y = bf16_to_f32(u16::from_le_bytes(b));
            }
        }
    }
}

/// `N` bytes of a block from `at` on.
#[inline(always)]
fn piece<const M: usize, const N: usize>(block: &[u8; M], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[at..at + N]);
    out
}

/// The little-endian half at `at`.
#[inline(always)]
fn half_at<S: Simd, const N: usize>(s: S, block: &[u8; N], at: usize) -> f32 {
    s.half(u16::from_le_bytes(piece(block, at)))
}
