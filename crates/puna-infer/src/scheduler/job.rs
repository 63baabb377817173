//! What is submitted to a [`crate::Scheduler`], and what comes back.

use crate::error::InferError;
use crate::sampling::SamplingParams;
use crate::stop::FinishReason;
use puna_model::KvCache;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Names a job for as long as its scheduler lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub(super) u64);

/// Where a job's events go, on the scheduler's thread: it must not wait.
///
/// Breaking ends the sequence before its next token; the sink is not called again. One that panics
/// counts as one that breaks.
pub type JobSink = Box<dyn FnMut(JobEvent) -> ControlFlow<()> + Send>;

/// One sequence to be continued.
///
/// `C` is the model's cache.
pub struct Job<C = KvCache> {
    /// Tokens to continue; never empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen, from a random stream that begins at its seed.
    pub sampling: SamplingParams,
    /// Largest number of new tokens. 0 runs the prompt only, for its log-probabilities.
    pub max_tokens: usize,
    /// Tokens that end the sequence; the one chosen is handed over before the end.
    pub stop_tokens: Vec<u32>,
    /// How many of the most probable tokens come with each new token; `None` is as 0.
    pub top_logprobs: Option<usize>,
    /// Whether the prompt's log-probabilities are wanted, each with so many alternatives. Such a job
    /// runs all of its prompt, whatever is remembered of it.
    pub prompt_logprobs: Option<usize>,
    /// What restricts the tokens that may be chosen.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Whom the job is for: clients get equal shares.
    pub client: String,
    /// When the sequence ends with what it has, also while it is queued.
    pub deadline: Option<Instant>,
    /// The empty cache to begin with, where it is not what the model makes: one with adapters
    /// (`decoder.new_cache().with_adapters(set)`).
    pub cache: Option<C>,
    /// Gets the events.
    pub sink: JobSink,
}

impl<C> Job<C> {
    /// A greedy job without a limit of its own.
    pub fn new(
        prompt: Vec<u32>,
        sink: impl FnMut(JobEvent) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        Self {
            prompt,
            sampling: SamplingParams::default(),
            max_tokens: usize::MAX,
            stop_tokens: Vec::new(),
            top_logprobs: None,
            prompt_logprobs: None,
            constraint: None,
            client: String::new(),
            deadline: None,
            cache: None,
            sink: Box::new(sink),
        }
    }
}

impl<C> std::fmt::Debug for Job<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("prompt_tokens", &self.prompt.len())
            .field("max_tokens", &self.max_tokens)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Restricts what may be chosen: a grammar, a schema.
pub trait Constraint: Send {
    /// Sets the logits `[V]` of all tokens that may not come next to -∞. At least one is to stay.
    ///
    /// # Errors
    /// Whatever went wrong; ends the sequence.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), InferError>;

    /// Learns which token was chosen.
    ///
    /// # Errors
    /// Whatever went wrong; ends the sequence.
    fn accept(&mut self, token: u32) -> Result<(), InferError>;
}

/// A token and how probable it was, in nats, under the model's unmodified logits.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most probable tokens and theirs, the best first; as many as the job asked for.
    pub top: Vec<(u32, f32)>,
}

/// What happens to a job, in this order: `Started`, `PromptLogprobs`, `Token`s, and one of `Finished`
/// and `Failed`, which may come at any time.
#[derive(Debug)]
pub enum JobEvent {
    /// The sequence has left the queue.
    Started {
        /// Prompt tokens that are remembered from other sequences; sequences that begin alike at the
        /// same time may save each other more ([`JobUsage::reused_tokens`]).
        reused_tokens: usize,
    },
    /// One per token of the prompt, if they were asked for; nothing predicts the first.
    PromptLogprobs(Vec<Option<TokenLogprob>>),
    /// A new token.
    Token(TokenLogprob),
    /// The sequence has ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: JobUsage,
    },
    /// The sequence has ended with an error of its own.
    Failed(InferError),
}

/// What a job took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were remembered from other sequences.
    pub reused_tokens: usize,
    /// New tokens.
    pub completion_tokens: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// Time from there to the prompt's end.
    pub prefill: Duration,
    /// Time from there to the sequence's end.
    pub decode: Duration,
    /// How often the sequence gave up its memory and was computed anew.
    pub preemptions: usize,
}

/// Why a job was not accepted. Its sink was not called.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refused {
    /// As many jobs wait as may.
    QueueFull {
        /// When one of them will probably have left the queue.
        retry_after: Duration,
    },
    /// The prompt leaves no room in the context, or in the memory for keys and values.
    TooLong {
        /// Its tokens.
        prompt_tokens: usize,
        /// Tokens that a sequence may have, new ones included.
        context_tokens: usize,
    },
    /// The job means nothing: an empty prompt, a token outside the vocabulary, an option.
    Invalid(InferError),
    /// [`crate::Scheduler::drain`] was called.
    Draining,
    /// The scheduler's thread has ended.
    Stopped,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::QueueFull { retry_after } => {
                write!(f, "the queue is full; try again in {:.1} s", retry_after.as_secs_f64())
            }
            Self::TooLong { prompt_tokens, context_tokens } => write!(
                f,
                "the prompt has {prompt_tokens} tokens; a sequence may have {context_tokens}, new \
                 ones included"
            ),
            Self::Invalid(error) => write!(f, "{error}"),
            Self::Draining => write!(f, "the scheduler finishes its jobs and takes no new ones"),
            Self::Stopped => write!(f, "the scheduler has stopped"),
        }
    }
}
