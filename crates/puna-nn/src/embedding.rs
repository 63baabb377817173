//! Token embedding: rows of a matrix in any stored form, scaled where the family scales.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::{NnError, Weight};

/// `x[n] = weight[token n] * scale`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Arc<Weight>,
    scale: f32,
}

impl Embedding {
    /// An embedding with rows `[V, C]`; Gemma's factor `sqrt(C)` is rounded to the activations'
    /// type, here float32.
    #[must_use]
    pub fn new(weight: Arc<Weight>, scale: f32) -> Self {
        Self { weight, scale }
    }

    /// The matrix, `[V, C]`.
    #[must_use]
    pub fn weight(&self) -> &Arc<Weight> {
        &self.weight
    }

    /// The matrix, to be replaced by one of its shape.
    pub fn weight_mut(&mut self) -> &mut Arc<Weight> {
        &mut self.weight
    }

    /// Factor of the rows.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Looks tokens up.
    ///
    /// # Shapes
    /// `N` ids → `[N, C]`
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn forward(&self, tokens: &[u32]) -> Result<Tensor, NnError> {
        self.check(tokens)?;
        let hidden = self.weight.cols();
        if let Weight::Dense(weight) = &*self.weight {
            let ids = Tensor::new(tokens, weight.device())?;
            let rows = weight.index_select(&ids, 0)?.to_dtype(DType::F32)?; // [N, C]
            return Ok(match self.scale {
                1.0 => rows,
                scale => (rows * f64::from(scale))?,
            });
        }
        if let Weight::Trained(parameter) = &*self.weight
            && let Some(weight) = parameter.device_operand(DType::F32)?
        {
            let ids = Tensor::new(tokens, weight.device())?;
            let rows = puna_cuda::look_up(&weight, &ids, self.scale)?;
            return rows.ok_or(NnError::Tracked { op: "training on this device" });
        }
        let mut values = puna_kernels::zeros(tokens.len() * hidden);
        if let Weight::Trained(parameter) = &*self.weight {
            let weight = parameter.values();
            for (&id, out) in tokens.iter().zip(values.chunks_exact_mut(hidden.max(1))) {
                let row = &weight[id as usize * hidden..][..hidden];
                out.iter_mut().zip(row).for_each(|(out, w)| *out = w * self.scale);
            }
            return Ok(Tensor::from_vec(values, (tokens.len(), hidden), &Device::Cpu)?);
        }
        self.infer(tokens, &mut values)?;
        Ok(Tensor::from_vec(values, (tokens.len(), hidden), &Device::Cpu)?)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), NnError> {
        let vocab = self.weight.rows();
        match tokens.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(NnError::TokenId { id, vocab }),
            None => Ok(()),
        }
    }

    /// [`Embedding::forward`] on slices, into `out` `[N, C]`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, `out` has another size or the weight is a tensor.
    pub fn infer(&self, tokens: &[u32], out: &mut [f32]) -> Result<(), NnError> {
        self.check(tokens)?;
        let hidden = self.weight.cols();
        let (expected, got) = (tokens.len() * hidden, out.len());
        if expected != got {
            return Err(NnError::Shape { what: "embedded values", expected, got });
        }
        let Some(matrix) = self.weight.matrix() else {
            return Err(NnError::Tracked { op: "inference on slices" });
        };
        let rows = tokens.iter().zip(out.chunks_exact_mut(hidden.max(1)));
        {
            for (&id, out) in rows {
                matrix.dequantize_row(id as usize, out);
                if self.scale != 1.0 {
                    out.iter_mut().for_each(|v| *v *= self.scale);
                }
            }
        }
        Ok(())
    }
}
