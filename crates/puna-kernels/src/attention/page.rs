//! Pages of the KV cache: the keys and values of 64 positions of one layer.
//!
//! For each key/value head a page holds K transposed, `[D][64]`, and V as it comes, `[64][D]`: the
//! lanes of a vector are 64 keys in the first product of attention and the features of a value in
//! the second, so that neither ever sums over lanes. Rows of V are filled up to whole lane vectors
//! with zeros. A slot that was never written, or that holds what a truncated sequence left, is
//! never read as a value, and its score is thrown away.

use crate::KernelError;
use crate::kernels::Kernels;
use crate::line::Line;
use crate::numbers::{f16_to_f32, f32_to_f16};
use crate::simd::{LANES, Simd};

/// Positions of a page; page `p` holds the positions from `64 p` on.
pub const KV_PAGE: usize = 64;

/// Values that share a scale in [`KvType::Q8_0`].
pub(super) const KV_BLOCK: usize = 32;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    /// As they are computed.
    F32,
    /// Rounded to IEEE half; what is above 65504 becomes infinite.
    F16,
    /// 8-bit, with an f16 scale for each 32 values of a head's vector of one token.
    Q8_0,
}

impl KvType {
    /// Every type, the most precise first.
    pub const ALL: &[KvType] = &[KvType::F32, KvType::F16, KvType::Q8_0];

    /// `f32`, `f16` or `q8_0`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Bytes of `values` values, with their scales.
    #[must_use]
    pub fn bytes(self, values: u64) -> u64 {
        match self {
            Self::F32 => values.saturating_mul(4),
            Self::F16 => values.saturating_mul(2),
            Self::Q8_0 => values.saturating_add(values / KV_BLOCK as u64 * 2),
        }
    }

    /// Bytes of a value without its scale.
    pub(super) fn value_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q8_0 => 1,
        }
    }
}

/// What the pages of a layer look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    pub(super) kv_type: KvType,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

/// Where the parts of one head lie in its share of a page, in bytes; keys are at 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    /// `[D / 32][64]` f16.
    pub(super) k_scales: usize,
    /// `[64][D]`, rows filled up to whole lane vectors.
    pub(super) v: usize,
    /// `[D / 32][64]` f16.
    pub(super) v_scales: usize,
    /// All of them.
    pub(super) bytes: usize,
}

impl KvLayout {
    /// Pages of `kv_heads` heads of `head_dim` features.
    ///
    /// # Errors
    /// [`KernelError::KvBlock`] where `head_dim` is not a multiple of the 32 values that share a
    /// scale.
    pub fn new(kv_type: KvType, kv_heads: usize, head_dim: usize) -> Result<Self, KernelError> {
        if kv_type == KvType::Q8_0 && !head_dim.is_multiple_of(KV_BLOCK) {
            return Err(KernelError::KvBlock { head_dim });
        }
        Ok(Self { kv_type, kv_heads, head_dim })
    }

    /// How values are stored.
    #[must_use]
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Width of a token's keys, and of its values: `K·D`.
    #[must_use]
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.kv_heads * self.parts().bytes
    }

    /// Features of a row of V, filled up.
    pub(super) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    pub(super) fn parts(&self) -> Parts {
        let value = self.kv_type.value_bytes();
        let scales = match self.kv_type {
            KvType::Q8_0 => self.head_dim / KV_BLOCK * KV_PAGE * 2,
            KvType::F32 | KvType::F16 => 0,
        };
        let k_scales = self.head_dim * KV_PAGE * value;
        let v = k_scales + scales;
        let v_scales = v + KV_PAGE * self.padded_dim() * value;
        Parts { k_scales, v, v_scales, bytes: v_scales + scales }
    }
}

/// Keys and values of 64 positions of one layer.
#[derive(Debug, Clone)]
pub struct KvPage {
    layout: KvLayout,
    lines: Box<[Line]>,
}

impl KvPage {
    /// An empty page.
    #[must_use]
    pub fn new(layout: KvLayout) -> Self {
        let lines = layout.page_bytes().div_ceil(size_of::<Line>());
        Self { layout, lines: vec![Line::ZERO; lines].into_boxed_slice() }
    }

    /// What it looks like.
    #[must_use]
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// Writes the keys and values of consecutive tokens, the first of which goes to slot `slot`.
    ///
    /// # Shapes
    /// `k`, `v`: `[T, kv_heads, head_dim]`.
    ///
    /// # Panics
    /// If lengths do not agree or the tokens do not fit behind `slot`.
    pub fn write(&mut self, slot: usize, k: &[f32], v: &[f32]) {
        let width = self.layout.width();
        assert_eq!(k.len(), v.len(), "keys and values");
        assert!(width > 0 && k.len().is_multiple_of(width), "tokens of {width} values");
        let tokens = k.len() / width;
        assert!(slot <= KV_PAGE && tokens <= KV_PAGE - slot, "{tokens} tokens at slot {slot}");
        let (page, layout) = (self.lines.as_mut_ptr().cast(), self.layout);
        let write = PageWrite { page, layout, slot, tokens, k: k.as_ptr(), v: v.as_ptr() };
        // SAFETY: the page has the layout's size, slots and lengths were checked.
        unsafe { Kernels::get().write_page(&write) }
    }

    /// A head's share.
    pub(super) fn head(&self, head: usize) -> *const u8 {
        self.lines.as_ptr().cast::<u8>().wrapping_add(head * self.layout.parts().bytes)
    }
}

/// Tokens on their way into a page.
pub(crate) struct PageWrite {
    page: *mut u8,
    layout: KvLayout,
    slot: usize,
    tokens: usize,
    /// `[tokens, K·D]`
    k: *const f32,
    /// `[tokens, K·D]`
    v: *const f32,
}

/// [`KvPage::write`].
///
/// # Safety
/// The pointers must cover the layout's page and the tokens, which fit behind the slot.
#[inline(always)]
pub(crate) unsafe fn write_page<S: Simd>(s: S, w: &PageWrite) {
    let parts = w.layout.parts();
    for head in 0..w.layout.kv_heads {
        let at = head * w.layout.head_dim;
        // SAFETY: heads are within the page and the tokens' rows.
        unsafe {
            let to = w.page.add(head * parts.bytes);
            let (k, v) = (w.k.add(at), w.v.add(at));
            match w.layout.kv_type {
                KvType::F32 | KvType::F16 => write_floats(s, w, to, (k, v)),
                KvType::Q8_0 => write_quants(w, to, (k, v)),
            }
        }
    }
}

/// Stores a lane vector as the layout's floats.
///
/// # Safety
/// The page must be writable there.
#[inline(always)]
unsafe fn put<S: Simd>(s: S, kv_type: KvType, to: *mut u8, index: usize, v: S::F) {
    // SAFETY: by contract.
    unsafe {
        match kv_type {
            KvType::F32 => s.store(to.cast::<f32>().add(index), v),
            _ => s.store_f16(to.cast::<u16>().add(index).cast(), v),
        }
    }
}

/// Stores one value as the layout's floats.
///
/// # Safety
/// The page must be writable there.
#[inline(always)]
unsafe fn put_one(kv_type: KvType, to: *mut u8, index: usize, v: f32) {
    // SAFETY: by contract; the parts of a page are aligned to their values.
    unsafe {
        match kv_type {
            KvType::F32 => to.cast::<f32>().add(index).write(v),
            _ => to.cast::<u16>().add(index).write(f32_to_f16(v)),
        }
    }
}

/// One head of the tokens as floats; 16 tokens x 16 features are transposed at a time.
///
/// # Safety
/// As [`write_page`], for the head at `to`, `k` and `v`.
#[inline(always)]
unsafe fn write_floats<S: Simd>(
    s: S,
    w: &PageWrite,
    to: *mut u8,
    (k, v): (*const f32, *const f32),
) {
    let KvLayout { kv_type, head_dim, .. } = w.layout;
    let (width, padded) = (w.layout.width(), w.layout.padded_dim());
    let whole = |n: usize| n - n % LANES;
    let mut tile = [0f32; LANES * LANES];
    // SAFETY: tokens, features and slots are in range by contract.
    unsafe {
        let values = to.add(w.layout.parts().v);
        for t in (0..whole(w.tokens)).step_by(LANES) {
            for d in (0..whole(head_dim)).step_by(LANES) {
                let from = k.add(t * width + d).cast::<u8>();
                let out = tile.as_mut_ptr().cast::<u8>();
                for quad in 0..4 {
                    let dwords = s.rows16(from.add(16 * quad), 4 * width);
                    for (i, v) in dwords.into_iter().enumerate() {
                        s.store_i(out.add(4 * LANES * (4 * quad + i)), v);
                    }
                }
                for i in 0..LANES {
                    let row = s.load(tile.as_ptr().add(i * LANES));
                    put(s, kv_type, to, (d + i) * KV_PAGE + w.slot + t, row);
                }
            }
        }
        for t in 0..w.tokens {
            let (k, v, slot) = (k.add(t * width), v.add(t * width), w.slot + t);
            let transposed = if t < whole(w.tokens) { whole(head_dim) } else { 0 };
            for d in transposed..head_dim {
                put_one(kv_type, to, d * KV_PAGE + slot, *k.add(d));
            }
            for d in (0..whole(head_dim)).step_by(LANES) {
                put(s, kv_type, values, slot * padded + d, s.load(v.add(d)));
            }
            for d in whole(head_dim)..head_dim {
                put_one(kv_type, values, slot * padded + d, *v.add(d));
            }
        }
    }
}

/// One head of the tokens as 8-bit blocks.
///
/// # Safety
/// As [`write_page`], for the head at `to`, `k` and `v`.
#[inline(always)]
unsafe fn write_quants(w: &PageWrite, to: *mut u8, (k, v): (*const f32, *const f32)) {
    let (parts, width, dim) = (w.layout.parts(), w.layout.width(), w.layout.head_dim);
    // SAFETY: tokens, features and slots are in range by contract; scales are aligned.
    unsafe {
        for t in 0..w.tokens {
            let slot = w.slot + t;
            for block in 0..dim / KV_BLOCK {
                let (at, scale_at) = (block * KV_BLOCK, block * KV_PAGE + slot);
                let (scale, quants) = quantize(&*k.add(t * width + at).cast());
                to.add(parts.k_scales).cast::<u16>().add(scale_at).write(scale);
                for (i, &quant) in quants.iter().enumerate() {
                    to.add((at + i) * KV_PAGE + slot).write(quant.cast_unsigned());
                }
                let (scale, quants) = quantize(&*v.add(t * width + at).cast());
                to.add(parts.v_scales).cast::<u16>().add(scale_at).write(scale);
                to.add(parts.v + slot * dim + at).cast::<[i8; KV_BLOCK]>().write(quants);
            }
        }
    }
}

/// An f16 scale and 8-bit multiples of it; a NaN makes the scale NaN.
#[inline(always)]
fn quantize(x: &[f32; KV_BLOCK]) -> (u16, [i8; KV_BLOCK]) {
    let larger = |m: f32, x: f32| if x > m || x.is_nan() { x } else { m };
    let largest = x.iter().fold(0.0, |m, x| larger(m, x.abs()));
    let scale = f32_to_f16(largest / 127.0);
    // Quants are multiples of the scale as it is stored, not of the one before rounding.
    let stored = f16_to_f32(scale);
    let inverse = if stored == 0.0 { 0.0 } else { 1.0 / stored };
    (scale, x.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_q8_0_layout_needs_blocks_of_32() {
        assert!(KvLayout::new(KvType::Q8_0, 2, 64).is_ok());
        let error = KvLayout::new(KvType::Q8_0, 2, 80).unwrap_err();
        assert!(error.to_string().contains("head_dim is 80"), "{error}");
    }

    #[test]
    fn page_bytes_are_those_of_the_values_and_their_scales() {
        for &kv_type in KvType::ALL {
            let layout = KvLayout::new(kv_type, 3, 64).unwrap();
            let values = 2 * KV_PAGE as u64 * 3 * 64;
            assert_eq!(layout.page_bytes() as u64, kv_type.bytes(values));
            assert_eq!(KvPage::new(layout).bytes(), layout.page_bytes());
        }
    }

    #[test]
    fn quants_are_multiples_of_the_stored_scale() {
        let mut x = [0.0; KV_BLOCK];
        (x[0], x[1], x[2]) = (127.0, -64.4, 0.6);
        let (scale, quants) = quantize(&x);
        assert_eq!((f16_to_f32(scale), &quants[..4]), (1.0, &[127, -64, 1, 0][..]));
        x[5] = f32::NAN;
        assert!(f16_to_f32(quantize(&x).0).is_nan());
    }
}
