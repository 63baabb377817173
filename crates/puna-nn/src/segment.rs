//! What one forward pass works on: runs of new tokens, each of one sequence with its cache.
//!
//! The tokens of all segments stand behind one another in `[N, C]`; there is no padding and no
//! batch axis. A sequence's result does not depend on its neighbours.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use crate::{KvCache, NnError, Pass, Precision, RopeTables, Value};

/// New tokens of one sequence.
pub struct Segment<'a> {
    /// Number of new tokens (`T`).
    pub len: usize,
    /// What the sequence remembers; written by the attention layers.
    pub cache: &'a mut KvCache,
}

/// Rows of a batch, of one length, that nothing is remembered of.
#[derive(Debug, Clone)]
pub struct RowsOfTokens {
    /// Tokens of a row (`T`).
    pub len: usize,
    /// Index in its row of the first token that each token sees, `[rows·T]`: where its document
    /// begins. Never decreases along a row, and is at most the token's own index.
    pub visible_from: Arc<Vec<u32>>,
    /// The same on the device of the pass, made once for all its layers.
    on_device: Arc<OnceLock<Tensor>>,
}

impl RowsOfTokens {
    /// Rows of `len` tokens each.
    #[must_use]
    pub fn new(len: usize, visible_from: Vec<u32>) -> Self {
        Self { len, visible_from: Arc::new(visible_from), on_device: Arc::default() }
    }

    /// The first visible tokens on the device of the first call, `[rows·T]`.
    pub(crate) fn on_device(&self, device: &Device) -> Result<Tensor, NnError> {
        if let Some(made) = self.on_device.get() {
            return Ok(made.clone());
        }
        let made = Tensor::new(&self.visible_from[..], device)?;
        Ok(self.on_device.get_or_init(|| made).clone())
    }
}

/// The tokens of a forward pass.
pub enum Tokens<'a, 's> {
    /// New tokens of sequences with caches, in their order.
    Segments(&'a mut [Segment<'s>]),
    /// Whole rows: training and scoring.
    Rows(RowsOfTokens),
}

/// What the layers of one forward pass share.
pub struct Context<'a, 's> {
    /// Arithmetic and adapters.
    pub pass: Pass,
    /// Keys and values before each sequence in the layer at hand, `[P, 2·K·D]`.
    pub prefix: Option<Value>,
    /// Rotary tables of the layers that see everything.
    pub global_rope: Arc<RopeTables>,
    /// Rotary tables of the sliding-window layers.
    pub local_rope: Arc<RopeTables>,
    /// The tokens.
    pub tokens: Tokens<'a, 's>,
    /// The experts' load, where it is part of the loss.
    pub balance: Option<Balance>,
}

impl Context<'_, '_> {
    /// What a value that only products take may be rounded for: in passes over whole rows.
    #[must_use]
    pub fn products(&self) -> Precision {
        match &self.tokens {
            Tokens::Rows(_) => self.pass.precision,
            Tokens::Segments(_) => Precision::Exact,
        }
    }
}

/// The load of a decoder's experts in a training pass.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Balance {
    /// Factor of each mixture's load-balancing loss in the gradients.
    pub weight: f32,
    /// Sum of the losses of the mixtures that ran with gradients.
    pub sum: f64,
    /// Their number.
    pub mixtures: usize,
}
