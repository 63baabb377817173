//! LoRA beside one linear layer.

use std::sync::Arc;

use puna_kernels::{BlockFormat, Elements, MatRef, Write, gemm, gemm_new};
use puna_nn::ops::{LowRank, dropout, linear, low_rank, scale_columns};
use puna_nn::{BlockWeight, Linear, LinearAdapter, NnError, Pass, Value, Vector, Weight};

use super::dora::Dora;
use crate::init::seed_of;

/// `y + s B A dropout(x)`, less `s B₀ A₀ x` where the matrices began as a part of the weight; scaled
/// around the bias with DoRA.
#[derive(Debug, Clone)]
pub(super) struct LoraLayer {
    matrices: LowRank,
    initial: Option<Arc<Initial>>,
    dora: Option<Arc<Dora>>,
    dropout: f32,
    /// Of its dropout masks, beside the pass's.
    seed: u64,
}

/// What the matrices began as, where the base is meant to be without it (PiSSA): the base stays as it
/// is, so the layer takes it away.
#[derive(Debug)]
pub(super) struct Initial {
    /// `A₀` `[R, in]`
    pub(super) a: Vec<f32>,
    /// `B₀` `[out, R]`
    pub(super) b: Vec<f32>,
    /// `A₀` and `−s B₀`, not trained.
    weights: [Arc<Weight>; 2],
}

impl Initial {
    pub(super) fn new(
        (a, b): (Vec<f32>, Vec<f32>),
        rank: usize,
        scale: f32,
    ) -> Result<Self, NnError> {
        let negative: Vec<f32> = b.iter().map(|b| -scale * b).collect();
        let weights = [frozen(&a, rank, a.len() / rank)?, frozen(&negative, b.len() / rank, rank)?];
        Ok(Self { a, b, weights })
    }
}

/// A weight of float32 that has no gradient.
fn frozen(values: &[f32], rows: usize, cols: usize) -> Result<Arc<Weight>, NnError> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let block = BlockWeight::new(BlockFormat::F32, rows, cols, Arc::new(bytes))?;
    Ok(Arc::new(Weight::Block(block)))
}

impl LoraLayer {
    pub(super) fn new(matrices: LowRank, dropout: f32, path: &str) -> Self {
        Self { matrices, initial: None, dora: None, dropout, seed: seed_of(path) }
    }

    /// With magnitudes.
    pub(super) fn with_dora(self, dora: Dora) -> Self {
        Self { dora: Some(Arc::new(dora)), ..self }
    }

    /// Without what the matrices began as.
    pub(super) fn less(self, initial: Option<Initial>) -> Self {
        Self { initial: initial.map(Arc::new), ..self }
    }

    pub(super) fn matrices(&self) -> &LowRank {
        &self.matrices
    }

    pub(super) fn initial(&self) -> Option<&Initial> {
        self.initial.as_deref()
    }

    pub(super) fn dora(&self) -> Option<&Dora> {
        self.dora.as_deref()
    }

    /// With `factor s` in the place of `s`. As in peft, DoRA's magnitudes are not scaled: factor 0 is
    /// not the base then.
    pub(super) fn scaled(&self, factor: f32) -> Result<Self, NnError> {
        let (rank, scale) = (self.matrices.a.shape()[0], self.matrices.scale * factor);
        let initial = match &self.initial {
            Some(initial) if (factor - 1.0).abs() > f32::EPSILON => {
                let began = (initial.a.clone(), initial.b.clone());
                Some(Arc::new(Initial::new(began, rank, scale)?))
            }
            other => other.clone(),
        };
        let matrices = LowRank { scale, ..self.matrices.clone() };
        Ok(Self { matrices, initial, ..self.clone() })
    }

    fn adds(&self, x: &Value, y: Value, pass: &Pass) -> Result<Value, NnError> {
        let y = match pass.seed {
            Some(seed) if self.dropout > 0.0 => {
                let x = dropout(x, self.dropout, seed ^ self.seed)?;
                low_rank(&x, y, &self.matrices, pass.precision)?
            }
            _ => low_rank(x, y, &self.matrices, pass.precision)?,
        };
        let Some(initial) = &self.initial else { return Ok(y) };
        let [a, b] = &initial.weights;
        let h = linear(x, a, pass.precision)?; // [N, R]
        y.add(&linear(&h, b, pass.precision)?) // [N, out]
    }
}

/// The bias that the layer has added in this pass.
fn bias_of<'a>(layer: &'a Linear, pass: &'a Pass) -> Option<&'a Vector> {
    let set = pass.adapters.as_ref();
    let replaced = layer.slot().and_then(|slot| set?.linears.get(&slot)?.bias.as_ref());
    replaced.or(layer.bias())
}

/// `W += s B A` for `B` `[out, R]` and `A` `[R, in]`.
pub(super) fn add_product(weight: &mut [f32], (a, b): (&[f32], &[f32]), rank: usize, scale: f32) {
    let width = a.len() / rank;
    let b: Vec<f32> = b.iter().map(|b| b * scale).collect();
    let operands = (MatRef::rows(&b, rank), MatRef::rows(a, width));
    let shape = (b.len() / rank, width, rank);
    gemm(shape, operands, (weight, width), Write::Add, Elements::F32);
}

impl LinearAdapter for LoraLayer {
    fn output(&self, x: &Value, y: Value, layer: &Linear, pass: &Pass) -> Result<Value, NnError> {
        let sum = self.adds(x, y, pass)?;
        match &self.dora {
            None => Ok(sum),
            Some(dora) => scale_columns(sum, &dora.scale(&self.matrices)?, bias_of(layer, pass)),
        }
    }

    fn low_rank(&self, pass: &Pass) -> Option<&LowRank> {
        let drops = pass.seed.is_some() && self.dropout > 0.0;
        (self.initial.is_none() && self.dora.is_none() && !drops).then_some(&self.matrices)
    }

    fn merge(&self, weight: &mut [f32], _bias: Option<&mut [f32]>) -> Result<bool, NnError> {
        let LowRank { a, b, scale } = &self.matrices;
        let (rank, width) = (a.shape()[0], a.shape()[1]);
        let expected = b.shape()[0] * width;
        if weight.len() != expected {
            return Err(NnError::Shape { what: "merged weight", expected, got: weight.len() });
        }
        add_product(weight, (&a.values(), &b.values()), rank, *scale);
        if let Some(initial) = &self.initial {
            add_product(weight, (&initial.a, &initial.b), rank, -scale);
        }
        if let Some(dora) = &self.dora {
            dora.merge(weight, &self.matrices)?;
        }
        Ok(true)
    }

    /// `dB += s dW Aᵀ`, `dA += s Bᵀ dW`
    fn gradient_of_merged(&self, dw: &[f32]) -> Result<bool, NnError> {
        let LowRank { a, b, scale } = &self.matrices;
        let (rank, width) = (a.shape()[0], a.shape()[1]);
        let out = dw.len() / width;
        let mut before_dora = Vec::new();
        if let Some(dora) = &self.dora {
            let (a, b) = (a.values(), b.values());
            let operands = (MatRef::rows(&b, rank), MatRef::rows(&a, width));
            let ba = gemm_new((out, width, rank), operands, Elements::F32);
            before_dora = dw.to_vec();
            dora.gradient_of_merged(&mut before_dora, &ba, &self.matrices)?;
        }
        let dw = if before_dora.is_empty() { dw } else { &before_dora };
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
