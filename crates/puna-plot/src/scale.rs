//! An axis: its range, its marks and how they are written.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;

/// An axis, even or logarithmic; values are given as they are.
#[derive(Clone)]
pub struct Scale {
    label: String,
    range: Range<f64>,
    spacing: Spacing,
    format: Rc<dyn Fn(f64) -> String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spacing {
    /// With about so many marks.
    Even(usize),
    Logarithmic,
}

/// Most decades that all have a mark.
const MOST_DECADES: i32 = 9;

impl Scale {
    /// An even axis with about so many marks.
    pub fn even(
        label: impl Into<String>,
        range: Range<f64>,
        marks: usize,
        format: impl Fn(f64) -> String + 'static,
    ) -> Self {
        let spacing = Spacing::Even(marks);
        Self { label: label.into(), range, spacing, format: Rc::new(format) }
    }

    /// A logarithmic axis of positive values.
    pub fn logarithmic(
        label: impl Into<String>,
        range: Range<f64>,
        format: impl Fn(f64) -> String + 'static,
    ) -> Self {
        let spacing = Spacing::Logarithmic;
        Self { label: label.into(), range, spacing, format: Rc::new(format) }
    }

    /// What it measures, with the unit.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether a value lies on it.
    pub fn holds(&self, value: f64) -> bool {
        value >= self.range.start && value <= self.range.end
    }

    /// Its ends.
    pub fn ends(&self) -> Range<f64> {
        self.range.clone()
    }

    /// Round values in the range: powers of ten and, where few of those fit, parts of them.
    fn logarithmic_marks(&self) -> Vec<f64> {
        let (first, last) = (self.range.start.log10(), self.range.end.log10());
        let decades = last - first;
        let digits: &[f64] = match decades {
            d if d < 1.7 => &[1.0, 2.0, 3.0, 5.0, 7.0],
            d if d < 2.6 => &[1.0, 2.0, 5.0],
            d if d < 4.2 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let every = 1 + decades as i32 / MOST_DECADES;
        (first.floor() as i32..=last.ceil() as i32)
            .filter(|exponent| exponent.rem_euclid(every) == 0)
            .flat_map(|exponent| digits.iter().map(move |digit| digit * 10f64.powi(exponent)))
            .filter(|value| self.holds(*value))
            .collect()
    }
}

impl fmt::Debug for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scale").field("label", &self.label).field("range", &self.range).finish()
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = match self.spacing {
            Spacing::Even(_) => (value - self.range.start) / (self.range.end - self.range.start),
            Spacing::Logarithmic => {
                (value / self.range.start).ln() / (self.range.end / self.range.start).ln()
            }
        };
        limit.0 + (f64::from(limit.1 - limit.0) * place).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        match self.spacing {
            Spacing::Even(marks) => RangedCoordf64::from(self.range.clone()).key_points(marks),
            Spacing::Logarithmic => self.logarithmic_marks(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        (self.format)(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(range: Range<f64>) -> Vec<f64> {
        Scale::logarithmic("", range, |value| value.to_string()).key_points(0)
    }

    #[test]
    fn marks_of_a_logarithmic_axis_are_round() {
        let near = |got: Vec<f64>, expected: &[f64]| {
            assert_eq!(got.len(), expected.len(), "{got:?}");
            for (got, expected) in got.iter().zip(expected) {
                assert!((got / expected - 1.0).abs() < 1e-12, "{got} {expected}");
            }
        };
        near(marks(8e7..6e8), &[1e8, 2e8, 3e8, 5e8]);
        near(marks(5e7..2e9), &[5e7, 7e7, 1e8, 2e8, 3e8, 5e8, 7e8, 1e9, 2e9]);
        near(marks(1e18..1e25), &[1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25]);
    }

    #[test]
    fn values_lie_where_their_logarithm_does() {
        let scale = Scale::logarithmic("", 1.0..1e4, |value| value.to_string());
        assert_eq!(scale.map(&100.0, (0, 400)), 200);
        let scale = Scale::even("", 0.0..10.0, 5, |value| value.to_string());
        assert_eq!(scale.map(&2.5, (400, 0)), 300);
    }
}
