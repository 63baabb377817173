//! The model that an adapter belongs to, under the names that adapter files use.

use puna_config::ModelConfig;
use puna_model::{Decoder, module_path};
use puna_nn::{Linear, Slot};

/// A model to be adapted.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// Its decoder.
    pub decoder: &'a Decoder,
    /// Its config.
    pub config: &'a ModelConfig,
}

/// A linear layer of a model.
#[derive(Clone)]
pub struct Module<'a> {
    /// Its place.
    pub slot: Slot,
    /// What Hugging Face's classes call it: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The layer.
    pub linear: &'a Linear,
}

impl<'a> Base<'a> {
    /// The linear layers, the head last. Those of a fused projection have no name of their own and are
    /// left out.
    #[must_use]
    pub fn modules(&self) -> Vec<Module<'a>> {
        let linears = self.decoder.linears().into_iter();
        linears
            .filter_map(|(slot, linear)| {
                let path = module_path(&self.config.decoder, self.config.family, slot)?;
                Some(Module { slot, path, linear })
            })
            .collect()
    }

    /// What the token embedding is called.
    #[must_use]
    pub fn embedding_path(&self) -> String {
        let path = module_path(&self.config.decoder, self.config.family, Slot::Embedding);
        path.unwrap_or_else(|| "model.embed_tokens".to_owned())
    }
}

impl Module<'_> {
    /// Output and input features.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.linear.weight().rows(), self.linear.weight().cols())
    }

    /// The block it is in.
    #[must_use]
    pub fn layer(&self) -> Option<usize> {
        match self.slot {
            Slot::Layer(layer, _) => Some(layer),
            _ => None,
        }
    }
}
