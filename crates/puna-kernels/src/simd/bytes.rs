//! The byte operations of AVX2, which AVX-512 shares.

/// Methods of [`Simd`](super::Simd) on 32 bytes in a register.
macro_rules! byte_methods {
    (@each $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $ret {
            // SAFETY: `self` proves that the CPU has the instructions; references are valid.
            unsafe { $body }
        }
    )*};
    () => {
        super::bytes::byte_methods! { @each
            fn half(h: u16) -> f32 =
                _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(h))));
            fn splat_b(v: u8) -> __m256i = _mm256_set1_epi8(v.cast_signed());
            fn and_b(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
            fn or_b(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
            fn xor_b(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
            fn nibbles(v: [u8; 16]) -> __m256i = {
                let v = _mm_loadu_si128(v.as_ptr().cast());
                let v = _mm256_set_m128i(_mm_srli_epi16::<4>(v), v);
                _mm256_and_si256(v, _mm256_set1_epi8(15))
            };
            fn mask_b(bits: u32) -> __m256i = {
                let (low, high) = (0x0101_0101_0101_0101, 0x0202_0202_0202_0202);
                let byte = _mm256_setr_epi64x(0, low, high, low + high);
                let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits.cast_signed()), byte);
                let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
                _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
            };
            fn lookup(table: &[u8; 16], v: __m256i) -> __m256i = {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                _mm256_shuffle_epi8(_mm256_set_m128i(table, table), v)
            };
            fn load_b(v: &[u8; 32]) -> __m256i = _mm256_loadu_si256(v.as_ptr().cast());
            fn store_b(out: &mut [u8; 32], v: __m256i) -> () =
                _mm256_storeu_si256(out.as_mut_ptr().cast(), v);
        }
        #[inline(always)]
        fn shr_b<const N: i32>(self, v: __m256i) -> __m256i {
            self.and_b(
                // SAFETY: `self` proves that the CPU has the instructions; registers only.
                unsafe { _mm256_srli_epi16::<N>(v) },
                self.splat_b(255 >> N),
            )
        }
        #[inline(always)]
        fn shl_b<const N: i32>(self, v: __m256i) -> __m256i {
            self.and_b(
                // SAFETY: `self` proves that the CPU has the instructions; registers only.
                unsafe { _mm256_slli_epi16::<N>(v) },
                self.splat_b(255 << N),
            )
        }
    };
}
pub(super) use byte_methods;
