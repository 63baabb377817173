//! The decoder over tensors: what runs on a GPU, and what is trained. Activations are float32,
//! products have the type of the weights.

use candle_core::Tensor;
use puna_nn::{Context, NnError, Value};

use super::{Block, Decoder, Logits, Segment};
use crate::ModelError;

impl Block {
    /// The residual stream behind the block.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    pub(super) fn forward(&self, x: &Value, ctx: &mut Context<'_, '_>) -> Result<Value, NnError> {
        let mut branch = self.attention.forward(&self.attn_pre_norm.forward(x)?, ctx)?;
        if let Some(norm) = &self.attn_post_norm {
            branch = norm.forward(&branch)?;
        }
        let x = x.add(&branch)?;
        let mut branch = self.ffn.forward(&self.ffn_pre_norm.forward(&x)?, ctx)?;
        if let Some(norm) = &self.ffn_post_norm {
            branch = norm.forward(&branch)?;
        }
        x.add(&branch)
    }
}

impl Decoder {
    /// The residual stream behind all blocks, `[N, C]`.
    pub(super) fn hidden_states(
        &self,
        tokens: &[u32],
        segments: &mut [Segment<'_>],
    ) -> Result<Tensor, ModelError> {
        let mut x = Value::constant(self.embedding.forward(tokens)?); // [N, C]
        self.with_context(segments, |ctx| {
            for block in &self.blocks {
                x = block.forward(&x, ctx)?;
            }
            Ok(x.tensor().clone())
        })
    }

    /// Logits of the wanted rows, `[rows, V]`.
    pub(super) fn tensor_logits(
        &self,
        x: Tensor,
        lens: &[usize],
        wanted: Logits,
    ) -> Result<Vec<f32>, ModelError> {
        let logits = || -> Result<Vec<f32>, NnError> {
            let x = match wanted {
                Logits::None => return Ok(Vec::new()),
                Logits::All => x,
                Logits::Last => {
                    let mut end = 0;
                    let last = |len: &usize| {
                        end += *len as u32;
                        end - 1
                    };
                    let last: Vec<u32> = lens.iter().map(last).collect();
                    x.index_select(&Tensor::new(last, x.device())?, 0)?
                }
            };
            let x = self.final_norm.forward(&Value::constant(x))?;
            let mut y = self.head.forward(&x, self.precision)?.tensor().clone();
            if let Some(cap) = self.config.final_logit_softcap {
                y = puna_nn::ops::soft_cap(&y, cap)?;
            }
            Ok(y.flatten_all()?.to_vec1()?)
        };
        Ok(logits()?)
    }
}
