//! Where descents begin.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::objective::{Objective, Variables};
use crate::law::ParametricLaw;

/// Hoffmann et al. 2022, appendix D.3: ln A and ln B, ln E, α and β.
const LN_FACTORS: [f64; 6] = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0];
const LN_E: [f64; 5] = [-1.0, -0.5, 0.0, 0.5, 1.0];
const EXPONENTS: [f64; 5] = [0.0, 0.5, 1.0, 1.5, 2.0];

/// So many places of the grid in random order; all of them if it has no more.
pub(super) fn choose(objective: &Objective, count: usize, seed: u64) -> Vec<Variables> {
    let mut grid = Vec::new();
    for ln_a in LN_FACTORS {
        for ln_b in LN_FACTORS {
            for ln_e in LN_E {
                grid.extend(exponents().map(|(alpha, beta)| {
                    let [a, b, e] = [ln_a, ln_b, ln_e].map(f64::exp);
                    objective.variables(&ParametricLaw { a, b, e, alpha, beta })
                }));
            }
        }
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let count = count.min(grid.len());
    // Fisher and Yates, as far as needed.
    for i in 0..count {
        let left = (grid.len() - i) as u64;
        grid.swap(i, i + (random.next_u64() % left) as usize);
    }
    grid.truncate(count);
    grid
}

fn exponents() -> impl Iterator<Item = (f64, f64)> {
    EXPONENTS.into_iter().flat_map(|alpha| EXPONENTS.map(|beta| (alpha, beta)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Point;

    #[test]
    fn starts_are_different_places_of_the_grid_and_the_same_every_time() {
        let objective = Objective::new(&[Point::new(1e9, 1e10, 3.0)], 1e-3);
        let all = choose(&objective, 10_000, 0);
        assert_eq!(all.len(), 4500);
        let some = choose(&objective, 300, 7);
        assert_eq!(some, choose(&objective, 300, 7));
        assert_ne!(some, choose(&objective, 300, 8));
        for (i, start) in some.iter().enumerate() {
            assert!(!some[..i].contains(start));
        }
    }
}
