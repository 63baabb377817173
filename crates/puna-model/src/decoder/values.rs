//! What the decoder's places hold, in float32.

use puna_nn::ops::with_f32;
use puna_nn::{Expert, FeedForward, Linear, Mlp, RmsNorm, Vector, Weight};

use super::{Block, Decoder};
use crate::{LayerSlot, ModelError, Slot};

impl Decoder {
    /// The values of a slot, dequantized, in puna's row order and with a norm's whole factor; `None`
    /// where the decoder has no such place.
    ///
    /// # Errors
    /// If a weight is not on the CPU.
    pub fn values(&self, slot: Slot) -> Result<Option<Vec<f32>>, ModelError> {
        let Slot::Layer(layer, of_layer) = slot else {
            return Ok(Some(match slot {
                Slot::Embedding => matrix(self.embedding.weight())?,
                Slot::Head => matrix(self.head.weight())?,
                _ => vector(self.final_norm.weight())?,
            }));
        };
        match self.blocks.get(layer) {
            Some(block) => block.values(of_layer),
            None => Ok(None),
        }
    }
}

impl Block {
    fn values(&self, slot: LayerSlot) -> Result<Option<Vec<f32>>, ModelError> {
        use LayerSlot as L;
        let parts = self.attention.parts();
        let norm = |norm: Option<&RmsNorm>| norm.map(|n| vector(n.weight())).transpose();
        let weight = |linear: Option<&Linear>| linear.map(|l| matrix(l.weight())).transpose();
        let bias = |linear: Option<&Linear>| linear.and_then(Linear::bias).map(vector).transpose();
        match slot {
            L::AttnPreNorm => norm(Some(&self.attn_pre_norm)),
            L::AttnPostNorm => norm(self.attn_post_norm.as_ref()),
            L::FfnPreNorm => norm(Some(&self.ffn_pre_norm)),
            L::FfnPostNorm => norm(self.ffn_post_norm.as_ref()),
            L::QueryNorm => norm(parts.query_norm.as_ref()),
            L::KeyNorm => norm(parts.key_norm.as_ref()),
            L::Query => weight(Some(&parts.query)),
            L::Key => weight(Some(&parts.key)),
            L::Value => weight(Some(&parts.value)),
            L::Output => weight(Some(&parts.output)),
            L::QueryBias => bias(Some(&parts.query)),
            L::KeyBias => bias(Some(&parts.key)),
            L::ValueBias => bias(Some(&parts.value)),
            L::OutputBias => bias(Some(&parts.output)),
            L::Router => match &self.ffn {
                FeedForward::Moe(moe) => weight(Some(&moe.router)),
                FeedForward::Dense(_) => Ok(None),
            },
            L::Gate(expert) => weight(self.mlp(expert).map(|mlp| &mlp.gate)),
            L::Up(expert) => weight(self.mlp(expert).map(|mlp| &mlp.up)),
            L::Down(expert) => weight(self.mlp(expert).map(|mlp| &mlp.down)),
            L::GateBias => bias(self.mlp(Expert::Dense).map(|mlp| &mlp.gate)),
            L::UpBias => bias(self.mlp(Expert::Dense).map(|mlp| &mlp.up)),
            L::DownBias => bias(self.mlp(Expert::Dense).map(|mlp| &mlp.down)),
        }
    }

    fn mlp(&self, expert: Expert) -> Option<&Mlp> {
        match (&self.ffn, expert) {
            (FeedForward::Dense(mlp), Expert::Dense) => Some(mlp),
            (FeedForward::Moe(moe), Expert::Index(index)) => moe.experts.get(index),
            _ => None,
        }
    }
}

fn matrix(weight: &Weight) -> Result<Vec<f32>, ModelError> {
    Ok(with_f32(&weight.dequantize()?, <[f32]>::to_vec)?)
}

fn vector(vector: &Vector) -> Result<Vec<f32>, ModelError> {
    Ok(vector.with(<[f32]>::to_vec)?)
}
