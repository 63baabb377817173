//! Remembered beginnings: a prompt that starts like an earlier sequence continues from its cache.
//!
//! The server's case: requests that share a system prompt, or bring a conversation back with one
//! message more. Finished sequences leave their caches here; a new one takes a fork of the one
//! that agrees longest, and runs what comes after. Forks share the pages of the KV cache, also the
//! one in which the sequences part, until it is written: nothing is copied before. Because a
//! token's result does not depend on how its beginning was computed, the results are those of an
//! empty cache, bit for bit.
//!
//! Entries are compared one by one, token by token: memory holds hundreds of sequences, not
//! thousands. For those a tree over pages (SGLang's radix cache) would find them faster.

use crate::model::{LanguageModel, SequenceCache};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Caches of finished sequences, up to a number of bytes; the least recently used goes first.
///
/// One belongs to one model. All methods take `&self` and may be called from any thread.
#[derive(Debug)]
pub struct PrefixCache<C> {
    limit_bytes: usize,
    /// The most recently used last.
    entries: Mutex<Vec<Entry<C>>>,
}

#[derive(Debug)]
struct Entry<C> {
    /// Those that the cache holds.
    tokens: Vec<u32>,
    cache: C,
    bytes: usize,
}

impl<C: SequenceCache> PrefixCache<C> {
    /// Remembers up to `limit_bytes`, as [`SequenceCache::bytes`] counts them: pages that several
    /// sequences share count in each, so that memory stays below the limit.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, entries: Mutex::new(Vec::new()) }
    }

    /// A cache for the prompt `tokens` and how many of them it holds: the longest remembered
    /// beginning, without the last token, whose logits are wanted; else an empty cache.
    ///
    /// A cache that the model would not continue exactly is passed over, and one that a sliding
    /// window has moved beyond the common beginning.
    pub fn take<M: LanguageModel<Cache = C>>(&self, model: &M, tokens: &[u32]) -> (C, usize) {
        let mut entries = self.lock();
        let usable = tokens.len().saturating_sub(1);
        let mut candidates: Vec<(usize, usize)> = entries
            .iter()
            .map(|entry| common(&entry.tokens, &tokens[..usable]))
            .enumerate()
            .filter(|&(_, common)| common > 0)
            .collect();
        // Of equals the most recently used.
        candidates.sort_by_key(|&(index, common)| std::cmp::Reverse((common, index)));
        for (index, common) in candidates {
            if !model.can_continue(&entries[index].cache, tokens.len()) {
                continue;
            }
            if let Some(cache) = entries[index].cache.fork(common) {
                let used = entries.remove(index);
                entries.push(used);
                return (cache, common);
            }
        }
        (model.new_cache(), 0)
    }

    /// Remembers a sequence: the first `cache.len()` of `tokens`. Shorter ones that it contains are
    /// forgotten; one beyond the limit is not kept.
    pub fn store(&self, tokens: &[u32], cache: C) {
        let tokens = tokens[..tokens.len().min(cache.len())].to_vec();
        let bytes = cache.bytes();
        if tokens.is_empty() || tokens.len() < cache.len() || bytes > self.limit_bytes {
            return;
        }
        let mut entries = self.lock();
        let contains = |entry: &Entry<C>| {
            tokens.starts_with(&entry.tokens) && cache.fork(entry.tokens.len()).is_some()
        };
        entries.retain(|entry| !contains(entry));
        entries.push(Entry { tokens, cache, bytes });
        let mut held: usize = entries.iter().map(|entry| entry.bytes).sum();
        let mut passed = 0;
        while held > self.limit_bytes {
            held -= entries[passed].bytes;
            passed += 1;
        }
        entries.drain(..passed);
    }

    /// Sequences remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the remembered caches, as counted against the limit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().iter().map(|entry| entry.bytes).sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Entries are whole between any two operations, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Vec<Entry<C>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens that two sequences begin with.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
