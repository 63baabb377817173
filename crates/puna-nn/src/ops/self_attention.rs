//! Attention within rows with its projections, in training, as one operation:
//! `y = attend(turn(x W_qᵀ), turn(x W_kᵀ), x W_vᵀ) W_oᵀ`, see [`super::batch_attention()`] and
//! [`super::rope()`]. What lies between the products is never a tensor; where products are rounded
//! anyhow (tiles of bfloat16), queries, keys, values, outputs and their gradients are written in half
//! the bytes.
//!
//! Backward: `d_out = dy W_o`, the gradients of queries, keys and values as there, turned back, and
//! `dx = dq W_q + dk W_k + dv W_v`; trained weights get `dyᵀ x`, thin matrices what
//! [`super::low_rank()`] says.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{
    AttentionShape, FlashSaved, RopeTable, RoundedRows, flash_backward, flash_backward_rounded,
    flash_forward, flash_forward_rounded, gemm_sum_new, rope_rounded,
};

use super::batch_attention::with_three;
use super::linear::{Rows, elements};
use super::{BatchAttention, with_f32};
use crate::projection::{Projection, input_gradient_of, product};
use crate::{NnError, RopeTables, Value};

/// What attends, besides the input.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Query, key, value, output.
    pub parts: [Projection; 4],
    /// Heads and what their tokens see; without a prefix.
    pub attention: BatchAttention,
    /// How queries and keys are turned.
    pub tables: Arc<RopeTables>,
}

impl SelfAttention {
    /// Turns queries or keys, or back.
    fn turned(&self, x: Rows, heads: usize, back: bool) -> Result<Rows, NnError> {
        let dim = self.attention.shape.head_dim;
        let sin = if back { self.tables.negated_sin() } else { self.tables.sin() };
        let table = RopeTable { cos: self.tables.cos(), sin, rotary_dim: self.tables.rotary_dim() };
        match x {
            Rows::Rounded(x) => {
                let x = Arc::into_inner(x).ok_or(NnError::Tracked { op: "a rotation in place" })?;
                Ok(Rows::Rounded(Arc::new(rope_rounded(x, heads, dim, &table))))
            }
            Rows::Float(x) => {
                let y = with_f32(&x, |x| puna_kernels::rope_new(x, heads, dim, &table))?;
                Ok(Rows::Float(Tensor::from_vec(y, x.shape(), &Device::Cpu)?))
            }
        }
    }

    /// Outputs and logarithms.
    fn attend(&self, qkv: &[Rows; 3]) -> Result<(Rows, Vec<f32>), NnError> {
        let flash = self.attention.flash();
        if let Some(qkv) = rounded(qkv) {
            let (out, logs) = flash_forward_rounded(qkv, &flash);
            return Ok((Rows::Rounded(Arc::new(out)), logs));
        }
        let [q, k, v] = floats(qkv)?;
        let mut out = puna_kernels::zeros(q.elem_count());
        let tokens = q.dims2()?.0;
        let mut logs = puna_kernels::zeros(tokens * self.attention.shape.heads);
        with_three([q, k, v], |q, k, v| flash_forward((q, k, v), &flash, &mut out, &mut logs))?;
        Ok((Rows::Float(Tensor::from_vec(out, q.shape(), &Device::Cpu)?), logs))
    }

    /// Gradients of queries, keys and values.
    fn attend_back(
        &self,
        qkv: &[Rows; 3],
        (out, logs, d_out): (&Rows, &[f32], &Rows),
    ) -> Result<[Rows; 3], NnError> {
        let flash = self.attention.flash();
        if let (Some(qkv), Rows::Rounded(out), Rows::Rounded(d_out)) = (rounded(qkv), out, d_out) {
            let all = flash_backward_rounded(qkv, (out, logs, d_out), &flash);
            return Ok(all.map(|rows| Rows::Rounded(Arc::new(rows))));
        }
        let ([q, k, v], [out, d_out]) = (floats(qkv)?, floats([out, d_out])?);
        let mut gradients = [q, k, v].map(|x| puna_kernels::zeros(x.elem_count()));
        let [dq, dk, dv] = &mut gradients;
        with_f32(out, |out| {
            with_f32(d_out, |d_out| {
                with_three([q, k, v], |q, k, v| {
                    let saved = FlashSaved { qkv: (q, k, v), out, logs, d_out };
                    flash_backward(&saved, &flash, (dq, dk, dv));
                })
            })
        })???;
        let [dq, dk, dv] = gradients;
        let rows = |values, like: &Tensor| {
            Ok::<_, NnError>(Rows::Float(Tensor::from_vec(values, like.shape(), &Device::Cpu)?))
        };
        Ok([rows(dq, q)?, rows(dk, k)?, rows(dv, v)?])
    }
}

fn rounded(qkv: &[Rows; 3]) -> Option<[&RoundedRows; 3]> {
    match qkv {
        [Rows::Rounded(q), Rows::Rounded(k), Rows::Rounded(v)] => Some([q, k, v]),
        _ => None,
    }
}

fn floats<'a, const N: usize>(
    rows: impl IntoIterator<Item = &'a Rows>,
) -> Result<[&'a Tensor; N], NnError> {
    let floats: Vec<&Tensor> = rows.into_iter().filter_map(Rows::floats).collect();
    floats.try_into().map_err(|_| NnError::Tracked { op: "attention of two kinds" })
}

/// Attends within rows.
///
/// # Shapes
/// `x` `[rows·T, C]` → `[rows·T, C']`, with query `[H·D, C]`, key and value `[K·D, C]`, output
/// `[C', H·D]`
///
/// # Errors
/// If widths do not agree, or the number of tokens is not that of the tables.
pub fn self_attention(x: &Value, of: SelfAttention) -> Result<Value, NnError> {
    let ((tokens, width), elements) = (x.tensor().dims2()?, elements(of.attention.precision));
    let AttentionShape { heads, kv_heads, head_dim } = of.attention.shape;
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    if tokens != of.tables.tokens() {
        let expected = of.tables.tokens();
        return Err(NnError::Shape { what: "tokens to rotate", expected, got: tokens });
    }
    let widths = [q_width, kv_width, kv_width];
    let x_rows = Arc::new(Rows::of(x, elements)?);
    let mut inputs = Vec::with_capacity(3);
    let mut qkv = Vec::with_capacity(3);
    for (i, (part, out)) in of.parts.iter().zip(widths).enumerate() {
        part.check(width, out, tokens)?;
        let input = part.inputs(Arc::clone(&x_rows), tokens, elements)?;
        let rows =
            part.terms(&input, elements, |terms| product((tokens, out), terms, elements))??;
        qkv.push(match i {
            0 => of.turned(rows, heads, false)?,
            1 => of.turned(rows, kv_heads, false)?,
            _ => rows,
        });
        inputs.push(input);
    }
    drop(x_rows);
    let Ok::<[Rows; 3], _>(qkv) = qkv.try_into() else { unreachable!("three were made") };
    let (out, logs) = of.attend(&qkv)?;
    let last = &of.parts[3];
    let y_width = last.weight.rows();
    last.check(q_width, y_width, tokens)?;
    let of_output = last.inputs(Arc::new(out.as_operand(elements)?), tokens, elements)?;
    let shape = (tokens, y_width);
    let y = last.terms(&of_output, elements, |terms| gemm_sum_new(shape, terms, elements))?;
    let y = Tensor::from_vec(y, shape, &Device::Cpu)?;
    Ok(Value::derived_adding(y, &[x], move |dy, before| {
        let last = &of.parts[3];
        let dy = Rows::of(&Value::constant(dy.clone()), elements)?;
        let d_h = last.gradients(&of_output, (&dy, tokens), elements)?;
        let shape = (tokens, q_width);
        let d_out = last.terms_back((&dy, &d_h), elements, |t| product(shape, t, elements))??;
        drop((of_output, dy));
        let [dq, dk, dv] = of.attend_back(&qkv, (&out, &logs, &d_out))?;
        drop((qkv, out, d_out));
        let all = [of.turned(dq, heads, true)?, of.turned(dk, kv_heads, true)?, dv];
        let mut gradients = Vec::with_capacity(3);
        for ((part, input), rows) in of.parts.iter().zip(inputs).zip(all) {
            let dy = rows.as_operand(elements)?;
            let d_h = part.gradients(&input, (&dy, tokens), elements)?;
            gradients.push((dy, d_h));
        }
        let of_parts = of.parts.iter().zip(&gradients);
        let of_parts: Vec<_> = of_parts.map(|(part, (dy, d_h))| (part, dy, d_h)).collect();
        let dx = input_gradient_of(&of_parts, (tokens, width), before, elements)?;
        Ok(vec![dx])
    })
    .fresh())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::batch_attention::tests::{attention, two_rows};
    use crate::ops::{batch_attention, rope};
    use crate::projection::tests::{are_alike, frozen, parameter, thin};
    use crate::value::tests::gradcheck;
    use crate::{Precision, Weight};
    use puna_testkit::{GradTolerance, random_tensor};

    /// Two rows of `len` tokens with 4 heads over 2, 8 features each, of an input of 6: frozen with
    /// thin matrices, and trained.
    fn example(len: usize, precision: Precision) -> SelfAttention {
        let mut attention = attention(len, &two_rows(len), Some(3));
        attention.precision = precision;
        let frozen = |seed, shape| Projection {
            weight: frozen(seed, shape),
            low_rank: Some(thin(seed + 1, shape)),
        };
        let trained = |seed, (out, width): (usize, usize)| Projection {
            weight: Arc::new(Weight::Trained(parameter(seed, &[out, width]))),
            low_rank: None,
        };
        let parts =
            [frozen(1, (32, 6)), trained(4, (16, 6)), frozen(5, (16, 6)), frozen(8, (6, 32))];
        let angles: Vec<f32> = (0..2 * len * 3).map(|i| i as f32 * 0.3).collect();
        let cos = angles.iter().map(|a| a.cos()).collect();
        let sin = angles.iter().map(|a| a.sin()).collect();
        SelfAttention { parts, attention, tables: Arc::new(RopeTables::new(cos, sin, 6)) }
    }

    fn one_by_one(x: &Value, of: &SelfAttention) -> Value {
        let precision = of.attention.precision;
        let [q, k, v, o] = &of.parts;
        let turn = |x: Value, heads| rope(&x, heads, &of.tables, precision).unwrap();
        let q = turn(q.alone(x, precision), 4);
        let k = turn(k.alone(x, precision), 2);
        let v = v.alone(x, precision);
        let out = batch_attention(&q, &k, &v, None, of.attention.clone()).unwrap();
        o.alone(&out, precision)
    }

    #[test]
    fn it_is_what_its_operations_are_one_by_one() {
        for len in [7, 130] {
            for (precision, bound) in [(Precision::Exact, 1e-5), (Precision::Fast, 0.05)] {
                let of = example(len, precision);
                // Small scores: where one key takes all, rounding it moves gradients far.
                let x = (random_tensor(3, &[2 * len, 6]) * 0.2).unwrap();
                let x = || Value::leaf(x.clone());
                let at_once = |x: &Value| self_attention(x, of.clone()).unwrap();
                are_alike((&x(), at_once), (&x(), |x| one_by_one(x, &of)), &of.parts, bound);
            }
        }
    }

    #[test]
    fn its_backward_matches_central_differences() {
        let of = example(5, Precision::Exact);
        gradcheck(
            |x| self_attention(&x[0], of.clone()),
            &[random_tensor(3, &[10, 6])],
            GradTolerance::default(),
        );
    }
}
