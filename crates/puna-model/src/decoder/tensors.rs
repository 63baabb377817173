//! The decoder over tensors: what runs on a GPU, what is trained, and what is adapted. Activations
//! are float32, products have the type of the weights.

use candle_core::Tensor;
use puna_nn::{Branch, Context, NnError, Pass, Value};

use super::{Block, Decoder, Logits, Segment};
use crate::ModelError;

impl Block {
    /// The residual stream behind block `layer`.
    ///
    /// # Shapes
    /// `x` `[N, C]` → `[N, C]`
    pub(super) fn forward(
        &self,
        layer: usize,
        x: &Value,
        ctx: &mut Context<'_, '_>,
    ) -> Result<Value, NnError> {
        let mut branch = self.attention.forward(&self.attn_pre_norm.forward(x)?, ctx)?;
        if let Some(norm) = &self.attn_post_norm {
            branch = norm.forward(&branch)?;
        }
        let x = add_branch((layer, Branch::Attention), x, branch, &ctx.pass)?;
        let mut branch = self.ffn.forward(&self.ffn_pre_norm.forward(&x)?, ctx)?;
        if let Some(norm) = &self.ffn_post_norm {
            branch = norm.forward(&branch)?;
        }
        add_branch((layer, Branch::Ffn), &x, branch, &ctx.pass)
    }
}

fn add_branch(
    at: (usize, Branch),
    x: &Value,
    branch: Value,
    pass: &Pass,
) -> Result<Value, NnError> {
    match &pass.adapters {
        None => x.add(&branch),
        Some(set) => x.add(&set.branch(at, x, branch, pass)?),
    }
}

impl Decoder {
    /// The residual stream behind all blocks, `[N, C]`.
    pub(super) fn hidden_states(
        &self,
        tokens: &[u32],
        segments: &mut [Segment<'_>],
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let x = self.embedded(tokens, pass)?;
        let x = self.through_blocks(x, segments, pass)?;
        Ok(x.tensor().clone())
    }

    /// Runs the residual stream of some segments' tokens through all blocks.
    pub(super) fn through_blocks(
        &self,
        mut x: Value,
        segments: &mut [Segment<'_>],
        pass: &Pass,
    ) -> Result<Value, ModelError> {
        // What was written before the first token stays.
        let prefixes = match segments.iter().any(|segment| segment.cache.is_empty()) {
            true => self.prefixes(pass)?,
            false => Vec::new(),
        };
        self.with_context(segments, pass, |ctx| {
            for (layer, block) in self.blocks.iter().enumerate() {
                ctx.prefix = prefixes.get(layer).cloned();
                x = block.forward(layer, &x, ctx)?;
            }
            Ok(x)
        })
    }

    /// Logits of the wanted rows, `[rows, V]`.
    pub(super) fn tensor_logits(
        &self,
        x: Tensor,
        lens: &[usize],
        wanted: Logits,
        pass: &Pass,
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
            let mut y = self.head.forward(&x, pass)?.tensor().clone();
            if let Some(cap) = self.config.final_logit_softcap {
                y = puna_nn::ops::soft_cap(&y, cap)?;
            }
            Ok(y.flatten_all()?.to_vec1()?)
        };
        Ok(logits()?)
    }
}
