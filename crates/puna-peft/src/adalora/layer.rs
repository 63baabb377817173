//! AdaLoRA beside one linear layer.

use std::sync::Arc;

use puna_kernels::{Elements, MatRef, Write, gemm, gemm_new};
use puna_nn::ops::{ColumnScale, dropout, linear, scale_columns};
use puna_nn::{Linear, LinearAdapter, NnError, Parameter, Pass, Value, Weight};

use super::saved;
use crate::SavedTensor;
use crate::init::seed_of;

/// Singular values with their vectors: `ΔW = s B (E ∘ A)`.
#[derive(Debug, Clone)]
pub(super) struct Triplets {
    /// `Q` `[R, in]`
    pub(super) a: Arc<Parameter>,
    /// `Λ` `[R, 1]`
    pub(super) e: Arc<Parameter>,
    /// `P` `[out, R]`
    pub(super) b: Arc<Parameter>,
}

impl Triplets {
    pub(super) fn rank(&self) -> usize {
        self.e.len()
    }

    /// `in` and `out`.
    pub(super) fn widths(&self) -> (usize, usize) {
        (self.a.shape()[1], self.b.shape()[0])
    }

    /// What is left of the matrices in a file.
    pub(super) fn saved(&self, kept: Option<&[bool]>) -> [SavedTensor; 3] {
        let (r, (width, out)) = (self.rank(), self.widths());
        let all = vec![true; r];
        let kept = kept.unwrap_or(&all);
        let rank = kept.iter().filter(|&&kept| kept).count();
        let rows = |values: &[f32], width: usize| -> Vec<f32> {
            let rows = values.chunks_exact(width).zip(kept).filter(|(_, kept)| **kept);
            rows.flat_map(|(row, _)| row.iter().copied()).collect()
        };
        let b = self.b.values();
        let columns = b.iter().zip(kept.iter().cycle()).filter(|(_, kept)| **kept);
        [
            saved(&self.a, [rank, width], rows(&self.a.values(), width)),
            saved(&self.b, [out, rank], columns.map(|(b, _)| *b).collect()),
            saved(&self.e, [rank, 1], rows(&self.e.values(), 1)),
        ]
    }

    /// `factor (‖AAᵀ − I‖ + ‖BᵀB − I‖)`, whose gradient is added: `factor · 2 G A / ‖G‖` for
    /// `G = AAᵀ − I`, and `2 B G / ‖G‖` for that of `B`.
    pub(super) fn regularize(&self, factor: f64) -> f64 {
        let (r, (width, out)) = (self.rank(), self.widths());
        let (a, b) = (self.a.values().clone(), self.b.values().clone());
        let (rows_a, rows_b) = (MatRef::rows(&a, width), MatRef::rows(&b, r));
        let mut sum = 0.0;
        let products = [(width, (rows_a, rows_a.t())), (out, (rows_b.t(), rows_b))];
        for (index, (inner, operands)) in products.into_iter().enumerate() {
            let mut g = gemm_new((r, r, inner), operands, Elements::F32);
            g.iter_mut().step_by(r + 1).for_each(|g| *g -= 1.0);
            let norm = puna_kernels::sum_of_squares(&g).sqrt();
            sum += factor * norm;
            if norm == 0.0 {
                continue;
            }
            g.iter_mut().for_each(|g| *g *= (2.0 * factor / norm) as f32);
            let g = MatRef::rows(&g, r);
            match index {
                0 => self.a.add_gradient(|da, write| {
                    gemm((r, width, r), (g, rows_a), (da, width), write, Elements::F32);
                }),
                _ => self.b.add_gradient(|db, write| {
                    gemm((out, r, r), (rows_b, g), (db, r), write, Elements::F32);
                }),
            }
        }
        sum
    }
}

/// `y + s B (E ∘ (A dropout(x)))`
#[derive(Debug, Clone)]
pub(super) struct AdaLoraLayer {
    triplets: Triplets,
    /// `A` and `B` as layers multiply them.
    weights: [Arc<Weight>; 2],
    scale: f32,
    dropout: f32,
    /// Of its dropout masks, beside the pass's.
    seed: u64,
}

impl AdaLoraLayer {
    pub(super) fn new(triplets: Triplets, (scale, dropout): (f32, f32), path: &str) -> Self {
        let weights = [&triplets.a, &triplets.b].map(|p| Arc::new(Weight::Trained(Arc::clone(p))));
        Self { triplets, weights, scale, dropout, seed: seed_of(path) }
    }

    pub(super) fn triplets(&self) -> &Triplets {
        &self.triplets
    }

    pub(super) fn scaled(&self, factor: f32) -> Self {
        Self { scale: self.scale * factor, ..self.clone() }
    }

    /// `s E`. A scale of 0 has no reciprocal; the adapter is left out then.
    fn singular_values(&self) -> ColumnScale {
        let divisor = vec![1.0 / self.scale; self.triplets.rank()];
        ColumnScale { factors: Arc::clone(&self.triplets.e), divisor: Some(divisor.into()) }
    }
}

impl LinearAdapter for AdaLoraLayer {
    fn output(&self, x: &Value, y: Value, _layer: &Linear, pass: &Pass) -> Result<Value, NnError> {
        if self.scale == 0.0 {
            return Ok(y);
        }
        let dropped = match pass.seed {
            Some(seed) if self.dropout > 0.0 => Some(dropout(x, self.dropout, seed ^ self.seed)?),
            _ => None,
        };
        let [a, b] = &self.weights;
        let h = linear(dropped.as_ref().unwrap_or(x), a, pass.precision)?; // [N, R]
        let h = scale_columns(h, &self.singular_values(), None)?;
        y.add(&linear(&h, b, pass.precision)?) // [N, out]
    }

    fn merge(&self, weight: &mut [f32], _bias: Option<&mut [f32]>) -> Result<bool, NnError> {
        let (r, (width, out)) = (self.triplets.rank(), self.triplets.widths());
        if weight.len() != out * width {
            let (what, expected) = ("merged weight", out * width);
            return Err(NnError::Shape { what, expected, got: weight.len() });
        }
        let e = self.triplets.e.values();
        let mut a = self.triplets.a.values().clone();
        for (row, e) in a.chunks_exact_mut(width).zip(e.iter()) {
            row.iter_mut().for_each(|a| *a *= self.scale * e);
        }
        let b = self.triplets.b.values();
        let operands = (MatRef::rows(&b, r), MatRef::rows(&a, width));
        gemm((out, width, r), operands, (weight, width), Write::Add, Elements::F32);
        Ok(true)
    }

    /// With `G = s Bᵀ dW`: `dA += E ∘ G`, `dE += Σ G ∘ A`, `dB += s dW (E ∘ A)ᵀ`
    fn gradient_of_merged(&self, dw: &[f32]) -> Result<bool, NnError> {
        let Triplets { a, e, b } = &self.triplets;
        let (r, (width, out)) = (self.triplets.rank(), self.triplets.widths());
        let dw = MatRef::rows(dw, width);
        let e_values = e.values().clone();
        let mut g = {
            let b = b.values();
            gemm_new((r, width, out), (MatRef::rows(&b, r).t(), dw), Elements::F32)
        }; // [R, in]
        let mut ea = a.values().clone();
        e.add_to_gradient(|de| {
            let rows = g.chunks_exact_mut(width).zip(ea.chunks_exact_mut(width));
            for ((de, e), (g, a)) in de.iter_mut().zip(&e_values).zip(rows) {
                *de += self.scale * g.iter().zip(a.iter()).map(|(g, a)| g * a).sum::<f32>();
                g.iter_mut().for_each(|g| *g *= self.scale * e);
                a.iter_mut().for_each(|a| *a *= self.scale * e);
            }
        });
        a.add_to_gradient(|da| puna_kernels::add_in_place(da, &g));
        b.add_gradient(|db, write| {
            let operands = (dw, MatRef::rows(&ea, width).t());
            gemm((out, r, width), operands, (db, r), write, Elements::F32);
        });
        Ok(true)
    }
}
