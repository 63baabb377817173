//! AVX2 with FMA and F16C, and with or without VNNI: sixteen lanes are two registers.

use super::Simd;
use crate::blocks::Width;
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics name themselves"))]
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2, FMA and F16C, and AVX-VNNI where that is said.
#[derive(Clone, Copy)]
pub(crate) struct Narrow<const VNNI: bool>(());

/// Proof that the CPU has AVX2, FMA and F16C.
pub(crate) type Avx2 = Narrow<false>;

/// Proof that it has AVX-VNNI, too.
pub(crate) type AvxVnni = Narrow<true>;

type F = [__m256; 2];
type I = [__m256i; 2];

/// Safe methods made of one intrinsic expression per half.
macro_rules! halves {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            let low = {
                $(let $arg = $arg[0];)*
                // SAFETY: `self` proves that the CPU has the instructions; registers only.
                unsafe { $body }
            };
            let high = {
                $(let $arg = $arg[1];)*
                // SAFETY: as above.
                unsafe { $body }
            };
            [low, high]
        }
    )*};
}

/// The low words of eight dwords.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn low_words(v: __m256i) -> __m128i {
    // SAFETY: by contract; registers only.
    unsafe {
        let words = _mm256_packus_epi32(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)), v);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(words))
    }
}

impl<const VNNI: bool> Narrow<VNNI> {
    /// Four products per i32. Without `vpdpbusd` pairs go through i16, so bytes above 127 are split.
    #[inline(always)]
    fn dot4_half(self, acc: __m256i, w: __m256i, x: __m256i, width: Width) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(acc, w, x);
            }
            let low = _mm256_and_si256(w, _mm256_set1_epi8(0x7f));
            let is_whole = !matches!(width, Width::Eight | Width::Signed);
            let low = _mm256_maddubs_epi16(if is_whole { w } else { low }, x);
            let sum = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
            if is_whole {
                return _mm256_add_epi32(acc, sum);
            }
            let top = _mm256_and_si256(w, _mm256_set1_epi8(-0x80));
            let top = _mm256_madd_epi16(_mm256_maddubs_epi16(top, x), _mm256_set1_epi16(1));
            _mm256_add_epi32(acc, _mm256_add_epi32(sum, top))
        }
    }

    /// Four dwords of 8 rows; see [`Simd::rows16`].
    ///
    /// # Safety
    /// 16 bytes of each row must be readable.
    #[inline(always)]
    unsafe fn rows16_half(self, p: *const u8, stride: usize) -> [__m256i; 4] {
        // SAFETY: readable by contract; the rest works on registers.
        unsafe {
            let row = |i: usize| _mm_loadu_si128(p.add(i * stride).cast());
            let mut r = [_mm256_setzero_si256(); 4];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(i)), row(4 + i));
            }
            let low01 = _mm256_unpacklo_epi32(r[0], r[1]);
            let high01 = _mm256_unpackhi_epi32(r[0], r[1]);
            let low23 = _mm256_unpacklo_epi32(r[2], r[3]);
            let high23 = _mm256_unpackhi_epi32(r[2], r[3]);
            [
                _mm256_unpacklo_epi64(low01, low23),
                _mm256_unpackhi_epi64(low01, low23),
                _mm256_unpacklo_epi64(high01, high23),
                _mm256_unpackhi_epi64(high01, high23),
            ]
        }
    }
}

impl<const VNNI: bool> Simd for Narrow<VNNI> {
    type F = F;
    type I = I;
    type B = __m256i;
    const ROWS: usize = 4;
    const DOT_BF16: bool = false;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self(())
    }

    super::bytes::byte_methods!();

    const RUNS: bool = !VNNI;
    /// Pairs stay in 16 bits as long as they fit.
    #[inline(always)]
    unsafe fn dot_run<const T: usize>(
        self,
        mut acc: [I; T],
        w: *const u8,
        (x, stride): (*const i8, usize),
        steps: usize,
        width: Width,
    ) -> [I; T] {
        let whole = match width {
            Width::Four => 8,
            Width::Five => 4,
            Width::Six => 2,
            _ => 1,
        };
        for first in (0..steps).step_by(whole) {
            let mut pairs = [self.splat_i(0); T];
            for step in first..steps.min(first + whole) {
                // SAFETY: by contract; the rest works on registers.
                unsafe {
                    let w = self.load_i(w.add(64 * step));
                    for (t, (pairs, acc)) in pairs.iter_mut().zip(&mut acc).enumerate() {
                        let x = x.add(t * stride + 4 * step).cast::<i32>().read_unaligned();
                        let x = _mm256_set1_epi32(x);
                        match width {
                            Width::Eight => *acc = self.dot4(*acc, w, [x; 2], width),
                            Width::Signed => {
                                for (pairs, w) in pairs.iter_mut().zip(w) {
                                    let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                                    let x = _mm256_sign_epi8(x, w);
                                    *pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), x);
                                }
                            }
                            _ => {
                                for (pairs, w) in pairs.iter_mut().zip(w) {
                                    *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(w, x));
                                }
                            }
                        }
                    }
                }
            }
            if width != Width::Eight {
                for (acc, pairs) in acc.iter_mut().zip(pairs) {
                    *acc = self.dot_words(*acc, pairs, self.splat_i(0x1_0001));
                }
            }
        }
        acc
    }

    halves! {
        fn add(a: F, b: F) -> F = _mm256_add_ps(a, b);
        fn sub(a: F, b: F) -> F = _mm256_sub_ps(a, b);
        fn mul(a: F, b: F) -> F = _mm256_mul_ps(a, b);
        fn div(a: F, b: F) -> F = _mm256_div_ps(a, b);
        fn fma(a: F, b: F, c: F) -> F = _mm256_fmadd_ps(a, b, c);
        fn max(a: F, b: F) -> F = _mm256_max_ps(a, b);
        fn min(a: F, b: F) -> F = _mm256_min_ps(a, b);
        fn select_lt(a: F, b: F, yes: F, no: F) -> F =
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        fn bits(v: F) -> I = _mm256_castps_si256(v);
        fn of_bits(v: I) -> F = _mm256_castsi256_ps(v);
        fn add_i(a: I, b: I) -> I = _mm256_add_epi32(a, b);
        fn sub_i(a: I, b: I) -> I = _mm256_sub_epi32(a, b);
        fn shl23(v: I) -> I = _mm256_slli_epi32::<23>(v);
        fn sra1(v: I) -> I = _mm256_srai_epi32::<1>(v);
        fn and_i(a: I, b: I) -> I = _mm256_and_si256(a, b);
        fn or_i(a: I, b: I) -> I = _mm256_or_si256(a, b);
        fn xor_i(a: I, b: I) -> I = _mm256_xor_si256(a, b);
        fn max_i(a: I, b: I) -> I = _mm256_max_epi32(a, b);
        fn mul_i(a: I, b: I) -> I = _mm256_mullo_epi32(a, b);
        fn low_halfs(v: I) -> F = _mm256_cvtph_ps(low_words(v));
        fn to_f(v: I) -> F = _mm256_cvtepi32_ps(v);
        fn dot_words(acc: I, a: I, b: I) -> I = _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
        fn dot_bf16(acc: F, a: I, b: I) -> F = {
            let odd = _mm256_set1_epi32(-0x1_0000);
            let (a_even, b_even) = (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b));
            let (a_odd, b_odd) = (_mm256_and_si256(a, odd), _mm256_and_si256(b, odd));
            let acc = _mm256_fmadd_ps(_mm256_castsi256_ps(a_even), _mm256_castsi256_ps(b_even), acc);
            _mm256_fmadd_ps(_mm256_castsi256_ps(a_odd), _mm256_castsi256_ps(b_odd), acc)
        };
    }

    #[inline(always)]
    fn splat(self, v: f32) -> F {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    fn splat_i(self, v: i32) -> I {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    fn widen_b(self, v: &[u8; 16]) -> I {
        // SAFETY: `self` proves that the CPU has the instructions; 16 bytes are readable.
        unsafe {
            let v = _mm_loadu_si128(v.as_ptr().cast());
            [_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v))]
        }
    }
    #[inline(always)]
    fn dot4(self, acc: I, w: I, x: I, width: Width) -> I {
        [self.dot4_half(acc[0], w[0], x[0], width), self.dot4_half(acc[1], w[1], x[1], width)]
    }
    #[inline(always)]
    fn sum(self, v: F) -> f32 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            let a = _mm256_add_ps(v[0], v[1]);
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: the caller vouches for 16 readable bytes.
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            let (low, high) = (_mm256_cvtepi8_epi32(v), _mm_srli_si128::<8>(v));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: F) {
        // SAFETY: the caller vouches for 32 writable bytes.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]);
            _mm_storeu_si128(p.cast(), low);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]);
            _mm_storeu_si128(p.add(16).cast(), high);
        }
    }
    #[inline(always)]
    fn largest(self, v: F) -> f32 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            let a = _mm256_max_ps(v[0], v[1]);
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller vouches for 64 readable bytes.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const u8) -> I {
        // SAFETY: the caller vouches for 64 readable bytes.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> F {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> F {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn shr_i(self, v: I, n: u32) -> I {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        v.map(|v| unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(n.cast_signed())) })
    }
    #[inline(always)]
    fn shl_i(self, v: I, n: u32) -> I {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        v.map(|v| unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(n.cast_signed())) })
    }
    #[inline(always)]
    fn sra_i(self, v: I, n: u32) -> I {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        v.map(|v| unsafe { _mm256_sra_epi32(v, _mm_cvtsi32_si128(n.cast_signed())) })
    }
    #[inline(always)]
    fn lookup_i(self, table: &[u8; 16], v: I) -> I {
        [self.lookup(table, v[0]), self.lookup(table, v[1])]
    }
    #[inline(always)]
    unsafe fn rows16(self, p: *const u8, stride: usize) -> [I; 4] {
        // SAFETY: 16 bytes of each of the 16 rows are readable by contract.
        unsafe {
            let low = self.rows16_half(p, stride);
            let high = self.rows16_half(p.add(8 * stride), stride);
            [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
        }
    }
    #[inline(always)]
    unsafe fn rows4(self, p: *const u8, stride: usize) -> I {
        let mut rows = [0i32; 16];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: 4 bytes of each of the 16 rows are readable by contract.
            *row = unsafe { p.add(i * stride).cast::<i32>().read_unaligned() };
        }
        // SAFETY: the array holds 64 bytes.
        unsafe { self.load_i(rows.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> I {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe {
            [
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())),
                _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_low_words(self, p: *mut u8, v: I) {
        // SAFETY: the caller vouches for 32 writable bytes.
        unsafe {
            _mm_storeu_si128(p.cast(), low_words(v[0]));
            _mm_storeu_si128(p.add(16).cast(), low_words(v[1]));
        }
    }
    #[inline(always)]
    fn reduce_max_i(self, v: I) -> i32 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            let a = _mm256_max_epi32(v[0], v[1]);
            let b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let c = _mm_max_epi32(b, _mm_shuffle_epi32::<0b_01_00_11_10>(b));
            _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32::<0b_10_11_00_01>(c)))
        }
    }
    #[inline(always)]
    fn reduce_add_i(self, v: I) -> i32 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            let a = _mm256_add_epi32(v[0], v[1]);
            let b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let c = _mm_add_epi32(b, _mm_shuffle_epi32::<0b_01_00_11_10>(b));
            _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32::<0b_10_11_00_01>(c)))
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, v: I) {
        // SAFETY: the caller vouches for 16 writable bytes; the rest works on registers.
        unsafe {
            let byte = _mm256_set1_epi32(0xff);
            let (low, high) = (_mm256_and_si256(v[0], byte), _mm256_and_si256(v[1], byte));
            // Words of lanes 0-3, 8-11, 4-7, 12-15; the permutation puts them in order.
            let words = _mm256_permute4x64_epi64::<0b_11_01_10_00>(_mm256_packus_epi32(low, high));
            let (a, b) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), _mm_packus_epi16(a, b));
        }
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut u8, v: I) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
