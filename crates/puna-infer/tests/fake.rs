//! A model without weights and a tokenizer without merges.
//!
//! Logits depend on every token of the sequence and its order, so that a cache that is wrong in any
//! way (mixed up, too long, not rewound) changes the tokens.

use puna_infer::{
    Detokenizer, EmbeddingModel, LanguageModel, Logits, PieceStream, Segment, SequenceCache,
    ShareKey, Source,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokens of a page of a [`FakeCache`].
pub(crate) const PAGE: usize = 4;

/// Pages that exist, and the most that ever did.
#[derive(Debug, Default)]
pub(crate) struct Live {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Live {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Memory of [`PAGE`] tokens; counts itself.
#[derive(Debug)]
pub(crate) struct FakePage(Arc<Live>);

impl FakePage {
    fn new(live: &Arc<Live>) -> Self {
        let now = live.now.fetch_add(1, Ordering::SeqCst) + 1;
        live.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(live))
    }
}

impl Drop for FakePage {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Clone)]
pub(crate) struct FakeBlock {
    tokens: Vec<u32>,
    page: Arc<FakePage>,
}

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
    pub(crate) live: Arc<Live>,
    /// A sequence in which this token is run makes the pass fail, in this way.
    pub(crate) poison: Option<(u32, Fault)>,
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
            live: Arc::default(),
            poison: None,
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
    pub(crate) pages: Vec<Arc<FakePage>>,
    pub(crate) live: Arc<Live>,
}

impl FakeCache {
    pub(crate) fn of(tokens: &[u32]) -> Self {
        let tokens = tokens.to_vec();
        Self { tokens, ring: false, pages: Vec::new(), live: Arc::default() }
    }

    fn push(&mut self, token: u32) {
        self.tokens.push(token);
        while self.pages.len() < self.tokens.len().div_ceil(PAGE) {
            self.pages.push(Arc::new(FakePage::new(&self.live)));
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("fake fault")]
pub(crate) struct FakeFault;

impl SequenceCache for FakeCache {
    type Block = FakeBlock;

    fn block(&self, index: usize) -> Option<FakeBlock> {
        let tokens = self.tokens.get(index * PAGE..(index + 1) * PAGE)?.to_vec();
        Some(FakeBlock { tokens, page: Arc::clone(&self.pages[index]) })
    }

    fn push_block(&mut self, block: &FakeBlock, tokens: &[u32]) -> Result<(), Source> {
        assert_eq!((self.len() % PAGE, &*block.tokens), (0, tokens));
        self.tokens.extend(tokens);
        self.pages.push(Arc::clone(&block.page));
        Ok(())
    }

    fn share_block(&mut self, index: usize, block: &FakeBlock) -> Result<(), Source> {
        assert_eq!(self.tokens[index * PAGE..(index + 1) * PAGE], block.tokens);
        self.pages[index] = Arc::clone(&block.page);
        Ok(())
    }

    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.pages.clear();
    }

    fn truncate(&mut self, len: usize) -> Result<(), Source> {
        if self.ring && len < self.tokens.len() {
            return Err(Box::new(FakeFault));
        }
        self.tokens.truncate(len);
        self.pages.truncate(self.tokens.len().div_ceil(PAGE));
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
        let live = Arc::clone(&self.live);
        FakeCache { tokens: Vec::new(), ring: self.ring, pages: Vec::new(), live }
    }

    fn block_tokens(&self) -> usize {
        PAGE
    }

    fn block_bytes(&self) -> usize {
        4 * PAGE
    }

    fn share_key(&self, _cache: &FakeCache, _total_len: usize) -> Option<ShareKey> {
        Some([0, 0])
    }

    fn forward(
        &self,
        segments: &mut [Segment<'_, FakeCache>],
        logits: Logits,
    ) -> Result<Vec<f32>, Source> {
        let wanted = vec![logits; segments.len()];
        self.forward_each(segments, &wanted)
    }

    fn forward_each(
        &self,
        segments: &mut [Segment<'_, FakeCache>],
        wanted: &[Logits],
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
        if let Some((poison, fault)) = self.poison {
            let poisoned = |segment: &Segment<'_, FakeCache>| segment.tokens.contains(&poison);
            match fault {
                Fault::Error if segments.iter().any(poisoned) => return Err(Box::new(FakeFault)),
                Fault::Panic if segments.iter().any(poisoned) => {
                    // What comes before it has changed by then.
                    segments[0].cache.push(0);
                    panic!("fake panic")
                }
                _ => {}
            }
        }
        for (segment, logits) in segments.iter_mut().zip(wanted) {
            assert!(!segment.tokens.is_empty());
            assert!(segment.total_len >= segment.cache.len() + segment.tokens.len());
            for &token in segment.tokens {
                segment.cache.push(token);
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

/// States of two numbers: the token, and how many there are so far.
impl EmbeddingModel for FakeModel {
    fn hidden_size(&self) -> usize {
        2
    }

    fn final_states(&self, segments: &mut [Segment<'_, FakeCache>]) -> Result<Vec<f32>, Source> {
        let mut states = Vec::new();
        for segment in segments {
            for &token in segment.tokens {
                segment.cache.push(token);
                states.extend([token as f32, segment.cache.len() as f32]);
            }
        }
        Ok(states)
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
