//! DoRA (arXiv:2402.09353, eq. 5): `W' = m ∘ (W + s B A) / ‖W + s B A‖`, with one magnitude and one
//! norm per output row.
//!
//! As in section 4.3 of the paper and in peft, the norm follows the matrices but has no gradient.
//! `‖W + s B A‖²` of a row is `‖W‖² + 2 s b · (A Wᵀ) + s² bᵀ (A Aᵀ) b`, so nothing of the size of `W`
//! is made: `‖W‖²` is computed once, `A Wᵀ` (as much work as `r` tokens) when the matrices have
//! changed. peft makes `B A` and dequantizes `W` in every pass.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{Device, Tensor};
use puna_kernels::{Elements, MatRef, gemm_new};
use puna_nn::ops::{ColumnScale, LowRank, linear, with_f32};
use puna_nn::{NnError, Parameter, Precision, Value, Weight};

/// Magnitudes and norms of one layer.
#[derive(Debug)]
pub(super) struct Dora {
    /// `m` `[out]`
    magnitude: Arc<Parameter>,
    /// `W`
    weight: Arc<Weight>,
    /// `‖W‖²` of its rows.
    squares: OnceLock<Arc<[f64]>>,
    norms: Mutex<Option<Norms>>,
}

/// What was computed last.
#[derive(Debug, Clone)]
struct Norms {
    /// Versions of `A` and `B`, and the scale's bits.
    of: (u64, u64, u32),
    values: Arc<[f32]>,
}

/// Norms below this are taken as this: a row of zeros has magnitude 0, and stays one of zeros.
const SMALLEST: f64 = 1e-30;

impl Dora {
    pub(super) fn new(magnitude: Arc<Parameter>, weight: Arc<Weight>) -> Self {
        Self { magnitude, weight, squares: OnceLock::new(), norms: Mutex::default() }
    }

    /// Lets `m` begin as the norms, so that a fresh adapter changes no bit of what LoRA gives.
    pub(super) fn begin(&self, of: &LowRank) -> Result<(), NnError> {
        let norms = self.norms(of)?;
        self.magnitude.values_mut().copy_from_slice(&norms);
        Ok(())
    }

    pub(super) fn magnitude(&self) -> &Arc<Parameter> {
        &self.magnitude
    }

    /// `m / ‖W + s B A‖`
    pub(super) fn scale(&self, of: &LowRank) -> Result<ColumnScale, NnError> {
        let divisor = Some(self.norms(of)?);
        Ok(ColumnScale { factors: Arc::clone(&self.magnitude), divisor })
    }

    /// `‖W + s B A‖` of each row, computed anew where a matrix has changed.
    fn norms(&self, of: &LowRank) -> Result<Arc<[f32]>, NnError> {
        let state = (of.a.version(), of.b.version(), of.scale.to_bits());
        let mut norms = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        match &*norms {
            Some(known) if known.of == state => Ok(Arc::clone(&known.values)),
            _ => {
                let values = self.compute(of)?;
                *norms = Some(Norms { of: state, values: Arc::clone(&values) });
                Ok(values)
            }
        }
    }

    fn squares(&self) -> Result<Arc<[f64]>, NnError> {
        if let Some(squares) = self.squares.get() {
            return Ok(Arc::clone(squares));
        }
        let squares: Arc<[f64]> = row_squares(&self.weight)?.into();
        Ok(Arc::clone(self.squares.get_or_init(|| squares)))
    }

    fn compute(&self, of: &LowRank) -> Result<Arc<[f32]>, NnError> {
        let squares = self.squares()?;
        let (rank, width, s) = (of.a.shape()[0], of.a.shape()[1], f64::from(of.scale));
        let a = of.a.values();
        let operands = (MatRef::rows(&a, width), MatRef::rows(&a, width).t());
        let gram = gemm_new((rank, rank, width), operands, Elements::F32); // A Aᵀ
        let a = Value::constant(Tensor::from_slice(&a, (rank, width), &Device::Cpu)?);
        let cross = linear(&a, &self.weight, Precision::Exact)?; // A Wᵀ [R, out]
        let b = of.b.values();
        let out = squares.len();
        with_f32(cross.tensor(), |cross| {
            let norm = |(o, (b, square)): (usize, (&[f32], &f64))| {
                let mut sum = *square;
                for (r, &b_r) in b.iter().enumerate() {
                    let inner = b.iter().zip(&gram[r * rank..]);
                    let inner: f64 = inner.map(|(&b, &g)| f64::from(b) * f64::from(g)).sum();
                    let cross = f64::from(cross[r * out + o]);
                    sum += s * f64::from(b_r) * (2.0 * cross + s * inner);
                }
                sum.sqrt().max(SMALLEST) as f32
            };
            b.chunks_exact(rank).zip(squares.iter()).enumerate().map(norm).collect()
        })
    }

    /// Turns the dense `W + s B A` into `W'`.
    pub(super) fn merge(&self, weight: &mut [f32], of: &LowRank) -> Result<(), NnError> {
        let scale = self.scale(of)?.values();
        let width = of.a.shape()[1];
        let rows = weight.chunks_exact_mut(width).zip(&scale);
        rows.for_each(|(row, l)| row.iter_mut().for_each(|w| *w *= l));
        Ok(())
    }

    /// Adds the gradient of `m` that follows from that of `W'`, given the dense `B A`, and turns the
    /// latter gradient into that of `W + s B A`.
    pub(super) fn gradient_of_merged(
        &self,
        dw: &mut [f32],
        ba: &[f32],
        of: &LowRank,
    ) -> Result<(), NnError> {
        let (scale, width) = (self.scale(of)?, of.a.shape()[1]);
        let l = scale.values();
        let norms = self.norms(of)?;
        let dense = self.weight.dequantize()?;
        let gradient: Vec<f32> = with_f32(&dense, |w| {
            let row = |(o, norm): (usize, &f32)| {
                let row = o * width..(o + 1) * width;
                let terms = dw[row.clone()].iter().zip(w[row.clone()].iter().zip(&ba[row]));
                terms.map(|(dw, (w, ba))| dw * (w + of.scale * ba)).sum::<f32>() / norm
            };
            norms.iter().enumerate().map(row).collect()
        })?;
        self.magnitude.add_to_gradient(|sum| puna_kernels::add_in_place(sum, &gradient));
        let rows = dw.chunks_exact_mut(width).zip(&l);
        rows.for_each(|(row, l)| row.iter_mut().for_each(|dw| *dw *= l));
        Ok(())
    }
}

fn row_squares(weight: &Weight) -> Result<Vec<f64>, NnError> {
    let width = weight.cols().max(1);
    with_f32(&weight.dequantize()?, |w| {
        let square = |row: &[f32]| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        w.chunks_exact(width).map(square).collect()
    })
}
