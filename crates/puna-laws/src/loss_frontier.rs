//! The lowest loss for a budget as a law of the budget alone.
//!
//! Hoffmann's Approach 2 gives the best size and no loss. The vertices of its parabolas are losses, too,
//! and Llama 3 (2024, section 3.2.1) reads the loss of its largest model off the line through such
//! compute-optimal losses. A law fitted to nothing but vertices knows nothing of models that are far
//! too small or too large, and is not bent by them either.

use crate::power_law::PowerLaw;

/// Steps of the search for the floor; each leaves 0.618 of its range.
const SEARCH_STEPS: usize = 60;
/// Shares of the lowest loss that are tried as floors first.
const FLOORS: usize = 50;

/// `L(C) = floor + coefficient · C^exponent`, the exponent negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossFrontier {
    /// Loss that no budget gets below, at least 0.
    pub floor: f64,
    /// What a budget leaves above it.
    pub above: PowerLaw,
}

impl LossFrontier {
    /// Lowest loss for a budget.
    pub fn at(&self, flops: f64) -> f64 {
        self.floor + self.above.at(flops)
    }

    /// Least squares of `ln L`, through budgets and their lowest losses, with a floor from 0 to the
    /// lowest loss. `None` with fewer than three budgets, or if losses do not fall.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        if points.len() < 3 {
            return None;
        }
        let lowest = points.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        let residual =
            |floor: f64| Self::with_floor(points, floor).map_or(f64::INFINITY, |law| law.1);
        let step = 0.999 * lowest / FLOORS as f64;
        let best = (0..=FLOORS)
            .map(|index| step * index as f64)
            .min_by(|x, y| residual(*x).total_cmp(&residual(*y)))?;
        let floor = minimum(&residual, (best - step).max(0.0), (best + step).min(0.999 * lowest));
        // An end of the range is a candidate as well: search alone only comes near it.
        let floor = if residual(0.0) <= residual(floor) { 0.0 } else { floor };
        let (law, _) = Self::with_floor(points, floor)?;
        (law.above.exponent < 0.0).then_some(law)
    }

    /// The law with a given floor, and the squares of what it leaves of `ln L`.
    fn with_floor(points: &[(f64, f64)], floor: f64) -> Option<(Self, f64)> {
        let above = PowerLaw::fit(points.iter().map(|(flops, loss)| (*flops, loss - floor)))?;
        let law = Self { floor, above };
        let squares = points.iter().map(|(flops, loss)| (law.at(*flops) / loss).ln().powi(2)).sum();
        Some((law, squares))
    }
}

/// Golden-section search.
fn minimum(value: &impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let part = (5f64.sqrt() - 1.0) / 2.0;
    for _ in 0..SEARCH_STEPS {
        let (left, right) = (high - part * (high - low), low + part * (high - low));
        if value(left) <= value(right) {
            high = right;
        } else {
            low = left;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points_of(law: &LossFrontier, budgets: &[f64]) -> Vec<(f64, f64)> {
        budgets.iter().map(|&flops| (flops, law.at(flops))).collect()
    }

    #[test]
    fn losses_on_a_law_give_the_law() {
        for floor in [0.0, 0.7, 1.8] {
            let above = PowerLaw { coefficient: 300.0, exponent: -0.16 };
            let law = LossFrontier { floor, above };
            let points = points_of(&law, &[1e11, 1e12, 1e13, 1e14]);
            let found = LossFrontier::fit(&points).unwrap();
            assert!((found.floor - floor).abs() < 1e-5, "{floor}: {found:?}");
            assert!((found.at(1e16) / law.at(1e16) - 1.0).abs() < 1e-5, "{found:?}");
        }
    }

    #[test]
    fn the_floor_is_never_below_nothing() {
        // Straight in ln C: a floor below 0 would fit it better.
        let points: Vec<(f64, f64)> =
            (11..=14).map(|power| (10f64.powi(power), 12.0 - 0.8 * f64::from(power))).collect();
        assert_eq!(LossFrontier::fit(&points).unwrap().floor, 0.0);
    }

    #[test]
    fn too_few_budgets_and_rising_losses_give_none() {
        assert_eq!(LossFrontier::fit(&[(1e11, 3.0), (1e12, 2.5)]), None);
        assert_eq!(LossFrontier::fit(&[(1e11, 2.0), (1e12, 2.5), (1e13, 3.0)]), None);
    }

    #[test]
    fn chinchilla_s_optima_follow_it() {
        // On the law of Besiroglu et al. the loss of the best allocation is such a power law exactly,
        // with E for its floor.
        let chinchilla = crate::LawName::default().parametric();
        let points: Vec<(f64, f64)> = (18..=22)
            .map(|power| 10f64.powi(power))
            .map(|c| (c, chinchilla.for_flops(c).loss))
            .collect();
        let found = LossFrontier::fit(&points).unwrap();
        assert!((found.floor - chinchilla.e).abs() < 1e-4, "{found:?}");
        let exponent = chinchilla.alpha * chinchilla.beta / (chinchilla.alpha + chinchilla.beta);
        assert!((found.above.exponent + exponent).abs() < 1e-4, "{found:?}");
    }
}
