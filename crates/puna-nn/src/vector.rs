//! A vector of weights: of a norm, or a bias.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::ops::with_f32;
use crate::{NnError, Parameter};

/// Weights `[C]`.
#[derive(Clone, Debug)]
pub enum Vector {
    /// Not trained.
    Fixed(Tensor),
    /// Trained.
    Trained(Arc<Parameter>),
}

impl Vector {
    /// Number of its values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Vector::Fixed(tensor) => tensor.elem_count(),
            Vector::Trained(parameter) => parameter.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is trained.
    #[must_use]
    pub fn is_trained(&self) -> bool {
        matches!(self, Vector::Trained(_))
    }

    /// Lends the values.
    ///
    /// # Errors
    /// If they are not float32 on the CPU.
    pub fn with<T>(&self, f: impl FnOnce(&[f32]) -> T) -> Result<T, NnError> {
        match self {
            Vector::Fixed(tensor) => with_f32(tensor, f),
            Vector::Trained(parameter) => Ok(f(&parameter.values())),
        }
    }

    /// The values on the device of a pass; `None` if they are elsewhere.
    pub(crate) fn on_device(&self) -> Result<Option<Tensor>, NnError> {
        match self {
            Vector::Fixed(tensor) => Ok(Some(tensor.clone()).filter(|x| !x.device().is_cpu())),
            Vector::Trained(parameter) => parameter.device_operand(DType::F32),
        }
    }

    /// Adds to its gradient, if it is trained.
    pub(crate) fn add_gradient(&self, gradient: &[f32]) {
        if let Vector::Trained(parameter) = self {
            parameter.add_to_gradient(|sum| {
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            });
        }
    }
}
