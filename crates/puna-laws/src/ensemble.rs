//! Many laws instead of one, and the intervals they give.

use std::sync::OnceLock;

use crate::error::LawError;
use crate::law::ParametricLaw;

/// Laws of a bootstrap: what any number would be under other luck.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    laws: Vec<ParametricLaw>,
}

/// An interval between percentiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Part of the laws that an interval holds, the rest on both sides equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// From the 10th to the 90th percentile.
    Percent80,
    /// From the 2.5th to the 97.5th percentile.
    Percent95,
}

impl Level {
    /// Part below the interval.
    fn tail(self) -> f64 {
        match self {
            Self::Percent80 => 0.1,
            Self::Percent95 => 0.025,
        }
    }
}

/// 4,000 resamples, `A,B,E,alpha,beta`; assets/README.md has the command.
static PUBLISHED: &str = include_str!("../assets/besiroglu2024-bootstrap.csv");

impl Ensemble {
    /// # Errors
    /// [`LawError::FewResamples`] with fewer than 20 laws.
    pub fn new(laws: Vec<ParametricLaw>) -> Result<Self, LawError> {
        if laws.len() < 20 {
            return Err(LawError::FewResamples { count: laws.len() });
        }
        Ok(Self { laws })
    }

    /// The bootstrap of [`LawName::Besiroglu2024`](crate::LawName::Besiroglu2024): least absolute
    /// deviations on resamples of the 240 points, computed by this crate.
    pub fn published() -> &'static Self {
        static READ: OnceLock<Ensemble> = OnceLock::new();
        READ.get_or_init(|| Self { laws: PUBLISHED.lines().filter_map(law_of_line).collect() })
    }

    /// The laws.
    pub fn laws(&self) -> &[ParametricLaw] {
        &self.laws
    }

    /// The interval of any number that follows from a law.
    pub fn interval(&self, level: Level, of: impl Fn(&ParametricLaw) -> f64) -> Interval {
        interval_of(self.laws.iter().map(of), level)
    }

    /// The median of any number that follows from a law.
    pub fn median(&self, of: impl Fn(&ParametricLaw) -> f64) -> f64 {
        percentile(&sorted(self.laws.iter().map(of)), 0.5)
    }

    /// The standard deviation of any number that follows from a law.
    pub fn deviation(&self, of: impl Fn(&ParametricLaw) -> f64) -> f64 {
        let values: Vec<f64> = self.laws.iter().map(of).collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
    }

    /// Best size for a budget.
    pub fn params_for_flops(&self, flops: f64, level: Level) -> Interval {
        self.interval(level, |law| law.for_flops(flops).params)
    }

    /// Best number of tokens for a budget.
    pub fn tokens_for_flops(&self, flops: f64, level: Level) -> Interval {
        self.interval(level, |law| law.for_flops(flops).tokens)
    }

    /// Tokens per parameter at the optimum of a budget.
    pub fn ratio_for_flops(&self, flops: f64, level: Level) -> Interval {
        self.interval(level, |law| law.for_flops(flops).ratio())
    }

    /// Loss at the optimum of a budget.
    pub fn loss_for_flops(&self, flops: f64, level: Level) -> Interval {
        self.interval(level, |law| law.for_flops(flops).loss)
    }

    /// Loss of a size after a number of tokens: of the law, without the noise of a single run.
    pub fn loss(&self, params: f64, tokens: f64, level: Level) -> Interval {
        self.interval(level, |law| law.loss(params, tokens))
    }
}

/// The interval of some values.
pub(crate) fn interval_of(values: impl Iterator<Item = f64>, level: Level) -> Interval {
    let values = sorted(values);
    let [low, high] = [level.tail(), 1.0 - level.tail()].map(|part| percentile(&values, part));
    Interval { low, high }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// A line of numbers; the line of names is none.
fn law_of_line(line: &str) -> Option<ParametricLaw> {
    let numbers: Vec<f64> = line.split(',').map_while(|cell| cell.parse().ok()).collect();
    match numbers[..] {
        [a, b, e, alpha, beta] => Some(ParametricLaw { a, b, e, alpha, beta }),
        _ => None,
    }
}

/// Between the two nearest of sorted values, as NumPy does.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::LawName;

    #[test]
    fn percentiles_lie_between_neighbors() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 0.5), 2.5);
        assert_eq!(percentile(&values, 1.0), 4.0);
    }

    #[test]
    fn an_interval_leaves_out_the_tails() {
        let base = LawName::default().parametric();
        let laws: Vec<_> = (0..=100).map(|i| ParametricLaw { e: f64::from(i), ..base }).collect();
        let all = Ensemble::new(laws).unwrap();
        assert_eq!(all.interval(Level::Percent80, |law| law.e), Interval { low: 10.0, high: 90.0 });
        assert_eq!(all.interval(Level::Percent95, |law| law.e), Interval { low: 2.5, high: 97.5 });
        assert_eq!(all.median(|law| law.e), 50.0);
        assert!(Ensemble::new(vec![base; 19]).is_err());
    }
}
