//! Training on the same tokens more than once.
//!
//! Muennighoff et al. 2023, appendix A: a repeated token is worth less than a new one, and so are
//! parameters beyond what the unique tokens call for. Both decay exponentially:
//!
//! ```text
//! L  = E + A / N'^α + B / D'^β
//! D' = U_D + U_D R*_D (1 - exp(-R_D / R*_D)),   R_D = D / U_D - 1
//! N' = U_N + U_N R*_N (1 - exp(-R_N / R*_N)),   R_N = max(N / U_N - 1, 0)
//! ```
//!
//! `U_D` is the unique tokens used, `U_N` the best size for them. The form cannot rise: it never
//! predicts overfitting, and was fitted on runs with dropout and weight decay of 0.1.

use crate::law::{LawName, ParametricLaw, TRAIN_FLOPS};

/// Epochs beyond which the law says little: most of its data ends there.
pub const MOST_EPOCHS: f64 = 16.0;

/// The law with its decay constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepeatedData {
    /// Loss of unique tokens.
    pub law: ParametricLaw,
    /// `R*_D`: repetitions after which further ones are worth little.
    pub token_decay: f64,
    /// `R*_N`: the same for parameters.
    pub param_decay: f64,
}

impl Default for RepeatedData {
    /// The published constants, fitted on C4.
    fn default() -> Self {
        Self {
            law: LawName::Muennighoff2023C4.parametric(),
            token_decay: 15.387_756,
            param_decay: 5.309_743,
        }
    }
}

/// The best training on limited data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepeatedAllocation {
    /// `6 · params · tokens`.
    pub flops: f64,
    /// Parameters.
    pub params: f64,
    /// Tokens seen, repetitions counted.
    pub tokens: f64,
    /// Tokens seen / unique tokens; below 1 where not all are needed.
    pub epochs: f64,
    /// Nats per token, on the data of the law's fit only.
    pub loss: f64,
}

impl RepeatedData {
    /// `D'`: the unique tokens that `tokens` tokens of `unique` different ones are worth.
    pub fn effective_tokens(&self, tokens: f64, unique: f64) -> f64 {
        let used = unique.min(tokens);
        used * (1.0 + saturating(tokens / used - 1.0, self.token_decay))
    }

    /// `N'`: the size that `params` parameters are worth with `unique` different tokens.
    pub fn effective_params(&self, params: f64, unique: f64) -> f64 {
        let called_for = self.law.for_tokens(unique).params.min(params);
        called_for * (1.0 + saturating((params / called_for - 1.0).max(0.0), self.param_decay))
    }

    /// Expected loss of `params` parameters after `tokens` tokens of `unique` different ones.
    pub fn loss(&self, params: f64, tokens: f64, unique: f64) -> f64 {
        let used = unique.min(tokens);
        self.law.loss(self.effective_params(params, used), self.effective_tokens(tokens, used))
    }

    /// The lowest loss for `flops` operations and `unique` different tokens.
    ///
    /// By a scan over sizes and a search by golden section around the best: near the optimum the
    /// loss has one valley, but where the tokens stop being repeated it has a kink.
    pub fn for_flops(&self, flops: f64, unique: f64) -> RepeatedAllocation {
        let loss = |ln_n: f64| {
            let params = ln_n.exp();
            self.loss(params, flops / (TRAIN_FLOPS * params), unique)
        };
        let center = self.law.for_flops(flops).params.ln();
        // Sizes between 1e-5 and 1e5 times the best size of unlimited data.
        const STEPS: i32 = 400;
        let at = |step: i32| center + f64::from(step) / f64::from(STEPS) * 5.0 * 10f64.ln();
        let best = (-STEPS..=STEPS).min_by(|&x, &y| loss(at(x)).total_cmp(&loss(at(y))));
        let best = best.unwrap_or(0);
        let params = golden_section(loss, at(best - 1), at(best + 1)).exp();
        let tokens = flops / (TRAIN_FLOPS * params);
        RepeatedAllocation {
            flops,
            params,
            tokens,
            epochs: tokens / unique,
            loss: self.loss(params, tokens, unique),
        }
    }
}

/// What `repeats` repetitions are worth in units of the first time.
fn saturating(repeats: f64, decay: f64) -> f64 {
    -decay * (-repeats / decay).exp_m1()
}

/// The minimum between two ends of a function with one valley.
fn golden_section(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let ratio = 0.5 * (5f64.sqrt() - 1.0);
    for _ in 0..80 {
        let (left, right) = (high - ratio * (high - low), low + ratio * (high - low));
        if f(left) < f(right) {
            high = right;
        } else {
            low = left;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plenty_of_data_gives_the_optimum_of_the_law() {
        let repeated = RepeatedData::default();
        let plain = repeated.law.for_flops(1e21);
        let best = repeated.for_flops(1e21, 1e13);
        assert!((best.params / plain.params - 1.0).abs() < 1e-4, "{best:?}");
        assert!(best.epochs < 1.0);
        assert!((best.loss - plain.loss).abs() < 1e-9);
    }

    #[test]
    fn the_optimum_on_little_data_is_no_worse_than_its_neighbors() {
        let repeated = RepeatedData::default();
        let (flops, unique) = (1e22, 5e9);
        let best = repeated.for_flops(flops, unique);
        assert!(best.epochs > 4.0, "{best:?}");
        for factor in [0.5, 0.9, 1.1, 2.0] {
            let params = best.params * factor;
            assert!(repeated.loss(params, flops / (6.0 * params), unique) > best.loss);
        }
        // Less data, more loss.
        assert!(repeated.for_flops(flops, 5e10).loss < best.loss);
    }
}
