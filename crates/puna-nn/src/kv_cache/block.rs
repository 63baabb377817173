//! Blocks: one page of every layer, to be shared between caches whose sequences begin alike.
//!
//! A clone of a cache shares all of its pages. Blocks share some: a server keeps those of earlier
//! sequences one by one, forgets single ones and puts the beginning of a new sequence together from
//! them. As the same tokens give the same bits, it does not matter who computed a block.

use std::sync::Arc;

use puna_kernels::{KV_PAGE, KvPage};

use super::KvCache;
use crate::{AdapterSet, NnError};

/// Keys and values of [`KvBlock::TOKENS`] tokens, in every layer. Cloning it counts a reference.
#[derive(Debug, Clone)]
pub struct KvBlock {
    /// One per layer.
    pages: Arc<[Arc<KvPage>]>,
    /// What was applied to the sequence.
    adapters: Option<Arc<AdapterSet>>,
}

impl KvBlock {
    /// Tokens of a block.
    pub const TOKENS: usize = KV_PAGE;

    /// Bytes of its pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.bytes()).sum()
    }

    /// Others than the caller's that hold the block or the pages of its first layer.
    #[must_use]
    pub fn others(&self) -> usize {
        let pages = self.pages.first().map_or(0, |page| Arc::strong_count(page) - 1);
        pages + Arc::strong_count(&self.pages) - 1
    }
}

impl KvCache {
    /// Whether tokens stand where their block says: keys lie in pages, and an adapter puts none before
    /// them.
    #[must_use]
    pub fn has_blocks(&self) -> bool {
        self.is_paged() && self.extra_positions() == 0
    }

    /// Keys before the first token that belong to no token, once there is a first token.
    #[must_use]
    pub fn extra_positions(&self) -> usize {
        self.virtual_len.max(self.adapters.as_ref().map_or(0, |set| set.virtual_len()))
    }

    /// The tokens from `index * KvBlock::TOKENS` on; `None` where the block is not whole: the sequence
    /// ends before, or a window has passed it.
    #[must_use]
    pub fn block(&self, index: usize) -> Option<KvBlock> {
        if !self.has_blocks() || (index + 1) * KvBlock::TOKENS > self.len() {
            return None;
        }
        let page = |layer: &super::LayerCache| layer.pages.get(index).cloned().flatten();
        let pages: Option<Vec<_>> = self.layers.iter().map(page).collect();
        Some(KvBlock { pages: pages?.into(), adapters: self.adapters.clone() })
    }

    /// Appends a block and the tokens it was computed from, which follow those that are remembered.
    ///
    /// # Errors
    /// If blocks do not fit: what is remembered does not end with one, or another decoder or adapter
    /// made it.
    pub fn push_block(&mut self, block: &KvBlock, tokens: &[u32]) -> Result<(), NnError> {
        let shape = |what, expected, got| match expected == got {
            true => Ok(()),
            false => Err(NnError::Shape { what, expected, got }),
        };
        shape("tokens of a block", KvBlock::TOKENS, tokens.len())?;
        shape("tokens after the last block", 0, self.len() % KvBlock::TOKENS)?;
        self.check(block)?;
        let index = self.len() / KvBlock::TOKENS;
        for (layer, page) in self.layers.iter_mut().zip(block.pages.iter()) {
            layer.pages.truncate(index);
            layer.pages.resize(index, None);
            layer.pages.push(Some(Arc::clone(page)));
        }
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Puts an equal block in the place of one's own, whose memory is thereby free. What a window has
    /// passed stays absent.
    ///
    /// # Errors
    /// As [`Self::push_block`], or if block `index` is not whole.
    pub fn share_block(&mut self, index: usize, block: &KvBlock) -> Result<(), NnError> {
        self.check(block)?;
        let whole = self.len() / KvBlock::TOKENS;
        if index >= whole {
            return Err(NnError::Shape { what: "whole blocks", expected: index + 1, got: whole });
        }
        for (layer, page) in self.layers.iter_mut().zip(block.pages.iter()) {
            if let Some(own) = layer.pages[index].as_mut() {
                *own = Arc::clone(page);
            }
        }
        Ok(())
    }

    fn check(&self, block: &KvBlock) -> Result<(), NnError> {
        let same =
            self.adapters.as_ref().map(Arc::as_ptr) == block.adapters.as_ref().map(Arc::as_ptr);
        let fits = block.pages.iter().all(|page| page.layout() == self.layout);
        match same && fits && self.has_blocks() && block.pages.len() == self.layers.len() {
            true => Ok(()),
            false => Err(NnError::ForeignBlock),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cache, extend, value};
    use super::*;

    #[test]
    fn a_cache_made_of_anothers_blocks_goes_on_like_it() {
        let mut one = cache(&[None, Some(10)]);
        extend(&mut one, 64);
        let first = one.block(0).unwrap();
        extend(&mut one, 66);
        let second = one.block(1).unwrap();
        assert!(one.block(2).is_none(), "not whole");
        let mut other = cache(&[None, Some(10)]);
        other.push_block(&first, &[0; 64]).unwrap();
        other.push_block(&second, &[0; 64]).unwrap();
        extend(&mut other, 2);
        for layer in 0..2 {
            for position in [120, 127, 128, 129] {
                let expected = value(&one.layers[layer], position);
                assert_eq!(value(&other.layers[layer], position), expected);
            }
        }
        assert_eq!(value(&other.layers[0], 3), [3.0, -3.0]);
        let ragged = other.push_block(&first, &[0; 64]);
        assert!(matches!(ragged, Err(NnError::Shape { .. })));
        let mut short = cache(&[None]);
        assert!(matches!(short.push_block(&first, &[0; 64]), Err(NnError::ForeignBlock)));
    }

    #[test]
    fn an_equal_block_takes_the_place_of_ones_own() {
        let (mut one, mut other) = (cache(&[None]), cache(&[None]));
        extend(&mut one, 65);
        extend(&mut other, 65);
        let block = one.block(0).unwrap();
        assert_eq!(block.others(), 1);
        other.share_block(0, &block).unwrap();
        assert_eq!(block.others(), 2);
        assert_eq!(value(&other.layers[0], 63), [63.0, -63.0]);
        assert!(other.share_block(1, &block).is_err());
        drop((one, other));
        assert_eq!(block.others(), 0);
    }
}
