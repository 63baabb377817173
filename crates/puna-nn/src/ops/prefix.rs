//! Attention to keys and values before every sequence (prefix tuning, arXiv:2101.00190), joined with
//! what [`super::batch_attention`] has computed over the sequence itself.
//!
//! With the logarithms `l₁` of a token's exponential sums over its sequence and `l₂` over the prefix,
//! `L = log(e^l₁ + e^l₂)` and `out = e^(l₁ − L) out₁ + Σ_p e^(s_p − L) v_p`. Backward: each part
//! then needs only `L` and the joined `out`: `dS = P ∘ (dO Vᵀ − rowsum(dO ∘ out))` with
//! `P = e^(S − L)`, whatever other keys there are.

use std::ops::Range;

use puna_kernels::{Elements, MatRef, Write, gemm, gemm_new};

use super::BatchAttention;

/// What is before the sequences.
pub(super) struct Prefix<'a> {
    pub(super) attention: &'a BatchAttention,
    /// Keys and values `[G·P, 2·K·D]`: of all sequences (`G` = 1) or of each.
    pub(super) kv: &'a [f32],
    /// `P`
    pub(super) len: usize,
}

/// What backward reads.
pub(super) struct Saved<'a> {
    pub(super) q: &'a [f32],
    /// Joined outputs and logarithms.
    pub(super) out: &'a [f32],
    pub(super) logs: &'a [f32],
    pub(super) d_out: &'a [f32],
}

/// Some tokens with their prefix, and a head.
struct Part {
    tokens: Range<usize>,
    /// First row of the prefix.
    row: usize,
    head: usize,
}

impl Prefix<'_> {
    fn widths(&self) -> (usize, usize, usize) {
        let shape = &self.attention.shape;
        (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.head_dim)
    }

    fn parts(&self) -> Vec<Part> {
        let (_, kv_width, _) = self.widths();
        let tokens = self.attention.rows.visible_from.len();
        let groups = (self.kv.len() / (2 * kv_width * self.len).max(1)).max(1);
        let each = tokens / groups;
        let heads = self.attention.shape.heads;
        let part = |i: usize| {
            let group = i / heads;
            let tokens = group * each..(group + 1) * each;
            Part { tokens, row: group * self.len, head: i % heads }
        };
        (0..groups * heads).map(part).collect()
    }

    /// Keys, or values, of a part's head: where they begin in `kv`.
    fn at(&self, part: &Part, values: bool) -> usize {
        let (_, kv_width, dim) = self.widths();
        let kv_head = part.head / (self.attention.shape.heads / self.attention.shape.kv_heads);
        part.row * 2 * kv_width + usize::from(values) * kv_width + kv_head * dim
    }

    /// Transformed scores `[n, P]`, and their derivatives by the products where a cap bends them.
    fn scores(&self, q: &[f32], part: &Part) -> (Vec<f32>, Vec<f32>) {
        let (width, kv_width, dim) = self.widths();
        let q = MatRef::rows(&q[part.tokens.start * width + part.head * dim..], width);
        let keys = MatRef::rows(&self.kv[self.at(part, false)..], 2 * kv_width);
        let shape = (part.tokens.len(), self.len, dim);
        let mut scores = gemm_new(shape, (q, keys.t()), Elements::F32);
        let transform = &self.attention.scores;
        let mut slopes = vec![transform.scale; scores.len()];
        for (score, slope) in scores.iter_mut().zip(&mut slopes) {
            *score *= transform.scale;
            if let Some(cap) = transform.softcap {
                let bent = (*score / cap).tanh();
                *score = cap * bent;
                *slope *= 1.0 - bent * bent;
            }
        }
        for (n, token) in part.tokens.clone().enumerate() {
            let passed = self.passed(token);
            scores[n * self.len..][..passed].fill(f32::NEG_INFINITY);
        }
        (scores, slopes)
    }

    /// Keys that a window has passed when it comes to a token.
    fn passed(&self, token: usize) -> usize {
        let rows = &self.attention.rows;
        let index = token % rows.len - rows.visible_from[token] as usize;
        let window = self.attention.window.unwrap_or(usize::MAX);
        (index + self.len + 1).saturating_sub(window).min(self.len)
    }

    /// Where a token's logarithm lies.
    fn log_at(&self, token: usize, head: usize) -> usize {
        let len = self.attention.rows.len;
        (token / len * self.attention.shape.heads + head) * len + token % len
    }

    /// Joins the prefix with outputs and logarithms.
    pub(super) fn forward(&self, q: &[f32], out: &mut [f32], logs: &mut [f32]) {
        let (width, kv_width, dim) = self.widths();
        for part in self.parts() {
            let (mut scores, _) = self.scores(q, &part);
            for (n, token) in part.tokens.clone().enumerate() {
                let scores = &mut scores[n * self.len..][..self.len];
                let log = &mut logs[self.log_at(token, part.head)];
                let max = scores.iter().copied().fold(*log, f32::max);
                let sum: f32 = scores.iter().map(|s| (s - max).exp()).sum();
                let joined = max + ((*log - max).exp() + sum).ln();
                scores.iter_mut().for_each(|s| *s = (*s - joined).exp());
                let keep = (*log - joined).exp();
                out[token * width + part.head * dim..][..dim].iter_mut().for_each(|o| *o *= keep);
                *log = joined;
            }
            let values = MatRef::rows(&self.kv[self.at(&part, true)..], 2 * kv_width);
            let operands = (MatRef::rows(&scores, self.len), values);
            let to = &mut out[part.tokens.start * width + part.head * dim..];
            let shape = (part.tokens.len(), dim, self.len);
            gemm(shape, operands, (to, width), Write::Add, Elements::F32);
        }
    }

    /// Adds to the gradient of the queries, and gives that of keys and values.
    pub(super) fn backward(&self, saved: &Saved<'_>, dq: &mut [f32]) -> Vec<f32> {
        let (width, kv_width, dim) = self.widths();
        let mut d_kv = vec![0f32; self.kv.len()];
        for part in self.parts() {
            let first = part.tokens.start * width + part.head * dim;
            let rows = |x| MatRef::rows(x, width);
            let (q, d_out) = (rows(&saved.q[first..]), rows(&saved.d_out[first..]));
            let (mut p, slopes) = self.scores(saved.q, &part);
            let values = MatRef::rows(&self.kv[self.at(&part, true)..], 2 * kv_width);
            let (tokens, len) = (part.tokens.len(), self.len);
            let mut ds = gemm_new((tokens, len, dim), (d_out, values.t()), Elements::F32);
            for (n, token) in part.tokens.clone().enumerate() {
                let log = saved.logs[self.log_at(token, part.head)];
                let at = token * width + part.head * dim;
                let both = saved.out[at..at + dim].iter().zip(&saved.d_out[at..at + dim]);
                let mean: f32 = both.map(|(o, d)| o * d).sum();
                for i in n * len..(n + 1) * len {
                    p[i] = (p[i] - log).exp();
                    ds[i] = p[i] * (ds[i] - mean) * slopes[i];
                }
            }
            let (p, ds) = (MatRef::rows(&p, len), MatRef::rows(&ds, len));
            let keys = MatRef::rows(&self.kv[self.at(&part, false)..], 2 * kv_width);
            let to = (&mut dq[first..], width);
            gemm((tokens, dim, len), (ds, keys), to, Write::Add, Elements::F32);
            let shape = (len, dim, tokens);
            let to = (&mut d_kv[self.at(&part, false)..], 2 * kv_width);
            gemm(shape, (ds.t(), q), to, Write::Add, Elements::F32);
            let to = (&mut d_kv[self.at(&part, true)..], 2 * kv_width);
            gemm(shape, (p.t(), d_out), to, Write::Add, Elements::F32);
        }
        d_kv
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use puna_testkit::{GradTolerance, random_tensor};

    use super::super::batch_attention::tests::{attention, flat, two_rows};
    use super::super::{BatchAttention, batch_attention};
    use crate::Value;
    use crate::value::tests::gradcheck;

    /// A prefix is what a document would see if it stood before it without seeing itself: here against
    /// softmax over the keys of both, composed.
    #[test]
    fn a_prefix_joins_the_softmax_and_its_gradients_match_central_differences() {
        for (window, softcap, groups) in [(None, None, 0), (Some(4), Some(2.0), 0), (None, None, 2)]
        {
            let mut of = attention(6, &two_rows(6), window);
            of.scores.softcap = softcap;
            of.prefix_groups = groups;
            let rows = 3 * groups.max(1);
            let inputs = [
                random_tensor(4, &[12, 32]),
                random_tensor(5, &[12, 16]),
                random_tensor(6, &[12, 16]),
                random_tensor(7, &[rows, 32]),
            ];
            let expected = composed(&inputs, &of);
            let values = inputs.clone().map(Value::constant);
            let [q, k, v, kv] = &values;
            let y = batch_attention(q, k, v, Some(kv), of.clone()).unwrap();
            for (a, b) in flat(y.tensor()).iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{window:?} {groups}: {a} {b}");
            }
            gradcheck(
                |x| batch_attention(&x[0], &x[1], &x[2], Some(&x[3]), of.clone()),
                &inputs,
                GradTolerance::default(),
            );
        }
    }

    /// Key by key in float64.
    fn composed([q, k, v, kv]: &[Tensor; 4], of: &BatchAttention) -> Vec<f32> {
        let (q, k, v, kv) = (flat(q), flat(k), flat(v), flat(kv));
        let (starts, len) = (&of.rows.visible_from, of.rows.len);
        let window = of.window.unwrap_or(usize::MAX);
        let mut out = Vec::new();
        for t in 0..starts.len() {
            let (row, start) = (t / len * len, starts[t] as usize);
            let group = if of.prefix_groups == 0 { 0 } else { 3 * (t / len) };
            for head in 0..4 {
                let at = head / 2 * 8;
                let mut keys: Vec<(&[f32], &[f32])> = Vec::new();
                for p in 0..3 {
                    if (t - row - start) + 3 - p < window {
                        let kv = &kv[(group + p) * 32..][..32];
                        keys.push((&kv[at..at + 8], &kv[16 + at..16 + at + 8]));
                    }
                }
                for j in (row + start).max((t + 1).saturating_sub(window))..=t {
                    keys.push((&k[j * 16 + at..][..8], &v[j * 16 + at..][..8]));
                }
                let q = &q[t * 32 + head * 8..][..8];
                let score = |k: &[f32]| {
                    let s: f64 = q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum::<f64>() * 0.6;
                    of.scores.softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
                };
                let weights: Vec<f64> = keys.iter().map(|(k, _)| score(k).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..8 {
                    let one =
                        keys.iter().zip(&weights).map(|((_, v), w)| w / sum * f64::from(v[d]));
                    out.push(one.sum::<f64>() as f32);
                }
            }
        }
        out
    }
}
