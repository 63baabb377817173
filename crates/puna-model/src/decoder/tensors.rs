//! The decoder over tensors: what runs on a GPU, what is trained, and what is adapted. Activations
//! are float32, products have the type of the weights.

use candle_core::Tensor;
use puna_nn::{Branch, Context, NnError, Pass, Value};

use super::{Block, Decoder, Segment};
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
}
