//! From piles of files to token shards.
//!
//! ```text
//! inputs ─> files ─> documents ─> text ─> filters ─> duplicates ─> tokens ─> shards ─> manifest
//!           └ one reading thread ┘└──── in parallel ────┘└ in order ┘└ parallel ┘└ in order ┘
//! ```
//! Documents stream through in batches, so memory does not grow with the input; what grows are the
//! fingerprints of duplicates (see [`Duplicates`]). Decisions that depend on earlier documents are
//! taken in the order of the inputs, so the result does not depend on the number of threads.
//!
//! A preparation that was killed is continued by calling [`prepare`] again: documents are read and
//! judged anew, which is cheap, but those of finished shards are not tokenized again. That needs no
//! saved state of filters and duplicates, and the hash of every shard's documents proves that the
//! inputs are still the same.

mod batches;
mod document;
mod duplicates;
mod html;
mod inputs;
mod lsh;
mod minhash;
mod options;
mod output;
mod quality;
mod read;
mod run;
mod texts;
mod tokenizer;

pub use inputs::FORMATS;
pub use options::{
    BadDocuments, DEFAULT_BPE_BYTES, DEFAULT_PIECE_BYTES, DEFAULT_SHARD_TOKENS, Duplicates,
    Existing, Mark, PrepareOptions, Quality, Source, TokenizerChoice,
};
pub(crate) use output::PROGRESS;
pub use read::ReadSettings;
pub use run::{Progress, Stage, prepare};
pub use texts::read_texts;
