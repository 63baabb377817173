//! The specification of [`Simd`](super::Simd) in plain Rust, and the fallback of every machine.

use super::{LANES, Simd};
use crate::blocks::Width;
use crate::numbers::{bf16_to_f32, f16_to_f32, f32_to_f16};
use std::array::from_fn;

/// Portable Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 32];
    const ROWS: usize = 2;
    const DOT_BF16: bool = false;
    const RUNS: bool = true;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self
    }

    #[inline(always)]
    fn splat(self, v: f32) -> Self::F {
        [v; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let a: [f32; 8] = from_fn(|i| v[i] + v[i + 8]);
        let b: [f32; 4] = from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }
    #[inline(always)]
    fn bits(self, v: Self::F) -> Self::I {
        from_fn(|i| v[i].to_bits().cast_signed())
    }
    #[inline(always)]
    fn of_bits(self, v: Self::I) -> Self::F {
        from_fn(|i| f32::from_bits(v[i].cast_unsigned()))
    }
    #[inline(always)]
    fn splat_i(self, v: i32) -> Self::I {
        [v; LANES]
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn shl23(self, v: Self::I) -> Self::I {
        v.map(|v| v << 23)
    }
    #[inline(always)]
    fn sra1(self, v: Self::I) -> Self::I {
        v.map(|v| v >> 1)
    }
    #[inline(always)]
    fn to_f(self, v: Self::I) -> Self::F {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    fn dot4(self, acc: Self::I, w: Self::I, x: Self::I, _width: Width) -> Self::I {
        from_fn(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            let product = |j: usize| i32::from(w[j]) * i32::from(x[j].cast_signed());
            acc[i] + (product(0) + product(1)) + (product(2) + product(3))
        })
    }
    #[inline(always)]
    fn dot_words(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| {
            let high = (a[i] >> 16) * (b[i] >> 16);
            acc[i] + i32::from(a[i] as i16) * i32::from(b[i] as i16) + high
        })
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, a: Self::I, b: Self::I) -> Self::F {
        from_fn(|i| {
            let (a, b) = (a[i].cast_unsigned(), b[i].cast_unsigned());
            let even = f32::from_bits(a << 16) * f32::from_bits(b << 16);
            let odd = f32::from_bits(a & 0xffff_0000) * f32::from_bits(b & 0xffff_0000);
            acc[i] + even + odd
        })
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller vouches for 64 readable bytes.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 64 readable bytes.
        unsafe { p.cast::<Self::I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::F {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(f16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::F {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(bf16_to_f32)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn rows16(self, p: *const u8, stride: usize) -> [Self::I; 4] {
        // SAFETY: 16 bytes of each row are readable by contract.
        from_fn(|j| unsafe { self.rows4(p.add(4 * j), stride) })
    }
    #[inline(always)]
    unsafe fn rows4(self, p: *const u8, stride: usize) -> Self::I {
        // SAFETY: 4 bytes of each row are readable by contract.
        from_fn(|i| i32::from_le_bytes(unsafe { p.add(i * stride).cast::<[u8; 4]>().read() }))
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut u8, v: Self::I) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { p.cast::<Self::I>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_low_words(self, p: *mut u8, v: Self::I) {
        // SAFETY: the caller vouches for 32 writable bytes.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(v.map(|v| v as u16)) }
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    fn reduce_max_i(self, v: Self::I) -> i32 {
        v.into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    fn reduce_add_i(self, v: Self::I) -> i32 {
        v.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, v: Self::I) {
        // SAFETY: the caller vouches for 16 writable bytes.
        unsafe { p.cast::<[u8; LANES]>().write(v.map(|v| v as u8)) }
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn shr_i(self, v: Self::I, n: u32) -> Self::I {
        v.map(|v| (v.cast_unsigned() >> n).cast_signed())
    }
    #[inline(always)]
    fn shl_i(self, v: Self::I, n: u32) -> Self::I {
        v.map(|v| v << n)
    }
    #[inline(always)]
    fn sra_i(self, v: Self::I, n: u32) -> Self::I {
        v.map(|v| v >> n)
    }
    #[inline(always)]
    fn lookup_i(self, table: &[u8; 16], v: Self::I) -> Self::I {
        v.map(|v| i32::from_le_bytes(v.to_le_bytes().map(|b| table[usize::from(b & 15)])))
    }
    #[inline(always)]
    fn low_halfs(self, v: Self::I) -> Self::F {
        v.map(|v| f16_to_f32(v as u16))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::F {
        // SAFETY: the caller vouches for 16 readable bytes.
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: Self::F) {
        // SAFETY: the caller vouches for 32 writable bytes.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(v.map(f32_to_f16)) }
    }
    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    fn half(self, h: u16) -> f32 {
        f16_to_f32(h)
    }
    #[inline(always)]
    fn splat_b(self, v: u8) -> Self::B {
        [v; 32]
    }
    #[inline(always)]
    fn and_b(self, a: Self::B, b: Self::B) -> Self::B {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or_b(self, a: Self::B, b: Self::B) -> Self::B {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor_b(self, a: Self::B, b: Self::B) -> Self::B {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn shr_b<const N: i32>(self, v: Self::B) -> Self::B {
        v.map(|v| v >> N)
    }
    #[inline(always)]
    fn shl_b<const N: i32>(self, v: Self::B) -> Self::B {
        v.map(|v| v << N)
    }
    #[inline(always)]
    fn nibbles(self, v: [u8; 16]) -> Self::B {
        from_fn(|i| if i < 16 { v[i] & 15 } else { v[i - 16] >> 4 })
    }
    #[inline(always)]
    fn mask_b(self, bits: u32) -> Self::B {
        from_fn(|i| if bits & (1 << i) == 0 { 0 } else { 255 })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: Self::B) -> Self::B {
        v.map(|v| table[usize::from(v & 15)])
    }
    #[inline(always)]
    fn widen_b(self, v: &[u8; 16]) -> Self::I {
        v.map(i32::from)
    }
    #[inline(always)]
    fn load_b(self, v: &[u8; 32]) -> Self::B {
        *v
    }
    #[inline(always)]
    fn store_b(self, out: &mut [u8; 32], v: Self::B) {
        *out = v;
    }
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
}
