//! From the residual stream to what a pass returns: rows are chosen before the final norm and the
//! head, whose products are a large part of a pass over few tokens.

use candle_core::Tensor;
use puna_kernels::Output as Sum;
use puna_nn::{NnError, Pass, Value, project};

use super::{Buffers, Decoder, Logits, Segment};
use crate::ModelError;

/// What a pass returns of the rows that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// `[rows, V]`
    Logits,
    /// Behind the final norm, `[rows, C]`.
    States,
}

/// The wanted rows of `N` tokens.
#[derive(Debug)]
pub(super) struct Rows {
    tokens: usize,
    /// In ascending order.
    chosen: Vec<u32>,
}

impl Rows {
    pub(super) fn new(segments: &[Segment<'_>], wanted: &[Logits]) -> Self {
        let lens = segments.iter().map(|segment| segment.tokens.len());
        Self::of(lens, wanted.iter().copied())
    }

    pub(super) fn of(
        lens: impl Iterator<Item = usize>,
        wanted: impl Iterator<Item = Logits>,
    ) -> Self {
        let (mut tokens, mut chosen) = (0, Vec::new());
        for (len, wanted) in lens.zip(wanted) {
            let (first, end) = (tokens as u32, (tokens + len) as u32);
            match wanted {
                Logits::None => {}
                Logits::Last => chosen.push(end - 1),
                Logits::All => chosen.extend(first..end),
            }
            tokens += len;
        }
        Self { tokens, chosen }
    }

    fn are_all(&self) -> bool {
        self.chosen.len() == self.tokens
    }
}

impl Decoder {
    /// What is wanted of the residual stream in `buffers.x`, whose rows are moved.
    pub(super) fn slice_output(
        &self,
        buffers: &mut Buffers,
        rows: &Rows,
        output: Output,
    ) -> Result<Vec<f32>, ModelError> {
        if rows.chosen.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.config.hidden_size;
        for (to, &from) in rows.chosen.iter().enumerate() {
            let from = from as usize * hidden;
            buffers.x.copy_within(from..from + hidden, to * hidden);
        }
        let values = rows.chosen.len() * hidden;
        let normed = &mut buffers.normed[..values];
        self.final_norm.infer(&buffers.x[..values], normed)?; // [rows, C]
        if output == Output::States {
            return Ok(normed.to_vec());
        }
        let mut values = vec![0f32; rows.chosen.len() * self.head.weight().rows()]; // [rows, V]
        let out = Sum::Set(&mut values);
        self.head.infer(normed, out, &mut buffers.workspace, self.precision)?;
        if let Some(cap) = self.config.final_logit_softcap {
            puna_kernels::soft_cap(&mut values, cap as f32);
        }
        Ok(values)
    }

    /// What is wanted of the residual stream `x` `[N, C]`.
    pub(super) fn tensor_output(
        &self,
        x: Tensor,
        rows: &Rows,
        output: Output,
        pass: &Pass,
    ) -> Result<Vec<f32>, ModelError> {
        let values = || -> Result<Vec<f32>, NnError> {
            if rows.chosen.is_empty() {
                return Ok(Vec::new());
            }
            let x = match rows.are_all() {
                true => x,
                false => x.index_select(&Tensor::new(&*rows.chosen, x.device())?, 0)?,
            };
            if output == Output::States {
                let x = self.final_norm.forward(&Value::constant(x))?; // [rows, C]
                return Ok(x.tensor().flatten_all()?.to_vec1()?);
            }
            let mut y = match (&pass.adapters, x.device().is_cuda()) {
                (None, true) => {
                    let [y] = project(&x, Some(&self.final_norm), [&self.head], None, pass)?;
                    y
                }
                _ => {
                    let x = self.final_norm.forward(&Value::constant(x))?; // [rows, C]
                    self.head.forward(&x, pass)?.tensor().clone()
                }
            }; // [rows, V]
            if let Some(cap) = self.config.final_logit_softcap {
                y = puna_nn::ops::soft_cap(&y, cap)?;
            }
            Ok(y.flatten_all()?.to_vec1()?)
        };
        Ok(values()?)
    }
}

#[cfg(test)]
mod tests {
    use super::{Logits, Rows};

    #[test]
    fn each_segment_has_its_own_rows() {
        let wanted = [Logits::Last, Logits::None, Logits::All, Logits::Last];
        let rows = Rows::of([3, 2, 2, 1].into_iter(), wanted.into_iter());
        assert_eq!(rows.chosen, [2, 5, 6, 7]);
        assert!(!rows.are_all());
    }
}
