//! The points of a loss curve, its ranges and its words.

use std::ops::Range;

use puna_plot::{grouped, short};

use crate::log::metrics::Metrics;

/// Points of the thin line; more do not show and make an SVG large.
const MOST_POINTS: usize = 1600;
/// Points of the running mean: far enough apart for gentle turns.
const MOST_MEAN_POINTS: usize = 300;
/// Part of the run that the running mean reaches to each side.
const MEAN_REACH: f64 = 0.01;

/// A run's losses over its steps; finite ones only, at least one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    /// What each step saw; thinned out to the least and the greatest of neighbors.
    pub(super) steps: Vec<(f64, f64)>,
    /// Running mean.
    pub(super) mean: Vec<(f64, f64)>,
    /// Validation.
    pub(super) validation: Vec<(f64, f64)>,
    /// Tokens at the end.
    tokens: u64,
    last_step: u64,
}

impl Curve {
    /// The curve of a record; `None` without a finite loss.
    pub(super) fn of(metrics: &[Metrics]) -> Option<Self> {
        let (mut steps, mut validation) = (Vec::new(), Vec::new());
        let (mut tokens, mut last_step) = (0, 0);
        for line in metrics {
            match line {
                Metrics::Step(m) => {
                    steps.push((m.step as f64, m.loss));
                    (tokens, last_step) = (m.tokens, m.step);
                }
                Metrics::Validation(m) => validation.push((m.step as f64, m.validation_loss)),
            }
        }
        steps.retain(|(_, loss)| loss.is_finite());
        validation.retain(|(_, loss)| loss.is_finite());
        if steps.is_empty() {
            return None;
        }
        let mean = thinned(&running_mean(&steps), MOST_MEAN_POINTS, Thinning::Middle);
        let steps = thinned(&steps, MOST_POINTS / 2, Thinning::Extremes);
        Some(Self { steps, mean, validation, tokens, last_step })
    }

    /// Steps shown.
    pub(super) fn x_range(&self) -> Range<f64> {
        let points = || self.steps.iter().chain(&self.validation).map(|(step, _)| *step);
        let (least, greatest) = extremes(points());
        // From 0 unless the record begins far into a run.
        let start = if least < greatest * 0.2 { 0.0 } else { least };
        start..greatest.max(start + 1.0)
    }

    /// Losses shown, with some room.
    pub(super) fn y_range(&self) -> Range<f64> {
        let points = || self.steps.iter().chain(&self.validation).map(|(_, loss)| *loss);
        let (least, greatest) = extremes(points());
        let room = ((greatest - least) * 0.05).max(greatest.abs() * 0.005).max(1e-6);
        least - room..greatest + room
    }

    /// Decimals that tell the marks of the loss axis apart.
    pub(super) fn y_decimals(&self) -> usize {
        let range = self.y_range();
        let mark = (range.end - range.start) / 8.0;
        (0.5 - mark.log10()).ceil().clamp(1.0, 6.0) as usize
    }

    /// Name of the step axis.
    pub(super) fn x_label(&self) -> String {
        if self.tokens == 0 || self.last_step == 0 {
            return "step".to_owned();
        }
        let each = short(self.tokens as f64 / self.last_step as f64);
        format!("step ({each} tokens each)")
    }

    /// The numbers at the end, in a line.
    pub(super) fn summary(&self) -> String {
        let mut parts = Vec::new();
        if let Some((_, loss)) = self.mean.last() {
            parts.push(format!("train {loss:.4} (mean of the last steps)"));
        }
        if let Some((_, loss)) = self.validation.last() {
            parts.push(format!("validation {loss:.4}"));
        }
        parts.push(format!("{} steps", grouped(self.last_step as f64)));
        if self.tokens > 0 {
            parts.push(format!("{} tokens", short(self.tokens as f64)));
        }
        parts.join("  ·  ")
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), value| {
        (least.min(value), greatest.max(value))
    })
}

/// The mean of each point and its neighbors, as many to the one side as to the other, so that it
/// does not lag behind; fewer at the ends.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = (points.len() as f64 * MEAN_REACH).ceil() as usize;
    let mut sums = Vec::with_capacity(points.len() + 1);
    sums.push(0.0);
    for (_, loss) in points {
        sums.push(sums[sums.len() - 1] + loss);
    }
    let mean = |(index, &(step, _)): (usize, &(f64, f64))| {
        let reach = reach.min(index);
        let (from, to) = (index - reach, (index + reach + 1).min(points.len()));
        (step, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// Which of neighboring points are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thinning {
    /// The least and the greatest: spikes stay.
    Extremes,
    /// The middle one: a smooth line stays smooth.
    Middle,
}

/// The first point, the last, and what is kept of about `groups` groups of neighbors between
/// them; all points where there are fewer.
fn thinned(points: &[(f64, f64)], groups: usize, thinning: Thinning) -> Vec<(f64, f64)> {
    if points.len() <= groups {
        return points.to_vec();
    }
    let mut kept = vec![points[0]];
    for neighbors in points[1..points.len() - 1].chunks(points.len().div_ceil(groups)) {
        if thinning == Thinning::Middle {
            kept.push(neighbors[neighbors.len() / 2]);
            continue;
        }
        let by_loss = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let least = neighbors.iter().min_by(by_loss);
        let greatest = neighbors.iter().max_by(by_loss);
        let mut pair: Vec<_> = least.into_iter().chain(greatest).copied().collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair.dedup();
        kept.extend(pair);
    }
    kept.push(points[points.len() - 1]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::metrics::{StepMetrics, ValidationMetrics};

    fn step(step: u64, loss: f64) -> Metrics {
        Metrics::Step(StepMetrics { step, tokens: step * 512, loss, ..StepMetrics::default() })
    }

    #[test]
    fn only_finite_losses_are_drawn() {
        assert_eq!(Curve::of(&[]), None);
        assert_eq!(Curve::of(&[step(1, f64::NAN)]), None);
        let validation = ValidationMetrics { step: 2, validation_loss: 3.0, ..Default::default() };
        let curve =
            Curve::of(&[step(1, 4.0), step(2, f64::INFINITY), Metrics::Validation(validation)]);
        let curve = curve.unwrap();
        assert_eq!(curve.steps, [(1.0, 4.0)]);
        assert_eq!(curve.validation, [(2.0, 3.0)]);
        assert_eq!(curve.x_range(), 1.0..2.0);
        assert!(curve.y_range().contains(&3.0) && curve.y_range().contains(&4.0));
    }

    #[test]
    fn the_mean_does_not_lag_and_keeps_a_straight_line() {
        let line: Vec<(f64, f64)> = (0..500).map(|i| (i as f64, 9.0 - i as f64 / 100.0)).collect();
        let mean = running_mean(&line);
        assert!((mean[250].1 - line[250].1).abs() < 1e-9);
        assert_eq!(mean[0], line[0]);
    }

    #[test]
    fn long_runs_keep_their_spikes() {
        let metrics: Vec<Metrics> =
            (1..=100_000).map(|i| step(i, if i == 77_777 { 50.0 } else { 3.0 })).collect();
        let curve = Curve::of(&metrics).unwrap();
        assert!(curve.steps.len() <= MOST_POINTS + 2, "{}", curve.steps.len());
        assert!(curve.steps.contains(&(77_777.0, 50.0)));
        assert_eq!(curve.steps.last(), Some(&(100_000.0, 3.0)));
        assert_eq!(curve.x_label(), "step (512 tokens each)");
        assert!(curve.summary().ends_with("100,000 steps  ·  51.2 M tokens"));
    }
}
