//! Attention against f64, and its invariance contracts.

use crate::support::{Random, bits, tables};
use puna_kernels::{AttentionMask, AttentionShape, Kernels, KvView, ScoreTransform, with_threads};

/// f32 rounding of scores and of sums over a few hundred values.
const TOLERANCE: f64 = 3e-6;

struct Case {
    shape: AttentionShape,
    mask: AttentionMask,
    scores: ScoreTransform,
    tokens: usize,
    capacity: usize,
}

impl Case {
    fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let kv_heads = 1 + random.below(3);
        let shape = AttentionShape {
            heads: kv_heads * (1 + random.below(6)),
            kv_heads,
            head_dim: [8, 16, 20, 64, 80, 128][random.below(6)],
        };
        let tokens = 1 + random.below(9);
        let first_position = random.below(300);
        let window = (random.below(2) == 0).then(|| 1 + random.below(100));
        let least = window.map_or(first_position, |w| w.min(first_position)) + tokens;
        let capacity = least + random.below(10);
        let oldest = (first_position + tokens).saturating_sub(capacity);
        let softcap = (random.below(2) == 0).then_some(5.0);
        Self {
            shape,
            mask: AttentionMask { first_position, window, oldest },
            scores: ScoreTransform { scale: 0.3, softcap },
            tokens,
            capacity,
        }
    }

    /// Keys (or values) of all positions, and the ring that holds the newest ones.
    fn ring(&self, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let AttentionShape { kv_heads, head_dim, .. } = self.shape;
        let positions = self.mask.first_position + self.tokens;
        let all = Random(seed).normals(kv_heads * positions * head_dim);
        let mut ring = vec![f32::NAN; kv_heads * self.capacity * head_dim];
        for head in 0..kv_heads {
            for p in self.mask.oldest..positions {
                let slot = (head * self.capacity + p % self.capacity) * head_dim;
                let source = (head * positions + p) * head_dim;
                ring[slot..slot + head_dim].copy_from_slice(&all[source..source + head_dim]);
            }
        }
        (all, ring)
    }

    fn run(&self, kernels: &Kernels, q: &[f32], kv: (&[f32], &[f32]), first: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; q.len()];
        let view = KvView { k: kv.0, v: kv.1, capacity: self.capacity };
        let mask = AttentionMask { first_position: first, ..self.mask };
        kernels.attention((q, &mut out), &view, &self.shape, &mask, &self.scores);
        out
    }

    fn reference(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let positions = self.mask.first_position + self.tokens;
        let mut out = Vec::new();
        for (i, q) in q.chunks(head_dim).enumerate() {
            let (t, head) = (i / heads, i % heads / (heads / kv_heads));
            let own = self.mask.first_position + t;
            let lo = self.mask.window.map_or(0, |w| (own + 1).saturating_sub(w));
            let row = |x: &[f32], p: usize| -> Vec<f64> {
                let at = (head * positions + p) * head_dim;
                x[at..at + head_dim].iter().map(|x| f64::from(*x)).collect()
            };
            let keys = lo.max(self.mask.oldest)..own + 1;
            let weights: Vec<f64> = keys
                .clone()
                .map(|p| {
                    let dot: f64 = row(k, p).iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum();
                    let score = dot * f64::from(self.scores.scale);
                    let cap = self.scores.softcap.map(f64::from);
                    cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; head_dim];
            for (p, weight) in keys.zip(weights) {
                for (mixed, v) in mixed.iter_mut().zip(row(v, p)) {
                    *mixed += weight / sum * v;
                }
            }
            out.extend(mixed);
        }
        out
    }
}

#[test]
fn attention_matches_f64_and_does_not_depend_on_chunks_threads_or_the_ring() {
    for seed in 0..60 {
        let case = Case::random(seed);
        let row = case.shape.heads * case.shape.head_dim;
        let q = Random(seed + 1000).normals(case.tokens * row);
        let ((k, k_ring), (v, v_ring)) = (case.ring(seed + 2000), case.ring(seed + 3000));
        let expected = case.reference(&q, &k, &v);
        let first = case.mask.first_position;
        for kernels in tables() {
            let out = case.run(kernels, &q, (&k_ring, &v_ring), first);
            for (out, expected) in out.iter().zip(&expected) {
                let error = (f64::from(*out) - expected).abs();
                assert!(error <= TOLERANCE, "case {seed} {:?}: {error}", kernels.isa());
            }
            let steps: Vec<f32> = q
                .chunks(row)
                .enumerate()
                .flat_map(|(t, q)| case.run(kernels, q, (&k_ring, &v_ring), first + t))
                .collect();
            assert!(bits(&out) == bits(&steps), "case {seed}: step by step differs");
            let threads = with_threads(3, || case.run(kernels, &q, (&k_ring, &v_ring), first));
            assert!(bits(&out) == bits(&threads), "case {seed}: the number of threads matters");
            if case.mask.oldest == 0 {
                let positions = first + case.tokens;
                let flat = Case { capacity: positions, ..Case::random(seed) };
                let flat = flat.run(kernels, &q, (&k, &v), first);
                assert!(bits(&out) == bits(&flat), "case {seed}: the capacity matters");
            }
        }
    }
}

#[test]
fn attention_over_one_key_returns_its_value() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 3 };
    let mask = AttentionMask { first_position: 7, window: Some(1), oldest: 0 };
    let kv =
        KvView { k: &[0.0; 12], v: &[0., 0., 0., 0., 0., 0., 0., 0., 0., 4., 5., 6.], capacity: 4 };
    let scores = ScoreTransform { scale: 1.0, softcap: None };
    let mut out = [0.0; 3];
    puna_kernels::attention(&[1.0, 2.0, 3.0], &kv, &shape, &mask, &scores, &mut out);
    assert_eq!(out, [4.0, 5.0, 6.0]);
}
