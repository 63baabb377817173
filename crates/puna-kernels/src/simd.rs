//! Sixteen lanes of f32 or i32, whatever the instruction set.
//!
//! All instruction sets have the same lane count (AVX2 uses two registers), so that a kernel does
//! the same operations in the same order everywhere; only the scalar set rounds between product
//! and sum. A value of an implementing type is a proof that the CPU has the instructions, which
//! makes the arithmetic methods safe. Nothing here has `target_feature`: the methods are inlined
//! into the wrappers in `kernels/` that have.

mod scalar;
pub(crate) use scalar::Scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bytes;
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    avx2::{Avx2, AvxVnni},
    avx512::{Avx512, Avx512Bf16},
};

use crate::blocks::Width;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The operations kernels are written in.
pub(crate) trait Simd: Copy {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, also 64 bytes or 32 bfloat16.
    type I: Copy;
    /// 32 bytes, for unpacking.
    type B: Copy;
    /// Rows of attention that are computed side by side: 8, 4 or 2, as registers allow.
    const ROWS: usize;

    /// # Safety
    /// The CPU must have the instruction set.
    unsafe fn assume() -> Self;

    fn splat(self, v: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b` per lane: `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b` per lane: `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? yes : no` per lane.
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// `v * 2^n` for whole `n` from -252 to 254, rounded once.
    #[inline(always)]
    fn scale(self, v: Self::F, n: Self::F) -> Self::F {
        // In two factors. Adding 1.5 * 2^23 leaves a whole number in the low mantissa bits.
        let magic = 12_582_912f32;
        let bits = self.bits(self.add(n, self.splat(magic)));
        let n = self.sub_i(bits, self.splat_i(magic.to_bits().cast_signed()));
        let half = self.sra1(n);
        let power = |n| self.of_bits(self.shl23(self.add_i(n, self.splat_i(127))));
        self.mul(self.mul(v, power(half)), power(self.sub_i(n, half)))
    }
    /// Sum of the lanes: i with i + 8, then i + 4, i + 2, i + 1.
    fn sum(self, v: Self::F) -> f32;
    /// The bits as integers.
    fn bits(self, v: Self::F) -> Self::I;
    /// The integers as bits.
    fn of_bits(self, v: Self::I) -> Self::F;
    fn splat_i(self, v: i32) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shift left by 23: an integer into the exponent field.
    fn shl23(self, v: Self::I) -> Self::I;
    /// Arithmetic shift right by one.
    fn sra1(self, v: Self::I) -> Self::I;
    fn to_f(self, v: Self::I) -> Self::F;
    /// Adds to each i32 the products of its four unsigned bytes of `w` with the four signed bytes
    /// of `x`; these are at least -127, and `width` bounds those of `w`.
    fn dot4(self, acc: Self::I, w: Self::I, x: Self::I, width: Width) -> Self::I;
    /// Whether [`Simd::dot_run`] is quicker than [`Simd::dot4`] one after the other.
    const RUNS: bool = false;
    /// Adds to each i32 the products of `steps` dwords of `w`, 64 bytes apart, with those of `T` tokens,
    /// `stride` bytes apart. [`Width::Signed`] counts from 128 on.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn dot_run<const T: usize>(
        self,
        mut acc: [Self::I; T],
        w: *const u8,
        (x, stride): (*const i8, usize),
        steps: usize,
        width: Width,
    ) -> [Self::I; T] {
        for step in 0..steps {
            // SAFETY: by contract.
            unsafe {
                let w = self.load_i(w.add(64 * step));
                for (t, acc) in acc.iter_mut().enumerate() {
                    let x = x.add(t * stride + 4 * step).cast::<i32>().read_unaligned();
                    let x = self.splat_i(x);
                    *acc = self.dot4(*acc, w, x, width);
                    if width == Width::Signed {
                        let bytes = self.splat_i(-0x7f7f_7f80);
                        let from = self.dot4(self.splat_i(0), bytes, x, width);
                        *acc = self.sub_i(*acc, from);
                    }
                }
            }
        }
        acc
    }
    /// Adds to each i32 the products of its two signed words of `a` and `b`.
    fn dot_words(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    /// Whether [`Simd::dot_bf16`] is one instruction.
    const DOT_BF16: bool;
    /// Adds to each f32 the products of its two bfloat16 of `a` and `b`.
    fn dot_bf16(self, acc: Self::F, a: Self::I, b: Self::I) -> Self::F;
    /// The nearest bfloat16 of each lane of `low` in the low half of a word, of `high` in the high
    /// half.
    #[inline(always)]
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::I {
        pair_bf16(self, low, high)
    }
    /// The nearest bfloat16 of the 16 lanes of `a`, then of `b`.
    #[inline(always)]
    fn round_bf16(self, a: Self::F, b: Self::F) -> Self::I {
        round_bf16(self, a, b)
    }

    /// The lanes of `a` and `b` in turn.
    #[inline(always)]
    fn zip_i(self, a: Self::I, b: Self::I) -> [Self::I; 2] {
        let (mut lanes, mut out) = ([[0i32; LANES]; 2], [0i32; 2 * LANES]);
        // SAFETY: all arrays have the size of what is stored and loaded.
        unsafe {
            self.store_i(lanes[0].as_mut_ptr().cast(), a);
            self.store_i(lanes[1].as_mut_ptr().cast(), b);
            for (i, out) in out.iter_mut().enumerate() {
                *out = lanes[i % 2][i / 2];
            }
            [self.load_i(out.as_ptr().cast()), self.load_i(out[LANES..].as_ptr().cast())]
        }
    }

    /// # Safety
    /// 16 f32 (64 bytes) must be readable; no alignment.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// 64 bytes must be readable; no alignment.
    unsafe fn load_i(self, p: *const u8) -> Self::I;
    /// # Safety
    /// 16 halfs (32 bytes) must be readable; no alignment.
    unsafe fn load_f16(self, p: *const u8) -> Self::F;
    /// # Safety
    /// 16 bfloat16 (32 bytes) must be readable; no alignment.
    unsafe fn load_bf16(self, p: *const u8) -> Self::F;
    /// # Safety
    /// 16 f32 must be writable; no alignment.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// The first 16 bytes of 16 rows that are `stride` apart: dword `j` of row `i` is lane `i` of
    /// result `j`.
    ///
    /// # Safety
    /// 16 bytes per row must be readable; no alignment.
    unsafe fn rows16(self, p: *const u8, stride: usize) -> [Self::I; 4];
    /// The first dword of 16 rows that are `stride` apart.
    ///
    /// # Safety
    /// 4 bytes per row must be readable; no alignment.
    unsafe fn rows4(self, p: *const u8, stride: usize) -> Self::I;
    /// # Safety
    /// 64 bytes must be writable; no alignment.
    unsafe fn store_i(self, p: *mut u8, v: Self::I);
    /// 16 words (32 bytes), zero-extended.
    ///
    /// # Safety
    /// 32 bytes must be readable; no alignment.
    unsafe fn load_words(self, p: *const u8) -> Self::I;
    /// The low words of the lanes (32 bytes).
    ///
    /// # Safety
    /// 32 bytes must be writable; no alignment.
    unsafe fn store_low_words(self, p: *mut u8, v: Self::I);
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger of each pair of signed integers.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The largest lane.
    fn reduce_max_i(self, v: Self::I) -> i32;
    /// The sum of the lanes.
    fn reduce_add_i(self, v: Self::I) -> i32;
    /// The low bytes of the lanes (16 bytes).
    ///
    /// # Safety
    /// 16 bytes must be writable; no alignment.
    unsafe fn store_low_bytes(self, p: *mut u8, v: Self::I);
    /// The low 32 bits of the products.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Logical shift right by `n` below 32.
    fn shr_i(self, v: Self::I, n: u32) -> Self::I;
    /// Shift left by `n` below 32.
    fn shl_i(self, v: Self::I, n: u32) -> Self::I;
    /// Arithmetic shift right by `n` below 32.
    fn sra_i(self, v: Self::I, n: u32) -> Self::I;
    /// `table[byte]` for each of the 64 bytes, which are below 16.
    fn lookup_i(self, table: &[u8; 16], v: Self::I) -> Self::I;
    /// The IEEE halfs in the low words of the lanes.
    fn low_halfs(self, v: Self::I) -> Self::F;
    /// 16 signed bytes as f32.
    ///
    /// # Safety
    /// 16 bytes must be readable; no alignment.
    unsafe fn load_i8(self, p: *const i8) -> Self::F;
    /// Nearest IEEE halfs.
    ///
    /// # Safety
    /// 32 bytes must be writable; no alignment.
    unsafe fn store_f16(self, p: *mut u8, v: Self::F);
    /// The largest lane; whether NaN lanes count is left open.
    fn largest(self, v: Self::F) -> f32;
    /// The value of an IEEE half.
    fn half(self, h: u16) -> f32;
    fn splat_b(self, v: u8) -> Self::B;
    fn and_b(self, a: Self::B, b: Self::B) -> Self::B;
    fn or_b(self, a: Self::B, b: Self::B) -> Self::B;
    fn xor_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// Logical shift of each byte to the right by `N` below 8.
    fn shr_b<const N: i32>(self, v: Self::B) -> Self::B;
    /// Shift of each byte to the left by `N` below 8.
    fn shl_b<const N: i32>(self, v: Self::B) -> Self::B;
    /// Low nibbles, then high nibbles.
    fn nibbles(self, v: [u8; 16]) -> Self::B;
    /// Byte `i` is all ones where bit `i` is set.
    fn mask_b(self, bits: u32) -> Self::B;
    /// `table[v]` for bytes below 16.
    fn lookup(self, table: &[u8; 16], v: Self::B) -> Self::B;
    /// Unsigned bytes as i32.
    fn widen_b(self, v: &[u8; 16]) -> Self::I;
    fn load_b(self, v: &[u8; 32]) -> Self::B;
    fn store_b(self, out: &mut [u8; 32], v: Self::B);
    /// Asks for a cache line; any address is fine.
    fn prefetch(self, p: *const u8);
}

/// [`Simd::pair_bf16`] without an instruction for it.
#[inline(always)]
fn pair_bf16<S: Simd>(s: S, low: S::F, high: S::F) -> S::I {
    let round = |v| {
        let bits = s.bits(v);
        let odd = s.and_i(s.shr_i(bits, 16), s.splat_i(1));
        s.add_i(s.add_i(bits, s.splat_i(0x7fff)), odd)
    };
    let upper = s.splat_i(-0x1_0000);
    s.or_i(s.shr_i(round(low), 16), s.and_i(round(high), upper))
}

/// [`Simd::round_bf16`] without an instruction for it.
#[inline(always)]
fn round_bf16<S: Simd>(s: S, a: S::F, b: S::F) -> S::I {
    let (mut values, mut out) = ([0f32; 2 * LANES], [0u16; 2 * LANES]);
    // SAFETY: both arrays have the size of what is stored and loaded.
    unsafe {
        s.store(values.as_mut_ptr(), a);
        s.store(values.as_mut_ptr().add(LANES), b);
        for (out, value) in out.iter_mut().zip(values) {
            *out = crate::numbers::f32_to_bf16(value);
        }
        s.load_i(out.as_ptr().cast())
    }
}
