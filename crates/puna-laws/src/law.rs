//! The parametric law of loss and what follows from it in closed form.
//!
//! `L(N, D) = E + A N^-α + B D^-β` (Hoffmann et al. 2022, eq. 2), with `C = 6 N D` floating-point
//! operations of training. Everything here is exact algebra of that law except
//! [`ParametricLaw::for_serving`], which bisects. Nothing checks its inputs: sizes, tokens and
//! operations are positive numbers, and anything else gives NaN or an infinity.

use std::fmt;
use std::str::FromStr;

use crate::error::LawError;

/// Training operations per parameter and token: two forward, four backward.
pub const TRAIN_FLOPS: f64 = 6.0;
/// Operations of generating or reading a token, per parameter.
pub const SERVE_FLOPS: f64 = 2.0;

/// `L(N, D) = e + a N^-alpha + b D^-beta`, in nats per token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParametricLaw {
    /// Factor of the term that parameters reduce.
    pub a: f64,
    /// Factor of the term that tokens reduce.
    pub b: f64,
    /// Loss of infinitely many parameters and tokens: the entropy of the text.
    pub e: f64,
    /// Exponent of parameters.
    pub alpha: f64,
    /// Exponent of tokens.
    pub beta: f64,
}

/// A model's size, its training, and the loss to expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allocation {
    /// `6 · params · tokens`.
    pub flops: f64,
    /// Parameters.
    pub params: f64,
    /// Tokens seen in training.
    pub tokens: f64,
    /// Nats per token, on the data and with the tokenizer of the law's fit only.
    pub loss: f64,
}

impl Allocation {
    /// Tokens per parameter.
    pub fn ratio(&self) -> f64 {
        self.tokens / self.params
    }
}

impl ParametricLaw {
    /// Expected loss of `n` parameters after `d` tokens.
    pub fn loss(&self, n: f64, d: f64) -> f64 {
        self.e + self.a * n.powf(-self.alpha) + self.b * d.powf(-self.beta)
    }

    /// `G = (α A / β B)^(1 / (α + β))` of the optimum (Hoffmann et al. 2022, eq. 4).
    pub fn g(&self) -> f64 {
        (self.alpha * self.a / (self.beta * self.b)).powf(1.0 / (self.alpha + self.beta))
    }

    /// `a = β / (α + β)`: the best size grows as `C^a`, the tokens as `C^(1 - a)`.
    pub fn exponent(&self) -> f64 {
        self.beta / (self.alpha + self.beta)
    }

    /// The lowest loss for `c` operations: `N = G (C/6)^a`, `D = (C/6)^(1-a) / G`.
    pub fn for_flops(&self, c: f64) -> Allocation {
        let products = c / TRAIN_FLOPS;
        let params = self.g() * products.powf(self.exponent());
        let tokens = products.powf(1.0 - self.exponent()) / self.g();
        Allocation { flops: c, params, tokens, loss: self.loss(params, tokens) }
    }

    /// The training whose best size is `n`: `D = (N/G)^(α/β) / G`.
    pub fn for_params(&self, n: f64) -> Allocation {
        let g = self.g();
        let tokens = (n / g).powf(self.alpha / self.beta) / g;
        self.allocation(n, tokens)
    }

    /// The training whose best number of tokens is `d`: `N = G (G D)^(β/α)`.
    pub fn for_tokens(&self, d: f64) -> Allocation {
        let g = self.g();
        self.allocation(g * (g * d).powf(self.beta / self.alpha), d)
    }

    /// The fewest operations for loss `l`: `C = 6 ((l - E) / K)^(-1/γ)` with `γ = αβ / (α + β)` and
    /// `K = A G^-α + B G^β`. `None` if no training reaches it, `l <= E`.
    pub fn for_loss(&self, l: f64) -> Option<Allocation> {
        if l <= self.e {
            return None;
        }
        let gamma = self.alpha * self.beta / (self.alpha + self.beta);
        let k = self.a * self.g().powf(-self.alpha) + self.b * self.g().powf(self.beta);
        Some(self.for_flops(TRAIN_FLOPS * ((l - self.e) / k).powf(-1.0 / gamma)))
    }

    /// Tokens that bring `n` parameters to loss `l`. `None` if no number of tokens does.
    pub fn tokens_for_loss(&self, n: f64, l: f64) -> Option<f64> {
        let left = l - self.e - self.a * n.powf(-self.alpha);
        (left > 0.0).then(|| (self.b / left).powf(1.0 / self.beta))
    }

    /// What another size costs at the optimum's loss: for `k_n` times the best size, the factor on
    /// tokens and the additional part of operations (0.26: 26 % more). Both are infinite from
    /// [`Self::smallest_size`] down. (De Vries, "Go smol or go home", 2023.)
    pub fn off_optimum(&self, k_n: f64) -> (f64, f64) {
        let left = 1.0 - self.beta / self.alpha * (k_n.powf(-self.alpha) - 1.0);
        if left <= 0.0 {
            return (f64::INFINITY, f64::INFINITY);
        }
        let k_d = left.powf(-1.0 / self.beta);
        (k_d, k_n * k_d - 1.0)
    }

    /// The part of the best size below which no number of tokens reaches the optimum's loss.
    pub fn smallest_size(&self) -> f64 {
        (1.0 + self.alpha / self.beta).powf(-1.0 / self.alpha)
    }

    /// The cheapest training and serving, `6 N D + 2 N served`, at the loss of `base`: Sardana et
    /// al. 2024. At the minimum `α A N^-α / (β B D^-β) = 1 + served / (3 D)`; without serving it is
    /// the optimum of training.
    pub fn for_serving(&self, base: Allocation, served_tokens: f64) -> Allocation {
        let Some(best) = self.for_loss(base.loss) else {
            return base;
        };
        if served_tokens <= 0.0 {
            return best;
        }
        // In ln N; the lower end is where infinitely many tokens would be needed.
        let (mut low, mut high) = ((best.params * self.smallest_size()).ln(), best.params.ln());
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if self.too_small(middle.exp(), base.loss, served_tokens) {
                low = middle;
            } else {
                high = middle;
            }
        }
        let params = high.exp();
        let tokens = self.tokens_for_loss(params, base.loss).unwrap_or(best.tokens);
        self.allocation(params, tokens)
    }

    /// Whether more parameters would be cheaper at loss `l`.
    fn too_small(&self, n: f64, l: f64, served_tokens: f64) -> bool {
        self.tokens_for_loss(n, l).is_none_or(|d| {
            let by_params = self.alpha * self.a * n.powf(-self.alpha);
            let by_tokens = self.beta * self.b * d.powf(-self.beta);
            by_params / by_tokens > 1.0 + served_tokens / (3.0 * d)
        })
    }

    fn allocation(&self, params: f64, tokens: f64) -> Allocation {
        let flops = TRAIN_FLOPS * params * tokens;
        Allocation { flops, params, tokens, loss: self.loss(params, tokens) }
    }
}

/// Constants that somebody published, or that follow from published data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LawName {
    /// Hoffmann et al. 2022, eq. 10. Rounded too far for an allocation: its optimum for Chinchilla's
    /// budget has 93 tokens per parameter, the unrounded constants' 59.
    Hoffmann2022Rounded,
    /// The same, with the digits of the paper's TeX source (Besiroglu et al.'s notebook).
    Hoffmann2022Tex,
    /// Besiroglu et al. 2024: a refit to the points of Hoffmann's figure 4.
    #[default]
    Besiroglu2024,
    /// The minimum of Hoffmann's objective on Besiroglu's 240 points; what `puna fit` finds.
    HuberExactEpoch240,
    /// De Vries 2023, and Sardana et al. 2024, appendix A.
    DeVries2023Sardana2024,
    /// Muennighoff et al. 2023, appendix A: C4, equal exponents.
    Muennighoff2023C4,
}

impl LawName {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Hoffmann2022Rounded,
        Self::Hoffmann2022Tex,
        Self::Besiroglu2024,
        Self::HuberExactEpoch240,
        Self::DeVries2023Sardana2024,
        Self::Muennighoff2023C4,
    ];

    /// The name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hoffmann2022Rounded => "hoffmann2022_rounded",
            Self::Hoffmann2022Tex => "hoffmann2022_tex",
            Self::Besiroglu2024 => "besiroglu2024",
            Self::HuberExactEpoch240 => "huber_exact_epoch240",
            Self::DeVries2023Sardana2024 => "devries2023_sardana2024",
            Self::Muennighoff2023C4 => "muennighoff2023_c4",
        }
    }

    /// The constants.
    pub fn parametric(self) -> ParametricLaw {
        let (a, b, e, alpha, beta) = match self {
            Self::Hoffmann2022Rounded => (406.4, 410.7, 1.69, 0.34, 0.28),
            Self::Hoffmann2022Tex => (
                6.007_340_4_f64.exp(),
                6.017_918_6_f64.exp(),
                0.526_722_8_f64.exp(),
                0.339_170_84,
                0.284_908_3,
            ),
            Self::Besiroglu2024 => (482.01, 2085.43, 1.8172, 0.3478, 0.3658),
            Self::HuberExactEpoch240 => {
                (477.825_887, 2_143.417_358, 1.817_218, 0.347_31, 0.367_172)
            }
            Self::DeVries2023Sardana2024 => (406.4, 410.7, 1.69, 0.336, 0.283),
            Self::Muennighoff2023C4 => (
                6.255_414_f64.exp(),
                7.304_997_4_f64.exp(),
                0.625_480_4_f64.exp(),
                0.352_659_6,
                0.352_659_6,
            ),
        };
        ParametricLaw { a, b, e, alpha, beta }
    }
}

impl fmt::Display for LawName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LawName {
    type Err = LawError;

    fn from_str(name: &str) -> Result<Self, LawError> {
        Self::ALL.into_iter().find(|law| law.name() == name).ok_or_else(|| LawError::UnknownLaw {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_below_the_entropy_is_unreachable() {
        let law = LawName::default().parametric();
        assert_eq!(law.for_loss(1.8), None);
        // 7B parameters cannot have the loss of 70B after 1.4T tokens.
        assert_eq!(law.tokens_for_loss(7e9, law.loss(70e9, 1.4e12)), None);
        let tokens = law.tokens_for_loss(7e9, law.loss(10e9, 200e9)).unwrap();
        assert!((tokens / 300.4e9 - 1.0).abs() < 1e-3, "{tokens}");
    }

    #[test]
    fn the_smallest_size_needs_infinitely_many_tokens() {
        let law = LawName::default().parametric();
        let smallest = law.smallest_size();
        assert_eq!(law.off_optimum(smallest * 0.999).0, f64::INFINITY);
        assert!(law.off_optimum(smallest * 1.001).0 > 1e6);
        let (k_d, overhead) = law.off_optimum(1.0);
        assert!((k_d - 1.0).abs() < 1e-12 && overhead.abs() < 1e-12);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for law in LawName::ALL {
            assert_eq!(law.to_string().parse::<LawName>().unwrap(), law);
        }
        let error = "chinchilla".parse::<LawName>().unwrap_err().to_string();
        assert!(error.contains("chinchilla") && error.contains("besiroglu2024"), "{error}");
    }
}
