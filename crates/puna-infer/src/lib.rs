//! Generation for causal language models: sampling, stop conditions, streaming, sessions, batches,
//! beam search and scoring.
//!
//! ```text
//! prompt ids ─> Session / generate_batch / spawn ─> Event, Event, … ─> Completion
//!                    │ logits      ▲ token
//!              LanguageModel    Sampler ─> Detokenizer ─> stop strings ─> word ends
//! ```
//!
//! A [`Scheduler`] serves many callers from one model, a [`Session`] one.
//!
//! Everything is generic over [`LanguageModel`] and [`Detokenizer`], which the decoder and the
//! tokenizers implement. One loop (`generate.rs`) steps any number of sequences; a session is the
//! case of one whose cache is kept, beam search the case of sequences that fork.

mod batch;
mod beam;
mod embed;
mod error;
mod generate;
mod generation_config;
mod logprob;
mod model;
mod options;
mod prefix;
mod sampling;
mod scheduler;
mod score;
mod sequence;
mod session;
mod speculate;
mod stats;
mod stop;
mod stream;
mod text;

pub use batch::generate_batch;
pub use beam::{BeamGeneration, BeamHypothesis, BeamOptions, EarlyStopping, beam_search};
pub use embed::{EmbedOptions, EmbeddingModel, Magnitude, Pooling, embed};
pub use error::{InferError, Source};
pub use generation_config::{GenerationConfig, HARMLESS};
pub use logprob::{log_prob, log_sum_exp};
pub use model::{LanguageModel, Logits, Segment, SequenceCache, ShareKey};
pub use options::{
    BatchGeneration, Completion, ContextPolicy, DEFAULT_PREFILL_CHUNK, Event, GenerateOptions,
    Generation, PromptText,
};
pub use prefix::PrefixCache;
pub use sampling::{Mask, Mirostat2, Sampled, Sampler, SamplingParams};
pub use scheduler::{
    Constraint, Drained, Job, JobEvent, JobId, JobSink, JobUsage, Refused, Scheduler,
    SchedulerOptions, SchedulerStats, TokenLogprob,
};
pub use score::{ScoreOptions, ScoreSummary, score};
pub use session::Session;
pub use speculate::{DraftModel, Drafter, PromptLookup, Speculated};
pub use stats::Timings;
pub use stop::{FinishReason, Matched, StopMatcher, StopOptions};
pub use stream::{EventStream, TokenIter, spawn, spawn_batch};
pub use text::{Detokenizer, PieceStream, TextFlow, TokensOnly};
