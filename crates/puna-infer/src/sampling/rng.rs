//! The random numbers of sampling: xoshiro256++ seeded through SplitMix64.
//!
//! Written here rather than taken from a crate because a seed must give the same text in every
//! later version of puna; the generators of `rand` promise no such thing. Both algorithms are in
//! the public domain: Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators" (2021),
//! <https://prng.di.unimi.it>.

/// xoshiro256++: 256 bits of state, period 2²⁵⁶ − 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Four outputs of SplitMix64 started at `seed`: neighbouring seeds give unrelated streams.
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut counter = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut counter)) }
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.state;
        let result = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

fn split_mix(counter: &mut u64) -> u64 {
    *counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Rng, split_mix};

    #[test]
    fn xoshiro_gives_the_reference_sequence() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected = [41943041, 58720359, 3588806011781223, 3591011842654386];
        for value in expected {
            assert_eq!(rng.next_u64(), value);
        }
    }

    #[test]
    fn split_mix_gives_the_reference_sequence() {
        let mut counter = 1477776061723855037;
        let expected = [1985237415132408290, 2979275885539914483, 13511426838097143398];
        for value in expected {
            assert_eq!(split_mix(&mut counter), value);
        }
    }

    #[test]
    fn units_lie_in_the_half_open_interval_with_mean_one_half() {
        let mut rng = Rng::from_seed(7);
        let units: Vec<f64> = (0..10_000).map(|_| rng.unit()).collect();
        assert!(units.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = units.iter().sum::<f64>() / units.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
    }
}
