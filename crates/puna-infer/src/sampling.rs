//! Choosing the next token from a row of logits.
//!
//! Order, as in transformers' `_get_logits_processor`: bias → penalties → temperature → top-k →
//! top-p → min-p → typical → draw. Mirostat 2 stands in place of the truncations (as in llama.cpp)
//! and therefore excludes them. Log-probabilities that are reported are the model's own: log-softmax
//! of the logits before anything above touched them.

mod mirostat;
mod params;
mod penalties;
mod rng;
mod truncation;

pub use mirostat::Mirostat2;
pub use params::SamplingParams;
pub(crate) use params::check;
pub(crate) use penalties::apply as apply_penalties;

use crate::error::InferError;
use crate::logprob::log_sum_exp;
use mirostat::MirostatState;
use rng::Rng;
use truncation::Candidate;

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Its log-probability in nats under the model's unmodified logits.
    pub logprob: f32,
}

/// Sets the logits `[V]` of tokens that may not be chosen to -∞.
pub type Mask<'a> = dyn FnMut(&mut [f32]) -> Result<(), InferError> + 'a;

/// Chooses tokens for one sequence: parameters plus what changes from token to token.
///
/// # Examples
/// ```
/// use puna_infer::{Sampler, SamplingParams};
///
/// let params = SamplingParams { temperature: 0.8, top_p: Some(0.9), seed: 1, ..Default::default() };
/// let sampled = Sampler::new(params)?.sample(&mut [0.0, 9.0, 1.0], &[])?;
/// assert_eq!(sampled.token, 1);
/// # Ok::<(), puna_infer::InferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    rng: Rng,
    mirostat: Option<MirostatState>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler whose random stream starts at `params.seed`.
    ///
    /// # Errors
    /// What [`SamplingParams::validate`] finds.
    pub fn new(params: SamplingParams) -> Result<Self, InferError> {
        params.validate()?;
        Ok(Self {
            rng: Rng::from_seed(params.seed),
            mirostat: params.mirostat.map(MirostatState::new),
            params,
            candidates: Vec::new(),
        })
    }

    /// Chooses a token; the logits are modified.
    ///
    /// At temperature 0 it is the one with the highest logit after bias and penalties, the lowest id
    /// among equals.
    ///
    /// # Shapes
    /// `logits: [V]`; `history`: the tokens so far, prompt included.
    ///
    /// # Errors
    /// [`InferError::NonFiniteLogit`] where the model gave NaN or infinity,
    /// [`InferError::NoCandidate`] where bias and bans excluded everything,
    /// [`InferError::TokenOutOfRange`] for a bias beyond `V`.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<Sampled, InferError> {
        self.sample_masked(logits, history, None)
    }

    /// As [`Self::sample`], from what `mask` leaves of the logits after bias and penalties.
    ///
    /// # Errors
    /// As there, and what `mask` says.
    pub fn sample_masked(
        &mut self,
        logits: &mut [f32],
        history: &[u32],
        mask: Option<&mut Mask<'_>>,
    ) -> Result<Sampled, InferError> {
        let normalizer = log_sum_exp(logits)?;
        let (token, original) = if self.params.changes_logits() || mask.is_some() {
            let original = logits.to_vec();
            penalties::apply(&self.params, logits, history)?;
            if let Some(mask) = mask {
                mask(logits)?;
            }
            let token = self.choose(logits)?;
            (token, original[token as usize])
        } else {
            let token = self.choose(logits)?;
            (token, logits[token as usize])
        };
        Ok(Sampled { token, logprob: (f64::from(original) - normalizer) as f32 })
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, InferError> {
        let best = puna_kernels::argmax(logits).ok_or(InferError::NoCandidate)?;
        if self.params.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.collect(logits, logits[best]);
        let Some(state) = &mut self.mirostat else {
            self.truncate();
            return Ok(draw(&self.candidates, &mut self.rng).token);
        };
        state.truncate(&mut self.candidates);
        let drawn = draw(&self.candidates, &mut self.rng);
        state.observe(drawn.prob);
        Ok(drawn.token)
    }

    /// Applies the temperature, relative to the best logit, so that a tiny temperature underflows to
    /// "never" and not to NaN.
    fn collect(&mut self, logits: &[f32], max: f32) {
        let temperature = self.params.temperature;
        let candidate = |(token, &logit): (usize, &f32)| {
            (logit > f32::NEG_INFINITY).then(|| Candidate {
                token: token as u32,
                logit: (logit - max) / temperature,
                prob: 0.0,
            })
        };
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().filter_map(candidate));
    }

    fn truncate(&mut self) {
        if let Some(k) = self.params.top_k {
            truncation::top_k(&mut self.candidates, k);
        }
        if let Some(p) = self.params.top_p {
            truncation::top_p(&mut self.candidates, p);
        }
        if let Some(p) = self.params.min_p {
            truncation::min_p(&mut self.candidates, p);
        }
        if let Some(mass) = self.params.typical_p {
            truncation::typical(&mut self.candidates, mass);
        }
        truncation::normalize(&mut self.candidates);
    }
}

/// Draws by inverting the cumulative distribution; probabilities sum to one up to rounding.
/// `candidates` is never empty: every truncation keeps the best one.
fn draw(candidates: &[Candidate], rng: &mut Rng) -> Candidate {
    let target = rng.unit();
    let mut mass = 0.0;
    let mut drawn = candidates[0];
    for c in candidates.iter().filter(|c| c.prob > 0.0) {
        drawn = *c;
        mass += c.prob;
        if mass > target {
            break;
        }
    }
    drawn
}

#[cfg(test)]
mod tests;
