//! Sizes and operations of the models that the Chinchilla law was measured on.
//!
//! They are Gopher's architecture: relative positions, a feed-forward block of two matrices, 32,000
//! tokens, the embedding used twice. `6 N D` is a few percent off their operations (Hoffmann et al.
//! 2022, table A4).

/// A row of table A9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GopherShape {
    /// Layers.
    pub layers: u64,
    /// Hidden size.
    pub hidden: u64,
    /// Width of the feed-forward block.
    pub ffn: u64,
    /// Heads times their width.
    pub attention: u64,
}

/// Tokens of the vocabulary.
const VOCABULARY: u64 = 32_000;

impl GopherShape {
    /// Parameters. The fifth product of `hidden` and `attention` projects relative positions.
    pub fn params(&self) -> u64 {
        let layer = 5 * self.hidden * self.attention + 2 * self.hidden * self.ffn;
        self.layers * layer + VOCABULARY * self.hidden
    }

    /// Operations of training on a sequence, of the layers only. (Appendix F says that embedding and
    /// logits are counted; table A4 follows only without them.)
    pub fn layer_flops(&self, sequence: u64) -> u64 {
        let projections = 6 * sequence * self.hidden * self.attention;
        let scores = 4 * sequence * sequence * self.attention;
        let output = 2 * sequence * self.attention * self.hidden;
        let ffn = 4 * sequence * self.hidden * self.ffn;
        3 * self.layers * (projections + scores + output + ffn)
    }
}
