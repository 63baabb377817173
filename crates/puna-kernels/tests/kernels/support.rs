//! Random numbers, the instruction sets present, and comparisons.

use puna_kernels::{Isa, Kernels};

/// A small generator (SplitMix64): tests must not depend on a crate's stream.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// About standard normal: the sum of four uniforms, scaled.
    pub(crate) fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: f32 = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as f32 / 65536.0 - 0.5).sum();
        sum * 3f32.sqrt()
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.bits() as u8).collect()
    }
}

/// The tables of this machine; those it lacks are named on stderr.
#[expect(clippy::print_stderr, reason = "a skip must be visible")]
pub(crate) fn tables() -> Vec<&'static Kernels> {
    let present = |&isa: &Isa| {
        let table = Kernels::for_isa(isa);
        if table.is_none() {
            eprintln!("skipped: {isa:?} is not available on this machine");
        }
        table
    };
    Isa::ALL.iter().filter_map(present).collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
