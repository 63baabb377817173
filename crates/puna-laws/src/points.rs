//! Points to fit: what size, how many tokens, which loss.

mod known;
mod read;

use std::collections::BTreeSet;

pub use self::known::is_besiroglu2024;
pub use self::read::{Count, PointFile, parse_points, read_points};

use crate::error::LawError;
use crate::law::TRAIN_FLOPS;

/// A finished training run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Parameters, by whatever count: a law holds for one count.
    pub params: f64,
    /// Tokens seen.
    pub tokens: f64,
    /// Loss at the end, nats per token.
    pub loss: f64,
    /// Operations that the run was planned for; `6 · params · tokens` where nothing else is known.
    pub budget: f64,
}

impl Point {
    /// A point whose budget is `6 · params · tokens`.
    pub fn new(params: f64, tokens: f64, loss: f64) -> Self {
        Self { params, tokens, loss, budget: TRAIN_FLOPS * params * tokens }
    }

    /// `6 · params · tokens`.
    pub fn flops(&self) -> f64 {
        TRAIN_FLOPS * self.params * self.tokens
    }
}

/// Points that a law of five constants needs at least.
pub const FEWEST_POINTS: usize = 6;
/// Different sizes, and different numbers of tokens: two cannot tell A, α and E apart.
const FEWEST_VALUES: usize = 3;

/// Which of the highest losses are left out of a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outliers {
    /// None, but for the 245 points of Besiroglu et al. 2024, whose five highest they dropped.
    #[default]
    Published,
    /// So many.
    Highest(usize),
}

/// Leaves out the highest losses; the second number says how many.
pub fn without_outliers(points: &[Point], rule: Outliers) -> (Vec<Point>, usize) {
    let mut by_loss: Vec<usize> = (0..points.len()).collect();
    by_loss.sort_by(|&x, &y| points[y].loss.total_cmp(&points[x].loss));
    let drop = match rule {
        Outliers::Highest(count) => count.min(points.len()),
        Outliers::Published if is_besiroglu2024(points) => known::DROPPED,
        Outliers::Published => 0,
    };
    let dropped: BTreeSet<usize> = by_loss.into_iter().take(drop).collect();
    let kept = points.iter().enumerate().filter(|(index, _)| !dropped.contains(index));
    (kept.map(|(_, point)| *point).collect(), drop)
}

/// Whether the points can determine a law.
pub(crate) fn check(points: &[Point]) -> Result<(), LawError> {
    if points.len() < FEWEST_POINTS {
        return Err(LawError::FewPoints { count: points.len(), needed: FEWEST_POINTS });
    }
    for (index, point) in points.iter().enumerate() {
        let values = [("params", point.params), ("tokens", point.tokens), ("loss", point.loss)];
        if let Some((what, value)) = values.iter().find(|(_, value)| !usable(*value)) {
            return Err(LawError::Value {
                place: format!("point {}", index + 1),
                what,
                value: value.to_string(),
            });
        }
    }
    let sorted = |of: fn(&Point) -> f64| {
        let mut values: Vec<f64> = points.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        // Sizes that differ by a tenth of a percent are the same.
        values.dedup_by(|x, y| (*x / *y).ln().abs() < 1e-3);
        values.len()
    };
    let several = [("parameters", sorted(|p| p.params)), ("tokens", sorted(|p| p.tokens))];
    match several.into_iter().find(|(_, count)| *count < FEWEST_VALUES) {
        Some((what, count)) => {
            Err(LawError::FewValues { what, count, needed: FEWEST_VALUES, points: points.len() })
        }
        None => Ok(()),
    }
}

fn usable(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Vec<Point> {
        let mut points = Vec::new();
        for params in [1e8, 2e8, 4e8] {
            for tokens in [1e9, 2e9, 4e9] {
                points.push(Point::new(params, tokens, 3.0 + 1e8 / params + 1e9 / tokens));
            }
        }
        points
    }

    #[test]
    fn points_that_cannot_determine_a_law_are_refused_with_the_reason() {
        let message = |points: &[Point]| check(points).unwrap_err().to_string();
        assert!(check(&grid()).is_ok());
        assert!(message(&grid()[..5]).contains("5 points"));
        let same: Vec<Point> = grid().iter().map(|p| Point { params: 1e8, ..*p }).collect();
        assert!(message(&same).contains("1 number of parameters"), "{}", message(&same));
        let mut broken = grid();
        broken[3].loss = f64::NAN;
        assert!(message(&broken).contains("point 4"), "{}", message(&broken));
    }

    #[test]
    fn the_highest_losses_are_dropped_only_when_asked() {
        let points = grid();
        assert_eq!(without_outliers(&points, Outliers::Published), (points.clone(), 0));
        let (kept, dropped) = without_outliers(&points, Outliers::Highest(1));
        assert_eq!((kept.len(), dropped), (8, 1));
        assert!(kept.iter().all(|point| point.loss < 4.6), "{kept:?}");
    }
}
