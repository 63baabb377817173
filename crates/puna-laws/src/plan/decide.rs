//! Which training the wishes lead to, before serving is thought of.

use super::{Question, Repeated, Wish};
use crate::error::{LawError, Result};
use crate::law::{Allocation, ParametricLaw, TRAIN_FLOPS};
use crate::repeated::RepeatedData;

/// How far a budget and the product of size and tokens may differ.
const AGREEMENT: f64 = 0.01;

/// Limited data under a law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limited {
    pub(super) data: RepeatedData,
    pub(super) unique: f64,
}

impl Limited {
    pub(super) fn for_flops(&self, flops: f64) -> Allocation {
        let best = self.data.for_flops(flops, self.unique);
        Allocation { flops, params: best.params, tokens: best.tokens, loss: best.loss }
    }

    /// The fewest operations for a loss: bisection, since more operations never do worse.
    fn for_loss(&self, loss: f64) -> Result<Allocation> {
        const MOST: f64 = 1e30;
        let best = self.for_flops(MOST);
        if best.loss > loss {
            let with = format!("with {:.3e} different tokens", self.unique);
            return Err(LawError::Unreachable { loss, with, limit: best.loss });
        }
        let (mut low, mut high) = (1e10_f64.ln(), MOST.ln());
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            match self.for_flops(middle.exp()).loss > loss {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok(self.for_flops(high.exp()))
    }

    /// The same training, with the loss of repeated tokens.
    fn corrected(&self, fresh: Allocation) -> Allocation {
        Allocation { loss: self.data.loss(fresh.params, fresh.tokens, self.unique), ..fresh }
    }

    pub(super) fn describe(&self, chosen: &Allocation) -> Repeated {
        let Allocation { params, tokens, .. } = *chosen;
        Repeated {
            unique_tokens: self.unique,
            epochs: tokens / self.unique,
            effective_tokens: self.data.effective_tokens(tokens, self.unique),
            effective_params: self.data.effective_params(params, self.unique.min(tokens)),
            loss_if_fresh: self.data.law.loss(params, tokens),
        }
    }
}

fn two_wishes<T>(first: &'static str, second: &'static str, why: &'static str) -> Result<T> {
    Err(LawError::TwoWishes { first, second, why })
}

/// The training, before serving is thought of, and the wish that left the law to decide.
pub(super) fn decide(
    question: &Question,
    law: &ParametricLaw,
    limited: Option<&Limited>,
) -> Result<(Option<Wish>, Allocation)> {
    let one = |wish, allocation: Allocation| {
        let corrected = limited.map_or(allocation, |limited| limited.corrected(allocation));
        Ok((Some(wish), corrected))
    };
    match (question.flops, question.params, question.tokens, question.loss) {
        (None, None, None, None) => Err(LawError::NothingAsked),
        (Some(flops), None, None, None) => {
            one(Wish::Flops, limited.map_or_else(|| law.for_flops(flops), |l| l.for_flops(flops)))
        }
        (None, Some(params), None, None) => one(Wish::Params, law.for_params(params)),
        (None, None, Some(tokens), None) => one(Wish::Tokens, law.for_tokens(tokens)),
        (None, None, None, Some(loss)) => one(
            Wish::Loss,
            match limited {
                Some(limited) => limited.for_loss(loss)?,
                None => law.for_loss(loss).ok_or_else(|| unreachable(loss, "", law.e))?,
            },
        ),
        (Some(_), None, None, Some(_)) => {
            two_wishes("--flops", "--loss", "a budget decides the loss, and a loss the budget")
        }
        (None, Some(_), Some(_), Some(_)) => {
            two_wishes("--params and --tokens", "--loss", "a size and its tokens decide the loss")
        }
        (Some(_), _, _, Some(_)) => two_wishes("--flops", "--loss", "the loss follows"),
        (None, Some(params), None, Some(loss)) => {
            let limit = law.e + law.a * params.powf(-law.alpha);
            let with = format!("with {params:.4e} parameters at any number of tokens");
            let tokens = law.tokens_for_loss(params, loss);
            fixed(law, limited, params, tokens.ok_or_else(|| unreachable(loss, &with, limit))?)
        }
        (None, None, Some(tokens), Some(loss)) => {
            let limit = law.e + law.b * tokens.powf(-law.beta);
            let with = format!("with {tokens:.4e} tokens at any number of parameters");
            let params = law.params_for_loss(tokens, loss);
            fixed(law, limited, params.ok_or_else(|| unreachable(loss, &with, limit))?, tokens)
        }
        (Some(flops), Some(params), None, None) => {
            fixed(law, limited, params, flops / (TRAIN_FLOPS * params))
        }
        (Some(flops), None, Some(tokens), None) => {
            fixed(law, limited, flops / (TRAIN_FLOPS * tokens), tokens)
        }
        (flops, Some(params), Some(tokens), None) => {
            let implied = TRAIN_FLOPS * params * tokens;
            match flops {
                Some(flops) if (flops / implied - 1.0).abs() > AGREEMENT => {
                    Err(LawError::Disagree { flops, params, tokens, implied })
                }
                _ => fixed(law, limited, params, tokens),
            }
        }
    }
}

fn unreachable(loss: f64, with: &str, limit: f64) -> LawError {
    let with = if with.is_empty() { "at any cost" } else { with };
    LawError::Unreachable { loss, with: with.to_owned(), limit }
}

/// A training in which nothing is left to decide.
fn fixed(
    law: &ParametricLaw,
    limited: Option<&Limited>,
    params: f64,
    tokens: f64,
) -> Result<(Option<Wish>, Allocation)> {
    let flops = TRAIN_FLOPS * params * tokens;
    let fresh = Allocation { flops, params, tokens, loss: law.loss(params, tokens) };
    Ok((None, limited.map_or(fresh, |limited| limited.corrected(fresh))))
}

impl ParametricLaw {
    /// Parameters that `tokens` tokens bring to loss `l`; the counterpart of
    /// [`ParametricLaw::tokens_for_loss`]. `None` if no number of parameters does.
    #[must_use]
    pub fn params_for_loss(&self, tokens: f64, l: f64) -> Option<f64> {
        let left = l - self.e - self.b * tokens.powf(-self.beta);
        (left > 0.0).then(|| (self.a / left).powf(1.0 / self.alpha))
    }
}
