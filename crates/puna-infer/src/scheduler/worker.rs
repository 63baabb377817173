//! The scheduler's thread: takes jobs in, runs passes, hands tokens over, lets sequences go.

use super::active::{Active, Memory};
use super::blocks::BlockIndex;
use super::job::JobId;
use super::pass::{Ran, run_parts};
use super::plan::{Chunks, Part, plan};
use super::sequence::{Ended, Sequence};
use super::{Inbox, Limits, Phase, SchedulerOptions, SchedulerStats, Shared};
use crate::model::{LanguageModel, SequenceCache};
use crate::stop::FinishReason;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How much the time since the last end of a job counts in the mean.
const GAP_WEIGHT: f64 = 0.2;

/// What the thread owns.
pub(super) struct Worker<M: LanguageModel> {
    pub(super) model: Arc<M>,
    pub(super) shared: Arc<Shared<M::Cache>>,
    pub(super) options: SchedulerOptions,
    limits: Limits,
    pub(super) active: Vec<Active<M::Cache>>,
    pub(super) memory: Memory<<M::Cache as SequenceCache>::Block>,
    /// Sequences that have left the queue so far.
    pub(super) ages: u64,
    /// What is counted here; the rest is counted in the inbox.
    pub(super) counts: SchedulerStats,
    /// When a job ended, or work began.
    last_end: Instant,
}

impl<M: LanguageModel> Worker<M> {
    pub(super) fn new(
        model: Arc<M>,
        shared: Arc<Shared<M::Cache>>,
        options: SchedulerOptions,
        limits: Limits,
    ) -> Self {
        let block_tokens = model.block_tokens();
        let total = limits.memory / block_tokens;
        let memory = Memory { index: BlockIndex::new(), total, block_tokens };
        Self {
            model,
            shared,
            options,
            limits,
            active: Vec::new(),
            memory,
            ages: 0,
            counts: SchedulerStats::default(),
            last_end: Instant::now(),
        }
    }

    /// Runs jobs until it is told to stop.
    pub(super) fn run(&mut self) {
        // A panic is one of the loop itself: sinks, models and constraints are guarded where they are
        // called. Jobs that are left lose their sinks.
        let ended = catch_unwind(AssertUnwindSafe(|| while self.turn() {}));
        let mut inbox = self.shared.lock();
        inbox.phase = Phase::Stopped;
        if ended.is_err() {
            inbox.waiting.remove(|_| true);
            inbox.open = 0;
        }
        self.shared.emptied.notify_all();
    }

    /// One pass and what goes with it; `false` at the end.
    fn turn(&mut self) -> bool {
        self.wait();
        if self.sweep() {
            return false;
        }
        self.admit();
        self.make_room();
        self.step();
        self.publish();
        true
    }

    /// Waits for something to do.
    fn wait(&mut self) {
        let mut inbox = self.shared.lock();
        while self.active.is_empty()
            && inbox.waiting.len() == 0
            && inbox.cancelled.is_empty()
            && inbox.phase != Phase::Stopping
        {
            inbox = self.shared.filled.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            self.last_end = Instant::now();
        }
    }

    /// Ends what was cancelled and what is late, everything if the scheduler stops; whether it does.
    pub(super) fn sweep(&mut self) -> bool {
        let mut inbox = self.shared.lock();
        let stopping = inbox.phase == Phase::Stopping;
        let cancelled = std::mem::take(&mut inbox.cancelled);
        drop(inbox);
        self.drop_unwanted(stopping, &cancelled);
        stopping
    }

    fn drop_unwanted(&mut self, stopping: bool, cancelled: &[JobId]) {
        let now = Instant::now();
        let reason = |sequence: &Sequence<M::Cache>| {
            if stopping || cancelled.contains(&sequence.id) {
                Some(FinishReason::Cancelled)
            } else {
                sequence.is_late(now).then_some(FinishReason::Deadline)
            }
        };
        let queued = self.shared.lock().waiting.remove(|sequence| reason(sequence).is_some());
        for sequence in queued {
            let reason = reason(&sequence).unwrap_or(FinishReason::Cancelled);
            self.finish(sequence, Ended::Finished(reason));
        }
        for index in (0..self.active.len()).rev() {
            if let Some(reason) = reason(&self.active[index].sequence) {
                self.end(index, Ended::Finished(reason));
            }
        }
    }

    /// One forward pass.
    fn step(&mut self) {
        let chunks =
            Chunks { mixed: self.options.prefill_chunk, alone: self.options.idle_prefill_chunk };
        let parts = plan(&*self.model, &self.active, chunks, self.counts.steps);
        if parts.is_empty() {
            return;
        }
        self.counts.steps += 1;
        let by_token = self.model.depends_on_length();
        let totals: Vec<usize> =
            parts.iter().map(|part| self.active[part.index].total_len(by_token)).collect();
        let begun = Instant::now();
        let ran = run_parts(&*self.model, &mut self.active, &parts);
        self.counts.model_time += begun.elapsed();
        let before = self.new_tokens(&parts);
        let mut ends = Vec::new();
        for ((part, ran), total_len) in parts.iter().zip(ran).zip(totals) {
            if let ControlFlow::Break(ended) = self.take(part, ran, total_len) {
                ends.push((part.index, ended));
            }
        }
        let shared = Arc::clone(&self.shared);
        let mut inbox = shared.lock();
        for ((part, after), before) in parts.iter().zip(self.new_tokens(&parts)).zip(before) {
            let client = &self.active[part.index].sequence.job.client;
            inbox.waiting.charge(client, after - before);
        }
        drop(inbox);
        for (index, ended) in ends.into_iter().rev() {
            self.end(index, ended);
        }
    }

    /// New tokens so far of the sequences that have parts.
    fn new_tokens(&self, parts: &[Part]) -> Vec<usize> {
        let of = |part: &Part| self.active[part.index].sequence.usage.completion_tokens;
        parts.iter().map(of).collect()
    }

    /// Takes what a pass gave for a sequence.
    fn take(&mut self, part: &Part, ran: Ran, total_len: usize) -> ControlFlow<Ended> {
        let active = &mut self.active[part.index];
        let mut rows = match ran {
            Ran::Rows(rows) => rows,
            Ran::Failed(error) => return ControlFlow::Break(Ended::Failed(error)),
            Ran::Lost => {
                active.begin_again(&*self.model, &mut self.memory);
                return ControlFlow::Continue(());
            }
        };
        active.publish(&*self.model, &mut self.memory, total_len);
        let limit = self.limits.of(active.sequence.job.cache.as_ref());
        let before = active.sequence.usage.completion_tokens;
        let flow = active.sequence.advance(part, &mut rows, limit);
        let new = active.sequence.usage.completion_tokens - before;
        // Behind the prompt each new token has cost one that was run.
        let decoded = usize::from(part.start >= active.sequence.usage.prompt_tokens && new > 0);
        self.counts.prefilled_tokens += (part.end - part.start - decoded) as u64;
        self.counts.decoded_tokens += new as u64;
        flow
    }

    /// Ends a running sequence; what it has computed stays for others.
    pub(super) fn end(&mut self, index: usize, ended: Ended) {
        let mut active = self.active.remove(index);
        active.release(&mut self.memory);
        let Active { sequence, cache, .. } = active;
        // Before the job's sink, and whoever waits for it, learns of the end.
        drop(cache);
        self.shared.lock().waiting.ended(&sequence.job.client);
        self.finish(sequence, ended);
    }

    fn finish(&mut self, sequence: Sequence<M::Cache>, ended: Ended) {
        match &ended {
            Ended::Finished(FinishReason::Cancelled) | Ended::Broken => self.counts.cancelled += 1,
            Ended::Finished(_) => self.counts.finished += 1,
            Ended::Failed(_) => self.counts.failed += 1,
        }
        let gap = self.last_end.elapsed();
        self.last_end = Instant::now();
        let mut inbox = self.shared.lock();
        let mean = inbox.mean_gap.as_secs_f64();
        let mean = mean + GAP_WEIGHT * (gap.as_secs_f64() - mean);
        inbox.mean_gap = Duration::from_secs_f64(mean.max(0.0));
        self.write_stats(&mut inbox);
        drop(inbox);
        sequence.end(ended);
        let mut inbox = self.shared.lock();
        inbox.open -= 1;
        if inbox.open == 0 {
            self.shared.emptied.notify_all();
        }
    }

    /// Makes what has happened visible.
    fn publish(&self) {
        self.write_stats(&mut self.shared.lock());
    }

    fn write_stats(&self, inbox: &mut Inbox<M::Cache>) {
        let index = &self.memory.index;
        let of_cache = |a: &Active<M::Cache>| a.blocks_held(&self.memory);
        inbox.stats = SchedulerStats {
            running: self.active.len(),
            blocks_used: self.active.iter().map(of_cache).sum::<usize>() + index.held(),
            blocks_cached: index.len() - index.held(),
            block_tokens: inbox.stats.block_tokens,
            block_bytes: inbox.stats.block_bytes,
            blocks_total: inbox.stats.blocks_total,
            context_tokens: inbox.stats.context_tokens,
            accepted: inbox.stats.accepted,
            refused: inbox.stats.refused,
            ..self.counts
        };
    }
}
