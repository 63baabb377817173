//! One job's sequence: what is known of it while it waits, and what it has while it runs.

use super::job::{Job, JobEvent, JobId, JobUsage, TokenLogprob};
use super::plan::Part;
use crate::error::InferError;
use crate::logprob::{log_prob, log_sum_exp, most_probable};
use crate::model::Logits;
use crate::sampling::Sampler;
use crate::stop::FinishReason;
use crate::stream::panic_message;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// A job and its tokens. It outlives preemptions; what the model remembers of it does not.
#[derive(Debug)]
pub(super) struct Sequence<C> {
    pub(super) id: JobId,
    pub(super) job: Job<C>,
    /// The prompt and the new tokens.
    pub(super) tokens: Vec<u32>,
    pub(super) usage: JobUsage,
    /// When it left the queue for the first time, as a number that grows; a sequence that comes
    /// back is as old as before.
    pub(super) age: Option<u64>,
    /// How often the model failed in a way that took its memory along.
    pub(super) losses: usize,
    sampler: Sampler,
    submitted: Instant,
    started: Option<Instant>,
    prompt_done: Option<Instant>,
    /// Those that are known so far; `None` once they were handed over, or if nobody asked.
    prompt_logprobs: Option<Vec<Option<TokenLogprob>>>,
}

/// How a sequence ends.
#[derive(Debug)]
pub(super) enum Ended {
    Finished(FinishReason),
    Failed(InferError),
    /// The sink wants no more.
    Broken,
}

impl<C> Sequence<C> {
    pub(super) fn new(id: JobId, mut job: Job<C>) -> Result<Self, InferError> {
        let tokens = std::mem::take(&mut job.prompt);
        Ok(Self {
            id,
            usage: JobUsage { prompt_tokens: tokens.len(), ..Default::default() },
            tokens,
            age: None,
            losses: 0,
            sampler: Sampler::new(job.sampling.clone())?,
            submitted: Instant::now(),
            started: None,
            prompt_done: None,
            prompt_logprobs: job.prompt_logprobs.map(|_| vec![None]),
            job,
        })
    }

    /// Tokens whose results may come from elsewhere: not the last one's, whose logits are wanted, and
    /// none while the prompt's log-probabilities are.
    pub(super) fn reusable(&self) -> &[u32] {
        match self.prompt_logprobs {
            None => &self.tokens[..self.tokens.len() - 1],
            Some(_) => &[],
        }
    }

    /// Whether log-probabilities of the prompt are still to come.
    pub(super) fn wants_prompt(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Which rows a pass over the tokens `start..end` is to give.
    pub(super) fn wanted(&self, start: usize, end: usize) -> Logits {
        match &self.prompt_logprobs {
            Some(_) if start < self.usage.prompt_tokens => Logits::All,
            _ if end == self.tokens.len() => Logits::Last,
            _ => Logits::None,
        }
    }

    /// Says that the sequence has left the queue, the first time it does.
    pub(super) fn start(&mut self, reused_tokens: usize) -> ControlFlow<()> {
        if self.started.is_some() {
            return ControlFlow::Continue(());
        }
        let now = Instant::now();
        self.started = Some(now);
        self.usage.queued = now - self.submitted;
        self.usage.reused_tokens = reused_tokens;
        self.tell(JobEvent::Started { reused_tokens })
    }

    /// Counts tokens that others have computed since it started, if they are the prompt's and are
    /// wanted for the first time; returns how many are.
    pub(super) fn count_reused(&mut self, tokens: usize) -> usize {
        let counted =
            if self.prompt_done.is_none() && self.usage.preemptions == 0 { tokens } else { 0 };
        self.usage.reused_tokens += counted;
        counted
    }

    /// Takes the logits of a part of its tokens; chooses a token if they are the last ones. `limit` is
    /// how many tokens the sequence may have.
    ///
    /// # Shapes
    /// `rows: [rows, V]`, as many as the part wanted.
    pub(super) fn advance(
        &mut self,
        part: &Part,
        rows: &mut [f32],
        limit: usize,
    ) -> ControlFlow<Ended> {
        if part.wanted == Logits::All
            && let Err(error) = self.note_prompt(part, rows)
        {
            return ControlFlow::Break(Ended::Failed(error));
        }
        if part.end >= self.usage.prompt_tokens && self.prompt_done.is_none() {
            self.prompt_done = Some(Instant::now());
            if let Some(all) = self.prompt_logprobs.take()
                && self.tell(JobEvent::PromptLogprobs(all)).is_break()
            {
                return ControlFlow::Break(Ended::Broken);
            }
        }
        if part.end < self.tokens.len() {
            return ControlFlow::Continue(());
        }
        if self.job.max_tokens == 0 {
            return ControlFlow::Break(Ended::Finished(FinishReason::Length));
        }
        let last = rows.len() - rows.len() / part.rows().max(1);
        let chosen = catch_unwind(AssertUnwindSafe(|| self.choose(&mut rows[last..])));
        let panicked = |message| Err(InferError::Panicked { message });
        match chosen.unwrap_or_else(|panic| panicked(panic_message(&*panic))) {
            Ok(token) => self.hand_over(token, limit),
            Err(error) => ControlFlow::Break(Ended::Failed(error)),
        }
    }

    /// Remembers how probable the prompt's tokens behind those of a part are.
    fn note_prompt(&mut self, part: &Part, rows: &[f32]) -> Result<(), InferError> {
        let (Some(known), Some(count)) = (&mut self.prompt_logprobs, self.job.prompt_logprobs)
        else {
            return Ok(());
        };
        let prompt = &self.tokens[..self.usage.prompt_tokens];
        let width = rows.len() / part.rows().max(1);
        for (row, &id) in rows.chunks_exact(width.max(1)).zip(&prompt[part.start + 1..]) {
            let top = most_probable(row, log_sum_exp(row)?, count);
            known.push(Some(TokenLogprob { id, logprob: log_prob(row, id)?, top }));
        }
        Ok(())
    }

    /// Chooses the next token from its logits `[V]`.
    fn choose(&mut self, row: &mut [f32]) -> Result<TokenLogprob, InferError> {
        let top = match self.job.top_logprobs {
            None | Some(0) => Vec::new(),
            Some(count) => most_probable(row, log_sum_exp(row)?, count),
        };
        let sampled = match &mut self.job.constraint {
            None => self.sampler.sample(row, &self.tokens)?,
            Some(constraint) => {
                let mut mask = |row: &mut [f32]| constraint.mask(row);
                self.sampler.sample_masked(row, &self.tokens, Some(&mut mask))?
            }
        };
        if let Some(constraint) = &mut self.job.constraint {
            constraint.accept(sampled.token)?;
        }
        Ok(TokenLogprob { id: sampled.token, logprob: sampled.logprob, top })
    }

    fn hand_over(&mut self, token: TokenLogprob, limit: usize) -> ControlFlow<Ended> {
        let id = token.id;
        self.tokens.push(id);
        self.usage.completion_tokens += 1;
        if self.tell(JobEvent::Token(token)).is_break() {
            return ControlFlow::Break(Ended::Broken);
        }
        if self.job.stop_tokens.contains(&id) {
            return ControlFlow::Break(Ended::Finished(FinishReason::StopToken(id)));
        }
        let enough = self.usage.completion_tokens >= self.job.max_tokens;
        match enough || self.tokens.len() >= limit {
            true => ControlFlow::Break(Ended::Finished(FinishReason::Length)),
            false => ControlFlow::Continue(()),
        }
    }

    /// Tells the sink how the sequence ended.
    pub(super) fn end(mut self, ended: Ended) {
        let now = Instant::now();
        if let Some(started) = self.started {
            let prompt_done = self.prompt_done.unwrap_or(now);
            self.usage.prefill = prompt_done - started;
            self.usage.decode = now - prompt_done;
        } else {
            self.usage.queued = now - self.submitted;
        }
        let usage = self.usage;
        // Nothing is left that a sink could break off.
        let _ = match ended {
            Ended::Finished(reason) => self.tell(JobEvent::Finished { reason, usage }),
            Ended::Failed(error) => self.tell(JobEvent::Failed(error)),
            Ended::Broken => ControlFlow::Break(()),
        };
    }

    /// Calls the sink; a panic is a break.
    fn tell(&mut self, event: JobEvent) -> ControlFlow<()> {
        let sink = &mut self.job.sink;
        catch_unwind(AssertUnwindSafe(|| sink(event))).unwrap_or(ControlFlow::Break(()))
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }
}
