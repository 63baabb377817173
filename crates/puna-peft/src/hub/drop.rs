//! AdapterDrop (arXiv:2010.11918): the first `n` blocks go without their adapters, so that what
//! several tasks share is computed once; in training `n` is drawn anew for every step.

use puna_nn::{AdapterSet, Pass};

/// Takes the adapters of branches out of the first `n` blocks: AdapterDrop at inference, for adapters
/// that were trained with any number of them.
pub fn drop_first_layers(set: &mut AdapterSet, n: usize) {
    set.branches.retain(|(layer, _), _| *layer >= n);
}

/// Whether training leaves a block's adapters out in this pass, of which at most `most` blocks are.
pub(crate) fn is_dropped(layer: usize, most: usize, pass: &Pass) -> bool {
    pass.seed.is_some_and(|seed| layer < drawn(seed, most))
}

/// A number from 0 to `most`: the same in all blocks of a pass, and in both passes of a block that is
/// computed twice.
fn drawn(seed: u64, most: usize) -> usize {
    draw(seed ^ SALT, most + 1)
}

/// Keeps these numbers apart from those of dropout.
const SALT: u64 = 0x5851_f42d_4c95_7f2d;

/// A number below `count`, from a seed (SplitMix64's output function).
pub(crate) fn draw(seed: u64, count: usize) -> usize {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % count.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_nn::Precision;

    #[test]
    fn each_number_of_left_out_blocks_is_drawn_equally_often() {
        let mut counts = [0usize; 4];
        (0..4000).for_each(|seed| counts[drawn(seed, 3)] += 1);
        assert!(counts.iter().all(|&count| (900..1100).contains(&count)), "{counts:?}");
    }

    #[test]
    fn nothing_is_dropped_outside_training_or_without_the_setting() {
        let pass = Pass::new(Precision::Exact);
        assert!(!is_dropped(0, 5, &pass));
        assert!((0..100).all(|seed| !is_dropped(0, 0, &Pass { seed: Some(seed), ..pass.clone() })));
        assert!((0..100).any(|seed| is_dropped(0, 5, &Pass { seed: Some(seed), ..pass.clone() })));
    }
}
