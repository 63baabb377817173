//! Rotary frequencies: how each kind of scaling stretches the geometric sequence.
//!
//! The arithmetic is that of transformers' `modeling_rope_utils`, in f64 (there f32), so the two
//! agree to f32's rounding. Frequencies and the factor on cos and sin are returned instead of
//! tables, because two kinds depend on the length of the sequence that is being processed.

use crate::{RopeConfig, RopeScaling, YarnRamp};
use std::f64::consts::TAU;

/// What a rotary table is computed from.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    /// Angle per position of each rotated pair, in radians; `rotary_dim / 2` of them.
    pub inv_freq: Vec<f64>,
    /// Multiplies cos and sin; 1 unless YaRN or LongRoPE says otherwise.
    pub attention_factor: f64,
}

impl RopeConfig {
    /// The frequencies for a sequence of `seq_len` tokens (all of it, cached tokens included).
    ///
    /// Only dynamic NTK and LongRoPE look at `seq_len`: up to their `original_max` it changes
    /// nothing; beyond, dynamic NTK's base grows with every token and LongRoPE takes its other
    /// table. The caller decides what becomes of keys that were rotated with an earlier answer.
    ///
    /// `inv_freq[i] = theta^(-2i / rotary_dim)` before scaling (arXiv:2104.09864, eq. 15).
    #[must_use]
    pub fn inverse_frequencies(&self, seq_len: usize) -> RopeFrequencies {
        let plain = |theta: f64| self.exponents().map(|e| theta.powf(-e)).collect::<Vec<f64>>();
        let mut attention_factor = 1.0;
        let inv_freq = match &self.scaling {
            RopeScaling::None => plain(self.theta),
            RopeScaling::Linear { factor } => {
                plain(self.theta).into_iter().map(|f| f / factor).collect()
            }
            RopeScaling::DynamicNtk { factor, original_max } => {
                plain(self.dynamic_theta(*factor, *original_max, seq_len))
            }
            RopeScaling::Yarn { attention_factor: a, .. } => {
                attention_factor = *a;
                self.yarn(plain(self.theta))
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
                let (low, high) = (*low_freq_factor, *high_freq_factor);
                let bend = |f| llama3(f, *factor, (low, high), *original_max as f64);
                plain(self.theta).into_iter().map(bend).collect()
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max,
                attention_factor: a,
            } => {
                attention_factor = *a;
                let divisors = if seq_len > *original_max { long_factor } else { short_factor };
                plain(self.theta).into_iter().zip(divisors).map(|(f, d)| f / d).collect()
            }
        };
        RopeFrequencies { inv_freq, attention_factor }
    }

    /// `2i / rotary_dim`.
    fn exponents(&self) -> impl Iterator<Item = f64> {
        let dim = self.rotary_dim;
        (0..dim / 2).map(move |i| 2.0 * i as f64 / dim as f64)
    }

    /// `theta * (factor * s / m - (factor - 1))^(d / (d - 2))` with `s = max(seq_len, m)`.
    fn dynamic_theta(&self, factor: f64, original_max: usize, seq_len: usize) -> f64 {
        let dim = self.rotary_dim as f64;
        let stretch = seq_len.max(original_max) as f64 / original_max as f64;
        self.theta * (factor * stretch - (factor - 1.0)).powf(dim / (dim - 2.0))
    }

    /// YaRN's blend of kept and divided frequencies (arXiv:2309.00071, eqs. 17 to 23).
    fn yarn(&self, plain: Vec<f64>) -> Vec<f64> {
        let RopeScaling::Yarn { factor, original_max, beta_fast, beta_slow, ramp, .. } =
            &self.scaling
        else {
            return plain;
        };
        let dim = self.rotary_dim as f64;
        // The dimension whose wavelength makes `rotations` turns within the original length.
        let dimension = |rotations: f64| {
            dim * (*original_max as f64 / (rotations * TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (low, high) = (dimension(*beta_fast), dimension(*beta_slow));
        let (low, high) = match ramp {
            YarnRamp::Truncated => (low.floor(), high.ceil()),
            YarnRamp::Exact => (low, high),
        };
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let blend = |(i, f): (usize, f64)| {
            let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * divided + f * (1.0 - divided)
        };
        plain.into_iter().enumerate().map(blend).collect()
    }
}

/// Llama 3.1: long wavelengths divided, short ones kept, a linear blend between.
fn llama3(inv_freq: f64, factor: f64, (low, high): (f64, f64), original_max: f64) -> f64 {
    let wavelength = TAU / inv_freq;
    if wavelength > original_max / low {
        inv_freq / factor
    } else if wavelength < original_max / high {
        inv_freq
    } else {
        let smooth = (original_max / wavelength - low) / (high - low);
        (1.0 - smooth) * inv_freq / factor + smooth * inv_freq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_frequencies_are_powers_of_theta() {
        let rope = RopeConfig { theta: 10_000.0, rotary_dim: 4, scaling: RopeScaling::None };
        let freqs = rope.inverse_frequencies(1);
        assert_eq!(freqs.inv_freq, [1.0, 0.01]);
        assert_eq!(freqs.attention_factor, 1.0);
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let scaling = RopeScaling::Linear { factor: 4.0 };
        let rope = RopeConfig { theta: 10_000.0, rotary_dim: 4, scaling };
        assert_eq!(rope.inverse_frequencies(9).inv_freq, [0.25, 0.0025]);
    }

    #[test]
    fn dynamic_ntk_changes_nothing_up_to_the_original_length() {
        let scaling = RopeScaling::DynamicNtk { factor: 2.0, original_max: 32 };
        let rope = RopeConfig { theta: 10_000.0, rotary_dim: 4, scaling };
        assert_eq!(rope.inverse_frequencies(32).inv_freq, [1.0, 0.01]);
        // At twice the length: base 10000 * (2 * 2 - 1)^(4 / 2) = 90000, whose root is 300.
        let grown = rope.inverse_frequencies(64).inv_freq;
        assert!((grown[1] - 1.0 / 300.0).abs() < 1e-15);
    }
}
