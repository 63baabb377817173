//! Limits of a [`crate::Scheduler`], and what it counts.

use crate::error::InferError;
use crate::sampling::check;
use std::time::Duration;

/// How much a scheduler takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Sequences that run at once.
    pub max_sequences: usize,
    /// Bytes for keys and values, those remembered for later jobs included.
    pub kv_bytes: usize,
    /// Jobs that may wait.
    pub queue_length: usize,
    /// Prompt tokens per step beside sequences that decode: more make prompts faster and the pauses
    /// between the others' tokens longer.
    pub prefill_chunk: usize,
    /// Prompt tokens per step where nothing decodes.
    pub idle_prefill_chunk: usize,
    /// Tokens of a sequence, where fewer than the model's context are wanted.
    pub context_tokens: Option<usize>,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            max_sequences: 16,
            kv_bytes: 1 << 30,
            queue_length: 256,
            prefill_chunk: 64,
            idle_prefill_chunk: crate::DEFAULT_PREFILL_CHUNK,
            context_tokens: None,
        }
    }
}

impl SchedulerOptions {
    /// Checks every value that can be checked without the model.
    ///
    /// # Errors
    /// [`InferError::InvalidOption`] names the field.
    pub fn validate(&self) -> Result<(), InferError> {
        let positive = |n: usize| n >= 1;
        check("max_sequences", self.max_sequences, positive, "at least 1")?;
        check("prefill_chunk", self.prefill_chunk, positive, "at least 1")?;
        check("idle_prefill_chunk", self.idle_prefill_chunk, positive, "at least 1")?;
        let context = self.context_tokens.unwrap_or(2);
        check("context_tokens", context, |n| n >= 2, "at least 2")
    }
}

/// What a scheduler is doing, and what it has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences that run.
    pub running: usize,
    /// Jobs that wait, preempted sequences included.
    pub queued: usize,
    /// Tokens that a block of keys and values holds.
    pub block_tokens: usize,
    /// Bytes of a block, over all layers.
    pub block_bytes: usize,
    /// Blocks that there may be.
    pub blocks_total: usize,
    /// Blocks of running sequences; one that several share counts once.
    pub blocks_used: usize,
    /// Blocks that are only remembered, for jobs that begin like earlier ones.
    pub blocks_cached: usize,
    /// Tokens that a sequence may have: the context, or what memory holds.
    pub context_tokens: usize,
    /// Forward passes.
    pub steps: u64,
    /// Time in forward passes.
    pub model_time: Duration,
    /// Prompt tokens that were run, those run again after a preemption included.
    pub prefilled_tokens: u64,
    /// New tokens.
    pub decoded_tokens: u64,
    /// Prompt tokens that were remembered.
    pub reused_tokens: u64,
    /// Jobs that began with remembered tokens.
    pub prefix_hits: u64,
    /// Jobs accepted.
    pub accepted: u64,
    /// Jobs refused, for whatever reason.
    pub refused: u64,
    /// Jobs that came to an end of their own or to their deadline.
    pub finished: u64,
    /// Jobs that were cancelled, or whose sink broke off.
    pub cancelled: u64,
    /// Jobs that ended with an error.
    pub failed: u64,
    /// Sequences that gave up their memory or place to others, to be computed anew.
    pub preemptions: u64,
}
