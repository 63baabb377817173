//! IsoFLOP sweeps as data: which models are trained, on how many tokens, with which settings.
//!
//! A sweep's recipe is one of a run, without what the sweep's rules decide, and with a `[sweep]`
//! section. For each budget of compute there are models of several sizes, each trained on the tokens
//! that the budget leaves it; the lowest loss of a budget says which size it is best spent on
//! (Hoffmann et al. 2022, Approach 2), and all of them together fit the law (Approach 3).
//!
//! What makes such runs comparable, and is therefore rule and not choice: the cosine ends with the
//! run; learning rate and batch follow from the budget alone, by the power laws of DeepSeek LLM (Bi
//! et al. 2024, equation 1) unless others are given; the shapes come from one rule
//! ([`Shape`]); sizes are counted in one way, entries of the matrices that are multiplied, and
//! so is the compute, 6 N D, with the exact one recorded beside it.

mod plan;
mod shape;

use serde::{Deserialize, Serialize};

pub use plan::{SweepPlan, SweepRun};
pub use shape::{Shape, ShapeRule};

/// `y = coefficient * C^exponent`, C a budget in FLOPs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetRule {
    /// Factor.
    pub coefficient: f64,
    /// Exponent.
    pub exponent: f64,
}

impl BudgetRule {
    /// Its value for a budget in FLOPs.
    #[must_use]
    pub fn at(&self, flops: f64) -> f64 {
        self.coefficient * flops.powf(self.exponent)
    }
}

/// The `[sweep]` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepSection {
    /// Budgets in FLOPs, 6 N D.
    pub budgets: Vec<f64>,
    /// Models for each budget.
    pub sizes: usize,
    /// Factor between the sizes of neighboring models.
    #[serde(default = "ratio")]
    pub ratio: f64,
    /// Tokens per parameter of the model in the middle.
    #[serde(default = "tokens_per_param")]
    pub tokens_per_param: f64,
    /// Budget of the larger run whose loss the law predicts, in FLOPs.
    #[serde(default)]
    pub held_out: Option<f64>,
    /// Peak learning rate.
    #[serde(default = "lr")]
    pub lr: BudgetRule,
    /// Tokens of a step, rounded to whole rows.
    #[serde(default = "batch_tokens")]
    pub batch_tokens: BudgetRule,
    /// Share of the steps in which the learning rate rises.
    #[serde(default = "warmup")]
    pub warmup_fraction: f64,
    /// Share of the peak learning rate at the end.
    #[serde(default = "last")]
    pub final_lr_fraction: f64,
    /// How a size becomes a shape.
    #[serde(default)]
    pub shape: ShapeRule,
}

fn ratio() -> f64 {
    1.6
}

fn tokens_per_param() -> f64 {
    20.0
}

fn lr() -> BudgetRule {
    BudgetRule { coefficient: 0.3118, exponent: -0.1250 }
}

fn batch_tokens() -> BudgetRule {
    BudgetRule { coefficient: 0.2920, exponent: 0.3271 }
}

fn warmup() -> f64 {
    0.2
}

fn last() -> f64 {
    0.1
}
