//! LoRA on the token embedding: `x[n] += s B A[:, token n]`.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{Elements, MatRef, Write, gemm};
use puna_nn::ops::LowRank;
use puna_nn::{EmbeddingAdapter, NnError, Parameter, Pass, Value};

/// `A` `[R, V]` and `B` `[C, R]`.
#[derive(Debug, Clone)]
pub(super) struct LoraEmbedding {
    matrices: LowRank,
}

impl LoraEmbedding {
    pub(super) fn new((a, b): (Arc<Parameter>, Arc<Parameter>), scale: f32) -> Self {
        Self { matrices: LowRank { a, b, scale } }
    }

    pub(super) fn scaled(&self, factor: f32) -> Self {
        let scale = self.matrices.scale * factor;
        Self { matrices: LowRank { scale, ..self.matrices.clone() } }
    }

    pub(super) fn parameters(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        [&self.matrices.a, &self.matrices.b].into_iter()
    }
}

impl EmbeddingAdapter for LoraEmbedding {
    fn forward(&self, tokens: &[u32], x: Value, scale: f32, pass: &Pass) -> Result<Value, NnError> {
        let a = pass.parameter(&self.matrices.a)?;
        let b = pass.parameter(&self.matrices.b)?;
        let factor = f64::from(self.matrices.scale * scale);
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let delta = Value::by_candle(&[&a, &b], move |x| {
            let rows = x[0].index_select(&ids, 1)?; // [R, N]
            x[1].matmul(&rows)?.t()?.contiguous()? * factor // [N, C]
        })?;
        x.add(&delta)
    }

    fn merge(&self, weight: &mut [f32]) -> Result<(), NnError> {
        let LowRank { a, b, scale } = &self.matrices;
        let (rank, vocab) = (a.shape()[0], a.shape()[1]);
        let a: Vec<f32> = a.values().iter().map(|a| a * scale).collect();
        let b = b.values();
        let width = b.len() / rank;
        let operands = (MatRef::rows(&a, vocab).t(), MatRef::rows(&b, rank).t());
        gemm((vocab, width, rank), operands, (weight, width), Write::Add, Elements::F32);
        Ok(())
    }
}
