//! `out[t] = softmax(transform(q[t] · K)) V` over the keys that a mask shows (Vaswani et al. 2017),
//! with grouped queries (arXiv:2305.13245).
//!
//! Composed of candle operations, each with its own backward: what devices without a kernel of
//! ours run. It holds a `[H, T, S]` matrix; the CPU's inference does not come here.

use candle_core::{D, DType, Device, Result, Tensor};
use puna_kernels::{AttentionMask, AttentionShape, ScoreTransform};

use crate::NnError;

/// Attends to keys and values from position 0 on, the queries' own included.
///
/// # Shapes
/// `q` `[T, H·D]`, `k`, `v` `[K, S, D]` → `[T, H·D]`, float32; products are computed in the type of
/// `k` and `v`, the softmax in float32.
///
/// # Errors
/// If the shapes do not agree.
pub fn attention(
    q: &Tensor,
    (k, v): (&Tensor, &Tensor),
    shape: &AttentionShape,
    mask: &AttentionMask,
    scores: &ScoreTransform,
) -> std::result::Result<Tensor, NnError> {
    let AttentionShape { heads, kv_heads, head_dim } = *shape;
    let (tokens, width) = q.dims2()?;
    if width != heads * head_dim {
        return Err(NnError::Shape {
            what: "width of queries",
            expected: heads * head_dim,
            got: width,
        });
    }
    let end = mask.first_position + tokens;
    if k.dims() != [kv_heads, end, head_dim] || v.dims() != k.dims() {
        let expected = kv_heads * end * head_dim;
        return Err(NnError::Shape { what: "keys and values", expected, got: k.elem_count() });
    }
    // What no query sees is left out.
    let first = mask.window.map_or(0, |window| (mask.first_position + 1).saturating_sub(window));
    let (k, v) = (k.narrow(1, first, end - first)?, v.narrow(1, first, end - first)?); // [K, S, D]
    let group = heads / kv_heads;
    let q = q
        .reshape((tokens, kv_heads, group, head_dim))?
        .permute((1, 2, 0, 3))?
        .to_dtype(k.dtype())?
        .reshape((kv_heads, group * tokens, head_dim))?; // [K, G·T, D]
    let mut x = (q.matmul(&k.t()?)?.to_dtype(DType::F32)? * f64::from(scores.scale))?;
    if let Some(cap) = scores.softcap {
        x = super::soft_cap(&x, f64::from(cap))?;
    }
    if tokens > 1 {
        let hidden = hidden_keys(mask, tokens, first..end, x.device())?; // [T, S]
        let by_token = x.reshape((kv_heads, group, tokens, end - first))?;
        x = by_token.broadcast_add(&hidden)?.reshape((kv_heads, group * tokens, end - first))?;
    }
    let max = x.max_keepdim(D::Minus1)?.detach();
    let weights = x.broadcast_sub(&max)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?; // [K, G·T, S]
    let out = weights.to_dtype(v.dtype())?.matmul(&v)?.to_dtype(DType::F32)?; // [K, G·T, D]
    Ok(out
        .reshape((kv_heads, group, tokens, head_dim))?
        .permute((2, 0, 1, 3))?
        .reshape((tokens, heads * head_dim))?)
}

/// `[T, S]`: 0 where a query sees a key, else minus infinity.
fn hidden_keys(
    mask: &AttentionMask,
    tokens: usize,
    keys: std::ops::Range<usize>,
    device: &Device,
) -> Result<Tensor> {
    let first = mask.first_position;
    let position = |p: usize| i64::try_from(p).unwrap_or(i64::MAX);
    let queries = Tensor::arange(position(first), position(first + tokens), device)?;
    let queries = queries.reshape((tokens, 1))?;
    let shape = (tokens, keys.len());
    let keys = Tensor::arange(position(keys.start), position(keys.end), device)?;
    let zeros = Tensor::zeros(shape, DType::F32, device)?;
    let hidden = Tensor::full(f32::NEG_INFINITY, shape, device)?;
    let later = keys.reshape((1, shape.1))?.broadcast_gt(&queries)?;
    let mut out = later.where_cond(&hidden, &zeros)?;
    if let Some(window) = mask.window {
        let passed = (queries - position(window) as f64)?;
        let passed = keys.reshape((1, shape.1))?.broadcast_le(&passed)?;
        out = passed.where_cond(&hidden, &out)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_kernels::{KvLayout, KvPage, KvType, KvView};
    use puna_testkit::{GradTolerance, gradcheck, random_tensor};
    use std::sync::Arc;

    const SHAPE: AttentionShape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8 };

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The kernel's result on the same tensors.
    fn by_kernel(
        q: &Tensor,
        (k, v): (&Tensor, &Tensor),
        mask: &AttentionMask,
        scores: &ScoreTransform,
    ) -> Vec<f32> {
        let layout = KvLayout::new(KvType::F32, SHAPE.kv_heads, SHAPE.head_dim).unwrap();
        let mut page = KvPage::new(layout);
        let by_token = |x: &Tensor| values(&x.transpose(0, 1).unwrap());
        page.write(0, &by_token(k), &by_token(v));
        let pages = [Some(Arc::new(page))];
        let q = values(q);
        let mut out = vec![0.0; q.len()];
        let view = KvView { layout, pages: &pages };
        puna_kernels::attention(&q, &view, &SHAPE, mask, scores, &mut out);
        out
    }

    #[test]
    fn the_composition_is_the_kernel_for_prompts_steps_windows_and_capped_scores() {
        for (first_position, tokens) in [(0, 5), (7, 1), (3, 4), (0, 1)] {
            let keys = first_position + tokens;
            let q = random_tensor(1, &[tokens, 32]);
            let k = random_tensor(2, &[2, keys, 8]);
            let v = random_tensor(3, &[2, keys, 8]);
            for window in [None, Some(1), Some(3), Some(100)] {
                for softcap in [None, Some(2.0)] {
                    let mask = AttentionMask { first_position, window };
                    let scores = ScoreTransform { scale: 0.6, softcap };
                    let ours = values(&attention(&q, (&k, &v), &SHAPE, &mask, &scores).unwrap());
                    let theirs = by_kernel(&q, (&k, &v), &mask, &scores);
                    for (a, b) in ours.iter().zip(&theirs) {
                        assert!((a - b).abs() < 1e-5, "{first_position} {tokens} {window:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn attention_backward_matches_central_differences() {
        let mask = AttentionMask { first_position: 0, window: Some(3) };
        let scores = ScoreTransform { scale: 0.5, softcap: Some(3.0) };
        gradcheck(
            |x| {
                attention(&x[0], (&x[1], &x[2]), &SHAPE, &mask, &scores)
                    .map_err(candle_core::Error::wrap)
            },
            &[
                random_tensor(4, &[4, 32]),
                random_tensor(5, &[2, 4, 8]),
                random_tensor(6, &[2, 4, 8]),
            ],
            GradTolerance::default(),
        );
    }
}
