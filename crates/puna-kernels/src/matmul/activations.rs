//! Activations in the form that fast kernels take: 8-bit blocks of 32 or 256, or bfloat16.

use super::panel::{PanelProduct, PanelSource};
use super::tokens::AlignedTokens;
use crate::Isa;
use crate::blocks::panel::DIGIT;
use crate::blocks::{Layout, SUPERBLOCK, Scales, Zero};
use crate::kernels::Kernels;
use crate::matrix::Matrix;
use crate::numbers::f32_to_bf16;
use crate::parallel::{OutPtr, for_each_chunk_mut};
use crate::pool;
use crate::simd::{LANES, Simd};

/// Values from which conversion is worth a second thread.
pub(super) const MIN_PARALLEL: usize = 16 * 1024;

/// Tokens that products in tiles take at a time.
const TOKENS_OF_A_TILE: usize = 16;

/// Tokens in one order of the columns, in the forms that were asked for.
#[derive(Default)]
pub(super) struct Prepared {
    /// Where the act-order lies by which column `j` is input `order[j]`. Matrices of one input share
    /// theirs, and it stays where it is as long as the form: comparing contents would read it as
    /// often as there are matrices, behind weights that have pushed it out of the caches.
    order: Option<OrderAt>,
    /// The tokens in that order.
    reordered: Vec<f32>,
    /// The same as bfloat16, if they are.
    rounded: AlignedTokens,
    is_rounded: bool,
    /// Signed bytes with a scale per 32 columns, and with one per superblock.
    quantized: [Quantized; 2],
}

/// Tokens of signed bytes with one scale per block of columns.
#[derive(Default)]
struct Quantized {
    /// Whether it is of these tokens.
    is_live: bool,
    /// `[tokens, cols]`, within ±127.
    quants: Vec<i8>,
    /// `[tokens, cols / block]`.
    scales: Vec<f32>,
    /// `[tokens / 16, cols / block, 16]`: those of 16 tokens side by side, for products in tiles.
    by_sixteen: Vec<f32>,
    /// `[tokens, cols / 16]`: sums of 16 quants.
    sums: Vec<i32>,
    /// `[tokens, cols / 256]`, only of superblocks.
    sizes: Vec<Sizes>,
    terms: Vec<ZeroTerms>,
    /// How many of the terms belong to these tokens.
    live_terms: usize,
}

/// How large the sums of a superblock's quants can be with weights beside them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sizes {
    /// The largest sum of the magnitudes of 16.
    magnitudes: i32,
    /// The largest sum of the quants with one sign of 32.
    one_sided: i32,
}

impl Sizes {
    /// Whether the products of every sub-block with weights of a form add up to 16 bits.
    fn are_short(self, layout: Layout) -> bool {
        let largest = match layout.zero {
            // Of sub-blocks of 16 columns.
            Zero::Constant(zero) => i32::from(zero) * self.magnitudes,
            Zero::Bias => i32::from(layout.top) * self.one_sided,
        };
        largest <= i32::from(i16::MAX)
    }
}

/// The place of an order in memory, by which it is known while it is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OrderAt {
    address: usize,
    len: usize,
}

impl OrderAt {
    fn of(order: &[u32]) -> Self {
        Self { address: order.as_ptr().addr(), len: order.len() }
    }
}

/// What the zeros of the weights add, per sub-block of the weights: `[tokens, cols / sub]`.
struct ZeroTerms {
    layout: Layout,
    /// Minus the weights' constant zero times the sum of the quants: the start of integer sums.
    /// Empty for weights with biases.
    integers: Vec<i32>,
    /// Scale times the sum of the quants: the factor of the weights' biases. Empty for weights
    /// with a constant zero and for superblocks.
    floats: Vec<f32>,
    /// `[tokens, cols / 256, 2, 256 / sub]`: the sums in two digits, see [`Columns::digits`]; empty for
    /// others than superblocks with minimums.
    ///
    /// [`Columns::digits`]: crate::blocks::panel::Columns
    digits: Vec<i8>,
    /// The digits as bfloat16, for products in tiles.
    words: Vec<u16>,
    /// `[tokens, cols / 256]`: see [`Columns::short`]; empty for others than superblocks.
    ///
    /// [`Columns::short`]: crate::blocks::panel::Columns
    short: Vec<bool>,
}

/// [`ZeroTerms`], lent.
#[derive(Default, Clone, Copy)]
pub(super) struct ZeroTermsOf<'a> {
    pub(super) integers: &'a [i32],
    pub(super) floats: &'a [f32],
    pub(super) digits: &'a [i8],
    pub(super) words: &'a [u16],
    pub(super) short: &'a [bool],
}

impl Prepared {
    pub(super) fn is_in(&self, order: Option<&[u32]>) -> bool {
        self.order == order.map(OrderAt::of)
    }

    pub(super) fn reordered(&self) -> &[f32] {
        &self.reordered
    }

    /// Begins with tokens of `cols` values, in another order of the columns if there is one.
    pub(super) fn begin(&mut self, x: &[f32], cols: usize, order: Option<&[u32]>) {
        self.order = order.map(OrderAt::of);
        self.is_rounded = false;
        self.quantized.iter_mut().for_each(|form| form.is_live = false);
        let Some(order) = order else { return };
        self.reordered.resize(x.len(), 0.0);
        for_each_chunk_mut(
            &mut self.reordered,
            MIN_PARALLEL.div_ceil(cols) * cols,
            |first, out| {
                for (x, out) in x[first..].chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
                    out.iter_mut().zip(order).for_each(|(out, &i)| *out = x[i as usize]);
                }
            },
        );
    }

    /// Rounds the reordered tokens to bfloat16, if they are not.
    pub(super) fn round(&mut self, kernels: &Kernels, cols: usize) {
        if !std::mem::replace(&mut self.is_rounded, true) {
            self.rounded.round(kernels, &self.reordered, cols);
        }
    }

    pub(super) fn rounded(&self) -> &AlignedTokens {
        &self.rounded
    }

    /// Quantizes the tokens that it began with, of `cols` values, for weights of a form, and computes
    /// what their zeros add; what is there is kept.
    pub(super) fn quantize(
        &mut self,
        kernels: &Kernels,
        (x, cols): (&[f32], usize),
        layout: Layout,
    ) {
        let x = if self.order.is_some() { &self.reordered } else { x };
        let (form, per_scale) = (&mut self.quantized[form(layout)], layout.activations_per_scale());
        let tiles = kernels.isa() == Isa::Amx && x.len() >= TOKENS_OF_A_TILE * cols;
        if !std::mem::replace(&mut form.is_live, true) {
            form.quantize(kernels, (x, cols), per_scale);
            if tiles {
                form.put_scales_side_by_side(cols / per_scale);
            }
        }
        form.add_zero_terms(layout, tiles);
    }

    /// The product of these tokens with a matrix for whose form they were quantized.
    pub(super) fn product<'a>(
        &'a self,
        source: PanelSource<'a>,
        w: &'a Matrix<'a>,
    ) -> PanelProduct<'a> {
        let layout = source.layout();
        let form = &self.quantized[form(layout)];
        let terms = form.terms(layout).map(ZeroTerms::lend).unwrap_or_default();
        let (quants, scales) = (&form.quants, &form.scales);
        PanelProduct { source, w, quants, scales, by_sixteen: &form.by_sixteen, terms }
    }
}

/// Which of the two forms weights are multiplied with.
fn form(layout: Layout) -> usize {
    usize::from(layout.scales == Scales::Integers)
}

impl Quantized {
    /// Tokens of `cols` values, a multiple of `block`, the columns of a scale.
    fn quantize(&mut self, kernels: &Kernels, (x, cols): (&[f32], usize), block: usize) {
        let n = x.len();
        self.live_terms = 0;
        self.quants.resize(n, 0);
        self.scales.resize(n / block, 0.0);
        self.sums.resize(n / 16, 0);
        let sizes = if block == SUPERBLOCK { n / block } else { 0 };
        self.sizes.resize(sizes, Sizes::default());
        let chunk = MIN_PARALLEL.div_ceil(cols) * cols;
        let (q, s, t, z) = (
            OutPtr::new(&mut self.quants),
            OutPtr::new(&mut self.scales),
            OutPtr::new(&mut self.sums),
            OutPtr::new(&mut self.sizes),
        );
        pool::run(n.div_ceil(chunk), |i| {
            let range = i * chunk..n.min((i + 1) * chunk);
            let part = |len| range.start / len..range.end / len;
            // SAFETY: the ranges of different tasks are disjoint and within the buffers, whose
            // lengths are n, n / block and n / 16.
            let (q, s, t) = unsafe { (q.slice(part(1)), s.slice(part(block)), t.slice(part(16))) };
            match block {
                SUPERBLOCK => {
                    // SAFETY: as above; there are as many sizes as scales.
                    let sizes = unsafe { z.slice(part(block)) };
                    kernels.quantize_superblocks(&x[range.clone()], q, s, (t, sizes));
                }
                _ => kernels.quantize_activations(&x[range.clone()], q, s, (t, &mut [])),
            }
        });
    }

    /// The scales of 16 tokens, for products in tiles.
    fn put_scales_side_by_side(&mut self, per_token: usize) {
        self.by_sixteen.clear();
        for scales in self.scales.chunks_exact(TOKENS_OF_A_TILE * per_token) {
            for block in 0..per_token {
                let tokens = scales[block..].iter().step_by(per_token);
                self.by_sixteen.extend(tokens.take(TOKENS_OF_A_TILE));
            }
        }
    }

    /// Computes what a form of weights needs beside the quants, if it is not there.
    fn add_zero_terms(&mut self, layout: Layout, tiles: bool) {
        if self.terms(layout).is_some() {
            return;
        }
        if self.live_terms == self.terms.len() {
            self.terms.push(ZeroTerms::new(layout));
        }
        let terms = &mut self.terms[self.live_terms];
        self.live_terms += 1;
        terms.layout = layout;
        terms.integers.clear();
        terms.floats.clear();
        terms.digits.clear();
        terms.words.clear();
        terms.short.clear();
        if layout.scales == Scales::Integers {
            terms.short.extend(self.sizes.iter().map(|sizes| sizes.are_short(layout)));
        }
        let sums = self.sums.iter();
        let pairs = self.sums.as_chunks::<2>().0.iter().map(|[a, b]| a + b);
        match (layout.zero, layout.sub, layout.scales) {
            (Zero::Constant(zero), 16, _) => {
                terms.integers.extend(sums.map(|sum| -i32::from(zero) * sum));
            }
            (Zero::Constant(zero), ..) => {
                terms.integers.extend(pairs.map(|sum| -i32::from(zero) * sum));
            }
            (Zero::Bias, 16, Scales::Integers) => terms.add_digits::<16>(sums.copied(), tiles),
            (Zero::Bias, _, Scales::Integers) => terms.add_digits::<8>(pairs, tiles),
            (Zero::Bias, _, Scales::Floats) => {
                let scaled = self.scales.iter().zip(pairs);
                terms.floats.extend(scaled.map(|(scale, sum)| scale * sum as f32));
            }
        }
    }

    fn terms(&self, layout: Layout) -> Option<&ZeroTerms> {
        self.terms[..self.live_terms].iter().find(|terms| terms.layout == layout)
    }
}

impl ZeroTerms {
    fn new(layout: Layout) -> Self {
        let (integers, floats, digits, words) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { layout, integers, floats, digits, words, short: Vec::new() }
    }

    /// The digits of sums, `SUBS` per superblock.
    fn add_digits<const SUBS: usize>(
        &mut self,
        mut sums: impl ExactSizeIterator<Item = i32>,
        words: bool,
    ) {
        self.digits.reserve(2 * sums.len());
        while sums.len() > 0 {
            let sums: [i32; SUBS] = std::array::from_fn(|_| sums.next().unwrap_or(0));
            let high = sums.map(|sum| sum.div_euclid(DIGIT) as i8);
            let low = sums.map(|sum| sum.rem_euclid(DIGIT) as i8);
            self.digits.extend(high);
            self.digits.extend(low);
            if words {
                let exact = |value: i32| f32_to_bf16(value as f32);
                self.words.extend(high.map(|high| exact(DIGIT * i32::from(high))));
                self.words.extend(low.map(|low| exact(i32::from(low))));
            }
        }
        if words {
            // A row of a tile has 32, which reaches beyond the last superblock.
            self.words.extend([0; 32]);
        }
    }

    fn lend(&self) -> ZeroTermsOf<'_> {
        let Self { integers, floats, digits, words, short, .. } = self;
        ZeroTermsOf { integers, floats, digits, words, short }
    }
}

/// Blocks of `BLOCK`: `scale = max |x| / 127`, quants rounded to nearest. A block with a NaN or an
/// infinity gets the scale NaN. `sums` are those of 16 quants; sizes are only of superblocks.
#[inline(always)]
pub(crate) fn quantize_activations<S: Simd, const BLOCK: usize>(
    s: S,
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    (sums, sizes): (&mut [i32], &mut [Sizes]),
) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    // Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits.
    let magic = s.splat(12_582_912.0);
    let magic_bits = s.bits(magic);
    let sums = sums.chunks_exact_mut(BLOCK / LANES);
    for (block, ((x, q), (scale, sums))) in blocks.zip(scales.iter_mut().zip(sums)).enumerate() {
        // SAFETY: 16 of the block's values.
        let part = |index: usize| unsafe { s.load(x[LANES * index..].as_ptr()) };
        // Bits of |x| order like the values, with NaN above infinity.
        let magnitude = |v: S::F| s.and_i(s.bits(v), s.splat_i(0x7fff_ffff));
        let mut largest = magnitude(part(0));
        for index in 1..BLOCK / LANES {
            largest = s.max_i(largest, magnitude(part(index)));
        }
        let largest = s.reduce_max_i(largest).cast_unsigned();
        let finite = largest < 0x7f80_0000;
        *scale = if finite { f32::from_bits(largest) / 127.0 } else { f32::NAN };
        let inverse = if finite && largest > 0 { 127.0 / f32::from_bits(largest) } else { 0.0 };
        // Below 3e-37 the inverse overflows; such a block is zero for all purposes.
        let inverse = s.splat(if inverse.is_finite() { inverse } else { 0.0 });
        let (mut size, mut sides) = (Sizes::default(), [0; 2]);
        for (index, sum) in sums.iter_mut().enumerate() {
            let rounded = s.add(s.mul(part(index), inverse), magic);
            let rounded = s.sub_i(s.bits(rounded), magic_bits);
            // SAFETY: 16 of the block's quants.
            unsafe { s.store_low_bytes(q[LANES * index..].as_mut_ptr().cast(), rounded) }
            // A NaN or an infinity leaves other bits above; their scale is NaN whatever they are.
            let byte = s.sra_i(s.shl_i(rounded, 24), 24);
            *sum = s.reduce_add_i(byte);
            if BLOCK == SUPERBLOCK {
                let magnitudes = s.reduce_add_i(s.max_i(byte, s.sub_i(s.splat_i(0), byte)));
                size.magnitudes = size.magnitudes.max(magnitudes);
                // Twice what lies above zero or below it.
                let above = magnitudes + *sum;
                let below = magnitudes - *sum;
                sides = if index % 2 == 0 {
                    [above, below]
                } else {
                    [sides[0] + above, sides[1] + below]
                };
                size.one_sided = size.one_sided.max(sides[0].max(sides[1]) / 2);
            }
        }
        if BLOCK == SUPERBLOCK {
            sizes[block] = size;
        }
    }
}

/// Nearest bfloat16 of every element.
#[inline(always)]
pub(crate) fn round_bf16(x: &[f32], out: &mut [u16]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f32_to_bf16(x);
    }
}
