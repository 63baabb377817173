//! Keys and values of one sequence, per layer, in float32.
//!
//! Position `p` of a layer lives in slot `p % capacity`: a contiguous buffer where the layer sees
//! everything (capacity grows), a ring where it sees a window. The cache is an argument of the
//! forward pass, never part of a layer, so one copy of the weights serves any number of sequences.

use puna_config::{DecoderConfig, LayerKind};
use puna_kernels::KvView;

use crate::NnError;

/// Slots are allocated in multiples of this, so that single steps rarely move the buffer.
const SLOT_STEP: usize = 64;

/// What a sequence remembers.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    tokens: Vec<u32>,
    table: RotaryTable,
}

/// Which rotary table the remembered keys were rotated with; only LongRoPE has a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryTable {
    /// The only one, or LongRoPE's for short sequences.
    Short,
    /// LongRoPE's for long sequences.
    Long,
}

#[derive(Debug, Clone)]
struct LayerCache {
    k: Vec<f32>, // [K, capacity, D]
    v: Vec<f32>, // [K, capacity, D]
    capacity: usize,
    oldest: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
}

impl KvCache {
    /// Bytes of one stored key or value element.
    pub const VALUE_BYTES: usize = size_of::<f32>();

    /// An empty cache for a decoder.
    #[must_use]
    pub fn new(config: &DecoderConfig) -> Self {
        let layers = (0..config.num_layers)
            .map(|layer| LayerCache {
                k: Vec::new(),
                v: Vec::new(),
                capacity: 0,
                oldest: 0,
                kv_heads: config.attention.num_kv_heads,
                head_dim: config.attention.head_dim,
                window: match config.layers.kind(layer) {
                    LayerKind::Global => None,
                    LayerKind::Local { window } => Some(window),
                },
            })
            .collect();
        Self { layers, tokens: Vec::new(), table: RotaryTable::Short }
    }

    /// Tokens remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The remembered tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The rotary table of the remembered keys.
    #[must_use]
    pub fn rotary_table(&self) -> RotaryTable {
        self.table
    }

    /// Says which rotary table the next keys are rotated with.
    pub fn set_rotary_table(&mut self, table: RotaryTable) {
        self.table = table;
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| (l.k.capacity() + l.v.capacity()) * size_of::<f32>()).sum()
    }

    /// Forgets everything, keeping the buffers.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.layers.iter_mut().for_each(|l| l.oldest = 0);
    }

    /// Goes back to the first `len` tokens; does nothing if there are not more.
    ///
    /// # Errors
    /// If a sliding-window layer has dropped positions that the next token would see.
    pub fn truncate(&mut self, len: usize) -> Result<(), NnError> {
        if len >= self.len() {
            return Ok(());
        }
        for layer in &self.layers {
            let needed = layer.window.map_or(0, |w| (len + 1).saturating_sub(w));
            if len > 0 && layer.oldest > needed {
                return Err(NnError::CacheDropped { len, oldest: layer.oldest });
            }
        }
        if len == 0 {
            self.clear();
        }
        self.tokens.truncate(len);
        Ok(())
    }

    /// Remembers tokens, once every layer has written their keys and values.
    pub fn advance(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Writes the keys and values of new tokens of one layer behind the remembered ones.
    ///
    /// # Shapes
    /// `k`, `v` `[T, K·D]`
    pub(crate) fn write(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        let first = self.len();
        self.layers[layer].write(first, k, v);
    }

    /// A layer's keys and values and its oldest position.
    pub(crate) fn view(&self, layer: usize) -> (KvView<'_>, usize) {
        let layer = &self.layers[layer];
        (KvView { k: &layer.k, v: &layer.v, capacity: layer.capacity }, layer.oldest)
    }
}

impl LayerCache {
    fn write(&mut self, first: usize, k: &[f32], v: &[f32]) {
        let width = self.kv_heads * self.head_dim;
        let tokens = k.len() / width;
        let live = match self.window {
            None => first + tokens,
            Some(window) => (first + tokens).min(window - 1 + tokens),
        };
        if live > self.capacity {
            self.grow(live, first);
        }
        self.oldest = self.oldest.max((first + tokens).saturating_sub(self.capacity));
        for t in 0..tokens {
            let slot = (first + t) % self.capacity;
            for head in 0..self.kv_heads {
                let to = (head * self.capacity + slot) * self.head_dim;
                let from = t * width + head * self.head_dim;
                self.k[to..to + self.head_dim].copy_from_slice(&k[from..from + self.head_dim]);
                self.v[to..to + self.head_dim].copy_from_slice(&v[from..from + self.head_dim]);
            }
        }
    }

    /// Enlarges the buffer and moves the positions before `first` to their new slots.
    fn grow(&mut self, live: usize, first: usize) {
        let doubled = if self.window.is_none() { self.capacity * 3 / 2 } else { 0 };
        let capacity = live.max(doubled).next_multiple_of(SLOT_STEP);
        let d = self.head_dim;
        let mut k = vec![0f32; self.kv_heads * capacity * d];
        let mut v = vec![0f32; self.kv_heads * capacity * d];
        let kept = self.oldest.max(first.saturating_sub(self.capacity));
        for position in kept..first {
            for head in 0..self.kv_heads {
                let from = (head * self.capacity + position % self.capacity) * d;
                let to = (head * capacity + position % capacity) * d;
                k[to..to + d].copy_from_slice(&self.k[from..from + d]);
                v[to..to + d].copy_from_slice(&self.v[from..from + d]);
            }
        }
        (self.k, self.v, self.capacity, self.oldest) = (k, v, capacity, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(window: usize) -> LayerCache {
        LayerCache {
            k: Vec::new(),
            v: Vec::new(),
            capacity: 0,
            oldest: 0,
            kv_heads: 2,
            head_dim: 1,
            window: Some(window),
        }
    }

    #[test]
    fn a_ring_keeps_the_window_of_the_first_new_query() {
        let mut layer = ring(3);
        for position in 0..200 {
            let row = [position as f32, -(position as f32)];
            layer.write(position, &row, &row);
            for p in position.saturating_sub(2)..=position {
                assert!(p >= layer.oldest);
                assert_eq!(layer.k[p % layer.capacity], p as f32);
                assert_eq!(layer.k[layer.capacity + p % layer.capacity], -(p as f32));
            }
        }
        assert!(layer.capacity <= SLOT_STEP, "the ring stays small: {}", layer.capacity);
    }

    #[test]
    fn a_ring_grown_by_a_long_chunk_keeps_earlier_positions() {
        let mut layer = ring(40);
        let rows = |range: std::ops::Range<usize>| -> Vec<f32> {
            range.flat_map(|p| [p as f32, 0.5]).collect()
        };
        layer.write(0, &rows(0..70), &rows(0..70));
        layer.write(70, &rows(70..270), &rows(70..270));
        for p in 31..270 {
            assert_eq!(layer.k[p % layer.capacity], p as f32, "position {p}");
        }
    }
}
