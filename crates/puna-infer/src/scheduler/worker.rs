//! The scheduler's thread.

use super::job::{Job, JobEvent, JobUsage, TokenLogprob};
use super::{Limits, Phase, SchedulerOptions, Shared, Waiting};
use crate::error::InferError;
use crate::model::{LanguageModel, Logits, Segment, SequenceCache};
use crate::sampling::Sampler;
use crate::stop::FinishReason;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// What the thread owns.
pub(super) struct Worker<M: LanguageModel> {
    model: Arc<M>,
    shared: Arc<Shared<M::Cache>>,
    options: SchedulerOptions,
    limits: Limits,
}

impl<M: LanguageModel> Worker<M> {
    pub(super) fn new(
        model: Arc<M>,
        shared: Arc<Shared<M::Cache>>,
        options: SchedulerOptions,
        limits: Limits,
    ) -> Self {
        Self { model, shared, options, limits }
    }

    /// Runs jobs until it is told to stop.
    pub(super) fn run(&mut self) {
        while let Some(waiting) = self.next() {
            let Waiting { id, mut job, since } = waiting;
            let mut usage = JobUsage {
                prompt_tokens: job.prompt.len(),
                queued: since.elapsed(),
                ..Default::default()
            };
            let shared = Arc::clone(&self.shared);
            let cancelled = || {
                let inbox = shared.lock();
                inbox.phase == Phase::Stopping || inbox.cancelled.contains(&id)
            };
            let event = match self.run_job(&mut job, &mut usage, &cancelled) {
                Ok(Some(reason)) => Some(JobEvent::Finished { reason, usage }),
                Ok(None) => None,
                Err(error) => Some(JobEvent::Failed(error)),
            };
            if let Some(event) = event {
                let _ = (job.sink)(event);
            }
            let mut inbox = self.shared.lock();
            inbox.open -= 1;
            inbox.stats.finished += 1;
            self.shared.emptied.notify_all();
        }
        let mut inbox = self.shared.lock();
        inbox.phase = Phase::Stopped;
        self.shared.emptied.notify_all();
    }

    fn next(&self) -> Option<Waiting<M::Cache>> {
        let mut inbox = self.shared.lock();
        loop {
            if let Some(waiting) = inbox.waiting.pop_front() {
                return Some(waiting);
            }
            if inbox.phase == Phase::Stopping {
                return None;
            }
            inbox = self.shared.filled.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One job from its beginning to its end; `None` if its sink broke off.
    fn run_job(
        &self,
        job: &mut Job<M::Cache>,
        usage: &mut JobUsage,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<FinishReason>, InferError> {
        if (job.sink)(JobEvent::Started { reused_tokens: 0 }).is_break() {
            return Ok(None);
        }
        let mut cache = job.cache.take().unwrap_or_else(|| self.model.new_cache());
        let mut sampler = Sampler::new(job.sampling.clone())?;
        let mut tokens = job.prompt.clone();
        let started = Instant::now();
        loop {
            if cancelled() {
                return Ok(Some(FinishReason::Cancelled));
            }
            let mut row = Vec::new();
            while cache.len() < tokens.len() {
                let end = tokens.len().min(cache.len() + self.options.idle_prefill_chunk);
                let part = &tokens[cache.len()..end];
                let segment = Segment { tokens: part, cache: &mut cache, total_len: tokens.len() };
                row =
                    self.model.forward(&mut [segment], Logits::Last).map_err(InferError::Model)?;
            }
            if tokens.len() == job.prompt.len() {
                usage.prefill = started.elapsed();
            }
            if job.max_tokens == 0 {
                return Ok(Some(FinishReason::Length));
            }
            let sampled = sampler.sample(&mut row, &tokens)?;
            tokens.push(sampled.token);
            usage.completion_tokens += 1;
            usage.decode = started.elapsed() - usage.prefill;
            let (id, logprob) = (sampled.token, sampled.logprob);
            let token = TokenLogprob { id, logprob, top: Vec::new() };
            if (job.sink)(JobEvent::Token(token)).is_break() {
                return Ok(None);
            }
            if job.stop_tokens.contains(&id) {
                return Ok(Some(FinishReason::StopToken(id)));
            }
            let full = tokens.len() >= self.limits.context_tokens;
            if full || usage.completion_tokens >= job.max_tokens {
                return Ok(Some(FinishReason::Length));
            }
        }
    }
}
