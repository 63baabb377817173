//! Power laws, and the published ones of the best size for a budget.
//!
//! Hoffmann's first two approaches and Llama 3 give no loss, only a line in logarithms:
//! `N(C) = k C^p`. Here one law of the pair is what was published and the other follows from
//! `C = 6 N D`.

use std::fmt;
use std::str::FromStr;

use crate::error::LawError;
use crate::law::TRAIN_FLOPS;

/// Operations of a PF-day.
const PF_DAY: f64 = 1e15 * 86_400.0;

/// `y = coefficient · x^exponent`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerLaw {
    /// Value at `x = 1`.
    pub coefficient: f64,
    /// Slope in logarithms.
    pub exponent: f64,
}

impl PowerLaw {
    /// `y` of an `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.coefficient * x.powf(self.exponent)
    }

    /// The `x` of a `y`.
    pub fn inverse(&self, y: f64) -> f64 {
        (y / self.coefficient).powf(1.0 / self.exponent)
    }

    /// Least squares of `ln y` on `ln x`. `None` with fewer than two different `x`.
    pub fn fit(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let logs: Vec<(f64, f64)> = points.into_iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        let count = logs.len() as f64;
        let (x, y) = logs.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        let (x, y) = (x / count, y / count);
        let square: f64 = logs.iter().map(|p| (p.0 - x).powi(2)).sum();
        let product: f64 = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        let exponent = product / square;
        let coefficient = (y - exponent * x).exp();
        (square > 1e-12 && exponent.is_finite() && coefficient > 0.0)
            .then_some(Self { coefficient, exponent })
    }
}

/// Best size and tokens as power laws of a budget, `6 N D = C`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrontierLaw {
    /// Parameters of a number of operations.
    pub params: PowerLaw,
    /// Tokens of a number of operations.
    pub tokens: PowerLaw,
}

impl FrontierLaw {
    /// From the law of the size.
    pub fn from_params(params: PowerLaw) -> Self {
        Self { params, tokens: counterpart(params) }
    }

    /// From the law of the tokens.
    pub fn from_tokens(tokens: PowerLaw) -> Self {
        Self { params: counterpart(tokens), tokens }
    }

    /// Best size for a budget.
    pub fn params_for_flops(&self, flops: f64) -> f64 {
        self.params.at(flops)
    }

    /// Best number of tokens for a budget.
    pub fn tokens_for_flops(&self, flops: f64) -> f64 {
        self.tokens.at(flops)
    }

    /// The budget whose best size this is.
    pub fn flops_for_params(&self, params: f64) -> f64 {
        self.params.inverse(params)
    }

    /// The budget whose best number of tokens this is.
    pub fn flops_for_tokens(&self, tokens: f64) -> f64 {
        self.tokens.inverse(tokens)
    }
}

/// `C / (6 y)` of a power law `y(C)`.
fn counterpart(law: PowerLaw) -> PowerLaw {
    PowerLaw { coefficient: 1.0 / (TRAIN_FLOPS * law.coefficient), exponent: 1.0 - law.exponent }
}

/// Published power laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerLawName {
    /// Hoffmann et al. 2022, Approach 1; the line through table 3, whose rows it gives within 1.3 %.
    HoffmannApproach1,
    /// Hoffmann et al. 2022, Approach 2; the line through table A3, within 3.3 %.
    HoffmannApproach2,
    /// Llama 3 (2024), the legend of figure 3: `D = 0.299 C^0.537`. The text's rounded pair gives
    /// 10.5T tokens for 3.8e25 operations where the text itself says 16.55T, this one 16.3T.
    Llama3,
    /// Kaplan et al. 2020, table 6: `N = 1.3e9 C^0.73`, C in PF-days, embeddings not counted.
    Kaplan2020,
}

impl PowerLawName {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::HoffmannApproach1, Self::HoffmannApproach2, Self::Llama3, Self::Kaplan2020];

    /// The name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::HoffmannApproach1 => "hoffmann2022_approach1",
            Self::HoffmannApproach2 => "hoffmann2022_approach2",
            Self::Llama3 => "llama3",
            Self::Kaplan2020 => "kaplan2020",
        }
    }

    /// The laws of size and tokens.
    pub fn frontier(self) -> FrontierLaw {
        let law = |coefficient, exponent| PowerLaw { coefficient, exponent };
        match self {
            Self::HoffmannApproach1 => FrontierLaw::from_params(law(0.099_159, 0.498_10)),
            Self::HoffmannApproach2 => FrontierLaw::from_params(law(0.144_88, 0.489_94)),
            Self::Llama3 => FrontierLaw::from_tokens(law(0.299, 0.537)),
            Self::Kaplan2020 => FrontierLaw::from_params(law(1.3e9 * PF_DAY.powf(-0.73), 0.73)),
        }
    }
}

impl fmt::Display for PowerLawName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PowerLawName {
    type Err = LawError;

    fn from_str(name: &str) -> Result<Self, LawError> {
        Self::ALL.into_iter().find(|law| law.name() == name).ok_or_else(|| LawError::UnknownLaw {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// Kaplan et al.'s loss of a size trained to the end: `(8.8e13 / N)^0.076`, embeddings not counted.
pub fn kaplan_loss(params: f64) -> f64 {
    (8.8e13 / params).powf(0.076)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_its_own_points_is_itself() {
        let law = PowerLaw { coefficient: 0.1, exponent: 0.5 };
        let fit = PowerLaw::fit([1e18, 1e20, 1e22].map(|x| (x, law.at(x)))).unwrap();
        assert!((fit.exponent - 0.5).abs() < 1e-12 && (fit.coefficient / 0.1 - 1.0).abs() < 1e-9);
        assert!((law.inverse(law.at(3e19)) / 3e19 - 1.0).abs() < 1e-12);
        assert_eq!(PowerLaw::fit([(2.0, 1.0), (2.0, 3.0)]), None);
        assert_eq!(PowerLaw::fit([]), None);
    }

    #[test]
    fn size_times_tokens_is_a_sixth_of_the_budget() {
        for name in PowerLawName::ALL {
            let law = name.frontier();
            let product = 6.0 * law.params_for_flops(1e23) * law.tokens_for_flops(1e23);
            assert!((product / 1e23 - 1.0).abs() < 1e-9, "{name}: {product}");
            assert_eq!(name.to_string().parse::<PowerLawName>().unwrap(), name);
        }
    }
}
