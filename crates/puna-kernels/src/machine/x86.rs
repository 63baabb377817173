//! The loops that reach the limits of x86: registers only for arithmetic, loads only for memory.
//!
//! An empty `asm!` block says that a register changes. It costs nothing and keeps the compiler
//! from computing a loop's constant product once and from dropping a sum that nobody needs.

use std::arch::asm;
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics name themselves"))]
use std::arch::x86_64::*;

/// Bytes ahead of the loads that are asked for: a page, where the hardware's own prefetch ends.
const AHEAD: usize = 4096;

/// Independent sums of the AVX2 loops: more would not fit into 16 registers beside the factors.
const SUMS_256: usize = 12;

/// Independent sums of the AVX-512 loops: two per cycle at a latency of up to eight.
const SUMS_512: usize = 16;

/// `touch!(inout(ymm_reg) v)` makes the compiler believe that `v` changes, `touch!(in(ymm_reg) v)`
/// that it is needed.
macro_rules! touch {
    ($direction:tt($class:tt) $v:expr) => {
        // SAFETY: no instruction is written.
        unsafe {
            asm!("/* {0} */", $direction($class) $v, options(nomem, nostack, preserves_flags));
        }
    };
}

/// Fused multiply-adds of 8 f32; the number of operations done.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2_f32(turns: usize) -> u64 {
    let (mut a, mut b) = (_mm256_set1_ps(0.5), _mm256_set1_ps(0.25));
    touch!(inout(ymm_reg) a);
    touch!(inout(ymm_reg) b);
    let mut sums = [_mm256_setzero_ps(); SUMS_256];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    for sum in sums {
        touch!(in(ymm_reg) sum);
    }
    (turns * SUMS_256 * 16) as u64
}

/// Dot products of 32 bytes in three instructions; the number of operations done.
///
/// # Safety
/// The CPU must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2_int8(turns: usize) -> u64 {
    let (mut a, b, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); SUMS_256];
    for _ in 0..turns {
        for sum in &mut sums {
            touch!(inout(ymm_reg) a);
            let pairs = _mm256_maddubs_epi16(a, b);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    for sum in sums {
        touch!(in(ymm_reg) sum);
    }
    (turns * SUMS_256 * 64) as u64
}

/// Dot products of 32 bytes; the number of operations done.
///
/// # Safety
/// The CPU must have AVX2 and AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn avx_vnni_int8(turns: usize) -> u64 {
    let (mut a, mut b) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5));
    touch!(inout(ymm_reg) a);
    touch!(inout(ymm_reg) b);
    let mut sums = [_mm256_setzero_si256(); SUMS_256];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    for sum in sums {
        touch!(in(ymm_reg) sum);
    }
    (turns * SUMS_256 * 64) as u64
}

/// Fused multiply-adds of 16 f32; the number of operations done.
///
/// # Safety
/// The CPU must have AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512_f32(turns: usize) -> u64 {
    let (mut a, mut b) = (_mm512_set1_ps(0.5), _mm512_set1_ps(0.25));
    touch!(inout(zmm_reg) a);
    touch!(inout(zmm_reg) b);
    let mut sums = [_mm512_setzero_ps(); SUMS_512];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, b, *sum);
        }
    }
    for sum in sums {
        touch!(in(zmm_reg) sum);
    }
    (turns * SUMS_512 * 32) as u64
}

/// Dot products of 32 bfloat16; the number of operations done.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn avx512_bf16(turns: usize) -> u64 {
    let mut a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.25));
    let mut bits: __m512 = bf16_bits(a);
    touch!(inout(zmm_reg) bits);
    a = bf16_of_bits(bits);
    let mut sums = [_mm512_setzero_ps(); SUMS_512];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, a, a);
        }
    }
    for sum in sums {
        touch!(in(zmm_reg) sum);
    }
    (turns * SUMS_512 * 64) as u64
}

/// `asm!` takes no `__m512bh`.
fn bf16_bits(v: __m512bh) -> __m512 {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(v) }
}

/// The reverse of [`bf16_bits`].
fn bf16_of_bits(v: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(v) }
}

/// Dot products of 64 bytes; the number of operations done.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn avx512_int8(turns: usize) -> u64 {
    let (mut a, mut b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(-5));
    touch!(inout(zmm_reg) a);
    touch!(inout(zmm_reg) b);
    let mut sums = [_mm512_setzero_si512(); SUMS_512];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    for sum in sums {
        touch!(in(zmm_reg) sum);
    }
    (turns * SUMS_512 * 128) as u64
}

/// Reads all bytes, whole KiB of them.
///
/// # Safety
/// The CPU must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2_read(bytes: &[u8]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 8];
    for block in bytes.as_chunks::<256>().0 {
        let p = block.as_ptr();
        for line in 0..4 {
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * line).cast());
        }
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: 8 vectors of 32 bytes are the block.
            let v = unsafe { _mm256_loadu_si256(p.add(32 * i).cast()) };
            *sum = _mm256_or_si256(*sum, v);
        }
    }
    let all = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_or_si256(a, b));
    _mm256_extract_epi64::<0>(all).cast_unsigned()
}

/// Reads all bytes, whole KiB of them.
///
/// # Safety
/// The CPU must have AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512_read(bytes: &[u8]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 8];
    for block in bytes.as_chunks::<512>().0 {
        let p = block.as_ptr();
        for (i, sum) in sums.iter_mut().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * i).cast());
            // SAFETY: 8 vectors of 64 bytes are the block.
            let v = unsafe { _mm512_loadu_si512(p.add(64 * i).cast()) };
            *sum = _mm512_or_si512(*sum, v);
        }
    }
    let all = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_or_si512(a, b));
    _mm512_reduce_or_epi64(all).cast_unsigned()
}
