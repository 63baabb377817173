//! Random beginnings.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// Random numbers of an adapter: the same for the same seed.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// From `-bound` to `bound`.
    pub(crate) fn uniform(&mut self, len: usize, bound: f32) -> Vec<f32> {
        let unit = |rng: &mut ChaCha8Rng| (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
        (0..len).map(|_| bound * (2.0 * unit(&mut self.0) - 1.0)).collect()
    }

    /// Below a bound.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// With mean 0.
    pub(crate) fn normal(&mut self, len: usize, std: f32) -> Vec<f32> {
        (0..len)
            .map(|_| {
                let value: f32 = StandardNormal.sample(&mut self.0);
                std * value
            })
            .collect()
    }
}

/// A number that differs from name to name (FNV-1a).
pub(crate) fn seed_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
