//! Attention over whole rows of a batch: `out = softmax(transform(Q Kᵀ)) V` over the keys of each
//! token's own row that the mask shows (causal, window, documents), with grouped queries; no
//! `[T, T]` matrix (FlashAttention, arXiv:2205.14135).
//!
//! Backward, with `P` recomputed: `dV = Pᵀ dO`, `dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O))`, and through the
//! transform `dQ = dS K`, `dK = dSᵀ Q`.

use candle_core::{DType, Device, Tensor};
use puna_kernels::{
    AttentionShape, Flash, FlashSaved, RowMask, ScoreTransform, flash_backward, flash_forward,
};

use super::prefix::{Prefix, Saved as PrefixSaved};
use super::{linear::elements, with_f32};
use crate::device_products::no_kernel;
use crate::{NnError, Precision, RowsOfTokens, Value};

/// What an attention part is, besides its inputs.
#[derive(Debug, Clone)]
pub struct BatchAttention {
    /// Heads.
    pub shape: AttentionShape,
    /// The rows, and what their tokens see.
    pub rows: RowsOfTokens,
    /// Number of keys a token sees at most, its own included.
    pub window: Option<usize>,
    /// What happens to a score before the softmax.
    pub scores: ScoreTransform,
    /// Arithmetic of the products.
    pub precision: Precision,
    /// Rows that have a prefix of their own; 0 where one is before all of them.
    pub prefix_groups: usize,
}

impl BatchAttention {
    pub(super) fn flash(&self) -> Flash<'_> {
        let RowsOfTokens { len, visible_from, .. } = &self.rows;
        let mask = RowMask { len: *len, visible_from, window: self.window };
        let (shape, scores) = (self.shape, self.scores);
        Flash { shape, mask, scores, elements: elements(self.precision) }
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(), NnError> {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let tokens = self.rows.visible_from.len();
        let shapes = [("queries", q, heads), ("keys", k, kv_heads), ("values", v, kv_heads)];
        for (what, x, heads) in shapes {
            let expected = tokens * heads * head_dim;
            if x.dims() != [tokens, heads * head_dim] {
                return Err(NnError::Shape { what, expected, got: x.elem_count() });
            }
        }
        Ok(())
    }

    /// Keys of a prefix `[G·P, 2·K·D]`.
    fn prefix_len(&self, kv: &Tensor) -> Result<usize, NnError> {
        let (rows, width) = kv.dims2()?;
        let expected = 2 * self.shape.kv_heads * self.shape.head_dim;
        if width != expected {
            return Err(NnError::Shape { what: "width of a prefix", expected, got: width });
        }
        match self.prefix_groups {
            0 => Ok(rows),
            groups => Ok(rows / groups),
        }
    }
}

/// Attends within each row, and to `prefix` before all of them (or, with `G` the number of rows,
/// before each of them), if there is one.
///
/// # Shapes
/// `q` `[rows·T, H·D]`, `k`, `v` `[rows·T, K·D]`, `prefix` `[G·P, 2·K·D]` → `[rows·T, H·D]`
///
/// # Errors
/// If shapes do not agree or a tensor is not float32 on the CPU.
pub fn batch_attention(
    q: &Value,
    k: &Value,
    v: &Value,
    prefix: Option<&Value>,
    attention: BatchAttention,
) -> Result<Value, NnError> {
    attention.check(q.tensor(), k.tensor(), v.tensor())?;
    if !q.tensor().device().is_cpu() {
        return match prefix {
            None => on_device(q, k, v, attention),
            Some(_) => Err(NnError::Tracked { op: "attention to a prefix on this device" }),
        };
    }
    let (shape, tokens) = (q.tensor().shape().clone(), attention.rows.visible_from.len());
    let mut out = puna_kernels::zeros(shape.elem_count());
    let mut logs = puna_kernels::zeros(tokens * attention.shape.heads);
    let saved = [q, k, v].map(|x| x.tensor().clone());
    with_three(saved.each_ref(), |q, k, v| {
        flash_forward((q, k, v), &attention.flash(), &mut out, &mut logs);
    })?;
    let kv = prefix.map(|prefix| prefix.tensor().clone());
    if let Some(kv) = &kv {
        let prefix_len = attention.prefix_len(kv)?;
        with_f32(&saved[0], |q| {
            with_f32(kv, |kv| {
                let prefix = Prefix { attention: &attention, kv, len: prefix_len };
                prefix.forward(q, &mut out, &mut logs);
            })
        })??;
    }
    let out = Tensor::from_vec(out, shape, &Device::Cpu)?;
    let kept = out.clone();
    let mut arguments = vec![q, k, v];
    arguments.extend(prefix);
    Ok(Value::derived(out, &arguments, move |d_out| {
        let mut gradients = saved.each_ref().map(|x| puna_kernels::zeros(x.elem_count()));
        let [dq, dk, dv] = &mut gradients;
        let d_kv = with_f32(&kept, |out| {
            with_f32(d_out, |d_out| {
                with_three(saved.each_ref(), |q, k, v| {
                    let flash_saved = FlashSaved { qkv: (q, k, v), out, logs: &logs, d_out };
                    flash_backward(&flash_saved, &attention.flash(), (dq, dk, dv));
                    let Some(kv) = &kv else { return Ok(None) };
                    let len = attention.prefix_len(kv)?;
                    let d_kv = with_f32(kv, |kv| {
                        let saved = PrefixSaved { q, out, logs: &logs, d_out };
                        Prefix { attention: &attention, kv, len }.backward(&saved, dq)
                    })?;
                    Ok::<_, NnError>(Some(Tensor::from_vec(d_kv, kv.shape(), &Device::Cpu)?))
                })
            })
        })????;
        let tensors = gradients.into_iter().zip(&saved);
        let mut all = tensors
            .map(|(g, x)| Ok(Some(Tensor::from_vec(g, x.shape(), &Device::Cpu)?)))
            .collect::<Result<Vec<_>, NnError>>()?;
        all.push(d_kv);
        Ok(all)
    }))
}

/// With products of bfloat16, and heads that there are kernels for, by these.
fn on_device(q: &Value, k: &Value, v: &Value, of: BatchAttention) -> Result<Value, NnError> {
    let AttentionShape { heads: query, kv_heads: kv, head_dim: dim } = of.shape;
    let heads = puna_cuda::Heads { query, kv, dim };
    let takes = of.precision == Precision::Fast && puna_cuda::flash_takes(q.tensor(), heads)?;
    if !takes {
        return Value::by_candle(&[q, k, v], move |x| {
            let float = |x: &Tensor| x.to_dtype(DType::F32);
            composed(&float(&x[0])?, &float(&x[1])?, &float(&x[2])?, &of)
        });
    }
    let saved = [q.operand(DType::BF16)?, k.operand(DType::BF16)?, v.operand(DType::BF16)?];
    let visible_from = of.rows.on_device(q.tensor().device())?;
    let ScoreTransform { scale, softcap } = of.scores;
    let (len, scores) = (of.rows.len, puna_cuda::Scores { scale, softcap, window: of.window });
    let rows = puna_cuda::Rows { len, visible_from: &visible_from };
    let attended = puna_cuda::flash(saved.each_ref(), heads, rows, &scores)?;
    let (out, logs) = attended.ok_or_else(no_kernel)?;
    let kept = out.clone();
    Ok(Value::derived(out, &[q, k, v], move |d_out| {
        let d_out = d_out.to_dtype(DType::F32)?.contiguous()?;
        let rows = puna_cuda::Rows { len, visible_from: &visible_from };
        let saved = (saved.each_ref(), (&kept, &logs, &d_out));
        let back = puna_cuda::flash_back(saved.0, saved.1, heads, rows, &scores)?;
        Ok(back.ok_or_else(no_kernel)?.map(Some).into())
    }))
}

/// The same of candle operations, with a matrix of scores, row by row.
fn composed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    of: &BatchAttention,
) -> candle_core::Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_dim } = of.shape;
    let (len, group) = (of.rows.len, heads / kv_heads);
    let starts = of.rows.visible_from.chunks_exact(len);
    let rows = starts.enumerate().map(|(row, starts)| {
        let by_head = |x: &Tensor, heads: usize| {
            x.narrow(0, row * len, len)?.reshape((len, heads, head_dim))?.transpose(0, 1)
        };
        let keys = by_head(k, kv_heads)?.contiguous()?; // [K, T, D]
        let values = by_head(v, kv_heads)?.contiguous()?;
        let q = by_head(q, heads)?.contiguous()?.reshape((kv_heads, group * len, head_dim))?;
        let scores = (q.matmul(&keys.t()?)? * f64::from(of.scores.scale))?; // [K, G·T, T]
        let scores = match of.scores.softcap {
            Some(cap) => super::soft_cap(&scores, f64::from(cap))?,
            None => scores,
        };
        let hidden = |query: usize, key: usize| {
            let from = of.window.map_or(0, |window| (query + 1).saturating_sub(window));
            key > query || key < from.max(starts[query] as usize)
        };
        let mask: Vec<f32> = (0..len * len)
            .map(|i| if hidden(i / len, i % len) { f32::NEG_INFINITY } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(mask, (1, 1, len, len), q.device())?;
        let scores = scores.reshape((kv_heads, group, len, len))?.broadcast_add(&mask)?;
        let most = scores.max_keepdim(3)?.detach();
        let weights = scores.broadcast_sub(&most)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(3)?)?;
        let weights = weights.reshape((kv_heads, group * len, len))?;
        let out = weights.matmul(&values)?.reshape((heads, len, head_dim))?;
        out.transpose(0, 1)?.reshape((len, heads * head_dim))
    });
    Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

pub(super) fn with_three<T>(
    [a, b, c]: [&Tensor; 3],
    f: impl FnOnce(&[f32], &[f32], &[f32]) -> T,
) -> Result<T, NnError> {
    with_f32(a, |a| with_f32(b, |b| with_f32(c, |c| f(a, b, c))))??
}

/// The same by [`super::attention`], document by document: what the kernel is tested against.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use puna_kernels::AttentionMask;
    use puna_testkit::{GradTolerance, random_tensor};

    pub(in crate::ops) fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(in crate::ops) fn attention(
        len: usize,
        starts: &[u32],
        window: Option<usize>,
    ) -> BatchAttention {
        BatchAttention {
            shape: AttentionShape { heads: 4, kv_heads: 2, head_dim: 8 },
            rows: RowsOfTokens::new(len, starts.to_vec()),
            window,
            scores: ScoreTransform { scale: 0.6, softcap: None },
            precision: Precision::Exact,
            prefix_groups: 0,
        }
    }

    /// Each document of each row by itself.
    fn by_documents(qkv: &[Tensor; 3], of: &BatchAttention) -> Vec<f32> {
        let starts = &of.rows.visible_from;
        let mut out = Vec::new();
        let mut at = 0;
        while at < starts.len() {
            let row_end = (at / of.rows.len + 1) * of.rows.len;
            let end = (at..row_end).find(|&i| starts[i] != starts[at]).unwrap_or(row_end);
            let part = |x: &Tensor| x.narrow(0, at, end - at).unwrap();
            let by_head = |x: &Tensor| {
                let x = part(x).reshape((end - at, 2, 8)).unwrap();
                x.transpose(0, 1).unwrap().contiguous().unwrap()
            };
            let (k, v) = (by_head(&qkv[1]), by_head(&qkv[2]));
            let mask = AttentionMask { first_position: 0, window: of.window };
            let q = part(&qkv[0]);
            let one = crate::ops::attention(&q, (&k, &v), &of.shape, &mask, &of.scores).unwrap();
            out.extend(flat(&one));
            at = end;
        }
        out
    }

    /// Two rows of `len` tokens, the second of two documents.
    pub(in crate::ops) fn two_rows(len: usize) -> Vec<u32> {
        let second = len as u32 / 3;
        let row = (0..len as u32).map(|i| if i < second { 0 } else { second });
        (0..len).map(|_| 0).chain(row).collect()
    }

    #[test]
    fn the_kernel_is_the_composition_for_documents_windows_caps_and_tiles() {
        for len in [1, 5, 33, 130, 300] {
            for (window, softcap) in [(None, None), (Some(3), Some(2.0)), (Some(100), None)] {
                let mut of = attention(len, &two_rows(len), window);
                of.scores.softcap = softcap;
                let qkv = [
                    random_tensor(1, &[2 * len, 32]),
                    random_tensor(2, &[2 * len, 16]),
                    random_tensor(3, &[2 * len, 16]),
                ];
                let expected = by_documents(&qkv, &of);
                let of_rows = flat(&composed(&qkv[0], &qkv[1], &qkv[2], &of).unwrap());
                let [q, k, v] = qkv.map(Value::constant);
                let y = flat(batch_attention(&q, &k, &v, None, of).unwrap().tensor());
                for (i, (a, b)) in y.iter().zip(&expected).enumerate() {
                    assert!((a - b).abs() < 2e-5, "{len} {window:?} {i}: {a} {b}");
                    let a = of_rows[i];
                    assert!((a - b).abs() < 2e-5, "composed, {len} {window:?} {i}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn batch_attention_backward_matches_central_differences() {
        for (window, softcap) in [(None, None), (Some(3), Some(2.0))] {
            let mut of = attention(6, &two_rows(6), window);
            of.scores.softcap = softcap;
            gradcheck(
                |x| batch_attention(&x[0], &x[1], &x[2], None, of.clone()),
                &[
                    random_tensor(4, &[12, 32]),
                    random_tensor(5, &[12, 16]),
                    random_tensor(6, &[12, 16]),
                ],
                GradTolerance::default(),
            );
        }
    }

    /// Sums over several tiles of queries and keys, against candle's gradients of the composition.
    #[test]
    fn the_gradients_over_several_tiles_are_those_of_the_composition() {
        let len = 300;
        let of = attention(len, &(0..len).map(|_| 0).collect::<Vec<u32>>(), Some(150));
        let qkv = [4, 5, 6].map(|i| random_tensor(i, &[len, if i == 4 { 32 } else { 16 }]));
        let seed = random_tensor(7, &[len, 32]);
        let vars = qkv.each_ref().map(|x| candle_core::Var::from_tensor(x).unwrap());
        let by_head = |x: &Tensor| x.reshape((len, 2, 8)).unwrap().transpose(0, 1).unwrap();
        let (k, v) = (by_head(vars[1].as_tensor()), by_head(vars[2].as_tensor()));
        let mask = AttentionMask { first_position: 0, window: of.window };
        let theirs = crate::ops::attention(&vars[0], (&k, &v), &of.shape, &mask, &of.scores);
        let theirs = (theirs.unwrap() * &seed).unwrap().sum_all().unwrap().backward().unwrap();
        let [q, k, v] = qkv.map(Value::leaf);
        let ours = batch_attention(&q, &k, &v, None, of).unwrap().backward(seed).unwrap();
        for (leaf, var) in [q, k, v].iter().zip(&vars) {
            let expected = flat(theirs.get(var).unwrap());
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in flat(ours.of(leaf).unwrap()).iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5 * largest.max(1.0), "{a} {b}");
            }
        }
    }
}
