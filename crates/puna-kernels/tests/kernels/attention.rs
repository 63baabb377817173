//! Attention against f64, and its invariance contracts.

use crate::support::{Random, bits, tables};
use puna_kernels::{
    AttentionMask, AttentionShape, Isa, KV_PAGE, Kernels, KvLayout, KvPage, KvType, KvView,
    ScoreTransform, with_threads,
};
use std::sync::Arc;

/// f32 rounding of scores up to about 15, each one chain of up to 128 products, and of sums over up
/// to two thousand values.
const TOLERANCE: f64 = 8e-6;

/// Queries, weights and 8-bit values as the sum of two bfloat16: half as much again as the largest seen.
const TILES_TOLERANCE: f64 = 1e-4;

type Pages = Vec<Option<Arc<KvPage>>>;

struct Case {
    layout: KvLayout,
    shape: AttentionShape,
    mask: AttentionMask,
    scores: ScoreTransform,
    tokens: usize,
}

impl Case {
    fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let kv_heads = 1 + random.below(3);
        let kv_type = KvType::ALL[random.below(3)];
        let dims: &[usize] =
            if kv_type == KvType::Q8_0 { &[32, 64, 96] } else { &[8, 16, 20, 64, 80, 128] };
        let shape = AttentionShape {
            heads: kv_heads * (1 + random.below(9)),
            kv_heads,
            head_dim: dims[random.below(dims.len())],
        };
        let mut below_one_of = |choices: &[usize]| {
            let limit = choices[random.below(choices.len())];
            random.below(limit)
        };
        let tokens = 1 + below_one_of(&[1, 9, 90]);
        let first_position = below_one_of(&[300, 1800]);
        let window = 1 + below_one_of(&[100, 900]);
        let window = (random.below(2) == 0).then_some(window);
        let softcap = (random.below(2) == 0).then_some(5.0);
        Self {
            layout: KvLayout::new(kv_type, kv_heads, shape.head_dim).unwrap(),
            shape,
            mask: AttentionMask { first_position, window },
            scores: ScoreTransform { scale: 0.3, softcap },
            tokens,
        }
    }

    fn positions(&self) -> usize {
        self.mask.first_position + self.tokens
    }

    fn oldest(&self) -> usize {
        self.mask.window.map_or(0, |w| (self.mask.first_position + 1).saturating_sub(w))
    }

    /// Pages of `[positions, K, D]` keys and values, written in chunks; what no query sees is NaN
    /// or absent.
    fn pages(&self, k: &[f32], v: &[f32], seed: u64) -> Pages {
        let (mut random, width) = (Random(seed), self.layout.width());
        let mut pages: Pages = Vec::new();
        for first in (0..self.positions()).step_by(KV_PAGE) {
            let mut page = KvPage::new(self.layout);
            let stale = vec![f32::NAN; KV_PAGE * width];
            page.write(0, &stale, &stale);
            let mut at = first.max(self.oldest());
            let end = self.positions().min(first + KV_PAGE);
            while at < end {
                let n = (1 + random.below(40)).min(end - at);
                let rows = at * width..(at + n) * width;
                page.write(at - first, &k[rows.clone()], &v[rows]);
                at += n;
            }
            pages.push((first + KV_PAGE > self.oldest()).then(|| Arc::new(page)));
        }
        pages
    }

    fn run(&self, kernels: &Kernels, q: &[f32], pages: &Pages, first: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; q.len()];
        let view = KvView { layout: self.layout, pages };
        let mask = AttentionMask { first_position: first, ..self.mask };
        kernels.attention((q, &mut out), &view, &self.shape, &mask, &self.scores);
        out
    }

    /// What pages of this type store of `[positions, K, D]` values.
    fn stored(&self, x: &[f32]) -> Vec<f32> {
        let half = |x: f32| half::f16::from_f32(x).to_f32();
        match self.layout.kv_type() {
            KvType::F32 => x.to_vec(),
            KvType::F16 => x.iter().map(|&x| half(x)).collect(),
            KvType::Q8_0 => {
                let block = |x: &[f32]| -> Vec<f32> {
                    let scale = half(x.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0);
                    x.iter().map(|x| (x * (1.0 / scale)).round_ties_even() * scale).collect()
                };
                x.chunks(32).flat_map(block).collect()
            }
        }
    }

    fn reference(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let (k, v) = (self.stored(k), self.stored(v));
        let mut out = Vec::new();
        for (i, q) in q.chunks(head_dim).enumerate() {
            let (t, head) = (i / heads, i % heads / (heads / kv_heads));
            let own = self.mask.first_position + t;
            let lo = self.mask.window.map_or(0, |w| (own + 1).saturating_sub(w));
            let row = |x: &[f32], p: usize| -> Vec<f64> {
                let at = (p * kv_heads + head) * head_dim;
                x[at..at + head_dim].iter().map(|x| f64::from(*x)).collect()
            };
            let weights: Vec<f64> = (lo..=own)
                .map(|p| {
                    let dot: f64 = row(&k, p).iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum();
                    let score = dot * f64::from(self.scores.scale);
                    let cap = self.scores.softcap.map(f64::from);
                    cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; head_dim];
            for (p, weight) in (lo..=own).zip(weights) {
                for (mixed, v) in mixed.iter_mut().zip(row(&v, p)) {
                    *mixed += weight / sum * v;
                }
            }
            out.extend(mixed);
        }
        out
    }
}

#[test]
fn attention_matches_f64_and_does_not_depend_on_chunks_threads_or_what_is_not_seen() {
    for seed in 0..60 {
        let case = Case::random(seed);
        let row = case.shape.heads * case.shape.head_dim;
        let q = Random(seed + 1000).normals(case.tokens * row);
        let size = case.positions() * case.layout.width();
        let (k, v) = (Random(seed + 2000).normals(size), Random(seed + 3000).normals(size));
        let pages = case.pages(&k, &v, seed);
        let expected = case.reference(&q, &k, &v);
        let first = case.mask.first_position;
        for kernels in tables() {
            let out = with_threads(1, || case.run(kernels, &q, &pages, first));
            let in_tiles = kernels.isa() == Isa::Amx && case.layout.kv_type() != KvType::F32;
            let tolerance = if in_tiles { TILES_TOLERANCE } else { TOLERANCE };
            for (out, expected) in out.iter().zip(&expected) {
                let error = (f64::from(*out) - expected).abs();
                assert!(error <= tolerance, "case {seed} {:?}: {error}", kernels.isa());
            }
            for (chunk, threads) in [(1, 1), (1, 7), (7, 2), (case.tokens, 3)] {
                let chunks = q.chunks(chunk * row).enumerate();
                let pieces: Vec<f32> = with_threads(threads, || {
                    chunks
                        .flat_map(|(i, q)| case.run(kernels, q, &pages, first + i * chunk))
                        .collect()
                });
                let same = bits(&out) == bits(&pieces);
                assert!(same, "case {seed}: chunks of {chunk} on {threads} threads differ");
            }
        }
    }
}

#[test]
fn attention_over_one_key_returns_its_value() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 3 };
    let layout = KvLayout::new(KvType::F32, 1, 3).unwrap();
    let mut page = KvPage::new(layout);
    page.write(7, &[0.0; 3], &[4.0, 5.0, 6.0]);
    let mask = AttentionMask { first_position: 7, window: Some(1) };
    let kv = KvView { layout, pages: &[Some(Arc::new(page))] };
    let scores = ScoreTransform { scale: 1.0, softcap: None };
    let mut out = [0.0; 3];
    puna_kernels::attention(&[1.0, 2.0, 3.0], &kv, &shape, &mask, &scores, &mut out);
    assert_eq!(out, [4.0, 5.0, 6.0]);
}

#[test]
fn a_key_or_value_that_is_not_a_number_shows_in_the_queries_that_see_it_only() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 32 };
    for &kv_type in KvType::ALL {
        let layout = KvLayout::new(kv_type, 1, 32).unwrap();
        for bad_key in [true, false] {
            let (mut k, mut v) = (vec![0.5; 9 * 32], vec![0.5; 9 * 32]);
            (if bad_key { &mut k } else { &mut v })[5 * 32 + 3] = f32::NAN;
            let mut page = KvPage::new(layout);
            page.write(0, &k, &v);
            let kv = KvView { layout, pages: &[Some(Arc::new(page))] };
            let mask = AttentionMask { first_position: 0, window: None };
            let scores = ScoreTransform { scale: 1.0, softcap: None };
            for kernels in tables() {
                for chunk in [9, 4, 1] {
                    let mut out = vec![0.0; 9 * 64];
                    let q = vec![1.0; 9 * 64];
                    let chunks = q.chunks(chunk * 64).zip(out.chunks_mut(chunk * 64));
                    for (i, (q, out)) in chunks.enumerate() {
                        let mask = AttentionMask { first_position: i * chunk, ..mask };
                        kernels.attention((q, out), &kv, &shape, &mask, &scores);
                    }
                    for (t, row) in out.chunks(64).enumerate() {
                        let bad = row.iter().any(|x| x.is_nan());
                        assert_eq!(bad, t >= 5, "{kv_type:?}, token {t} by {chunk}");
                    }
                }
            }
        }
    }
}
