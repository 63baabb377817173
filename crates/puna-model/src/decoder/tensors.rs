//! The decoder over tensors: what runs on a GPU, what is trained, and what is adapted. Activations
//! are float32, products have the type of the weights.

use candle_core::Tensor;
use puna_nn::{Branch, Context, FeedForward, NnError, Pass, Precision, Tokens, Value, project};

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
        if runs_fused(x, ctx) {
            return self.infer_on_device(x.tensor(), ctx).map(Value::constant);
        }
        let mut branch =
            self.attention.forward(&self.attn_pre_norm.forward_for(x, ctx.products())?, ctx)?;
        if let Some(norm) = &self.attn_post_norm {
            branch = norm.forward(&branch)?;
        }
        let x = add_branch((layer, Branch::Attention), x, branch, &ctx.pass)?;
        // A router wants float32.
        let products = match &self.ffn {
            FeedForward::Dense(_) => ctx.products(),
            FeedForward::Moe(_) => Precision::Exact,
        };
        let mut branch = self.ffn.forward(&self.ffn_pre_norm.forward_for(&x, products)?, ctx)?;
        if let Some(norm) = &self.ffn_post_norm {
            branch = norm.forward(&branch)?;
        }
        add_branch((layer, Branch::Ffn), &x, branch, &ctx.pass)
    }

    /// [`Self::forward`] on a GPU, without adapters and gradients.
    fn infer_on_device(&self, x: &Tensor, ctx: &mut Context<'_, '_>) -> Result<Tensor, NnError> {
        let attended = self.attention.infer_on_device(x, &self.attn_pre_norm, ctx)?; // [N, H·D]
        let output = [&self.attention.parts().output];
        let x = match &self.attn_post_norm {
            None => project(&attended, None, output, Some(x), &ctx.pass)?,
            Some(norm) => {
                let [branch] = project(&attended, None, output, None, &ctx.pass)?;
                [(x + norm.forward(&Value::constant(branch))?.tensor())?]
            }
        };
        let [x] = x;
        match &self.ffn_post_norm {
            None => self.ffn.infer_on_device(&x, &self.ffn_pre_norm, Some(&x), ctx),
            Some(norm) => {
                let branch = self.ffn.infer_on_device(&x, &self.ffn_pre_norm, None, ctx)?;
                Ok((x + norm.forward(&Value::constant(branch))?.tensor())?)
            }
        }
    }
}

/// Whether a pass is one of inference on a GPU of which nothing is adapted.
fn runs_fused(x: &Value, ctx: &Context<'_, '_>) -> bool {
    let over_caches = matches!(ctx.tokens, Tokens::Segments(_));
    let plain = ctx.pass.adapters.is_none() && ctx.prefix.is_none();
    over_caches && plain && !x.is_tracked() && x.tensor().device().is_cuda()
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
