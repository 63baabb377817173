//! Token embedding: rows of a matrix in any stored form, scaled where the family scales.

use std::sync::Arc;

use candle_core::{Device, Tensor};

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

    /// Looks tokens up.
    ///
    /// # Shapes
    /// `N` ids → `[N, C]`
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn forward(&self, tokens: &[u32]) -> Result<Tensor, NnError> {
        let (vocab, hidden) = (self.weight.rows(), self.weight.cols());
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(NnError::TokenId { id, vocab });
        }
        if let Weight::Dense(weight) = &*self.weight {
            let ids = Tensor::new(tokens, weight.device())?;
            let rows = weight.index_select(&ids, 0)?; // [N, C]
            return Ok((rows * f64::from(self.scale))?);
        }
        let mut values = vec![0f32; tokens.len() * hidden];
        if let Some(matrix) = self.weight.matrix() {
            for (&id, out) in tokens.iter().zip(values.chunks_exact_mut(hidden.max(1))) {
                matrix.dequantize_row(id as usize, out);
                if self.scale != 1.0 {
                    out.iter_mut().for_each(|v| *v *= self.scale);
                }
            }
        }
        Ok(Tensor::from_vec(values, (tokens.len(), hidden), &Device::Cpu)?)
    }
}
