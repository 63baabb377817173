//! The search itself: candidates, running beams, finished beams, and when to end.

use super::{BeamOptions, EarlyStopping};
use crate::error::InferError;
use crate::generate::Engine;
use crate::logprob::log_sum_exp;
use crate::model::LanguageModel;
use crate::sampling::apply_penalties;
use crate::sequence::Sequence;
use crate::stop::FinishReason;
use std::ops::ControlFlow;

/// A sequence that ended.
#[derive(Debug, Clone)]
pub(super) struct Hypothesis {
    pub(super) token_ids: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
    /// Length-normalized score.
    pub(super) score: f64,
    pub(super) finish: FinishReason,
}

/// A sequence that goes on.
#[derive(Clone)]
struct Beam<C> {
    sequence: Sequence<C>,
    logprobs: Vec<f32>,
    /// Sum of log-probabilities after penalties.
    score: f64,
}

/// One continuation of one running beam.
struct Candidate {
    beam: usize,
    token: u32,
    /// Sum of log-probabilities after penalties.
    score: f64,
    /// The model's own log-probability of the token.
    logprob: f32,
    /// Why it ends here, if it does.
    finish: Option<FinishReason>,
}

pub(super) struct Search<'e, 'a, M: LanguageModel, T> {
    engine: &'e Engine<'a, M, T>,
    beams: BeamOptions,
    max_new: usize,
    prompt_tokens: usize,
    running: Vec<Beam<M::Cache>>,
    /// The best finished ones, best first, at most `num_beams`.
    finished: Vec<Hypothesis>,
    /// New tokens chosen over all beams.
    pub(super) stepped_tokens: usize,
}

impl<'e, 'a, M: LanguageModel, T: crate::text::Detokenizer> Search<'e, 'a, M, T> {
    pub(super) fn new(
        engine: &'e Engine<'a, M, T>,
        beams: BeamOptions,
        max_new: usize,
        root: Sequence<M::Cache>,
    ) -> Self {
        Self {
            engine,
            beams,
            max_new,
            prompt_tokens: root.tokens.len(),
            running: vec![Beam { sequence: root, logprobs: Vec::new(), score: 0.0 }],
            finished: Vec::new(),
            stepped_tokens: 0,
        }
    }

    /// Searches to the end, or until `keep_going` breaks.
    ///
    /// # Shapes
    /// `logits: [1, V]`, for the prompt's last token.
    pub(super) fn run(
        &mut self,
        mut logits: Vec<f32>,
        keep_going: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), InferError> {
        for new_tokens in 1..=self.max_new {
            let candidates = self.candidates(&mut logits, new_tokens)?;
            let all_end = candidates.iter().all(|c| c.finish.is_some());
            self.finish(&candidates, new_tokens);
            self.fork(&candidates);
            self.stepped_tokens += self.running.len();
            if all_end || self.is_decided(new_tokens) || keep_going().is_break() {
                break;
            }
            let mut sequences: Vec<_> = self.running.iter_mut().map(|b| &mut b.sequence).collect();
            // The consumer was asked above; a step is not divided further.
            let run_on = &mut |_, _, _| ControlFlow::Continue(());
            logits = self.engine.advance(&mut sequences, run_on)?.unwrap_or_default(); // [B, V]
        }
        Ok(())
    }

    pub(super) fn into_finished(self) -> Vec<Hypothesis> {
        self.finished
    }

    /// The best continuations, best first; of equals the earlier beam, then the lower id.
    fn candidates(
        &self,
        logits: &mut [f32],
        new_tokens: usize,
    ) -> Result<Vec<Candidate>, InferError> {
        let stop = &self.engine.options.stop;
        let stops = stop.eos.len() + stop.token_ids.len();
        let wanted = self.beams.num_beams * (1 + stops).max(2);
        let mut all = Vec::new();
        let rows = logits.chunks_exact_mut(self.engine.vocab_size());
        for (index, (beam, row)) in self.running.iter().zip(rows).enumerate() {
            let normalizer = log_sum_exp(row)?;
            row.iter_mut().for_each(|logit| *logit = (f64::from(*logit) - normalizer) as f32);
            let logprobs = row.to_vec();
            apply_penalties(&self.engine.options.sampling, row, &beam.sequence.tokens)?;
            for (token, (&penalized, &logprob)) in row.iter().zip(&logprobs).enumerate() {
                if penalized > f32::NEG_INFINITY {
                    let score = beam.score + f64::from(penalized);
                    let token = token as u32;
                    all.push(Candidate { beam: index, token, score, logprob, finish: None });
                }
            }
        }
        if all.is_empty() {
            return Err(InferError::NoCandidate);
        }
        let order = |a: &Candidate, b: &Candidate| {
            b.score.total_cmp(&a.score).then((a.beam, a.token).cmp(&(b.beam, b.token)))
        };
        if wanted < all.len() {
            all.select_nth_unstable_by(wanted, order);
            all.truncate(wanted);
        }
        all.sort_unstable_by(order);
        for candidate in &mut all {
            let length = (new_tokens >= self.max_new).then_some(FinishReason::Length);
            candidate.finish = stop.token_reason(candidate.token).or(length);
        }
        Ok(all)
    }

    /// Enters the candidates that end into the finished list. Only the first `num_beams` may: the
    /// others are there so that enough beams go on.
    fn finish(&mut self, candidates: &[Candidate], new_tokens: usize) {
        let num_beams = self.beams.num_beams;
        if self.finished.len() == num_beams && self.beams.early_stopping == EarlyStopping::AllBeams
        {
            return;
        }
        for candidate in candidates.iter().take(num_beams) {
            let Some(finish) = &candidate.finish else { continue };
            let beam = &self.running[candidate.beam];
            let new = &beam.sequence.tokens[self.prompt_tokens..];
            self.finished.push(Hypothesis {
                token_ids: [new, &[candidate.token]].concat(),
                logprobs: [beam.logprobs.as_slice(), &[candidate.logprob]].concat(),
                score: self.normalized(candidate.score, new_tokens),
                finish: finish.clone(),
            });
        }
        // Stable: of equals the earlier entry stays ahead.
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(num_beams);
    }

    /// Replaces the running beams by the best candidates that go on.
    fn fork(&mut self, candidates: &[Candidate]) {
        let going: Vec<_> = candidates.iter().filter(|c| c.finish.is_none()).collect();
        let going = &going[..going.len().min(self.beams.num_beams)];
        let mut parents: Vec<_> = std::mem::take(&mut self.running).into_iter().map(Some).collect();
        for (rank, candidate) in going.iter().enumerate() {
            let used_again = going[rank + 1..].iter().any(|later| later.beam == candidate.beam);
            let parent = &mut parents[candidate.beam];
            let taken = if used_again { parent.clone() } else { parent.take() };
            let Some(mut beam) = taken else { continue };
            beam.sequence.tokens.push(candidate.token);
            beam.logprobs.push(candidate.logprob);
            beam.score = candidate.score;
            self.running.push(beam);
        }
    }

    /// Whether no running beam can, or need, become better than the finished ones.
    fn is_decided(&self, new_tokens: usize) -> bool {
        let Some(best) = self.running.first() else { return true };
        let full = self.finished.len() == self.beams.num_beams;
        let Some(worst) = self.finished.last().filter(|_| full) else { return false };
        let never = self.beams.early_stopping == EarlyStopping::Never;
        let length =
            if never && self.beams.length_penalty > 0.0 { self.max_new } else { new_tokens };
        self.beams.early_stopping == EarlyStopping::AllBeams
            || self.normalized(best.score, length) <= worst.score
    }

    fn normalized(&self, score: f64, new_tokens: usize) -> f64 {
        score / (new_tokens as f64).powf(f64::from(self.beams.length_penalty))
    }
}
