//! A sequence that runs: its cache, and the shared blocks that the cache begins with.

use super::blocks::{Before, BlockIndex, BlockKey, block_key};
use super::sequence::Sequence;
use crate::model::{LanguageModel, SequenceCache, ShareKey};

/// A sequence with what the model remembers of it.
pub(super) struct Active<C: SequenceCache> {
    pub(super) sequence: Sequence<C>,
    pub(super) cache: C,
    /// Whose blocks it may share; `None`: nobody's.
    root: Option<ShareKey>,
    /// Blocks of the index that the cache begins with, each of them held.
    chain: Vec<BlockKey>,
}

/// Keys and values of all sequences, and how much of them there may be.
pub(super) struct Memory<B> {
    pub(super) index: BlockIndex<B>,
    /// Blocks that there may be.
    pub(super) total: usize,
    /// Tokens of a block.
    pub(super) block_tokens: usize,
}

impl<B> Memory<B> {
    /// Blocks of a sequence whose cache will have so many tokens.
    pub(super) fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }
}

impl<C: SequenceCache> Active<C> {
    /// Begins with what is known of the sequence's tokens.
    pub(super) fn new<M: LanguageModel<Cache = C>>(
        sequence: Sequence<C>,
        model: &M,
        memory: &mut Memory<C::Block>,
    ) -> Self {
        let cache = empty_cache(&sequence, model);
        let root = model.share_key(&cache, first_total(&sequence, model));
        let mut active = Self { sequence, cache, root, chain: Vec::new() };
        active.reuse(memory);
        active
    }

    /// Tokens that the cache does not hold.
    pub(super) fn pending(&self) -> usize {
        self.sequence.tokens.len() - self.cache.len()
    }

    /// Length of the sequence for a pass that begins where the cache ends: what a single run has. Where
    /// angles depend on it, new tokens were run one by one, and are so again after a preemption.
    pub(super) fn total_len(&self, by_token: bool) -> usize {
        let prompt = self.sequence.usage.prompt_tokens;
        match by_token {
            false => self.sequence.tokens.len(),
            true if self.cache.len() < prompt => prompt,
            true => self.cache.len() + 1,
        }
    }

    /// Most tokens that a pass may run of it.
    pub(super) fn longest_part(&self, by_token: bool, logits_chunk: usize) -> usize {
        let pending = self.total_len(by_token).saturating_sub(self.cache.len());
        match self.sequence.wants_prompt() {
            true => pending.min(logits_chunk),
            false => pending,
        }
    }

    fn end_of_chain(&self) -> Option<Before> {
        Some(self.chain.last().map_or(Before::Root(self.root?), |&key| Before::Block(key)))
    }

    /// Tokens of the block behind the chain, where all of them are known.
    fn block_at_chain<'a>(&self, tokens: &'a [u32], size: usize) -> Option<&'a [u32]> {
        tokens.get(self.chain.len() * size..(self.chain.len() + 1) * size)
    }

    /// The block that it will compute next.
    pub(super) fn next_block(&self, size: usize) -> Option<BlockKey> {
        let tokens = self.block_at_chain(self.sequence.reusable(), size)?;
        Some(block_key(self.end_of_chain()?, tokens))
    }

    /// Takes blocks that others have computed; returns the tokens that it has thereby gained.
    pub(super) fn reuse(&mut self, memory: &mut Memory<C::Block>) -> usize {
        let size = memory.block_tokens;
        let begun = self.cache.len();
        while let Some(before) = self.end_of_chain() {
            let Some(tokens) = self.block_at_chain(self.sequence.reusable(), size) else { break };
            let (len, of_chain) = (self.cache.len(), self.chain.len() * size);
            if len >= of_chain + size {
                break;
            }
            let Some(key) = memory.index.find(before, tokens) else { break };
            // A cache that cannot go back goes on with a block of its own.
            if len > of_chain && self.cache.truncate(of_chain).is_err() {
                break;
            }
            let Some(block) = memory.index.hold(key) else { break };
            if self.cache.push_block(&block, tokens).is_err() {
                memory.index.release(key);
                self.root = None;
                break;
            }
            self.chain.push(key);
        }
        self.cache.len().saturating_sub(begun)
    }

    /// Gives the blocks that have become whole to others, after a pass for a sequence of `total_len`
    /// tokens.
    pub(super) fn publish<M: LanguageModel<Cache = C>>(
        &mut self,
        model: &M,
        memory: &mut Memory<C::Block>,
        total_len: usize,
    ) {
        if self.root.is_some() && model.share_key(&self.cache, total_len) != self.root {
            // The keys were rotated anew; its memory is its own.
            self.release(memory);
            self.root = None;
        }
        let size = memory.block_tokens;
        while let Some(before) = self.end_of_chain() {
            let index = self.chain.len();
            if self.cache.len() < (index + 1) * size {
                break;
            }
            let tokens = &self.sequence.tokens[index * size..(index + 1) * size];
            let key = match memory.index.find(before, tokens) {
                // Somebody was faster.
                Some(key) => memory.index.hold(key).and_then(|block| {
                    let shared = self.cache.share_block(index, &block).is_ok();
                    if !shared {
                        memory.index.release(key);
                    }
                    shared.then_some(key)
                }),
                None => {
                    let block = self.cache.block(index);
                    block.and_then(|block| memory.index.insert(before, tokens, block))
                }
            };
            match key {
                Some(key) => self.chain.push(key),
                None => self.root = None,
            }
        }
    }

    /// Blocks of its own: those that the cache has or will have once all of its tokens are in, without
    /// those of the index. A window's blocks count as if it kept all.
    pub(super) fn claim(&self, memory: &Memory<C::Block>) -> usize {
        let tokens = self.sequence.tokens.len() + self.cache.extra_tokens();
        memory.blocks(tokens) - self.chain.len()
    }

    /// Blocks of its own that the cache has now.
    pub(super) fn blocks_held(&self, memory: &Memory<C::Block>) -> usize {
        let extra = if self.cache.is_empty() { 0 } else { self.cache.extra_tokens() };
        memory.blocks(self.cache.len() + extra).saturating_sub(self.chain.len())
    }

    /// Lets go of all shared blocks; what the cache still has of them counts as its own.
    pub(super) fn release(&mut self, memory: &mut Memory<C::Block>) {
        for key in self.chain.drain(..).rev() {
            memory.index.release(key);
        }
    }

    /// Forgets everything but the tokens.
    pub(super) fn begin_again<M: LanguageModel<Cache = C>>(
        &mut self,
        model: &M,
        memory: &mut Memory<C::Block>,
    ) {
        self.release(memory);
        self.cache = empty_cache(&self.sequence, model);
        self.root = model.share_key(&self.cache, first_total(&self.sequence, model));
    }
}

/// The cache that a sequence begins with.
pub(super) fn empty_cache<M: LanguageModel>(sequence: &Sequence<M::Cache>, model: &M) -> M::Cache {
    sequence.job.cache.clone().unwrap_or_else(|| model.new_cache())
}

/// The length of a sequence in its first pass.
pub(super) fn first_total<M: LanguageModel>(sequence: &Sequence<M::Cache>, model: &M) -> usize {
    match model.depends_on_length() {
        true => sequence.usage.prompt_tokens,
        false => sequence.tokens.len(),
    }
}
