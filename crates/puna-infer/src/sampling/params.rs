//! The sampling options of one request, and which of their values make sense.

use crate::error::InferError;
use crate::sampling::mirostat::Mirostat2;

/// How to choose tokens. The default is greedy without penalties.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep the k most probable tokens; at least 1.
    pub top_k: Option<usize>,
    /// Keep the smallest set of the most probable tokens with this mass; in (0, 1].
    pub top_p: Option<f32>,
    /// Keep tokens at least this many times as probable as the best; in [0, 1].
    pub min_p: Option<f32>,
    /// Keep the most typical tokens with this mass; in (0, 1].
    pub typical_p: Option<f32>,
    /// Control the surprise instead of truncating; excludes the four above.
    pub mirostat: Option<Mirostat2>,
    /// Divides positive and multiplies negative logits of tokens seen; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens the three penalties look at; `None`: all of them.
    pub repeat_last_n: Option<usize>,
    /// Subtracted once from the logit of each token seen.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was seen.
    pub frequency_penalty: f32,
    /// Forbid repeating n-grams of this many tokens; at least 1.
    pub no_repeat_ngram_size: Option<usize>,
    /// Added to the logits of single tokens; -∞ forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Start of the random stream; completion `i` of a prompt uses `seed + i`.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            typical_p: None,
            mirostat: None,
            repetition_penalty: 1.0,
            repeat_last_n: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            no_repeat_ngram_size: None,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every value.
    ///
    /// # Errors
    /// [`InferError::InvalidOption`] names the field, its value and what it may be;
    /// [`InferError::ConflictingOptions`] where mirostat meets a truncation.
    pub fn validate(&self) -> Result<(), InferError> {
        let finite_from_zero = |x: f32| x.is_finite() && x >= 0.0;
        let mass = |x: f32| x > 0.0 && x <= 1.0;
        check("temperature", self.temperature, finite_from_zero, "a finite number of at least 0")?;
        check_some("top_p", self.top_p, mass, "above 0 and at most 1")?;
        check_some("min_p", self.min_p, |x| (0.0..=1.0).contains(&x), "between 0 and 1")?;
        check_some("typical_p", self.typical_p, mass, "above 0 and at most 1")?;
        let positive = |x: f32| x.is_finite() && x > 0.0;
        check("repetition_penalty", self.repetition_penalty, positive, "a finite number above 0")?;
        check("presence_penalty", self.presence_penalty, f32::is_finite, "a finite number")?;
        check("frequency_penalty", self.frequency_penalty, f32::is_finite, "a finite number")?;
        check_some("top_k", self.top_k, |k| k >= 1, "at least 1")?;
        check_some("no_repeat_ngram_size", self.no_repeat_ngram_size, |n| n >= 1, "at least 1")?;
        for &(_, bias) in &self.logit_bias {
            let allowed = |x: f32| x.is_finite() || x == f32::NEG_INFINITY;
            check("logit_bias", bias, allowed, "a finite number or minus infinity")?;
        }
        self.validate_mirostat()
    }

    fn validate_mirostat(&self) -> Result<(), InferError> {
        let Some(Mirostat2 { tau, eta }) = self.mirostat else { return Ok(()) };
        let positive = |x: f32| x.is_finite() && x > 0.0;
        check("mirostat.tau", tau, positive, "a finite number above 0")?;
        check("mirostat.eta", eta, positive, "a finite number above 0")?;
        let truncations = [
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
            ("min_p", self.min_p.is_some()),
            ("typical_p", self.typical_p.is_some()),
        ];
        match truncations.iter().find(|(_, is_set)| *is_set) {
            Some(&(other, _)) => Err(InferError::ConflictingOptions { field: "mirostat", other }),
            None => Ok(()),
        }
    }

    /// Whether bias, penalties or bans may change a logit before the choice.
    pub(crate) fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.no_repeat_ngram_size.is_some()
            || !self.logit_bias.is_empty()
    }
}

/// `Ok` if `allowed(value)`, else an error that names the field.
pub(crate) fn check<T: Copy + ToString>(
    field: &'static str,
    value: T,
    allowed: impl Fn(T) -> bool,
    expected: &'static str,
) -> Result<(), InferError> {
    if allowed(value) {
        return Ok(());
    }
    Err(InferError::InvalidOption { field, value: value.to_string(), expected })
}

fn check_some<T: Copy + ToString>(
    field: &'static str,
    value: Option<T>,
    allowed: impl Fn(T) -> bool,
    expected: &'static str,
) -> Result<(), InferError> {
    value.map_or(Ok(()), |value| check(field, value, allowed, expected))
}
