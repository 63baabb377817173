//! Spread of the power laws of Approaches 1 and 2 under other draws of the points.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::ensemble::{Interval, Level, interval_of};
use crate::envelope::envelope;
use crate::isoflop::{Group, isoflop_laws};
use crate::loss_frontier::LossFrontier;
use crate::points::Point;
use crate::power_law::FrontierLaw;

/// Power laws of resampled points.
#[derive(Debug, Clone, PartialEq)]
pub struct FrontierEnsemble {
    laws: Vec<FrontierLaw>,
    /// Of Approach 2, for those draws that gave one.
    losses: Vec<LossFrontier>,
}

impl FrontierEnsemble {
    /// Approach 1 on points drawn with replacement. `None` if fewer than half of the draws give a law.
    pub fn of_envelope(points: &[Point], resamples: usize, seed: u64) -> Option<Self> {
        Self::new(resamples, seed, |random| {
            envelope(&draw(points, random)).map(|found| (found.law, None))
        })
    }

    /// Approach 2 on points drawn with replacement within each budget. `None` as above.
    pub fn of_isoflop(groups: &[Group], resamples: usize, seed: u64) -> Option<Self> {
        Self::new(resamples, seed, |random| {
            let drawn = |group: &Group| Group { points: draw(&group.points, random), ..*group };
            isoflop_laws(&groups.iter().map(drawn).collect::<Vec<_>>())
        })
    }

    fn new(
        resamples: usize,
        seed: u64,
        mut law: impl FnMut(&mut ChaCha8Rng) -> Option<(FrontierLaw, Option<LossFrontier>)>,
    ) -> Option<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (laws, losses): (Vec<FrontierLaw>, Vec<Option<LossFrontier>>) =
            (0..resamples).filter_map(|_| law(&mut random)).unzip();
        let losses = losses.into_iter().flatten().collect();
        enough(laws.len(), resamples).then_some(Self { laws, losses })
    }

    /// The interval of any number that follows from a law.
    pub fn interval(&self, level: Level, of: impl Fn(&FrontierLaw) -> f64) -> Interval {
        interval_of(self.laws.iter().map(of), level)
    }

    /// The interval of the lowest loss for a budget. `None` if fewer than half of the draws had three
    /// parabolas.
    pub fn loss_for_flops(&self, flops: f64, level: Level) -> Option<Interval> {
        let losses = self.losses.iter().map(|law| law.at(flops));
        enough(self.losses.len(), self.laws.len()).then(|| interval_of(losses, level))
    }
}

/// Whether some of the draws are enough to speak of all.
fn enough(some: usize, all: usize) -> bool {
    some >= 20 && 2 * some >= all
}

/// As many points, each any of them.
fn draw(points: &[Point], random: &mut ChaCha8Rng) -> Vec<Point> {
    let count = points.len() as u64;
    points.iter().map(|_| points[(random.next_u64() % count) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isoflop::{Budgets, group_by_budget};

    #[test]
    fn points_on_a_parabola_have_no_spread() {
        let mut points = Vec::new();
        for (budget, best) in [(1e18, 1e8), (4e18, 2e8), (1.6e19, 4e8)] {
            for step in -6..=6 {
                let params = best * 1.2f64.powi(step);
                let loss = 3.0 + 0.1 * (params / best).ln().powi(2);
                points.push(Point::new(params, budget / (6.0 * params), loss));
            }
        }
        let groups = group_by_budget(&points, &Budgets::Found);
        let ensemble = FrontierEnsemble::of_isoflop(&groups, 50, 3).unwrap();
        let between = ensemble.interval(Level::Percent80, |law| law.params.exponent);
        assert!((between.low - 0.5).abs() < 1e-6 && (between.high - 0.5).abs() < 1e-6);
        assert_eq!(ensemble.loss_for_flops(1e20, Level::Percent80), None, "all losses are equal");
    }
}
