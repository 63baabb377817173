//! How fast it went.

use crate::speculate::Speculated;
use std::time::Duration;

/// Tokens and time of the two phases of generation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// Prompt tokens run through the model.
    pub prefill_tokens: usize,
    /// Prompt tokens that were in the cache already.
    pub reused_tokens: usize,
    /// Time for the prompt.
    pub prefill: Duration,
    /// New tokens, over all sequences.
    pub decode_tokens: usize,
    /// Time from the end of the prompt to the last token.
    pub decode: Duration,
    /// What speculation did, if it was asked for.
    pub speculated: Option<Speculated>,
}

impl Timings {
    /// Prompt tokens per second; 0 if no time passed.
    pub fn prefill_tokens_per_sec(&self) -> f64 {
        per_sec(self.prefill_tokens, self.prefill)
    }

    /// New tokens per second; 0 if no time passed. The first new token of a sequence costs no step
    /// of its own: its logits come with the prompt.
    pub fn decode_tokens_per_sec(&self) -> f64 {
        per_sec(self.decode_tokens, self.decode)
    }
}

fn per_sec(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::Timings;
    use std::time::Duration;

    #[test]
    fn rates_are_tokens_over_seconds() {
        let timings = Timings {
            prefill_tokens: 10,
            prefill: Duration::from_millis(500),
            ..Default::default()
        };
        assert_eq!(timings.prefill_tokens_per_sec(), 20.0);
        assert_eq!(timings.decode_tokens_per_sec(), 0.0);
    }
}
