//! Continuous batching: any number of jobs on one model, joined and left at any step.
//!
//! ```text
//! submit ─> queue ─> running sequences ──> one forward pass: a token of each that decodes,
//!                         ^                and a chunk of the prompts of the others
//!                         └── logits ─> tokens ─> each job's sink
//! ```
//!
//! One thread owns the loop. A job's tokens are those that [`crate::Session::generate`] would give it
//! alone, bit for bit, whatever runs beside it.
//!
//! **Memory.** Keys and values lie in blocks of some tokens, at most `kv_bytes` of them. A job is taken
//! from the queue when the blocks of its prompt are there; its new tokens take theirs as they come,
//! and where none is left, the sequence that began last gives all of its own up, waits, and is
//! computed anew. The alternative, reserving `max_tokens` for each, leaves most of the memory to tokens
//! that never come. Blocks of ended sequences stay for prompts that begin like them until
//! somebody needs their memory.
//!
//! **Fairness.** Clients are served by deficit round robin over tokens, share places and the prompt
//! tokens of a pass evenly, and a client with two sequences more than the next one in the queue
//! has gives up its youngest.

mod active;
mod admission;
mod blocks;
mod job;
mod options;
mod pass;
mod plan;
mod queue;
mod sequence;
mod worker;

pub use job::{Constraint, Job, JobEvent, JobId, JobSink, JobUsage, Refused, TokenLogprob};
pub use options::{SchedulerOptions, SchedulerStats};

use crate::error::InferError;
use crate::model::{LanguageModel, SequenceCache, check_tokens};
use crate::sampling::check;
use puna_model::KvCache;
use queue::FairQueue;
use sequence::Sequence;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use worker::Worker;

/// Runs jobs on a thread of its own. Dropping it cancels what is left and waits for the thread.
///
/// `C` is the model's cache. All methods take `&self` and may be called from any thread.
#[derive(Debug)]
pub struct Scheduler<C = KvCache> {
    shared: Arc<Shared<C>>,
    thread: Option<JoinHandle<()>>,
    options: SchedulerOptions,
    limits: Limits,
}

/// What a prompt is checked against.
#[derive(Debug, Clone, Copy)]
struct Limits {
    vocab_size: usize,
    /// Tokens of the context.
    context: usize,
    /// Tokens that memory holds.
    memory: usize,
    /// Tokens' worth of memory that the model's own caches take beyond their tokens.
    extra: usize,
}

impl Limits {
    /// Tokens that a sequence may have.
    fn of<C: SequenceCache>(&self, cache: Option<&C>) -> usize {
        let extra = cache.map_or(self.extra, SequenceCache::extra_tokens);
        self.context.min(self.memory.saturating_sub(extra))
    }
}

/// How [`Scheduler::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every job came to its end.
    Whole,
    /// So many jobs were cancelled at the deadline.
    Cut(usize),
}

/// What the callers' threads and the scheduler's share.
#[derive(Debug)]
struct Shared<C> {
    inbox: Mutex<Inbox<C>>,
    /// Something is in the inbox.
    filled: Condvar,
    /// The last open job has ended, or the thread.
    emptied: Condvar,
}

#[derive(Debug)]
struct Inbox<C> {
    waiting: FairQueue<Sequence<C>>,
    cancelled: Vec<JobId>,
    phase: Phase,
    next_id: u64,
    /// Jobs that wait or run.
    open: usize,
    /// Mean time between ends of jobs.
    mean_gap: Duration,
    stats: SchedulerStats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No new jobs.
    Draining,
    /// No jobs at all.
    Stopping,
    Stopped,
}

impl<C> Shared<C> {
    /// The inbox is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Inbox<C>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: SequenceCache + 'static> Scheduler<C> {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`InferError::InvalidOption`] names the field; [`InferError::Thread`].
    pub fn start<M>(model: Arc<M>, options: SchedulerOptions) -> Result<Self, InferError>
    where
        M: LanguageModel<Cache = C> + 'static,
    {
        options.validate()?;
        let (block_tokens, block_bytes) = (model.block_tokens(), model.block_bytes());
        let blocks_total = options.kv_bytes / block_bytes.max(1);
        let expected = "at least the bytes of one block of keys and values";
        check("kv_bytes", options.kv_bytes, |_| blocks_total >= 1, expected)?;
        let limits = Limits {
            vocab_size: model.vocab_size(),
            context: model.max_seq_len().min(options.context_tokens.unwrap_or(usize::MAX)),
            memory: blocks_total.saturating_mul(block_tokens),
            extra: model.new_cache().extra_tokens(),
        };
        let context_tokens = limits.of::<C>(None);
        let stats = SchedulerStats {
            block_tokens,
            block_bytes,
            blocks_total,
            context_tokens,
            ..Default::default()
        };
        let inbox = Inbox {
            waiting: FairQueue::new(),
            cancelled: Vec::new(),
            phase: Phase::Open,
            next_id: 0,
            open: 0,
            mean_gap: Duration::from_secs(1),
            stats,
        };
        let shared = Arc::new(Shared {
            inbox: Mutex::new(inbox),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let mut worker = Worker::new(model, Arc::clone(&shared), options, limits);
        let thread = std::thread::Builder::new()
            .name("puna-scheduler".to_string())
            .spawn(move || worker.run())
            .map_err(InferError::Thread)?;
        Ok(Self { shared, thread: Some(thread), options, limits })
    }

    /// Puts a job into the queue.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn submit(&self, job: Job<C>) -> Result<JobId, Refused> {
        let checked = self.check(&job);
        let mut inbox = self.shared.lock();
        let refusal = match (checked, inbox.phase) {
            (Err(refused), _) => Some(refused),
            (_, Phase::Stopped) => Some(Refused::Stopped),
            (_, Phase::Draining | Phase::Stopping) => Some(Refused::Draining),
            (Ok(()), Phase::Open) => (inbox.waiting.len() >= self.options.queue_length)
                .then_some(Refused::QueueFull { retry_after: inbox.mean_gap }),
        };
        if let Some(refused) = refusal {
            inbox.stats.refused += 1;
            return Err(refused);
        }
        let id = JobId(inbox.next_id);
        let (client, cost) = (job.client.clone(), job.prompt.len());
        let sequence = Sequence::new(id, job).map_err(Refused::Invalid)?;
        inbox.next_id += 1;
        inbox.open += 1;
        inbox.stats.accepted += 1;
        inbox.waiting.push(&client, sequence, cost);
        drop(inbox);
        self.shared.filled.notify_one();
        Ok(id)
    }

    fn check(&self, job: &Job<C>) -> Result<(), Refused> {
        let vocab_size = self.limits.vocab_size;
        let context_tokens = self.limits.of(job.cache.as_ref());
        if job.prompt.is_empty() {
            return Err(Refused::Invalid(InferError::EmptyPrompt { sequence: 0 }));
        }
        check_tokens(&job.prompt, vocab_size).map_err(Refused::Invalid)?;
        let biased: Vec<u32> = job.sampling.logit_bias.iter().map(|&(token, _)| token).collect();
        check_tokens(&biased, vocab_size).map_err(Refused::Invalid)?;
        job.sampling.validate().map_err(Refused::Invalid)?;
        let prompt_tokens = job.prompt.len();
        if prompt_tokens.saturating_add(job.max_tokens.min(1)) > context_tokens {
            return Err(Refused::TooLong { prompt_tokens, context_tokens });
        }
        Ok(())
    }

    /// Ends a job before its next token, with [`crate::FinishReason::Cancelled`]; nothing happens if
    /// it has ended.
    pub fn cancel(&self, id: JobId) {
        self.shared.lock().cancelled.push(id);
        self.shared.filled.notify_one();
    }

    /// What is happening now.
    pub fn stats(&self) -> SchedulerStats {
        let inbox = self.shared.lock();
        SchedulerStats { queued: inbox.waiting.len(), ..inbox.stats }
    }

    /// Takes no more jobs and waits for those accepted; cancels what is left at `deadline`.
    pub fn drain(&self, deadline: Instant) -> Drained {
        let mut inbox = self.shared.lock();
        if inbox.phase == Phase::Open {
            inbox.phase = Phase::Draining;
        }
        while inbox.open > 0 && inbox.phase != Phase::Stopped {
            let now = Instant::now();
            if now >= deadline {
                let cut = inbox.open;
                self.stop(inbox);
                return Drained::Cut(cut);
            }
            let waited = self.shared.emptied.wait_timeout(inbox, deadline - now);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Drained::Whole
    }

    /// Has every job cancelled and waits until the thread has done so.
    fn stop(&self, mut inbox: MutexGuard<'_, Inbox<C>>) {
        if inbox.phase != Phase::Stopped {
            inbox.phase = Phase::Stopping;
        }
        self.shared.filled.notify_one();
        while inbox.phase != Phase::Stopped {
            inbox = self.shared.emptied.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<C> Drop for Scheduler<C> {
    fn drop(&mut self) {
        let mut inbox = self.shared.lock();
        if inbox.phase != Phase::Stopped {
            inbox.phase = Phase::Stopping;
        }
        drop(inbox);
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take()
            // A sink may be what held the scheduler last.
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread has nobody left to tell.
            let _ = thread.join();
        }
    }
}
