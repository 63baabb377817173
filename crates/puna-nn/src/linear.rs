//! `y = x Wᵀ + b`: the only matrix multiplication of the model.

use candle_core::Tensor;
use puna_kernels::Output;

use crate::workspace::apply;
use crate::{NnError, Precision, Weight, Workspace, ops};
use std::sync::Arc;

/// A linear layer over any stored form of its weight.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<Weight>,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with weight `[out, in]` and bias `[out]`.
    #[must_use]
    pub fn new(weight: Weight, bias: Option<Tensor>) -> Self {
        Self { weight: Arc::new(weight), bias }
    }

    /// A layer that shares another's weight (a tied head).
    #[must_use]
    pub fn shared(weight: Arc<Weight>) -> Self {
        Self { weight, bias: None }
    }

    /// The weight.
    #[must_use]
    pub fn weight(&self) -> &Arc<Weight> {
        &self.weight
    }

    /// The bias, `[out]`.
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// `x` `[N, in]` → `[N, out]`
    ///
    /// # Errors
    /// If the widths do not agree.
    pub fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor, NnError> {
        let y = ops::linear(x, &self.weight, precision)?; // [N, out]
        match &self.bias {
            None => Ok(y),
            Some(bias) => Ok(y.broadcast_add(bias)?),
        }
    }

    /// [`Linear::forward`] on slices: `out = …` or `out += …`, `[N, out]`.
    ///
    /// # Errors
    /// If the widths do not agree or the weight is a tensor.
    pub fn infer(
        &self,
        x: &[f32],
        out: Output<'_>,
        ws: &mut Workspace,
        precision: Precision,
    ) -> Result<(), NnError> {
        apply(x, &mut ws.buffers, &mut [(self, out)], precision)
    }
}
