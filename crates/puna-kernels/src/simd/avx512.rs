//! AVX-512 with VNNI, and with or without BF16.

use super::Simd;
use crate::blocks::Width;
use std::arch::asm;
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics name themselves"))]
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI, and BF16 where that is said.
#[derive(Clone, Copy)]
pub(crate) struct Wide<const BF16: bool>(());

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI.
pub(crate) type Avx512 = Wide<false>;

/// Proof that it has BF16, too.
pub(crate) type Avx512Bf16 = Wide<true>;

/// [`Simd::dot_words`]. Written out, since the compiler makes two instructions of it.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn dot_words(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "vpdpwssd {acc}, {a}, {b}",
            acc = inout(zmm_reg) acc, a = in(zmm_reg) a, b = in(zmm_reg) b,
            options(nomem, nostack, pure, preserves_flags)
        );
    }
    acc
}

/// Word `i` of a first half beside word `i` of a second one.
static PAIRS: [u16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    words
};

/// Safe methods made of one intrinsic expression.
macro_rules! arithmetic {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            // SAFETY: `self` proves that the CPU has the instructions; registers only.
            unsafe { $body }
        }
    )*};
}

impl Avx512Bf16 {
    /// The low 16 bits of the products of words.
    #[inline(always)]
    pub(crate) fn mul_words(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe { _mm512_mullo_epi16(a, b) }
    }

    /// Differences of words.
    #[inline(always)]
    pub(crate) fn sub_words(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi16(a, b) }
    }
}

impl<const BF16: bool> Simd for Wide<BF16> {
    type F = __m512;
    type I = __m512i;
    type B = __m256i;
    const ROWS: usize = 8;
    const DOT_BF16: bool = BF16;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Self(())
    }

    super::bytes::byte_methods!();
    arithmetic! {
        fn splat(v: f32) -> __m512 = _mm512_set1_ps(v);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn select_lt(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 =
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes);
        fn bits(v: __m512) -> __m512i = _mm512_castps_si512(v);
        fn of_bits(v: __m512i) -> __m512 = _mm512_castsi512_ps(v);
        fn splat_i(v: i32) -> __m512i = _mm512_set1_epi32(v);
        fn add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn sub_i(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        fn shl23(v: __m512i) -> __m512i = _mm512_slli_epi32::<23>(v);
        fn sra1(v: __m512i) -> __m512i = _mm512_srai_epi32::<1>(v);
        fn and_i(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn or_i(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn xor_i(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        fn max_i(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epi32(a, b);
        fn reduce_max_i(v: __m512i) -> i32 = _mm512_reduce_max_epi32(v);
        fn reduce_add_i(v: __m512i) -> i32 = _mm512_reduce_add_epi32(v);
        fn mul_i(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        fn shr_i(v: __m512i, n: u32) -> __m512i =
            _mm512_srl_epi32(v, _mm_cvtsi32_si128(n.cast_signed()));
        fn shl_i(v: __m512i, n: u32) -> __m512i =
            _mm512_sll_epi32(v, _mm_cvtsi32_si128(n.cast_signed()));
        fn sra_i(v: __m512i, n: u32) -> __m512i =
            _mm512_sra_epi32(v, _mm_cvtsi32_si128(n.cast_signed()));
        fn lookup_i(table: &[u8; 16], v: __m512i) -> __m512i = {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), v)
        };
        fn low_halfs(v: __m512i) -> __m512 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
        fn to_f(v: __m512i) -> __m512 = _mm512_cvtepi32_ps(v);
        fn widen_b(v: &[u8; 16]) -> __m512i =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(v.as_ptr().cast()));
        fn dot4(acc: __m512i, w: __m512i, x: __m512i, _width: Width) -> __m512i =
            _mm512_dpbusd_epi32(acc, w, x);
        fn scale(v: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(v, n);
    }

    #[inline(always)]
    fn dot_words(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { dot_words(acc, a, b) }
    }
    #[inline(always)]
    fn pair_bf16(self, low: __m512, high: __m512) -> __m512i {
        if !BF16 {
            return super::pair_bf16(self, low, high);
        }
        // SAFETY: `self` proves that the CPU has the instructions; `PAIRS` has 64 bytes.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_permutexvar_epi16(_mm512_loadu_si512(PAIRS.as_ptr().cast()), both)
        }
    }
    #[inline(always)]
    fn round_bf16(self, a: __m512, b: __m512) -> __m512i {
        if !BF16 {
            return super::round_bf16(self, a, b);
        }
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) }
    }
    #[inline(always)]
    fn dot_bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            if BF16 {
                let a = std::mem::transmute::<__m512i, __m512bh>(a);
                let b = std::mem::transmute::<__m512i, __m512bh>(b);
                return _mm512_dpbf16_ps(acc, a, b);
            }
            // Odd elements first, as the instruction has them.
            let odd = _mm512_set1_epi32(-0x1_0000);
            let (a_odd, b_odd) = (_mm512_and_si512(a, odd), _mm512_and_si512(b, odd));
            let acc = self.fma(self.of_bits(a_odd), self.of_bits(b_odd), acc);
            let (a, b) = (_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<16>(b));
            self.fma(self.of_bits(a), self.of_bits(b), acc)
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            let a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512 {
        // SAFETY: the caller vouches for 16 readable bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: __m512) {
        // SAFETY: the caller vouches for 32 writable bytes.
        unsafe {
            let halfs = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
            _mm256_storeu_si256(p.cast(), halfs);
        }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: `self` proves that the CPU has the instructions; registers only.
        unsafe {
            let a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller vouches for 64 readable bytes.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 64 readable bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> __m512 {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn rows16(self, p: *const u8, stride: usize) -> [__m512i; 4] {
        // SAFETY: 16 bytes of each of the 16 rows are readable by contract; the rest works on
        // registers.
        unsafe {
            let row = |i: usize| _mm_loadu_si128(p.add(i * stride).cast());
            // r[i]: rows i, 4 + i, 8 + i and 12 + i in the four 128-bit lanes.
            let mut r = [_mm512_setzero_si512(); 4];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm512_castsi128_si512(row(i));
                *r = _mm512_inserti32x4::<1>(*r, row(4 + i));
                *r = _mm512_inserti32x4::<2>(*r, row(8 + i));
                *r = _mm512_inserti32x4::<3>(*r, row(12 + i));
            }
            let low01 = _mm512_unpacklo_epi32(r[0], r[1]);
            let high01 = _mm512_unpackhi_epi32(r[0], r[1]);
            let low23 = _mm512_unpacklo_epi32(r[2], r[3]);
            let high23 = _mm512_unpackhi_epi32(r[2], r[3]);
            [
                _mm512_unpacklo_epi64(low01, low23),
                _mm512_unpackhi_epi64(low01, low23),
                _mm512_unpacklo_epi64(high01, high23),
                _mm512_unpackhi_epi64(high01, high23),
            ]
        }
    }
    #[inline(always)]
    fn zip_i(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: `Self` exists only where the CPU has AVX-512.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_epi32(a, low, b), _mm512_permutex2var_epi32(a, high, b)]
        }
    }
    #[inline(always)]
    unsafe fn rows4(self, p: *const u8, stride: usize) -> __m512i {
        // SAFETY: 4 bytes of each of the 16 rows are readable by contract.
        unsafe {
            let row = |i: usize| p.add(i * stride).cast::<i32>().read_unaligned();
            // Masked broadcasts from memory need no shuffle.
            let mut v = _mm512_set1_epi32(row(0));
            for i in 1..16 {
                v = _mm512_mask_set1_epi32(v, 1 << i, row(i));
            }
            v
        }
    }
    #[inline(always)]
    unsafe fn load_words(self, p: *const u8) -> __m512i {
        // SAFETY: the caller vouches for 32 readable bytes.
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_low_words(self, p: *mut u8, v: __m512i) {
        // SAFETY: the caller vouches for 32 writable bytes.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(v)) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut u8, v: __m512i) {
        // SAFETY: the caller vouches for 16 writable bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut u8, v: __m512i) {
        // SAFETY: the caller vouches for 64 writable bytes.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint that never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
