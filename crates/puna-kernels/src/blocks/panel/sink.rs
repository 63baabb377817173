//! What becomes of unpacked columns of 16 rows: written down, or multiplied at once.

use super::ROWS;
use crate::blocks::Width;
use crate::simd::Simd;

/// Takes the columns of 16 rows, block after block. Of each block first all columns come, in any
/// order, then scale and bias of its sub-blocks from left to right.
pub(super) trait Sink<S: Simd> {
    /// Dwords of columns `col ..`, four columns each.
    ///
    /// # Safety
    /// The columns lie in what the sink was made for.
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]);

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

/// Where a panel in uniform form goes.
#[derive(Clone, Copy)]
pub(crate) struct PanelBuffers {
    /// `[cols / 4, 16, 4]`.
    pub(crate) quants: *mut u8,
    /// `[cols / sub, 16]`.
    pub(crate) scales: *mut f32,
    /// `[cols / sub, 16]`; not written where the zero is constant.
    pub(crate) bias: *mut f32,
}

/// Writes a panel.
pub(super) struct Fill(pub(super) PanelBuffers);

impl<S: Simd> Sink<S> for Fill {
    #[inline(always)]
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]) {
        for (i, v) in quants.into_iter().enumerate() {
            // SAFETY: by contract.
            unsafe { s.store_i(self.0.quants.add((col + 4 * i) * ROWS), v) }
        }
    }
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

/// Columns of one token, quantized.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) x: *const i8,
    /// `[cols / 32]`.
    pub(crate) scales: *const f32,
    /// `[cols / sub]`: where integer sums start; null for weights with biases.
    pub(crate) zeros: *const i32,
    /// `[cols / sub]`: factors of the biases; null for weights with a constant zero.
    pub(crate) sums: *const f32,
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

impl<S: Simd, const SUB: usize, const SUBS: usize, const BIAS: bool> Sink<S>
    for Dots<S, SUB, SUBS, BIAS>
{
    #[inline(always)]
    unsafe fn put<const N: usize>(&mut self, s: S, col: usize, quants: [S::I; N]) {
        let dot = &mut self.dots[col / SUB % SUBS];
        for (i, w) in quants.iter().enumerate() {
            // SAFETY: by contract.
            let x = unsafe { self.x.x.add(col + 4 * i).cast::<i32>().read_unaligned() };
            *dot = s.dot4(*dot, *w, s.splat_i(x), self.width);
        }
    }
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
