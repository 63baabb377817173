//! RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) as a layer.

use crate::{NnError, Precision, Value, Vector, ops};

/// `y = x / sqrt(mean(x²) + eps) * weight` over the last axis.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Vector,
    eps: f32,
}

impl RmsNorm {
    /// A norm with the factor itself as weight, `[C]`, whatever the file stored.
    #[must_use]
    pub fn new(weight: Vector, eps: f64) -> Self {
        // f32 as every reference computes it.
        Self { weight, eps: eps as f32 }
    }

    /// The weight.
    #[must_use]
    pub fn weight(&self) -> &Vector {
        &self.weight
    }

    /// Added to the mean square.
    pub(crate) fn eps(&self) -> f32 {
        self.eps
    }

    /// The weight, to be replaced.
    pub fn weight_mut(&mut self) -> &mut Vector {
        &mut self.weight
    }

    /// Applies the norm to rows of the weight's length.
    ///
    /// # Shapes
    /// `x` `[.., n·C]` → the same; longer rows are normalized in pieces of `C` (heads).
    ///
    /// # Errors
    /// If the last axis is not a multiple of the weight's length.
    pub fn forward(&self, x: &Value) -> Result<Value, NnError> {
        self.forward_for(x, Precision::Exact)
    }

    /// [`RmsNorm::forward`] for products of some precision only, which may round on a GPU already.
    ///
    /// # Errors
    /// As there.
    pub fn forward_for(&self, x: &Value, product: Precision) -> Result<Value, NnError> {
        ops::rms_norm(x, &self.weight, self.eps, product)
    }

    /// [`RmsNorm::forward`] on slices.
    ///
    /// # Errors
    /// If the input is not whole rows, or the weight is not a float32 tensor on the CPU.
    pub fn infer(&self, x: &[f32], out: &mut [f32]) -> Result<(), NnError> {
        let width = self.weight.len();
        if width == 0 || !x.len().is_multiple_of(width) || x.len() != out.len() {
            return Err(NnError::Shape { what: "width of a norm", expected: width, got: x.len() });
        }
        self.weight.with(|w| puna_kernels::rms_norm(x, w, self.eps, out))
    }
}
