//! A seeded permutation of 0..n in constant memory.
//!
//! A balanced Feistel network permutes 0..2^(2k), the smallest such range that holds n; results
//! that are n or more are put in again until one is inside ("cycle walking": Black and Rogaway,
//! "Ciphers with Arbitrary Finite Domains", 2002, section 3). The range is at most 4 n, so four
//! steps are needed on average at worst. A table would cost 8 bytes per window and would have to be
//! shuffled anew after every restart.

const ROUNDS: usize = 6;

/// A permutation of `0..len`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` for a seed.
    pub(crate) fn new(len: u64, seed: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            mix(state)
        });
        Self { len, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where `index`, which must be below the length, goes.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mut value = self.network(index);
        while value >= self.len {
            value = self.network(value);
        }
        value
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit depends on every bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_occurs_once() {
        for len in [1, 2, 3, 5, 16, 17, 1000, 4097] {
            let permutation = Permutation::new(len, 42);
            let mut seen: Vec<u64> = (0..len).map(|i| permutation.apply(i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..len).collect::<Vec<_>>(), "{len}");
        }
    }

    #[test]
    fn another_seed_gives_another_order() {
        let order = |seed| {
            let permutation = Permutation::new(100, seed);
            (0..100).map(|i| permutation.apply(i)).collect::<Vec<_>>()
        };
        assert_ne!(order(1), order(2));
        assert_eq!(order(1), order(1));
        let fixed = order(1).iter().enumerate().filter(|(i, v)| *i as u64 == **v).count();
        assert!(fixed < 10, "{fixed} of 100 stay where they are");
    }
}
