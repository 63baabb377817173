//! Hoffmann's Approach 1: the lower envelope of losses over operations.
//!
//! Each size has a curve of loss over operations, from its runs of different lengths (or the points
//! along one run). For budgets that are evenly spaced in logarithms, the size whose curve is lowest
//! there is the best one, and a line through them is the law. Between its points a curve is a
//! straight line in logarithms; a budget counts only if neither the smallest nor the largest size
//! that has a curve there is the best, since a better one may then lie outside.

use crate::points::Point;
use crate::power_law::{FrontierLaw, PowerLaw};

/// Budgets looked at (the paper's number).
const BUDGETS: usize = 1500;
/// Sizes within this are one, in ln N.
const SAME_SIZE: f64 = 0.01;

/// A law through the best sizes of the envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Best size and tokens for a budget.
    pub law: FrontierLaw,
    /// Budgets that counted, with their best size.
    pub best: Vec<(f64, f64)>,
    /// Sizes that are the best somewhere.
    pub sizes: usize,
}

/// The curve of a size.
struct Curve {
    params: f64,
    /// ln C and ln loss, ascending.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// ln loss at ln C; `None` beyond the ends.
    fn at(&self, ln_flops: f64) -> Option<f64> {
        let after = self.points.iter().position(|(x, _)| *x >= ln_flops)?;
        let (x1, y1) = self.points[after];
        if after == 0 {
            return (x1 <= ln_flops).then_some(y1);
        }
        let (x0, y0) = self.points[after - 1];
        Some(if x1 > x0 { y0 + (y1 - y0) * (ln_flops - x0) / (x1 - x0) } else { y1.min(y0) })
    }
}

/// Finds the envelope. `None` if fewer than three sizes are the best at some budget.
pub fn envelope(points: &[Point]) -> Option<Envelope> {
    let curves = curves(points);
    let ends = points.iter().map(|point| point.flops().ln());
    let (first, last) =
        ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(x, y), c| (x.min(c), y.max(c)));
    let mut best = Vec::new();
    let mut sizes: Vec<f64> = Vec::new();
    for index in 0..BUDGETS {
        let ln_flops = first + (last - first) * index as f64 / (BUDGETS - 1) as f64;
        // Ascending in size, as the curves are.
        let there: Vec<(f64, f64)> =
            curves.iter().filter_map(|curve| Some((curve.params, curve.at(ln_flops)?))).collect();
        let lowest = (0..there.len()).min_by(|&i, &j| there[i].1.total_cmp(&there[j].1));
        let Some(lowest) = lowest.filter(|&i| i > 0 && i + 1 < there.len()) else {
            continue;
        };
        let params = there[lowest].0;
        best.push((ln_flops.exp(), params));
        if !sizes.contains(&params) {
            sizes.push(params);
        }
    }
    if sizes.len() < 3 {
        return None;
    }
    let law = FrontierLaw::from_params(PowerLaw::fit(best.iter().copied())?);
    Some(Envelope { law, best, sizes: sizes.len() })
}

/// The curves of all sizes with several points, ascending in size.
fn curves(points: &[Point]) -> Vec<Curve> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|x, y| x.params.total_cmp(&y.params));
    let mut curves: Vec<Curve> = Vec::new();
    for point in sorted {
        let place = (point.flops().ln(), point.loss.ln());
        match curves.last_mut() {
            Some(curve) if (point.params / curve.params).ln() < SAME_SIZE => {
                curve.points.push(place);
            }
            _ => curves.push(Curve { params: point.params, points: vec![place] }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|x, y| x.0.total_cmp(&y.0));
    }
    curves.retain(|curve| curve.points.len() > 1);
    curves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::LawName;

    #[test]
    fn the_envelope_of_a_law_s_curves_has_the_law_s_exponent() {
        let law = LawName::Besiroglu2024.parametric();
        let mut points = Vec::new();
        for size in 0..30 {
            let params = 5e7 * 1.2f64.powi(size);
            let best = law.for_params(params).tokens;
            for step in -30..=30 {
                let tokens = best * 1.1f64.powi(step);
                points.push(Point::new(params, tokens, law.loss(params, tokens)));
            }
        }
        let found = envelope(&points).unwrap();
        assert!((found.law.params.exponent - law.exponent()).abs() < 0.01, "{:?}", found.law);
        let ratio = found.law.params_for_flops(1e20) / law.for_flops(1e20).params;
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn one_run_of_each_size_has_no_envelope() {
        let points: Vec<Point> =
            (1..9).map(|i| Point::new(1e8 * f64::from(i), 1e10, 3.0)).collect();
        assert_eq!(envelope(&points), None);
        assert_eq!(envelope(&[]), None);
    }
}
