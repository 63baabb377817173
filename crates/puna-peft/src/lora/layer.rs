//! LoRA beside one linear layer.

use puna_kernels::{Elements, MatRef, Write, gemm};
use puna_nn::ops::{LowRank, dropout, low_rank};
use puna_nn::{Linear, LinearAdapter, NnError, Pass, Value};

use crate::init::seed_of;

/// `y + s B A dropout(x)`
#[derive(Debug, Clone)]
pub(super) struct LoraLayer {
    matrices: LowRank,
    dropout: f32,
    /// Of its dropout masks, beside the pass's.
    seed: u64,
}

impl LoraLayer {
    pub(super) fn new(matrices: LowRank, dropout: f32, path: &str) -> Self {
        Self { matrices, dropout, seed: seed_of(path) }
    }

    pub(super) fn matrices(&self) -> &LowRank {
        &self.matrices
    }

    pub(super) fn scaled(&self, factor: f32) -> Self {
        let matrices = LowRank { scale: self.matrices.scale * factor, ..self.matrices.clone() };
        Self { matrices, ..self.clone() }
    }
}

impl LinearAdapter for LoraLayer {
    fn output(&self, x: &Value, y: Value, _layer: &Linear, pass: &Pass) -> Result<Value, NnError> {
        match pass.seed {
            Some(seed) if self.dropout > 0.0 => {
                let x = dropout(x, self.dropout, seed ^ self.seed)?;
                low_rank(&x, y, &self.matrices, pass.precision)
            }
            _ => low_rank(x, y, &self.matrices, pass.precision),
        }
    }

    fn merge(&self, weight: &mut [f32], _bias: Option<&mut [f32]>) -> Result<bool, NnError> {
        let LowRank { a, b, scale } = &self.matrices;
        let (rank, width) = (a.shape()[0], a.shape()[1]);
        let b: Vec<f32> = b.values().iter().map(|b| b * scale).collect();
        let a = a.values();
        let operands = (MatRef::rows(&b, rank), MatRef::rows(&a, width));
        let shape = (b.len() / rank, width, rank);
        gemm(shape, operands, (weight, width), Write::Add, Elements::F32);
        Ok(true)
    }

    /// `dB += s dW Aᵀ`, `dA += s Bᵀ dW`
    fn gradient_of_merged(&self, dw: &[f32]) -> Result<bool, NnError> {
        let LowRank { a, b, scale } = &self.matrices;
        let (rank, width) = (a.shape()[0], a.shape()[1]);
        let out = dw.len() / width;
        let dw = MatRef::rows(dw, width);
        let scaled = |x: &[f32]| x.iter().map(|x| x * scale).collect::<Vec<f32>>();
        let (a_values, b_values) = (scaled(&a.values()), scaled(&b.values()));
        b.add_gradient(|db, write| {
            let operands = (dw, MatRef::rows(&a_values, width).t());
            gemm((out, rank, width), operands, (db, rank), write, Elements::F32);
        });
        a.add_gradient(|da, write| {
            let operands = (MatRef::rows(&b_values, rank).t(), dw);
            gemm((rank, width, out), operands, (da, width), write, Elements::F32);
        });
        Ok(true)
    }
}
