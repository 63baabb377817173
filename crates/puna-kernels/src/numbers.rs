//! Scalar conversions between f32 and the small floats.
//!
//! Branch-free so that loops over them vectorize; the `half` crate's conversions test the CPU on
//! every call.

/// The value of an IEEE half (subnormals, infinities and NaN included).
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let magnitude = u32::from(h & 0x7fff) << 13;
    // Read as f32 the exponent is 112 too small; the product is exact, for subnormals too.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if magnitude >= 0x0f80_0000 { special } else { finite })
}

/// The value of a bfloat16.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// Nearest IEEE half, ties to even; NaN stays a (quiet) NaN, what is too large becomes infinite.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let (sign, magnitude) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7fff_ffff);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    // Next to 0.5 the last place of an f32 is that of a subnormal half.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    (sign | if magnitude >= 0x4780_0000 { special } else { finite }) as u16
}

/// Nearest bfloat16, ties to even; NaN stays a (quiet) NaN.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded }) as u16
}

/// The value of an FP8 E4M3 number (`fn` variant: no infinity, `S.1111.111` is NaN).
#[inline(always)]
pub(crate) fn e4m3_to_f32(b: u8) -> f32 {
    let sign = u32::from(b & 0x80) << 24;
    let magnitude = u32::from(b & 0x7f);
    // As in f16_to_f32: exponent bias 7 against 127.
    let finite = (f32::from_bits(magnitude << 20) * f32::from_bits(0x7b80_0000)).to_bits();
    f32::from_bits(sign | if magnitude == 0x7f { 0x7fc0_0000 } else { finite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for h in 0..=u16::MAX {
            let expected = half::f16::from_bits(h).to_f32();
            let got = f16_to_f32(h);
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan());
        }
    }

    #[test]
    fn halves_are_rounded_as_the_half_crate_does() {
        // Every half, what lies between it and the next one, and everything beyond.
        let around = (0..=u16::MAX).flat_map(|h| {
            let bits = half::f16::from_bits(h).to_f32().to_bits();
            [0, 0xfff, 0x1000, 0x1001, 0x1fff].map(|more| bits.wrapping_add(more))
        });
        let coarse = (0..=u32::MAX).step_by(65_521);
        for x in around.chain(coarse).map(f32::from_bits) {
            let (got, expected) = (f32_to_f16(x), half::f16::from_f32(x));
            let nan = f16_to_f32(got).is_nan() && expected.is_nan();
            assert!(got == expected.to_bits() || nan, "{x:e}: {got:x}, {expected:?}");
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even_and_keeps_nan() {
        assert_eq!(f32_to_bf16(1.0), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16(f32::INFINITY), 0x7f80);
        assert!(bf16_to_f32(f32_to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
    }

    #[test]
    fn e4m3_has_the_values_of_the_ocp_specification() {
        assert_eq!(e4m3_to_f32(0x38), 1.0);
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert_eq!(e4m3_to_f32(0x01), 2f32.powi(-9));
        assert_eq!(e4m3_to_f32(0x88), -(2f32.powi(-6)));
        assert!(e4m3_to_f32(0xff).is_nan());
    }
}
