//! One test of `puna bench`: what it runs and how long that takes.

use std::time::Instant;

use puna_infer::DEFAULT_PREFILL_CHUNK;
use puna_model::{Decoder, KvCache, Logits, Segment};

/// What a test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A prompt of this many tokens.
    Prefill(usize),
    /// This many tokens, one after another, in each of so many sequences at once.
    Decode { tokens: usize, sequences: usize },
}

/// Work behind some tokens that are in the cache already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) work: Work,
    pub(super) depth: usize,
}

impl Test {
    /// `pp512`, `tg128`, `tg128@d8192`, `tg128@b8`, `tg128@d8192,b8`.
    pub(super) fn name(self) -> String {
        let (base, sequences) = match self.work {
            Work::Prefill(n) => (format!("pp{n}"), 1),
            Work::Decode { tokens, sequences } => (format!("tg{tokens}"), sequences),
        };
        match (self.depth, sequences) {
            (0, 1) => base,
            (depth, 1) => format!("{base}@d{depth}"),
            (0, sequences) => format!("{base}@b{sequences}"),
            (depth, sequences) => format!("{base}@d{depth},b{sequences}"),
        }
    }

    /// New tokens of one sequence.
    pub(super) fn tokens(self) -> usize {
        match self.work {
            Work::Prefill(tokens) | Work::Decode { tokens, .. } => tokens,
        }
    }

    pub(super) fn sequences(self) -> usize {
        match self.work {
            Work::Prefill(_) => 1,
            Work::Decode { sequences, .. } => sequences,
        }
    }

    /// Tokens per second of every repetition, all sequences together; one warm-up comes before.
    pub(super) fn measure(self, decoder: &Decoder, repetitions: u32) -> anyhow::Result<Vec<f64>> {
        let mut caches = self.prepared(decoder)?;
        let mut rates = Vec::new();
        for repetition in 0..=repetitions {
            let started = Instant::now();
            self.once(decoder, &mut caches, repetition)?;
            let tokens = self.tokens() * self.sequences();
            rates.push(tokens as f64 / started.elapsed().as_secs_f64());
            // A ring may have dropped what lay at the depth: then it is computed anew. New caches
            // where there is no depth, because growing them is a part of generating.
            let rewound = caches.iter_mut().all(|cache| cache.truncate(self.depth).is_ok());
            if self.depth == 0 || !rewound {
                caches = self.prepared(decoder)?;
            }
        }
        rates.remove(0);
        Ok(rates)
    }

    /// One cache per sequence, `depth` tokens long.
    fn prepared(self, decoder: &Decoder) -> anyhow::Result<Vec<KvCache>> {
        let mut cache = decoder.new_cache();
        let tokens = random_tokens(self.depth, decoder.config().vocab_size, u32::MAX);
        prefill(decoder, &mut cache, &tokens, Logits::None)?;
        Ok(vec![cache; self.sequences()])
    }

    fn once(self, decoder: &Decoder, caches: &mut [KvCache], seed: u32) -> anyhow::Result<()> {
        let count = self.tokens() * self.sequences();
        let tokens = random_tokens(count, decoder.config().vocab_size, seed);
        if let (Work::Prefill(_), [cache]) = (self.work, &mut *caches) {
            return prefill(decoder, cache, &tokens, Logits::Last);
        }
        for step in tokens.chunks(self.sequences()) {
            let segment = |(tokens, cache)| {
                let cache: &mut KvCache = cache;
                Segment { tokens, total_len: cache.len() + 1, cache }
            };
            let mut segments: Vec<Segment<'_>> =
                step.chunks(1).zip(caches.iter_mut()).map(segment).collect();
            decoder.forward(&mut segments, Logits::Last)?;
        }
        Ok(())
    }
}

/// Chunks as generation makes them; only the last one's logits are wanted.
fn prefill(
    decoder: &Decoder,
    cache: &mut KvCache,
    tokens: &[u32],
    wanted: Logits,
) -> anyhow::Result<()> {
    let total_len = cache.len() + tokens.len();
    for part in tokens.chunks(DEFAULT_PREFILL_CHUNK) {
        let segment = Segment { tokens: part, cache: &mut *cache, total_len };
        let is_last = segment.cache.len() + part.len() == total_len;
        decoder.forward(&mut [segment], if is_last { wanted } else { Logits::None })?;
    }
    Ok(())
}

/// Splitmix64 (Steele, Lea and Flood 2014): which tokens they are changes nothing, that they are
/// the same every time makes runs comparable.
fn random_tokens(count: usize, vocab_size: usize, seed: u32) -> Vec<u32> {
    let mut state = u64::from(seed);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % vocab_size as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Test, Work, random_tokens};

    #[test]
    fn names_say_depth_and_batch_only_where_there_are_any() {
        let name =
            |sequences, depth| Test { work: Work::Decode { tokens: 16, sequences }, depth }.name();
        assert_eq!(name(1, 0), "tg16");
        assert_eq!(name(1, 512), "tg16@d512");
        assert_eq!(name(8, 0), "tg16@b8");
        assert_eq!(name(8, 512), "tg16@d512,b8");
        assert_eq!(Test { work: Work::Prefill(64), depth: 32 }.name(), "pp64@d32");
    }

    #[test]
    fn random_tokens_are_in_the_vocabulary_and_repeatable() {
        let tokens = random_tokens(100, 7, 3);
        assert!(tokens.iter().all(|&t| t < 7));
        assert_eq!(tokens, random_tokens(100, 7, 3));
        assert_ne!(tokens, random_tokens(100, 7, 4));
    }
}
