//! Mirostat 2: keeps the surprise of the text near a target.
//!
//! Basu et al. 2021, "Mirostat", with the simplification of its authors' version 2 that llama.cpp
//! and Ollama use: drop tokens whose surprise is above `μ` bits, draw from the rest, and move `μ`
//! by `η` times the surprise's distance from the target `τ`.

use crate::sampling::truncation::{Candidate, by_rank, normalize};

/// Settings of mirostat 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat2 {
    /// Target surprise `τ`, in bits per token.
    pub tau: f32,
    /// Learning rate `η`.
    pub eta: f32,
}

/// The controller's state in one sequence.
#[derive(Debug, Clone)]
pub(crate) struct MirostatState {
    settings: Mirostat2,
    /// Largest surprise allowed now, in bits; starts at `2τ`.
    mu: f64,
}

impl MirostatState {
    pub(crate) fn new(settings: Mirostat2) -> Self {
        Self { settings, mu: 2.0 * f64::from(settings.tau) }
    }

    /// Drops what is too surprising (the best token always stays) and renormalizes.
    pub(crate) fn truncate(&self, candidates: &mut Vec<Candidate>) {
        normalize(candidates);
        let best = candidates.iter().map(|c| c.prob).fold(0.0, f64::max);
        candidates.retain(|c| -c.prob.log2() <= self.mu || c.prob == best);
        candidates.sort_unstable_by(by_rank);
        if -best.log2() > self.mu {
            candidates.truncate(1);
        }
        normalize(candidates);
    }

    /// Learns from the probability the drawn token had among the candidates left.
    pub(crate) fn observe(&mut self, prob: f64) {
        let error = -prob.log2() - f64::from(self.settings.tau);
        self.mu -= f64::from(self.settings.eta) * error;
    }

    /// Surprise in bits that `token` has among the candidates this state leaves of `logits`.
    #[cfg(test)]
    pub(crate) fn surprise_of(&self, logits: &[f32], token: u32) -> f64 {
        let candidate =
            |(i, &logit): (usize, &f32)| Candidate { token: i as u32, logit, prob: 0.0 };
        let mut candidates: Vec<_> = logits.iter().enumerate().map(candidate).collect();
        self.truncate(&mut candidates);
        let drawn = candidates.iter().find(|c| c.token == token);
        drawn.map_or(f64::INFINITY, |c| -c.prob.log2())
    }
}
