//! What becomes of unpacked columns of 16 rows: written down, or multiplied at once.

use super::ROWS;
use crate::blocks::Width;
use crate::simd::Simd;

/// Takes the columns of 16 rows, block after block. Of each block first all columns come, in any
/// order, then what belongs to its sub-blocks from left to right.
pub(super) trait Put<S: Simd> {
    /// Dwords of columns `col ..`, four columns each.
    ///
    /// # Safety
    /// The columns lie in what the sink was made for.
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]);
}

/// Blocks whose sub-blocks have scales of their own.
pub(super) trait Sink<S: Simd>: Put<S> {
    /// The scales of sub-block `sub`.
    ///
    /// # Safety
    /// The sub-block lies in what the sink was made for.
    unsafe fn scale(&mut self, s: S, sub: usize, scale: S::F);

    /// The biases of sub-block `sub`.
    ///
    /// # Safety
    /// The sub-block lies in what the sink was made for, which has biases.
    unsafe fn bias(&mut self, s: S, sub: usize, bias: S::F);
}

/// Superblocks of 256 columns, in which scales and minimums of sub-blocks are integers.
pub(super) trait SuperSink<S: Simd>: Put<S> {
    /// The scales of sub-block `sub`.
    ///
    /// # Safety
    /// The sub-block lies in what the sink was made for.
    unsafe fn integer(&mut self, s: S, sub: usize, scale: S::I);

    /// The minimums of sub-blocks `4 four ..`, a byte each.
    ///
    /// # Safety
    /// The sub-blocks lie in what the sink was made for, which has minimums.
    unsafe fn minimums(&mut self, s: S, four: usize, packed: S::I);

    /// Ends superblock `index`: the factor of its scales and, where it has them, of its minimums.
    ///
    /// # Safety
    /// The superblock lies in what the sink was made for.
    unsafe fn superblock(&mut self, s: S, index: usize, d: S::F, minus: Option<S::F>);
}

/// Where a panel in uniform form goes.
#[derive(Clone, Copy)]
pub(crate) struct PanelBuffers {
    /// `[cols / 4, 16, 4]`.
    pub(crate) quants: *mut u8,
    /// `[cols / sub, 16]`, of superblocks integers of 32 bits.
    pub(crate) scales: *mut f32,
    /// `[cols / sub, 16]`, of superblocks `[cols / sub / 4, 16, 4]` bytes; not written where the zero
    /// is constant.
    pub(crate) bias: *mut f32,
    /// `[cols / 256, 2, 16]`: factors of scales and minimums; only for superblocks.
    pub(crate) supers: *mut f32,
}

/// Writes a panel.
pub(super) struct Fill(pub(super) PanelBuffers);

impl<S: Simd> Put<S> for Fill {
    #[inline(always)]
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]) {
        for (i, v) in quants.into_iter().enumerate() {
            // SAFETY: by contract.
            unsafe { s.store_i(self.0.quants.add((col + 4 * i) * ROWS), v) }
        }
    }
}

impl<S: Simd> Sink<S> for Fill {
    #[inline(always)]
    unsafe fn scale(&mut self, s: S, sub: usize, scale: S::F) {
        // SAFETY: by contract.
        unsafe { s.store(self.0.scales.add(sub * ROWS), scale) }
    }
    #[inline(always)]
    unsafe fn bias(&mut self, s: S, sub: usize, bias: S::F) {
        // SAFETY: by contract.
        unsafe { s.store(self.0.bias.add(sub * ROWS), bias) }
    }
}

impl<S: Simd> SuperSink<S> for Fill {
    #[inline(always)]
    unsafe fn integer(&mut self, s: S, sub: usize, scale: S::I) {
        // SAFETY: by contract.
        unsafe { s.store_i(self.0.scales.add(sub * ROWS).cast(), scale) }
    }
    #[inline(always)]
    unsafe fn minimums(&mut self, s: S, four: usize, packed: S::I) {
        // SAFETY: by contract.
        unsafe { s.store_i(self.0.bias.add(four * ROWS).cast(), packed) }
    }
    #[inline(always)]
    unsafe fn superblock(&mut self, s: S, index: usize, d: S::F, minus: Option<S::F>) {
        // SAFETY: by contract.
        unsafe {
            s.store(self.0.supers.add(2 * index * ROWS), d);
            if let Some(minus) = minus {
                s.store(self.0.supers.add((2 * index + 1) * ROWS), minus);
            }
        }
    }
}

/// Columns of one token, quantized.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) x: *const i8,
    /// `[cols / 32]`, or `[cols / 256]` for superblocks.
    pub(crate) scales: *const f32,
    /// Those of this token and the 15 that follow side by side, `[cols / 32, 16]` or `[cols / 256, 16]`;
    /// null where nobody asked for it.
    pub(crate) by_sixteen: *const f32,
    /// `[cols / sub]`: where integer sums start; null for weights with biases.
    pub(crate) zeros: *const i32,
    /// `[cols / sub]`: factors of the biases; null for weights without.
    pub(crate) sums: *const f32,
    /// `[cols / 256, 2, 256 / sub]`: factors of the minimums of superblocks in two digits, of which the
    /// first counts [`DIGIT`] times; null for weights without.
    pub(crate) digits: *const i8,
    /// The same as bfloat16 with the first ones times [`DIGIT`]; null also where nobody asked for it.
    pub(crate) words: *const u16,
    /// `[cols / 256]`: whether the integer sum of each sub-block fits into 16 bits; null for others than
    /// superblocks.
    pub(crate) short: *const bool,
}

/// What the high digit of a sum of quants counts: sums of 32 need 13 bits, a digit has 7.
pub(crate) const DIGIT: i32 = 64;

impl Columns {
    /// Columns whose zeros add nothing.
    pub(crate) fn new(x: *const i8, scales: *const f32) -> Self {
        let (zeros, sums, by_sixteen) = (std::ptr::null(), std::ptr::null(), std::ptr::null());
        let (digits, words, short) = (std::ptr::null(), std::ptr::null(), std::ptr::null());
        Self { x, scales, by_sixteen, zeros, sums, digits, words, short }
    }

    /// Adds the products of dwords of columns `col ..` with this token.
    ///
    /// # Safety
    /// The columns must be readable.
    #[inline(always)]
    unsafe fn dot<S: Simd, const N: usize>(
        &self,
        s: S,
        (col, quants): (usize, [S::I; N]),
        width: Width,
        sum: &mut S::I,
    ) {
        for (i, w) in quants.iter().enumerate() {
            // SAFETY: by contract.
            let x = unsafe { self.x.add(col + 4 * i).cast::<i32>().read_unaligned() };
            *sum = s.dot4(*sum, *w, s.splat_i(x), width);
        }
    }
}

/// Products with one token: sub-blocks of `SUB` columns, `SUBS` per block.
pub(super) struct Dots<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> {
    x: Columns,
    width: Width,
    dots: [S::I; SUBS],
    total: S::F,
}

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> Dots<S, SUB, SUBS, BIAS> {
    #[inline(always)]
    pub(super) fn new(s: S, x: &Columns, width: Width) -> Self {
        Self { x: *x, width, dots: [s.splat_i(0); SUBS], total: s.splat(0.0) }
    }

    /// The outputs of 16 rows.
    #[inline(always)]
    pub(super) fn total(self) -> S::F {
        self.total
    }
}

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> Put<S>
    for Dots<S, SUB, SUBS, BIAS>
{
    #[inline(always)]
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]) {
        // SAFETY: by contract.
        unsafe { self.x.dot(s, (col, quants), self.width, &mut self.dots[col / SUB % SUBS]) }
    }
}

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> Sink<S>
    for Dots<S, SUB, SUBS, BIAS>
{
    #[inline(always)]
    unsafe fn scale(&mut self, s: S, sub: usize, scale: S::F) {
        let mut dot = std::mem::replace(&mut self.dots[sub % SUBS], s.splat_i(0));
        // SAFETY: by contract.
        unsafe {
            if !BIAS {
                dot = s.add_i(dot, s.splat_i(*self.x.zeros.add(sub)));
            }
            let x_scale = s.splat(*self.x.scales.add(sub * SUB / 32));
            self.total = s.fma(s.to_f(dot), s.mul(scale, x_scale), self.total);
        }
    }
    #[inline(always)]
    unsafe fn bias(&mut self, s: S, sub: usize, bias: S::F) {
        // SAFETY: by contract.
        let sum = unsafe { *self.x.sums.add(sub) };
        self.total = s.fma(bias, s.splat(sum), self.total);
    }
}

/// [`Dots`] of superblocks: integers up to their end.
pub(super) struct SuperDots<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> {
    dots: Dots<S, SUB, SUBS, BIAS>,
    /// Products times the scales.
    sum: S::I,
    /// The minimums times the digits of the token's sums.
    minimums: [S::I; 2],
}

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> SuperDots<S, SUB, SUBS, BIAS> {
    #[inline(always)]
    pub(super) fn new(s: S, x: &Columns, width: Width) -> Self {
        let zero = s.splat_i(0);
        Self { dots: Dots::new(s, x, width), sum: zero, minimums: [zero; 2] }
    }

    /// The outputs of 16 rows.
    #[inline(always)]
    pub(super) fn total(self) -> S::F {
        self.dots.total
    }
}

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> Put<S>
    for SuperDots<S, SUB, SUBS, BIAS>
{
    #[inline(always)]
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]) {
        // SAFETY: by contract.
        unsafe { self.dots.put(s, col, quants) }
    }
}

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> SuperSink<S>
    for SuperDots<S, SUB, SUBS, BIAS>
{
    #[inline(always)]
    unsafe fn integer(&mut self, s: S, sub: usize, scale: S::I) {
        let mut dot = std::mem::replace(&mut self.dots.dots[sub % SUBS], s.splat_i(0));
        if !BIAS {
            // SAFETY: by contract.
            dot = s.add_i(dot, s.splat_i(unsafe { *self.dots.x.zeros.add(sub) }));
        }
        self.sum = s.add_i(self.sum, s.mul_i(dot, scale));
    }

    #[inline(always)]
    unsafe fn minimums(&mut self, s: S, four: usize, packed: S::I) {
        let (index, four) = (four / (SUBS / 4), four % (SUBS / 4));
        for (digit, sum) in self.minimums.iter_mut().enumerate() {
            let at = (2 * index + digit) * SUBS + 4 * four;
            // SAFETY: by contract; a superblock has `2 * SUBS` digits.
            let x = unsafe { self.dots.x.digits.add(at).cast::<i32>().read_unaligned() };
            *sum = s.dot4(*sum, packed, s.splat_i(x), Width::Seven);
        }
    }

    #[inline(always)]
    unsafe fn superblock(&mut self, s: S, index: usize, d: S::F, minus: Option<S::F>) {
        let zero = s.splat_i(0);
        let sum = std::mem::replace(&mut self.sum, zero);
        let minimums = std::mem::replace(&mut self.minimums, [zero; 2]);
        let minus = minus.map(|minus| (minus, minimums));
        // SAFETY: by contract.
        let x_scale = s.splat(unsafe { *self.dots.x.scales.add(index) });
        self.dots.total = add_superblock(s, (d, sum), minus, (x_scale, self.dots.total));
    }
}

/// [`add_minimums`] of minimums in two digits.
#[inline(always)]
pub(crate) fn add_superblock<S: Simd>(
    s: S,
    sum: (S::F, S::I),
    minus: Option<(S::F, [S::I; 2])>,
    to: (S::F, S::F),
) -> S::F {
    let minus = match minus {
        Some((minus, [high, low])) => {
            let high = s.shl_i(high, DIGIT.trailing_zeros());
            Some((minus, s.to_f(s.add_i(high, low))))
        }
        None => None,
    };
    add_minimums(s, sum, minus, to)
}

/// `total + x_scale (d sum + minus minimums)`: how the integers of a superblock are added up, of one
/// token as of many.
#[inline(always)]
pub(crate) fn add_minimums<S: Simd>(
    s: S,
    (d, sum): (S::F, S::I),
    minus: Option<(S::F, S::F)>,
    (x_scale, total): (S::F, S::F),
) -> S::F {
    let scaled = s.mul(d, s.to_f(sum));
    let y = match minus {
        Some((minus, minimums)) => s.fma(minus, minimums, scaled),
        None => scaled,
    };
    s.fma(y, x_scale, total)
}
