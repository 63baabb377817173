//! A model without weights and a tokenizer without merges.
//!
//! Logits depend on every token of the sequence and its order, so that a cache that is wrong in any
//! way (mixed up, too long, not rewound) changes the tokens.

use puna_infer::{Detokenizer, LanguageModel, Logits, PieceStream, Segment, SequenceCache, Source};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How logits follow from the tokens so far.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// Pseudo-random from the whole sequence.
    Hash,
    /// The id after the last one is certain, modulo the vocabulary.
    Successor,
}

/// What a forward pass does when its number comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Error,
    Panic,
    Nan,
}

#[derive(Debug)]
pub(crate) struct FakeModel {
    pub(crate) vocab_size: usize,
    pub(crate) context: usize,
    pub(crate) rule: Rule,
    pub(crate) fault: Option<(usize, Fault)>,
    /// Caches cannot be shortened, like those of a window that has moved on.
    pub(crate) ring: bool,
    pub(crate) passes: AtomicUsize,
    pub(crate) tokens_run: AtomicUsize,
    pub(crate) largest_pass: AtomicUsize,
}

impl FakeModel {
    pub(crate) fn new(rule: Rule, vocab_size: usize, context: usize) -> Self {
        Self {
            vocab_size,
            context,
            rule,
            fault: None,
            ring: false,
            passes: AtomicUsize::new(0),
            tokens_run: AtomicUsize::new(0),
            largest_pass: AtomicUsize::new(0),
        }
    }

    pub(crate) fn tokens_run(&self) -> usize {
        self.tokens_run.load(Ordering::SeqCst)
    }

    /// The logits after `tokens`, `[V]`.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let last = tokens.last().copied().unwrap_or(0);
        let mut state = tokens.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &token| {
            (hash ^ u64::from(token).wrapping_add(0x9e37)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let next = (last + 1) as usize % self.vocab_size;
        let logit = |token| match self.rule {
            Rule::Hash => noise() * 4.0,
            Rule::Successor => noise() + if token == next { 50.0 } else { 0.0 },
        };
        (0..self.vocab_size).map(logit).collect()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct FakeCache {
    pub(crate) tokens: Vec<u32>,
    pub(crate) ring: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("fake fault")]
pub(crate) struct FakeFault;

impl SequenceCache for FakeCache {
    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn clear(&mut self) {
        self.tokens.clear();
    }

    fn truncate(&mut self, len: usize) -> Result<(), Source> {
        if self.ring && len < self.tokens.len() {
            return Err(Box::new(FakeFault));
        }
        self.tokens.truncate(len);
        Ok(())
    }

    fn bytes(&self) -> usize {
        4 * self.tokens.len()
    }
}

impl LanguageModel for FakeModel {
    type Cache = FakeCache;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_seq_len(&self) -> usize {
        self.context
    }

    fn new_cache(&self) -> FakeCache {
        FakeCache { tokens: Vec::new(), ring: self.ring }
    }

    fn forward(
        &self,
        segments: &mut [Segment<'_, FakeCache>],
        logits: Logits,
    ) -> Result<Vec<f32>, Source> {
        let pass = self.passes.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault.filter(|&(at, _)| at == pass).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Error) => return Err(Box::new(FakeFault)),
            Some(Fault::Panic) => panic!("fake panic"),
            _ => {}
        }
        let size: usize = segments.iter().map(|s| s.tokens.len()).sum();
        self.tokens_run.fetch_add(size, Ordering::SeqCst);
        self.largest_pass.fetch_max(size, Ordering::SeqCst);
        let mut rows = Vec::new();
        for segment in segments {
            assert!(!segment.tokens.is_empty());
            assert!(segment.total_len >= segment.cache.len() + segment.tokens.len());
            for &token in segment.tokens {
                segment.cache.tokens.push(token);
                assert!(segment.cache.len() <= self.context);
                if matches!(logits, Logits::All) {
                    rows.extend(self.logits(&segment.cache.tokens));
                }
            }
            if matches!(logits, Logits::Last) {
                rows.extend(self.logits(&segment.cache.tokens));
            }
        }
        if fault == Some(Fault::Nan) {
            rows[0] = f32::NAN;
        }
        Ok(rows)
    }
}

/// Token `i` stands for the bytes `pieces[i]`.
#[derive(Debug)]
pub(crate) struct FakeText {
    pub(crate) pieces: Vec<Vec<u8>>,
}

impl FakeText {
    pub(crate) fn new(pieces: &[&[u8]]) -> Self {
        Self { pieces: pieces.iter().map(|piece| piece.to_vec()).collect() }
    }

    /// `t0 t1 t2 …`, a space after each.
    pub(crate) fn numbered(vocab_size: usize) -> Self {
        Self { pieces: (0..vocab_size).map(|i| format!("t{i} ").into_bytes()).collect() }
    }
}

pub(crate) struct FakeStream<'a> {
    text: &'a FakeText,
    held: Vec<u8>,
}

impl Detokenizer for FakeText {
    type Stream<'a> = FakeStream<'a>;

    fn stream(&self) -> FakeStream<'_> {
        FakeStream { text: self, held: Vec::new() }
    }
}

impl PieceStream for FakeStream<'_> {
    fn push(&mut self, token: u32) -> Result<Option<String>, Source> {
        let piece = self.text.pieces.get(token as usize).ok_or(FakeFault)?;
        self.held.extend(piece);
        match String::from_utf8(self.held.clone()) {
            Ok(text) => {
                self.held.clear();
                Ok((!text.is_empty()).then_some(text))
            }
            Err(_) => Ok(None),
        }
    }

    fn finish(&mut self) -> Result<Option<String>, Source> {
        let held = std::mem::take(&mut self.held);
        Ok((!held.is_empty()).then(|| String::from_utf8_lossy(&held).into_owned()))
    }
}
