//! What generation needs of a model, as a trait.
//!
//! The generator is generic over [`LanguageModel`] rather than tied to the decoder, so that its
//! logic (stops, batches, beams, cancelling) is tested on table models whose every probability is
//! known, and so that a draft model or a remote one can stand in the decoder's place.

use crate::error::{InferError, Source};
use puna_config::RopeScaling;
pub use puna_model::Logits;

/// New tokens of one sequence, and the cache that holds the sequence so far.
pub struct Segment<'a, C> {
    /// The new tokens; never empty.
    pub tokens: &'a [u32],
    /// What the model remembers of the tokens before; grows by `tokens`.
    pub cache: &'a mut C,
    /// Length of the sequence once everything known of it is in (≥ cache + tokens): rotary scalings
    /// that depend on the length need it when a prompt comes in chunks.
    pub total_len: usize,
}

/// A causal language model over token ids. Weights are shared; all state is in the caches.
pub trait LanguageModel: Send + Sync {
    /// What the model remembers of one sequence.
    type Cache: SequenceCache;

    /// Rows of the vocabulary (`V`).
    fn vocab_size(&self) -> usize;

    /// Tokens the context holds; `usize::MAX` where only memory sets a limit.
    fn max_seq_len(&self) -> usize;

    /// Whether a position's keys depend on how long the sequence is in the pass that runs it (dynamic
    /// NTK and LongRoPE scaling): then several tokens at once are not the same as one by one.
    fn depends_on_length(&self) -> bool {
        false
    }

    /// The cache of an empty sequence.
    fn new_cache(&self) -> Self::Cache;

    /// Whether a sequence that will have `total_len` tokens may continue a cache that another one
    /// filled, with the results of an empty cache. Not where rotary angles depend on the length.
    fn can_continue(&self, _cache: &Self::Cache, _total_len: usize) -> bool {
        true
    }

    /// Tokens of a block, the unit in which sequences share memory.
    fn block_tokens(&self) -> usize {
        puna_model::KvBlock::TOKENS
    }

    /// Bytes of a block.
    fn block_bytes(&self) -> usize;

    /// What tells apart the sequences that may share blocks: those of the same key that begin alike.
    /// `None` where a sequence that begins with `cache` and will have `total_len` tokens shares none.
    fn share_key(&self, _cache: &Self::Cache, _total_len: usize) -> Option<ShareKey> {
        None
    }

    /// Runs the new tokens of independent sequences.
    ///
    /// # Shapes
    /// Returns `[rows, V]`, row-major: one row per segment, per token, or none, as `logits` says.
    ///
    /// # Errors
    /// The model's own error.
    fn forward(
        &self,
        segments: &mut [Segment<'_, Self::Cache>],
        logits: Logits,
    ) -> Result<Vec<f32>, Source>;

    /// As [`Self::forward`], with rows of its own for each segment.
    ///
    /// # Shapes
    /// `wanted`: one per segment; returns `[rows, V]`, those of segment 0 first.
    ///
    /// # Errors
    /// The model's own error.
    fn forward_each(
        &self,
        segments: &mut [Segment<'_, Self::Cache>],
        wanted: &[Logits],
    ) -> Result<Vec<f32>, Source>;
}

/// See [`LanguageModel::share_key`].
pub type ShareKey = [usize; 2];

/// The state of one sequence. Cloning it forks the sequence.
pub trait SequenceCache: Clone + Send {
    /// Consecutive tokens' part of the state, as many as the model's blocks have. Cloning it shares
    /// memory.
    type Block: Clone + Send;

    /// Tokens held.
    fn len(&self) -> usize;

    /// Whether no token is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    fn clear(&mut self);

    /// Forgets all but the first `len` tokens.
    ///
    /// # Errors
    /// Where a sliding window has dropped what that state would need.
    fn truncate(&mut self, len: usize) -> Result<(), Source>;

    /// Bytes held; what is shared with other caches counts in each.
    fn bytes(&self) -> usize;

    /// Tokens' worth of memory that the state takes beyond that of its tokens.
    fn extra_tokens(&self) -> usize {
        0
    }

    /// Block `index`; `None` where it is not whole or cannot be shared.
    fn block(&self, index: usize) -> Option<Self::Block>;

    /// Appends a block to a state that holds whole blocks, and the tokens it was computed from.
    ///
    /// # Errors
    /// If the block does not fit.
    fn push_block(&mut self, block: &Self::Block, tokens: &[u32]) -> Result<(), Source>;

    /// Puts an equal block in the place of block `index`, whose memory is thereby free.
    ///
    /// # Errors
    /// If the block does not fit.
    fn share_block(&mut self, index: usize, block: &Self::Block) -> Result<(), Source>;

    /// The state after the first `len` tokens, leaving this one as it is; `None` where there are
    /// fewer, or a sliding window has dropped what it would need.
    fn fork(&self, len: usize) -> Option<Self> {
        let mut fork = (len <= self.len()).then(|| self.clone())?;
        fork.truncate(len).is_ok().then_some(fork)
    }
}

impl LanguageModel for puna_model::Decoder {
    type Cache = puna_model::KvCache;

    fn vocab_size(&self) -> usize {
        self.config().vocab_size
    }

    /// The config's length, except with dynamic NTK scaling: there it is where the stretching
    /// begins, and the base grows with the sequence without a limit.
    fn max_seq_len(&self) -> usize {
        let config = self.config();
        match config.layers.global_rope.scaling {
            RopeScaling::DynamicNtk { .. } => usize::MAX,
            _ => config.max_seq_len,
        }
    }

    fn depends_on_length(&self) -> bool {
        let scaling = &self.config().layers.global_rope.scaling;
        matches!(scaling, RopeScaling::DynamicNtk { .. } | RopeScaling::LongRope { .. })
            // Gates that average over a sequence change with every token.
            || self.adapters().is_some_and(|set| set.whole_sequence)
    }

    fn new_cache(&self) -> Self::Cache {
        self.new_cache()
    }

    fn can_continue(&self, cache: &Self::Cache, total_len: usize) -> bool {
        self.can_continue(cache, total_len)
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes()
    }

    fn share_key(&self, cache: &Self::Cache, total_len: usize) -> Option<ShareKey> {
        self.share_key(cache, total_len)
    }

    fn forward(
        &self,
        segments: &mut [Segment<'_, Self::Cache>],
        logits: Logits,
    ) -> Result<Vec<f32>, Source> {
        Ok(self.forward(&mut decoder_segments(segments), logits)?)
    }

    fn forward_each(
        &self,
        segments: &mut [Segment<'_, Self::Cache>],
        wanted: &[Logits],
    ) -> Result<Vec<f32>, Source> {
        Ok(self.forward_each(&mut decoder_segments(segments), wanted)?)
    }
}

pub(crate) fn decoder_segments<'a>(
    segments: &'a mut [Segment<'_, puna_model::KvCache>],
) -> Vec<puna_model::Segment<'a>> {
    segments
        .iter_mut()
        .map(|s| puna_model::Segment {
            tokens: s.tokens,
            cache: &mut *s.cache,
            total_len: s.total_len,
        })
        .collect()
}

impl SequenceCache for puna_model::KvCache {
    type Block = puna_model::KvBlock;

    fn extra_tokens(&self) -> usize {
        self.extra_positions()
    }

    fn block(&self, index: usize) -> Option<Self::Block> {
        self.block(index)
    }

    fn push_block(&mut self, block: &Self::Block, tokens: &[u32]) -> Result<(), Source> {
        Ok(self.push_block(block, tokens)?)
    }

    fn share_block(&mut self, index: usize, block: &Self::Block) -> Result<(), Source> {
        Ok(self.share_block(index, block)?)
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn clear(&mut self) {
        self.clear();
    }

    fn truncate(&mut self, len: usize) -> Result<(), Source> {
        Ok(self.truncate(len)?)
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}

/// Checks that every id is a row of the vocabulary.
pub(crate) fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<(), InferError> {
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        Some(position) => {
            Err(InferError::TokenOutOfRange { position, token: tokens[position], vocab_size })
        }
        None => Ok(()),
    }
}
