//! Gates (UniPELT, arXiv:2110.07577): `g = mean over a sequence's positions of σ(W x + b)`.
//!
//! The mean runs over all positions of a row, padding and other documents too, as in the library, so
//! that a token's result depends on tokens behind it.

use std::sync::Arc;

use candle_core::Tensor;
use puna_nn::{NnError, Parameter, Pass, Value};

use super::activation::sigmoid;
use super::builder::{Builder, LinearInit};
use crate::PeftError;

/// A gate for `O` things: `W` `[O, C]`, `b` `[O]`.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    weight: Arc<Parameter>,
    bias: Arc<Parameter>,
}

impl Gate {
    /// A gate whose tensors are `path.weight` and `path.bias`.
    pub(super) fn new(
        path: &str,
        shape: [usize; 2],
        init: LinearInit,
        builder: &mut Builder<'_>,
    ) -> Result<Self, PeftError> {
        let (weight, bias) = builder.linear(path, shape, init)?;
        Ok(Self { weight, bias })
    }

    /// The gates of each sequence, `[B, O]`, for the input `x` `[N, C]`.
    pub(super) fn of(&self, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        let (weight, bias) = (pass.parameter(&self.weight)?, pass.parameter(&self.bias)?);
        let rows = sequences(x, pass)?;
        Value::by_candle(&[x, &weight, &bias], move |t| {
            let gates = sigmoid(&t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2])?)?; // [N, O]
            gates.reshape((rows, (), t[2].elem_count()))?.mean(1) // [B, O]
        })
    }

    /// Multiplies each sequence's rows of `y` `[N, out]` by its gate.
    pub(super) fn scale(&self, y: &Value, x: &Value, pass: &Pass) -> Result<Value, NnError> {
        let gates = self.of(x, pass)?; // [B, 1]
        Value::by_candle(&[y, &gates], |t| scale_rows(&t[0], &t[1]))
    }
}

fn scale_rows(y: &Tensor, gates: &Tensor) -> candle_core::Result<Tensor> {
    let sequences = gates.dim(0)?;
    let by_sequence = y.reshape((sequences, (), y.dim(1)?))?;
    by_sequence.broadcast_mul(&gates.unsqueeze(2)?)?.reshape(y.shape())
}

/// Number of sequences that `x` `[N, C]` holds.
pub(super) fn sequences(x: &Value, pass: &Pass) -> Result<usize, NnError> {
    let tokens = x.tensor().dims2()?.0;
    if pass.row_len == 0 || !tokens.is_multiple_of(pass.row_len) {
        let what = "tokens of a gate's sequences";
        return Err(NnError::Shape { what, expected: pass.row_len, got: tokens });
    }
    Ok(tokens / pass.row_len)
}
