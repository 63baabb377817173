//! What serving changes: a smaller model, trained longer, for the same loss.

use super::decide::Limited;
use crate::error::{LawError, Result};
use crate::law::{Allocation, ParametricLaw, SERVE_FLOPS, TRAIN_FLOPS};

/// The cheapest training and serving together (Sardana et al. 2024), beside training alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Serving {
    /// Tokens of prompts and answers.
    pub tokens: f64,
    /// The training without a thought of serving.
    pub base: Allocation,
    /// The one with the fewest operations in all, at the same loss.
    pub optimum: Allocation,
}

impl Serving {
    /// For the loss of `base`.
    pub(super) fn of(
        law: &ParametricLaw,
        limited: Option<&Limited>,
        base: Allocation,
        tokens: f64,
    ) -> Result<Self> {
        let optimum = match limited {
            Some(limited) => limited.for_serving(&base, tokens)?,
            None => law.for_serving(base, tokens),
        };
        Ok(Self { tokens, base, optimum })
    }

    /// Operations of training and serving `allocation`.
    #[must_use]
    pub fn total_flops(&self, allocation: &Allocation) -> f64 {
        allocation.flops + SERVE_FLOPS * allocation.params * self.tokens
    }

    /// Part of the operations that the optimum saves.
    #[must_use]
    pub fn saving(&self) -> f64 {
        1.0 - self.total_flops(&self.optimum) / self.total_flops(&self.base)
    }

    /// Tokens in service from which on the optimum's training is the cheaper one, if it takes more
    /// operations than the base's: `(6 N_s D_s - 6 N_b D_b) / (2 (N_b - N_s))`.
    #[must_use]
    pub fn break_even(&self) -> Option<f64> {
        break_even(&self.base, &self.optimum)
    }
}

/// Tokens in service from which on `small` costs less in all than `big`; `None` if it never does.
#[must_use]
pub(crate) fn break_even(big: &Allocation, small: &Allocation) -> Option<f64> {
    let per_token = SERVE_FLOPS * (big.params - small.params);
    (per_token > 0.0).then(|| ((small.flops - big.flops) / per_token).max(0.0))
}

impl Limited {
    /// Sizes on a grid, each with the tokens that reach the base's loss: with repeated tokens there
    /// is no closed form.
    pub(super) fn for_serving(&self, base: &Allocation, served: f64) -> Result<Allocation> {
        const STEPS: i32 = 2000;
        let at = |step: i32| {
            let params = base.params * 10f64.powf(f64::from(step) / f64::from(STEPS) * 2.0);
            let tokens = self.tokens_for_loss(params, base.loss)?;
            Some(Allocation { flops: TRAIN_FLOPS * params * tokens, params, tokens, ..*base })
        };
        let cost = |a: &Allocation| a.flops + SERVE_FLOPS * a.params * served;
        let best = (-STEPS..=STEPS / 8).filter_map(at).min_by(|x, y| cost(x).total_cmp(&cost(y)));
        best.ok_or_else(|| LawError::Unreachable {
            loss: base.loss,
            with: format!("with {:.3e} different tokens", self.unique),
            limit: self.data.loss(base.params, f64::MAX, self.unique),
        })
    }

    /// By bisection; `None` if no number of repetitions reaches it.
    fn tokens_for_loss(&self, params: f64, loss: f64) -> Option<f64> {
        let reached = |ln_tokens: f64| self.data.loss(params, ln_tokens.exp(), self.unique) <= loss;
        // Beyond a thousand repetitions nothing is gained.
        let (mut low, mut high) = (0.0, (1e3 * self.unique).ln());
        if !reached(high) {
            return None;
        }
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            match reached(middle) {
                true => high = middle,
                false => low = middle,
            }
        }
        Some(high.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::LawName;
    use crate::repeated::RepeatedData;

    #[test]
    fn thirteen_billion_served_two_trillion_tokens_become_seven() {
        // Sardana et al., figure 1: 17 % fewer operations.
        let law = LawName::DeVries2023Sardana2024.parametric();
        let serving = Serving::of(&law, None, law.for_params(13e9), 2e12).unwrap();
        assert!((serving.optimum.params / 6.9686e9 - 1.0).abs() < 1e-4);
        assert!((serving.saving() - 0.17447).abs() < 1e-4);
        assert!(serving.break_even().unwrap() < 2e12);
    }

    #[test]
    fn limited_data_bounds_how_much_smaller_a_served_model_can_be() {
        let data = RepeatedData::default();
        let law = data.law;
        let base = law.for_params(1e9);
        let served = |unique| {
            let limited = Limited { data, unique };
            Serving::of(&law, Some(&limited), base, 1e13).unwrap().optimum
        };
        let (plenty, scarce) = (served(1e15), served(5e10));
        let closed = law.for_serving(base, 1e13);
        assert!((plenty.params / closed.params - 1.0).abs() < 5e-3, "{plenty:?} {closed:?}");
        assert!(scarce.params > plenty.params, "{scarce:?} {plenty:?}");
    }
}
