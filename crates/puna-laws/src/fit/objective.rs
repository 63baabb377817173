//! What a fit of the parametric law minimizes.
//!
//! `Σ Huber_δ(ln(A N^-α + B D^-β + E) - ln L) / δ` (Hoffmann et al. 2022, eq. 11), a sum: divided by
//! the number of points its gradient is so small that optimizers stop early, which is how the
//! paper's own constants came about (Besiroglu et al. 2024). The variables are
//! `a' = ln A - α mean(ln N)`, `b' = ln B - β mean(ln D)`, `ln E`, α and β: without the means the
//! factors and the exponents hang together so closely that a descent zigzags.

use super::bfgs::Smooth;
use crate::law::ParametricLaw;
use crate::points::Point;

/// Variables: a', b', e, α, β.
pub(super) type Variables = [f64; 5];

/// The objective of some points.
#[derive(Debug, Clone)]
pub(super) struct Objective {
    rows: Vec<LogPoint>,
    mean_ln_params: f64,
    mean_ln_tokens: f64,
    delta: f64,
}

/// A point in logarithms, sizes without their means.
#[derive(Debug, Clone, Copy)]
struct LogPoint {
    params: f64,
    tokens: f64,
    loss: f64,
    /// How often the point counts.
    weight: f64,
}

impl Objective {
    pub(super) fn new(points: &[Point], delta: f64) -> Self {
        let count = points.len() as f64;
        let mean = |of: fn(&Point) -> f64| points.iter().map(|p| of(p).ln()).sum::<f64>() / count;
        let (mean_ln_params, mean_ln_tokens) = (mean(|p| p.params), mean(|p| p.tokens));
        let rows = points.iter().map(|point| LogPoint {
            params: point.params.ln() - mean_ln_params,
            tokens: point.tokens.ln() - mean_ln_tokens,
            loss: point.loss.ln(),
            weight: 1.0,
        });
        Self { rows: rows.collect(), mean_ln_params, mean_ln_tokens, delta }
    }

    /// The same points, each as often as it was drawn; the means stay.
    pub(super) fn resampled(&self, drawn: &[u32]) -> Self {
        let rows = self.rows.iter().zip(drawn).filter(|(_, times)| **times > 0);
        let rows = rows.map(|(row, times)| LogPoint { weight: f64::from(*times), ..*row });
        Self { rows: rows.collect(), ..*self }
    }

    /// The same points with another δ.
    pub(super) fn with_delta(&self, delta: f64) -> Self {
        Self { delta, ..self.clone() }
    }

    /// The variables of a law.
    pub(super) fn variables(&self, law: &ParametricLaw) -> Variables {
        let a = law.a.ln() - law.alpha * self.mean_ln_params;
        let b = law.b.ln() - law.beta * self.mean_ln_tokens;
        [a, b, law.e.ln(), law.alpha, law.beta]
    }

    /// The law of some variables.
    pub(super) fn law(&self, [a, b, e, alpha, beta]: &Variables) -> ParametricLaw {
        ParametricLaw {
            a: (a + alpha * self.mean_ln_params).exp(),
            b: (b + beta * self.mean_ln_tokens).exp(),
            e: e.exp(),
            alpha: *alpha,
            beta: *beta,
        }
    }

    /// `Σ |ln L̂ - ln L|`.
    pub(super) fn absolute(&self, x: &Variables) -> f64 {
        self.rows.iter().map(|row| row.weight * row.terms(x).1.abs()).sum()
    }
}

impl LogPoint {
    /// The three terms of the law, and the logarithm of their sum less that of the loss.
    #[inline]
    fn terms(&self, [a, b, e, alpha, beta]: &Variables) -> ([f64; 3], f64) {
        let by_params = (a - alpha * self.params).exp();
        let by_tokens = (b - beta * self.tokens).exp();
        let terms = [by_params, by_tokens, e.exp()];
        (terms, (terms[0] + terms[1] + terms[2]).ln() - self.loss)
    }
}

impl Smooth<5> for Objective {
    fn at(&self, x: &Variables, gradient: &mut Variables) -> f64 {
        let mut value = 0.0;
        *gradient = [0.0; 5];
        for row in &self.rows {
            let (terms, residual) = row.terms(x);
            // Huber's function / δ and its derivative.
            let scaled = residual / self.delta;
            let (part, slope) = if scaled.abs() <= 1.0 {
                (0.5 * scaled * residual, scaled)
            } else {
                (residual.abs() - 0.5 * self.delta, residual.signum())
            };
            value += row.weight * part;
            let share = row.weight * slope / (terms[0] + terms[1] + terms[2]);
            let by = terms.map(|term| share * term);
            gradient[0] += by[0];
            gradient[1] += by[1];
            gradient[2] += by[2];
            gradient[3] -= by[0] * row.params;
            gradient[4] -= by[1] * row.tokens;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::LawName;

    fn points() -> Vec<Point> {
        let law = LawName::Hoffmann2022Tex.parametric();
        [(1e8, 1e9, 0.99), (1e8, 1e10, 1.0), (3e8, 2e9, 1.0004), (1e9, 4e10, 1.02)]
            .map(|(params, tokens, off)| Point::new(params, tokens, law.loss(params, tokens) * off))
            .to_vec()
    }

    #[test]
    fn the_gradient_is_the_central_difference() {
        let objective = Objective::new(&points(), 1e-3);
        let x = objective.variables(&LawName::Hoffmann2022Tex.parametric());
        let mut gradient = [0.0; 5];
        objective.at(&x, &mut gradient);
        for i in 0..5 {
            let moved = |by: f64| {
                let mut moved = x;
                moved[i] += by;
                objective.at(&moved, &mut [0.0; 5])
            };
            let difference = (moved(1e-7) - moved(-1e-7)) / 2e-7;
            assert!((difference - gradient[i]).abs() < 1e-5, "{i}: {difference} {gradient:?}");
        }
    }

    #[test]
    fn a_law_is_its_variables() {
        let objective = Objective::new(&points(), 1e-3);
        let law = LawName::Besiroglu2024.parametric();
        let back = objective.law(&objective.variables(&law));
        assert!((back.a / law.a - 1.0).abs() < 1e-12 && (back.b / law.b - 1.0).abs() < 1e-12);
        assert!((back.e / law.e - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_point_drawn_twice_counts_twice() {
        let points = points();
        let objective = Objective::new(&points, 1e-3);
        let x = objective.variables(&LawName::Hoffmann2022Tex.parametric());
        let value = |objective: &Objective| objective.at(&x, &mut [0.0; 5]);
        let parts: Vec<f64> = (0..4)
            .map(|i| {
                let mut drawn = [0; 4];
                drawn[i] = 1;
                value(&objective.resampled(&drawn))
            })
            .collect();
        let twice = value(&objective.resampled(&[2, 0, 1, 1]));
        assert!((twice - (2.0 * parts[0] + parts[2] + parts[3])).abs() < 1e-12);
    }
}
